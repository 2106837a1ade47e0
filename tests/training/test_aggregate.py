import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.training.aggregate import aggregate, capped

N = 400


def honest(steps, seed=0, noise=1.0):
    """Updates along one direction, each with its own noise, as long as their steps make them."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal(N)
    return {
        seat: (((common + noise * generator.standard_normal(N)) * tau**0.5).astype(np.float32), tau)
        for seat, tau in enumerate(steps)
    }


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("steps", [[100], [30, 70], [10, 20, 70]])
def test_below_four_it_is_the_mean_by_verified_steps(steps):
    updates = honest(steps)
    result = aggregate(updates)
    expected = sum(u.astype(np.float64) * tau for u, tau in updates.values()) / sum(steps)
    np.testing.assert_allclose(result.update, expected, rtol=1e-5, atol=1e-6)
    assert result.update.dtype == np.float32 and not result.dropped
    assert result.shares == pytest.approx({s: tau / sum(steps) for s, tau in enumerate(steps)})


def test_from_four_nobody_weighs_more_than_a_third():
    result = aggregate(honest([10, 20, 40, 80]))
    assert not result.dropped
    assert result.shares == pytest.approx({0: 1 / 9, 1: 2 / 9, 2: 1 / 3, 3: 1 / 3})


def test_thirty_percent_of_sign_flipped_work_is_dropped():
    updates = honest([100] * 10)
    truth = aggregate(updates).update
    for factor in (-1.0, -5.0):
        attacked = {s: (u * np.float32(factor) if s < 3 else u, tau) for s, (u, tau) in updates.items()}
        result = aggregate(attacked)
        assert set(result.dropped) == {0, 1, 2} and set(result.dropped.values()) == {"direction"}
        assert cosine(result.update, truth) > 0.97
        mean = np.mean([u for u, _ in attacked.values()], axis=0)
        assert cosine(mean, truth) < cosine(result.update, truth)


def test_an_inflated_update_is_clipped():
    updates = honest([100] * 6)
    plain = aggregate(updates).update
    boosted = aggregate({**updates, 0: (updates[0][0] * np.float32(1000), 100)})
    assert np.linalg.norm(boosted.update) < 1.5 * np.linalg.norm(plain)


def test_clipping_spares_the_fast_and_honest():
    updates = honest([10, 20, 40, 80, 160], noise=0.5)
    result = aggregate(updates)
    expected = sum(u.astype(np.float64) * result.shares[s] for s, (u, _) in updates.items())
    np.testing.assert_allclose(result.update, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(0, 100), st.floats(0, 20))
def test_shares_sum_to_one_are_bounded_and_order_does_not_matter(steps, seed, noise):
    updates = honest(steps, seed, noise)
    result = aggregate(updates)
    assert sum(result.shares.values()) == pytest.approx(1) and np.isfinite(result.update).all()
    assert set(result.shares) | set(result.dropped) == set(updates)
    assert 2 * len(result.shares) >= len(updates)
    if len(steps) >= 4:
        assert max(result.shares.values()) <= max(1 / 3, 1 / len(result.shares)) + 1e-9
    again = aggregate(dict(reversed(updates.items())))
    np.testing.assert_array_equal(result.update, again.update)


def test_updates_without_any_common_direction_do_not_crash():
    zeros = {s: (np.zeros(N, np.float32), 10) for s in range(5)}
    assert not aggregate(zeros).update.any()
    pairs = {s: ((-1) ** s * np.ones(N, np.float32), 10) for s in range(4)}
    assert np.isfinite(aggregate(pairs).update).all()


def test_bad_updates_are_refused():
    for updates in ({}, {0: (np.ones(3, np.float32), 0)}, {0: (np.ones((2, 2), np.float32), 1)}):
        with pytest.raises(ValueError):
            aggregate(updates)
    with pytest.raises(ValueError):
        aggregate({0: (np.ones(3, np.float32), 1), 1: (np.ones(4, np.float32), 1)})


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=20), st.floats(0.05, 1))
def test_capped_shares(amounts, most):
    shares = capped(np.array(amounts), most)
    bound = max(most, 1 / len(amounts))
    assert shares.sum() == pytest.approx(1) and (shares <= bound * (1 + 1e-9)).all()
    order = np.argsort(amounts)
    assert (np.diff(shares[order]) >= -1e-9).all()


def test_one_contributor_s_seats_count_as_one():
    updates = honest([40, 10, 20, 60, 60], seed=3)
    whose = {0: "a", 1: "a", 2: "b", 3: "c", 4: "d"}
    both = (updates[0][0].astype(np.float64) * 40 + updates[1][0].astype(np.float64) * 10) / 50
    alone = aggregate({0: (both.astype(np.float32), 50), **{s: updates[s] for s in (2, 3, 4)}})
    found = aggregate(updates, whose)
    np.testing.assert_allclose(found.update, alone.update, rtol=1e-5, atol=1e-6)
    assert found.shares[0] + found.shares[1] == pytest.approx(alone.shares[0])
    assert found.shares[0] == pytest.approx(4 * found.shares[1])  # by steps
    assert aggregate(updates, dict(enumerate("abcde"))).shares == aggregate(updates).shares


def test_from_four_seats_one_contributor_s_devices_stay_within_a_third_together():
    updates = honest([100, 100, 10, 10])
    found = aggregate(updates, {0: "a", 1: "a", 2: "b", 3: "c"})
    assert found.shares[0] + found.shares[1] == pytest.approx(1 / 3)
    assert aggregate(updates).shares[0] + aggregate(updates).shares[1] > 0.6  # were they two contributors'
    few = honest([100, 100, 10])  # below four a third cannot be a bound
    assert sum(aggregate(few, {0: "a", 1: "a", 2: "b"}).shares[s] for s in (0, 1)) == pytest.approx(20 / 21)


def test_four_devices_of_one_cheat_do_not_outvote_four_others():
    updates = honest([50] * 8, seed=1, noise=0.5)
    truth = aggregate({s: updates[s] for s in range(4)}).update
    for seat in range(4, 8):
        updates[seat] = (-updates[seat][0], 50)
    whose = {s: "cheat" if s > 3 else str(s) for s in range(8)}
    found = aggregate(updates, whose)
    assert set(found.dropped) == {4, 5, 6, 7}
    assert cosine(found.update, truth) > 0.99
    apart = aggregate(updates)
    assert not set(apart.dropped) >= {4, 5, 6, 7} or cosine(apart.update, truth) < 0.99  # as four voices they would
