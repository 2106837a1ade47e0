"""How many race: within bounds, more where it is worth more, never talked down by a claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.facts import Prediction
from models.racing import ALWAYS, MOST, expected_speed, race_width


def field(seconds: list[float], width: float = 1.3) -> list[Prediction]:
    return [
        Prediction(agent=str(i), seconds=s, low=s / width, high=s * width, base=s, source="rank-1")
        for i, s in enumerate(seconds)
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=40),
    st.integers(1, 16),
    st.integers(1, 5_000),
    st.integers(1, 5),
)
def test_the_width_keeps_its_bounds(seconds: list[float], places: int, units: int, least: int) -> None:
    width = race_width(field(seconds), places, units, least)
    assert min(places, len(seconds)) <= width <= min(len(seconds), MOST * places)
    assert width <= ALWAYS * places or width * least <= units * 0.1


def test_equals_race_far_slower_ones_do_not() -> None:
    alike = race_width(field([1.0] * 60), 8, 1_000, 2)
    assert alike > 16
    assert race_width(field([1.0] * 8 + [50.0] * 52), 8, 1_000, 2) == 8, "nobody fifty times slower wins a place"
    assert race_width(field([1.0] * 60), 8, 40, 2) <= 16, "the pilot would be most of the job"
    assert race_width(field([1.0] * 60, width=4.0), 8, 1_000, 2) >= alike, "more doubt, more to win"


def test_a_claim_does_not_talk_the_others_out_of_it() -> None:
    assert race_width(field([1e-6] + [1.0] * 59), 8, 1_000, 2) > 12


def test_the_expected_speed_is_that_of_the_fastest_by_many_draws() -> None:
    rng, seconds = np.random.default_rng(5), [1.0, 1.2, 0.8, 1.5, 1.1]
    draws = np.exp(-np.log(seconds) + 0.3 * rng.standard_normal((20_000, 5)))
    wanted = [np.sort(draws[:, :n], axis=1)[:, -2:].sum(1).mean() for n in (2, 3, 5)]
    assert expected_speed(field(seconds, 1.01), 2, [2, 3, 5]) == pytest.approx(wanted, rel=0.08)
    with pytest.raises(ValueError, match="place"):
        race_width(field(seconds), 0, 10, 1)
