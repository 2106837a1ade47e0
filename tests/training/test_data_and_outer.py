from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.training.data import pack_partition, shard_rows, unpack_partition
from cloudlinkup.training.outer import Published, apply_delta
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.schedule import choose_rounds, factor, outer_momentum, outer_rate, rate
from cloudlinkup.training.spec import ShardWork, TrainingSpec

REGRESSION = TrainingSpec("regression", {"kind": "mlp", "hidden": [], "activation": "relu"}, 3, 2, 4, 0.01, 0)


def test_partitions_go_through_bytes(digits, spec):
    x, y = digits
    data = pack_partition(x[:50], y[:50])
    assert data == pack_partition(x[:50].copy(), y[:50].copy())
    features, targets = unpack_partition(data, spec)
    np.testing.assert_array_equal(features, x[:50])
    np.testing.assert_array_equal(targets, y[:50])
    targets2 = np.ones((5, 2), np.float32)
    unpack_partition(pack_partition(np.ones((5, 3), np.float32), targets2), REGRESSION)


@pytest.mark.parametrize(
    ("features", "targets"),
    [
        (np.ones((5, 4), np.float32), np.ones((5, 2), np.float32)),
        (np.ones((5, 3)), np.ones((5, 2), np.float32)),
        (np.ones((5, 3), np.float32), np.ones((4, 2), np.float32)),
        (np.ones((5, 3), np.float32), np.ones(5, np.int64)),
        (np.full((5, 3), np.nan, np.float32), np.ones((5, 2), np.float32)),
        (np.ones((0, 3), np.float32), np.ones((0, 2), np.float32)),
    ],
)
def test_a_partition_that_does_not_fit_the_spec_is_refused(features, targets):
    with pytest.raises(ValueError):
        unpack_partition(pack_partition(features, targets), REGRESSION)


@given(st.binary(max_size=300))
def test_fuzzed_partitions_are_refused(data):
    with pytest.raises(ValueError):
        unpack_partition(data, REGRESSION)


@settings(max_examples=200)
@given(st.data())
def test_a_mutated_partition_never_raises_anything_but_value_error(data):
    good = bytearray(pack_partition(np.ones((5, 3), np.float32), np.ones((5, 2), np.float32)))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        features, _ = unpack_partition(bytes(good), REGRESSION)
        assert features.shape == (5, 3)
    except ValueError:
        pass


def test_an_oversized_partition_is_refused_unread():
    with pytest.raises(ValueError, match="larger"):
        unpack_partition(b"x" * 100, REGRESSION, limit=99)


@given(
    st.integers(1, 400),
    st.lists(st.floats(0, 100), min_size=1, max_size=8).filter(lambda s: sum(s) > 1e-6),
    st.integers(0, 2**63 - 1),
    st.integers(1, 5),
)
def test_rows_are_dealt_once_each_and_by_share(n, shares, seed, minimum):
    if n < len(shares) * minimum:
        with pytest.raises(ValueError, match="few"):
            shard_rows(n, shares, seed, minimum)
        return
    parts = shard_rows(n, shares, seed, minimum)
    assert sorted(np.concatenate(parts)) == list(range(n))
    assert all(len(part) >= minimum for part in parts)
    ideal = np.array(shares) / sum(shares) * n
    if (ideal >= minimum).all():
        assert np.abs([len(p) - i for p, i in zip(parts, ideal, strict=True)]).max() < 1 + 1e-6
    for part, again in zip(parts, shard_rows(n, shares, seed, minimum), strict=True):
        np.testing.assert_array_equal(part, again)


def test_dealing_shuffles():
    labels = np.repeat(np.arange(10), 100)
    for part in shard_rows(1000, [1, 1, 2], 4):
        assert len(np.unique(labels[part])) == 10
    assert (shard_rows(1000, [1, 1], 1)[0] != shard_rows(1000, [1, 1], 2)[0]).any()


@pytest.mark.parametrize("shares", [[], [0, 0], [-1, 2], [float("nan")], [float("inf")]])
def test_bad_shares_are_refused(shares):
    with pytest.raises(ValueError):
        shard_rows(10, shares, 0)


def test_followers_hold_the_published_bytes_and_the_error_does_not_grow():
    generator = np.random.default_rng(0)
    published = Published(generator.standard_normal(1000).astype(np.float32))
    follower = published.published.copy()
    for _ in range(30):
        moved = published.weights + 0.01 * generator.standard_normal(1000).astype(np.float32)
        follower = apply_delta(follower, published.advance(moved))
        assert follower.tobytes() == published.published.tobytes()
        np.testing.assert_array_equal(published.weights, moved)
        assert np.abs(published.published - moved).max() < 0.005
    again = Published.from_bytes(published.to_bytes())
    assert again.rounds == 30
    assert again.weights.tobytes() == published.weights.tobytes()
    assert again.published.tobytes() == published.published.tobytes()


