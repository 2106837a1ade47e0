from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.verify.gates import Offer, gates, judged, odd_losses


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


def bowl(target):
    """A loss that is least at `target`."""
    return lambda update: float(((update - target) ** 2).sum())


def directed(sign=1.0, length=1.0, steps=100, seed=0, n=50):
    rng = np.random.default_rng(seed)
    vector = sign * (np.ones(n) + 0.5 * rng.standard_normal(n))
    return Offer((vector / np.linalg.norm(vector) * length).astype(np.float32), steps)


@pytest.mark.parametrize("length", [0.01, 1.0, 5.0])
def test_an_update_that_leads_away_is_odd_however_long_it_is(length):
    offers = {seat: directed(seed=seat, steps=50 * (seat + 1)) for seat in range(6)}
    judge = bowl(np.full(50, 0.2, np.float32))
    assert set(gates(offers, 50, judge).values()) == {()}
    offers[9] = directed(-1.0, length, seed=9)
    found = gates(offers, 50, judge)
    assert found.pop(9) == ("loss",) and set(found.values()) == {()}


def test_losses_are_compared_among_four_and_more_only():
    judge = bowl(np.full(50, 0.2, np.float32))
    offers = {0: directed(seed=0), 1: directed(seed=1), 2: directed(-1.0, seed=2)}
    assert set(gates(offers, 50, judge).values()) == {()}
    assert gates(offers | {3: directed(seed=3)}, 50, judge)[2] == ("loss",)
    assert gates({}, 50, judge) == {}


def test_what_another_gate_stops_is_not_judged():
    def judge(update):
        assert np.isfinite(update).all() and update.any()
        return float(np.abs(update).sum())

    offers = {seat: directed(seed=seat) for seat in range(4)}
    offers |= {8: Offer(np.full(50, np.inf, np.float32), 100), 9: Offer(np.zeros(50, np.float32), 100)}
    found = gates(offers, 50, judge)
    assert found[8] == ("finite",) and found[9] == ("zero",)


@given(
    st.dictionaries(
        st.integers(0, 20), st.tuples(st.floats(0.01, 100), st.integers(1, 10_000)), min_size=1, max_size=12
    ),
    st.floats(1e-3, 1e3),
)
def test_odd_losses_depend_on_no_unit_and_are_never_the_lower_half(seats, unit):
    losses = {seat: loss for seat, (loss, _) in seats.items()}
    steps = {seat: own for seat, (_, own) in seats.items()} | {98: 50, 99: 50}
    found = odd_losses(losses, steps)
    assert len(found) <= (len(losses) + 1) // 2
    assert all(losses[seat] > median(own for key, own in losses.items() if key != seat) for seat in found)
    if len(losses) <= 3:
        assert not found
    moved = {seat: loss * 2.0 ** round(np.log2(unit)) for seat, loss in losses.items()}  # exact in binary
    assert odd_losses(moved, steps) == found
    assert odd_losses(losses | {99: float("nan"), 98: float("inf")}, steps) == found | {98, 99}


UNEQUAL = (20, 20, 20, 40, 40, 40, 60, 60, 80, 120)
# of the benchmark's mc in its second round: seats 3, 5 and 8 sent their updates with the sign flipped
FLIPPED = (1.657, 1.61, 1.559, 1.816, 1.499, 1.86, 1.447, 1.463, 1.849, 1.381)


def test_the_slow_among_unequal_contributors_do_not_hide_a_flipped_sign():
    losses, steps = dict(enumerate(FLIPPED)), dict(enumerate(UNEQUAL))
    assert odd_losses(losses, steps) == {3, 5, 8}
    assert odd_losses(losses, dict.fromkeys(losses, 50)) == set()  # without their steps nothing tells them apart
    honest = {seat: loss for seat, loss in losses.items() if seat not in (3, 5, 8)}
    assert odd_losses(honest, steps) == set()
    slow = honest | {0: 1.95}  # slow, but not so bad for being slow
    assert odd_losses(slow, steps) == {0}


@given(st.integers(4, 12), st.floats(-0.5, 0.0), st.integers(0, 2**32 - 1))
def test_losses_that_fall_with_the_steps_are_no_reason_for_a_replay(count, slope, seed):
    drawn = np.random.default_rng(seed)
    steps = {seat: int(drawn.integers(10, 1_000)) for seat in range(count)}
    losses = {seat: 5.0 + slope * float(np.log(own)) for seat, own in steps.items()}
    least, most = min(steps, key=lambda seat: steps[seat]), max(steps, key=lambda seat: steps[seat])
    assert odd_losses(losses, steps) <= {least}  # held to the others' least steps, as nobody knows what lies beyond
    losses[most] = losses[least] * 1.5  # it has the most steps, and leads to worse than everybody
    assert most in odd_losses(losses, steps)


def test_every_update_is_judged_at_one_length():
    lengths = []
    offers = {seat: offer(10.0**seat, seed=seat) for seat in range(5)}
    judged(offers, lambda update: lengths.append(float(np.linalg.norm(update))) or 0.0)
    assert lengths == pytest.approx([50.0] * 5, rel=1e-5)  # half of the median, 100
