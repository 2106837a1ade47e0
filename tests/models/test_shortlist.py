"""The shortlist keeps whom the full comparison would take, leaves places for newcomers, and never invents anybody."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import quote, shortlist
from models.facts import Candidate, JobFacts, Limits, TrackRecord
from models.predictor import Predictor
from models.quote import QuoteInputs, quote_job, sizes
from models.selection import is_new, select

Make = Callable[..., Candidate]
KNOWN = TrackRecord(on_time=50, valid=50)


@pytest.fixture(scope="module")
def crowd(make_candidate: Make) -> tuple[Candidate, ...]:
    """600 contributors, every tenth of them new."""
    rng = np.random.default_rng(3)
    return tuple(
        make_candidate(
            i,
            float(np.exp(rng.normal(0, 0.7))),
            ask=int(rng.integers(1, 100)) * 36_000_000,
            record=TrackRecord() if i % 10 == 0 else KNOWN,
        )
        for i in range(600)
    )


def test_a_small_field_stays_whole(job: JobFacts, limits: Limits, crowd: tuple[Candidate, ...]) -> None:
    assert shortlist.shortlist(job, crowd[: shortlist.FULL], limits) == crowd[: shortlist.FULL]


def test_the_chosen_are_those_of_the_full_comparison(
    job: JobFacts, limits: Limits, crowd: tuple[Candidate, ...]
) -> None:
    bounds, predictor = limits.model_copy(update={"max_contributors": 16}), Predictor.rank1()
    short = shortlist.shortlist(job, crowd, bounds)
    assert len(short) == shortlist.FULL and set(short) <= set(crowd)
    ours = select(job, short, predictor.predict(job, short), bounds)
    full = select(job, crowd, predictor.predict(job, crowd), bounds)
    assert [r.candidate.agent for r in ours.chosen] == [r.candidate.agent for r in full.chosen]
    assert ours.newcomers[0].candidate.agent == full.newcomers[0].candidate.agent and is_new(ours.newcomers[0])


def test_who_cannot_take_part_takes_no_place(job: JobFacts, limits: Limits, crowd: tuple[Candidate, ...]) -> None:
    """Too little memory, another device class, outside its hours, no probe in common: none is short-listed."""
    needy = job.model_copy(update={"memory": 1_000})
    bad = (
        {"memory": 999},
        {"memory": 1_000, "device_class": "another"},
        {"memory": 1_000, "open_seconds": 0.0},
        {"memory": 1_000, "probes": ()},
    )
    able = [c.model_copy(update={"memory": 1_000}) for c in crowd[:20]]
    field = [c.model_copy(update=bad[i % 4]) for i, c in enumerate(crowd[20:])] + able
    bounds = limits.model_copy(update={"replay_classes": (crowd[0].device_class,)})
    assert shortlist.shortlist(needy, field, bounds) == tuple(able)
    nobody = shortlist.shortlist(needy, field[:-20], bounds)
    assert nobody == tuple(field[: shortlist.FULL])  # so that the reasons can be told


def test_an_allow_list_is_found_in_a_crowd(job: JobFacts, limits: Limits, crowd: tuple[Candidate, ...]) -> None:
    bounds = limits.model_copy(update={"allow": ("wallet-599", "wallet-1")})
    inputs = QuoteInputs(job=job, candidates=crowd, limits=bounds)
    assert {s.wallet for s in quote_job(inputs, Predictor.rank1()).plan.seats} == {"wallet-1", "wallet-599"}


@given(st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_sizes_fall_to_one_and_leave_no_gap_over_a_half(most: int) -> None:
    found = sizes(most)
    assert found[0] == most and found[-1] == 1
    assert all(b < a <= 2 * b for a, b in itertools.pairwise(found))
    assert set(range(1, min(most, quote.FEW) + 1)) <= set(found)
