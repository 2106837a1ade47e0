"""The pilot of learning rates: deterministic, judged on rows it was not trained on, bounded."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest

from cloudlinkup.training import pilot
from cloudlinkup.training.pilot import LEAST, MOST, RATES, choose_rate, pilot_losses, pilot_segments
from cloudlinkup.training.spec import TrainingSpec

SPEC = TrainingSpec("classification", {"kind": "mlp", "hidden": [16], "activation": "relu"}, 8, 3, 16, 0.01, 4)


def rows(seed: int = 0, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 8)).astype(np.float32)
    return x, np.argmax(x[:, :3], 1).astype(np.int64)


def test_it_tries_three_rates_and_finds_the_same_again() -> None:
    losses = pilot_losses(SPEC, *rows())
    assert tuple(losses) == RATES and all(0 < loss < 3 for loss in losses.values())
    assert losses == pilot_losses(replace(SPEC, lr=0.5), *rows())  # the rate that stands there plays no part
    assert losses != pilot_losses(replace(SPEC, seed=5), *rows())


def test_what_is_judged_is_not_trained_on(monkeypatch) -> None:
    seen: list[np.ndarray] = []
    real = pilot.SegmentRunner

    def runner(spec, work, weights, x, y):
        seen.append(x)
        return real(spec, work, weights, x, y)

    judged: list[np.ndarray] = []
    evaluate = pilot.evaluate
    monkeypatch.setattr(pilot, "SegmentRunner", runner)
    monkeypatch.setattr(pilot, "evaluate", lambda s, w, x, y: (judged.append(x), evaluate(s, w, x, y))[1])
    x, y = rows()
    pilot_losses(SPEC, x, y)
    assert len(seen[0]) == 240 and len(judged[0]) == 60
    assert not {row.tobytes() for row in seen[0]} & {row.tobytes() for row in judged[0]}


def test_a_rate_that_diverges_is_not_taken() -> None:
    assert choose_rate({0.003: 2.0, 0.01: inf, 0.02: 1.0}) == 0.02
    assert choose_rate({0.003: 1.0, 0.01: 1.0, 0.02: 1.0}) == 0.003
    assert choose_rate(dict.fromkeys(RATES, inf)) == 0.003
    x, _ = rows()
    wild = replace(SPEC, task="regression", outputs=1)
    losses = pilot_losses(wild, np.full_like(x, 1e30), np.full((len(x), 1), 1e30, np.float32))
    assert set(losses.values()) == {inf}


@pytest.mark.parametrize(("hidden", "batch", "segments"), [([16], 16, MOST), ([4_096, 4_096], 256, LEAST)])
def test_a_large_network_takes_few_steps(hidden: list[int], batch: int, segments: int) -> None:
    assert pilot_segments(replace(SPEC, model={**SPEC.model, "hidden": hidden}, batch=batch)) == segments


def test_two_rows_are_enough() -> None:
    losses = pilot_losses(replace(SPEC, batch=2), *rows(count=2))
    assert len(losses) == 3
