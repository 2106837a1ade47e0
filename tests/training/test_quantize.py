import contextlib
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cloudlinkup.training.quantize import BLOCK, HEADER, dequantise, encoded_size, quantise
from cloudlinkup.wire.hashes import digest

vectors = arrays(np.float32, st.integers(0, 300), elements=st.floats(-1e6, 1e6, width=32))


@given(vectors)
def test_each_element_is_within_half_a_level(vector):
    data = quantise(vector)
    assert len(data) == encoded_size(len(vector))
    back = dequantise(data, len(vector))
    largest = np.abs(vector).max(initial=0)
    for start in range(0, len(vector), BLOCK):
        block = vector[start : start + BLOCK]
        level = np.abs(block).max() / 7
        # half a level, what fp16 rounds off the scale, and blocks too small beside the largest to have a scale
        allowed = 0.5 * level * (1 + 2**-9) + 7 * level * 2**-10 + largest * 2**-30
        assert np.abs(back[start : start + BLOCK] - block).max() <= allowed + 1e-44


@given(vectors)
def test_sign_and_zero_survive(vector):
    back = dequantise(quantise(vector), len(vector))
    assert (np.sign(back) * np.sign(vector) >= 0).all()
    assert (back[vector == 0] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1.0, 1e20])
def test_precision_does_not_depend_on_the_scale(scale):
    vector = (np.random.default_rng(1).standard_normal(10_000) * scale).astype(np.float32)
    back = dequantise(quantise(vector), len(vector)).astype(np.float64)
    error = np.linalg.norm(back - vector) / np.linalg.norm(vector.astype(np.float64))
    assert 0.05 < error < 0.13


def test_layout_is_the_documented_one():
    vector = np.zeros(65, np.float32)
    vector[:3], vector[64] = [7.0, -7.0, 3.0], 1.0
    data = quantise(vector)
    magic, version, exponent, count = HEADER.unpack_from(data)
    assert (magic, version, count) == (b"CLQ4", 1, 65)
    scales = np.frombuffer(data, "<f2", 2, 16).astype(float) * 2.0**exponent
    assert scales[0] == 1.0 and scales[1] == pytest.approx(1 / 7, rel=1e-3)
    assert data[20] == (1 << 4 | 15) and data[21] == (8 << 4 | 11)  # 7, -7, then 3, 0
    assert data[20 + 32] == (8 << 4 | 15)  # the odd end is padded with zero
    assert len(data) == 16 + 4 + 33


@pytest.mark.parametrize(
    ("count", "scale", "expected"),
    [
        (0, 1.0, "2f8fed41adf607a3"),
        (1, 1.0, "cca3669613c82f33"),
        (64, 1.0, "54bbb9df0613c188"),
        (65, 1.0, "868bdd4adfa0f1e8"),
        (200_001, 1.0, "f4926b5633fb43b9"),
        (200_001, 1e-20, "0a4012334cc048aa"),
        (200_001, 1e20, "36e3b6f3e595b42e"),
    ],
)
def test_the_bytes_are_those_of_version_1(count, scale, expected):
    """An audit compares hashes of them: other bytes are another version. Values of 2^-43 to 2^11."""
    words = np.random.Philox(key=np.frombuffer(digest("golden")[:16], "<u8")).random_raw(200_001)
    unit = (words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0
    vector = (unit * 2.0 ** ((words & np.uint64(31)).astype(np.int64) - 20)).astype(np.float32)
    vector[1_000:1_200] = 0
    data = quantise(vector[:count] * np.float32(scale))
    assert hashlib.sha256(data).hexdigest()[:16] == expected
    if count == 200_001 and scale == 1.0:
        assert hashlib.sha256(dequantise(data, count).tobytes()).hexdigest()[:16] == "90823a03bf116567"


@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_are_half_accepted(data, n):
    try:
        result = dequantise(data, n)
    except ValueError:
        return
    assert result.shape == (n,) and np.isfinite(result).all()


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_vector_is_refused_or_finite(data):
    good = bytearray(quantise(np.linspace(-1, 1, 130, dtype=np.float32)))
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        assert np.isfinite(dequantise(bytes(good), 130)).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_infinite_scales_and_values_are_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        quantise(np.array([1.0, bad], np.float32))
    data = bytearray(quantise(np.ones(3, np.float32)))
    data[16:18] = np.float16(bad).tobytes()
    with pytest.raises(ValueError, match="finite"):
        dequantise(bytes(data), 3)


def test_a_huge_count_is_refused_before_memory_is_taken():
    data = HEADER.pack(b"CLQ4", 1, 0, 2**60)
    for n in (2**60, 50_000_000, 0):
        with pytest.raises(ValueError):
            dequantise(data, n)
    assert struct.calcsize("<4sHhQ") == HEADER.size == 16


@pytest.mark.parametrize("vector", [np.zeros((2, 2), np.float32), np.zeros(3), np.full(3, 1e38, np.float32)])
def test_what_cannot_be_quantised_is_refused(vector):
    with pytest.raises(ValueError):
        quantise(vector)
