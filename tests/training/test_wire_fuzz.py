"""Every decoder of what somebody else sends: ValueError or a finite value, and no more memory than the stated size."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.training.data import pack_partition, unpack_partition
from cloudlinkup.training.outer import Published, apply_delta
from cloudlinkup.training.quantize import MAX_COUNT, dequantise, encoded_size, quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import read_state

N = 1_000
SPEC = TrainingSpec("regression", {"kind": "mlp", "hidden": [], "activation": "relu"}, 3, 2, 4, 0.01, 0)
ROWS = np.ones((5, 3), np.float32), np.ones((5, 2), np.float32)
TEXT_SPEC = TrainingSpec("next_token", {}, 7, 200, 4, 0.01, 0)
WINDOWS = np.arange(40, dtype=np.int32).reshape(5, 8)
SLACK = 96 * 1024  # bytes: objects, messages, and pieces that do not grow with what is decoded
HUGE = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
Decode = Callable[[bytes], Any]


def _states() -> tuple[bytes, int]:
    runner = SegmentRunner(SPEC, ShardWork(b"s" * 32, 2, 3, 0, 1_000_000), np.zeros(8, np.float32), *ROWS)
    runner.run_segment()
    return runner.state_bytes(), 8


def _finite(result: Any) -> None:
    assert np.isfinite(result).all()


def _below(rows: Any, most: int) -> None:
    assert all(part.min() >= 0 and part.max() < most for part in rows)


STATE, STATE_COUNT = _states()
BASE = np.linspace(-1, 1, N, dtype=np.float32)
# decoder, a valid input, bytes that its result may take, what must hold of a result
DECODERS: dict[str, tuple[Decode, bytes, int, Callable[[Any], None]]] = {
    "update": (lambda data: dequantise(data, N), quantise(BASE), 4 * N, _finite),
    "delta": (lambda data: apply_delta(BASE, data), quantise(BASE), 4 * N, _finite),
    "state": (lambda data: read_state(data, STATE_COUNT), STATE, 0, lambda parts: None),
    "partition": (lambda data: unpack_partition(data, SPEC), pack_partition(*ROWS), 0, lambda r: _finite(r[0])),
    "partition of text": (
        lambda data: unpack_partition(data, TEXT_SPEC), pack_partition(WINDOWS[:, :-1], WINDOWS[:, 1:]), 0,
        lambda r: _below(r, TEXT_SPEC.outputs),
    ),
    "snapshot": (Published.from_bytes, Published(BASE).to_bytes(), 8 * N, lambda p: _finite(p.weights)),
}  # fmt: skip


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """Valid bytes with bytes changed, counts made huge, and something cut off, added or repeated."""
    places = st.integers(0, max(0, min(len(valid), 400) - 8))
    changes = st.lists(
        st.one_of(
            st.tuples(st.just("byte"), st.integers(0, len(valid) - 1), st.integers(0, 255)),
            st.tuples(st.just("count"), places, st.sampled_from(HUGE)),
            st.tuples(st.just("cut"), st.integers(0, len(valid)), st.just(0)),
            st.tuples(st.just("add"), st.just(0), st.integers(1, 300)),
            st.tuples(st.just("repeat"), st.integers(0, len(valid)), st.integers(1, 64)),
        ),
        min_size=1,
        max_size=4,
    )

    def apply(changes: list[tuple[str, int, int]]) -> bytes:
        data = bytearray(valid)
        for kind, at, value in changes:
            if kind == "byte" and at < len(data):
                data[at] = value
            elif kind == "count" and at + 8 <= len(data):
                data[at : at + 8] = struct.pack("<Q", value)
            elif kind == "cut":
                del data[at:]
            elif kind == "add":
                data += bytes(value)
            elif kind == "repeat":
                data[at:at] = data[at : at + value]
        return bytes(data)

    return changes.map(apply)


def peak(decode: Decode, data: bytes) -> tuple[Any, int]:
    """(result, or None where it was refused; the most bytes that were allocated on the way)."""
    tracemalloc.start()
    try:
        result = decode(data)
    except ValueError:
        result = None
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return result, most


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_bytes_are_refused_or_decode_to_finite_values(name: str, data: st.DataObject) -> None:
    decode, valid, size, holds = DECODERS[name]
    hostile = data.draw(st.one_of(st.binary(max_size=600), mutated(valid)))
    limit = 3 * size + 4 * len(hostile) + SLACK  # the input's own size bounds what a parser may copy of it
    # what a decoder allocates it allocates each time; what other threads of this process do at the moment, they do not
    found = [peak(decode, hostile)]
    while found[-1][1] > limit and len(found) < 3:
        found.append(peak(decode, hostile))
    result, most = found[-1]
    assert most <= limit
    if result is not None:
        holds(result)


@pytest.mark.parametrize("name", DECODERS)
def test_every_truncation_is_refused(name: str) -> None:
    decode, valid, _, _ = DECODERS[name]
    for length in {*range(0, min(len(valid), 200)), *range(max(0, len(valid) - 40), len(valid))}:
        with pytest.raises(ValueError):
            decode(valid[:length])
    with pytest.raises(ValueError):
        decode(valid + b"\0")
    assert decode(valid) is not None


@pytest.mark.parametrize("count", [N, N + 1, MAX_COUNT, MAX_COUNT + 1, 2**31, 2**40, 2**63, -1])
def test_a_count_that_the_bytes_do_not_hold_takes_no_memory(count: int) -> None:
    header = struct.pack("<4sHhQ", b"CLQ4", 1, 0, count % 2**64)
    result, most = peak(lambda data: dequantise(data, count), header + bytes(600))
    assert result is None and most < SLACK
    _, most = peak(lambda data: read_state(data, max(count, 0)), b"CLST" + struct.pack("<IQ", 2, count % 2**64))
    assert most < SLACK


def test_decoding_takes_its_result_and_a_piece() -> None:
    count = 2_000_000
    data = quantise(np.random.default_rng(0).standard_normal(count).astype(np.float32))
    result, most = peak(lambda raw: dequantise(raw, count), data)
    assert result is not None and len(data) == encoded_size(count)
    assert most <= 4 * count + 2**20 + count // 16


def test_a_safetensors_header_that_claims_more_than_is_there_is_refused() -> None:
    head = b'{"features":{"dtype":"F32","shape":[1099511627776,3],"data_offsets":[0,13194139533312]}}'
    for size in (len(head), 2**62):
        result, most = peak(lambda raw: unpack_partition(raw, SPEC), struct.pack("<Q", size) + head + bytes(64))
        assert result is None and most < SLACK
