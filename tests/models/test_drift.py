"""Drift is told from chance, and only for what the present champion predicted; the plot is well-formed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from models.chart import calibration_svg, data_uri
from models.drift import LEAST, WINDOW, find_drift
from models.predictor import SHIPPED, Predictor

Rows = Callable[..., list[dict[str, Any]]]


def test_good_predictions_do_not_drift_and_bad_ones_do(make_telemetry: Rows) -> None:
    champion = Predictor.load(SHIPPED)
    good = find_drift(pd.DataFrame(make_telemetry(lambda width, agent: 1.0)), champion)
    assert (good.shards, good.outside, good.drifted) == (WINDOW, 0, False) and good.fold < 1.2
    rows = make_telemetry(lambda width, agent: 4.0)
    bad = find_drift(pd.DataFrame(rows), champion)
    assert bad.drifted and bad.outside == WINDOW and 3.5 < bad.fold < 4.5
    assert not find_drift(pd.DataFrame([row | {"version": "9"} for row in rows]), champion).drifted
    assert not find_drift(pd.DataFrame(rows).head(LEAST - 1), champion).drifted
    empty = find_drift(pd.DataFrame(rows).iloc[:0], champion)
    assert (empty.shards, empty.drifted) == (0, False)


def test_the_odd_bad_shard_is_no_drift(make_telemetry: Rows) -> None:
    rows = make_telemetry(lambda width, agent: 4.0 if agent == 3 else 1.0)
    found = find_drift(pd.DataFrame(rows), Predictor.load(SHIPPED))
    assert found.outside == WINDOW // 4 and not found.drifted


def test_the_plot_is_well_formed_and_holds_its_points() -> None:
    svg = calibration_svg({"champion": [(0.1, 0.2), (0.8, 0.9)], "challenger": [(0.1, 0.1), (0.8, 0.8)]})
    root = ElementTree.fromstring(svg)
    assert len([e for e in root.iter() if e.tag.endswith("circle")]) == 4
    prefix, _, payload = data_uri(svg).partition(",")
    assert prefix == "data:image/svg+xml;base64" and base64.b64decode(payload).decode() == svg