def test_a_delta_that_overflows_or_does_not_fit_is_refused():
    base = np.full(3, 3e38, np.float32)
    with pytest.raises(ValueError):
        apply_delta(base, quantise(np.ones(4, np.float32)))
    huge = bytearray(quantise(np.ones(3, np.float32)))
    huge[6:8] = (100).to_bytes(2, "little")
    huge[16:18] = np.float16(60000).tobytes()
    with pytest.raises(ValueError, match="finite"):
        apply_delta(np.full(3, 3.4028e38, np.float32), bytes(huge))
    with pytest.raises(ValueError):
        Published(np.ones(3, np.float32)).advance(np.array([1, np.nan, 1], np.float32))
    for data in (b"", b"x" * 40, quantise(np.ones(3, np.float32))):
        with pytest.raises(ValueError):
            Published.from_bytes(data)


def test_the_schedule_warms_up_peaks_and_falls():
    assert factor(0) == 0 and factor(0.03) == pytest.approx(1, abs=1e-3) and factor(1) == 0.02
    assert factor(0.015) == 0.5 and factor(-1) == 0 and factor(2) == 0.02
    values = [factor(p / 1000) for p in range(30, 1001)]
    assert values == sorted(values, reverse=True)


def test_the_schedule_goes_on_where_the_last_round_ended():
    first, second = ShardWork(b"", 10, 5, 0, 400_000), ShardWork(b"", 10, 5, 400_000, 800_000)
    rates = [rate(REGRESSION, work, i) for work in (first, second) for i in range(50)]
    whole = [rate(REGRESSION, ShardWork(b"", 10, 10, 0, 800_000), i) for i in range(100)]
    assert rates == pytest.approx(whole) and 0 < rates[0] < max(rates) <= REGRESSION.lr
    kept = [rate(replace(REGRESSION, rounds="kept"), work, i) for work in (first, second) for i in range(50)]
    assert kept == pytest.approx([one * 0.5**0.5 for one in rates]), "momentum makes up for it"


def test_nesterov_momentum_is_torchs_and_survives_a_restart():
    import torch

    rng = np.random.default_rng(1)
    start = rng.standard_normal(200).astype(np.float32)
    theirs = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.SGD([theirs], lr=1.0, momentum=0.6, nesterov=True)
    ours = Published(start)
    for number in range(6):
        update = rng.standard_normal(200).astype(np.float32) * 0.1
        theirs.grad = torch.from_numpy(-update)
        optimizer.step()
        ours.step(update, 0.6)
        np.testing.assert_allclose(ours.weights, theirs.detach().numpy(), atol=1e-5)
        if number == 2:
            ours = Published.from_bytes(ours.to_bytes())
    plain, once = Published(start), np.full(200, 0.1, np.float32)
    plain.step(once)
    np.testing.assert_array_equal(plain.weights, start + once)
    assert plain.velocity is None and Published.from_bytes(plain.to_bytes()).velocity is None


def test_a_step_that_is_not_finite_changes_nothing():
    ours = Published(np.ones(5, np.float32))
    ours.step(np.full(5, 0.1, np.float32), 0.4)
    before = ours.to_bytes()
    with pytest.raises(ValueError):
        ours.step(np.full(5, np.finfo(np.float32).max, np.float32), 0.4)
    assert ours.to_bytes() == before


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=40))
def test_the_outer_rate_grows_with_how_many_the_mean_is_of(parts):
    kept, shares = replace(REGRESSION, rounds="kept"), np.array(parts) / sum(parts)
    found = outer_rate(kept, shares)
    assert 1 <= found <= 1.5 and outer_rate(REGRESSION, shares) == 1
    assert outer_rate(kept, np.repeat(shares / 2, 2)) >= found
    assert outer_rate(kept, [1 / 4] * 4) == 1 and outer_rate(kept, [1 / 9] * 9) == 1.5
    assert outer_rate(kept, [1 / 6] * 6) == pytest.approx(1.5**0.5)


def test_momentum_waits_until_the_start_is_over_and_auto_chooses_by_task_and_passes():
    kept = replace(REGRESSION, rounds="kept")
    text = replace(kept, task="next_token")
    assert [outer_momentum(kept, p) for p in (0.0, 0.19, 0.2, 1.0)] == [0.0, 0.0, 0.5, 0.5]
    assert outer_momentum(text, 0.5) == 0.6 and outer_momentum(replace(text, optimizer="muon"), 0.5) == 0.75
    assert outer_momentum(REGRESSION, 0.5) == 0.0
    assert choose_rounds("next_token", 10**9, 10) == "kept"
    assert choose_rounds("classification", 128_000, 48_000) == "kept"  # 2.7 passes
    assert choose_rounds("classification", 512_000, 48_000) == "kept"  # 10.7
    assert choose_rounds("classification", 128_000, 1_437) == "stateless"
