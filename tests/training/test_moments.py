import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.training.moments import moments_size, pack_moments, unpack_moments


def moments(seed: int, count: int, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """First and second moments as training leaves them: of gradients whose size differs by parameter."""
    drawn = np.random.default_rng(seed)
    sizes = np.exp(drawn.normal(0, 2, count)) * scale
    first = drawn.normal(0, 0.3, count) * sizes
    return first.astype(np.float32), np.square(sizes).astype(np.float32)


@given(st.integers(0, 2**32), st.integers(1, 400), st.sampled_from([1e-12, 1e-4, 1.0, 1e6]), st.integers(0, 2**63))
def test_what_is_read_is_within_half_a_step_of_what_was_written(seed, count, scale, steps):
    first, second = moments(seed, count, scale)
    data = pack_moments(first, second, steps)
    assert len(data) == moments_size(count)
    m, v, found = unpack_moments(data, count)
    assert found == steps and m.dtype == v.dtype == np.float32
    for start in range(0, count, 64):
        block = slice(start, start + 64)
        roots, read = np.sqrt(second[block].astype(np.float64)), np.sqrt(v[block].astype(np.float64))
        step = roots.max() / 255
        assert np.abs(roots - read).max() <= step * 1.02  # half a step, a whole one for the smallest, the scale's own
        most = np.abs(first[block]).max() / 7
        assert np.abs(first[block] - m[block]).max() <= most * 0.52


def test_no_second_moment_is_lost_and_no_first_stands_without_one():
    second = np.full(128, 1e-30, np.float32)
    second[0] = second[70] = 1.0
    second[5] = 0.0
    first = np.full(128, 0.5, np.float32)
    m, v, _ = unpack_moments(pack_moments(first, second, 1), 128)
    assert (v[np.arange(128) != 5] > 0).all() and v[5] == m[5] == 0  # AdamW divides by its root
    second[64:] = 1e-38  # a block too far below the largest has no scale: it begins afresh
    m, v, _ = unpack_moments(pack_moments(first, second, 1), 128)
    assert not v[64:].any() and not m[64:].any() and v[0] > 0


def test_bytes_are_the_same_everywhere():
    data = pack_moments(*moments(1, 200), 7)
    assert data[:4] == b"CLMO" and len(data) == 24 + (16 + 8 + 100) + 2 + 8 + 200
    assert hashlib.sha256(data).hexdigest() == "3ec1c00ba9bff76c6e79a3d90f3dda44bdae7cbfe913e9e07337ce5ed73e8ca4"
    zero = np.zeros(70, np.float32)
    m, v, steps = unpack_moments(pack_moments(zero, zero, 0), 70)
    assert not m.any() and not v.any() and steps == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 3e38])
def test_what_no_training_leads_to_is_refused(value):
    first, second = moments(2, 10)
    second[3] = value
    with pytest.raises(ValueError):
        pack_moments(first, second, 1)
    with pytest.raises(ValueError):
        pack_moments(np.where(np.arange(10) == 3, np.nan, first).astype(np.float32), moments(2, 10)[1], 1)
    with pytest.raises(ValueError):
        pack_moments(first, moments(2, 11)[1], 1)


@given(st.data(), st.integers(1, 130))
def test_fuzzed_bytes_are_refused_or_finite(data, count):
    good = bytearray(pack_moments(*moments(count, count), 3))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1]))
    try:
        m, v, _ = unpack_moments(bytes(good[: len(good) - cut]), count)
    except ValueError:
        return
    assert not cut and np.isfinite(m).all() and np.isfinite(v).all() and (v >= 0).all() and not m[v == 0].any()


@given(st.binary(max_size=400), st.integers(0, 200))
def test_other_bytes_are_refused(data, count):
    with pytest.raises(ValueError):
        unpack_moments(data, count)
