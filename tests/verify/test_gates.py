import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.verify.gates import Offer, gates


def offer(length=1.0, steps=100, n=50, seed=0):
    vector = np.random.default_rng(seed).standard_normal(n)
    return Offer((vector / np.linalg.norm(vector) * length).astype(np.float32), steps)


def honest():
    """Length grows with the square root of steps."""
    return {seat: offer(0.1 * steps**0.5, steps, seed=seat) for seat, steps in enumerate([30, 50, 110, 210])}


def test_honest_updates_of_unequal_contributors_pass():
    assert gates(honest(), 50) == {seat: () for seat in range(4)}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Offer(np.zeros(50, np.float32), 100), "zero"),
        (Offer(np.full(50, np.nan, np.float32), 100), "finite"),
        (Offer(np.array([np.inf] + [1.0] * 49, np.float32), 100), "finite"),
        (Offer(np.ones(49, np.float32), 100), "length"),
        (Offer(np.ones(50), 100), "length"),
        (Offer(np.ones((50, 1), np.float32), 100), "length"),
        (offer(1.0, 0), "steps"),
        (offer(0.1 * 100**0.5 * 11, 100), "norm"),
    ],
)
def test_a_bad_update_is_kept_out_by_its_reason_and_harms_nobody_else(bad, reason):
    judged = gates({**honest(), 9: bad}, 50)
    assert judged.pop(9) == (reason,)
    assert set(judged.values()) == {()}


def test_two_contributors_are_not_held_to_each_other():
    assert gates({0: offer(1.0), 1: offer(1000.0)}, 50) == {0: (), 1: ()}
    assert gates({}, 50) == {}


@given(st.floats(1e-6, 1e6), st.integers(1, 500))
def test_the_norm_gate_does_not_depend_on_scale_or_units(scale, factor):
    offers = {s: Offer(o.update * np.float32(scale), o.steps * factor) for s, o in honest().items()}
    offers[9] = Offer(offers[0].update * np.float32(30), offers[0].steps)
    judged = gates(offers, 50)
    assert judged[9] == ("norm",) and all(not judged[s] for s in range(4))
