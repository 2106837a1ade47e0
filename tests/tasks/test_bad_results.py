"""Uploads that are no update, signed and committed to: rejected, kept as evidence, never added.

Each goes through the real order, commitment, gate, replay and aggregation; the training itself is honest.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

from cloudlinkup.agent import shard
from cloudlinkup.training.quantize import HEADER, dequantise, quantise
from cloudlinkup.verify.evidence import recheck
from tasks.gate import suspicious
from tasks.orders import update_name
from tasks.rebalance import _advance
from tasks.tree import committed
from tests.tasks.conftest import STEP, Rig


def header(**changes: int | bytes) -> Callable[[np.ndarray], bytes]:
    def change(vector: np.ndarray) -> bytes:
        data = quantise(vector)
        names = ("magic", "version", "exponent", "count")
        parts = dict(zip(names, HEADER.unpack_from(data), strict=True)) | changes
        return HEADER.pack(*(parts[name] for name in names)) + data[HEADER.size :]

    return change


def scale(value: float) -> Callable[[np.ndarray], bytes]:
    def change(vector: np.ndarray) -> bytes:
        data = bytearray(quantise(vector))
        data[HEADER.size : HEADER.size + 2] = struct.pack("<e", value)
        return bytes(data)

    return change


BAD: dict[str, tuple[Callable[[np.ndarray], bytes], str]] = {
    "another shape": (lambda v: quantise(v[:-64]), "decode"),
    "truncated": (lambda v: quantise(v)[:-1], "decode"),
    "empty": (lambda _: b"", "decode"),
    "another count": (header(count=3), "decode"),
    "another dtype": (lambda v: v.tobytes()[: len(quantise(v))], "decode"),
    "another version": (header(version=2), "decode"),
    "NaN": (scale(float("nan")), "decode"),
    "infinity": (scale(float("inf")), "decode"),
    "a negative scale": (scale(-1.0), "decode"),
    "an exponent beyond fp32": (header(exponent=32_000), "decode"),
    "a huge norm": (lambda v: quantise(v * np.float32(1e6)), "norm"),
}


@pytest.mark.parametrize("name", BAD)
async def test_it_is_rejected_with_evidence_and_never_added(rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str):
    run, (change, why) = rig.run, BAD[name]
    rig.add("three")  # a length is compared where two others are
    turns = iter([change])  # the first to answer is hostile, whoever follows honest

    def tampered(vector: np.ndarray) -> bytes:
        return next(turns, quantise)(vector)

    monkeypatch.setattr(shard, "quantise", tampered)
    hostile, *others = await rig.train(segments=2)
    assert [entry.outcome for entry in (hostile, *others)] == ["committed"] * 3
    assert run.round is not None
    odd = suspicious(run, run.round, committed(run.round))
    assert list(odd) == [hostile.seat]
    assert why in odd[hostile.seat]
    verdict = await rig.audit(hostile, whole=True)
    assert verdict.verdict == "rejected"
    assert recheck(run.folder / "evidence" / f"1-{hostile.seat}").confirmed
    for entry in others:
        assert (await rig.audit(entry)).accepted
        entry.outcome = "accepted"
    hostile.outcome = "rejected"
    before = run.weights.weights.copy()
    parts = [dequantise((run.folder / update_name(1, e.seat)).read_bytes(), before.size) for e in others]
    _advance(run, run.round)
    np.testing.assert_allclose(run.weights.weights, before + np.mean(parts, axis=0), atol=1e-6)
    assert run.state.steps_done == len(others) * 2 * STEP


@pytest.mark.parametrize("factor", [-1.0, -5.0, -0.05])
async def test_an_update_turned_round_is_seen_by_its_loss_and_found(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, factor: float
):
    run = rig.run
    for name in ("three", "four", "five"):
        rig.add(name)
    turns = iter([np.float32(factor)])  # the first to answer is hostile, whoever follows honest
    monkeypatch.setattr(shard, "quantise", lambda vector: quantise(vector * next(turns, np.float32(1))))
    hostile, *others = await rig.train(segments=2)
    assert run.round is not None
    odd = suspicious(run, run.round, committed(run.round))
    assert odd[hostile.seat] == "loss"
    assert len(odd) < len(others)
    assert (await rig.audit(hostile, whole=True)).verdict == "rejected"
    # whoever is honest and looks odd only costs a replay
    assert (await rig.audit(others[0], whole=True)).accepted
