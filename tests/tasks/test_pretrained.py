"""Adapters on a frozen base through the real round: the base travels once, then adapters alone; audit, delivery."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloudlinkup.crypto.seal import sealed_size
from cloudlinkup.training.architectures import base_tensors, initial_weights, parameter_count
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.frozen import open_frozen
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import encoded_size
from cloudlinkup.verify.evidence import recheck
from models.facts import ReferenceProfile
from tasks.planning import job_facts
from tasks.pretrained import BASE
from tasks.rebalance import _advance
from tasks.segment import FACTS
from tests.tasks.conftest import STEP, Rig
from tests.tasks.test_audit import SkipsOneStepInTen
from tests.training.tiny_language_models import lora_spec, windows, write_base

SMALL = 40_000  # bytes of orders, signatures and frames that a call takes beside its blobs


@pytest.fixture
def adapting(rig: Rig, tmp_path: Path) -> Rig:
    """The rig with a language model whose adapters are trained, on a base of random weights."""
    run, base = rig.run, write_base(tmp_path / "base", "qwen2 wide")
    spec = replace(lora_spec(base, "qwen2 wide"), lr=0.02)
    (run.folder / BASE).write_bytes(base.read_bytes())
    run.base = open_frozen(run.folder / BASE, base_tensors(spec))
    x, y = windows(120)
    rows = {"features": x[:100], "targets": y[:100], "holdout_features": x[100:], "holdout_targets": y[100:]}
    run.prepared = replace(run.data, **rows, spec=spec)
    run.published = Published(initial_weights(spec))
    reference = ReferenceProfile(overhead=0.01, per_sample=1e-4)
    facts = job_facts(run.job, run.data, reference, run.settings.home, run.frozen)
    assert facts.extra.startswith("huggingface transformers 5.")
    assert facts.memory > base.stat().st_size
    run.write(FACTS, facts.model_dump_json().encode())
    return rig


async def test_two_rounds_move_the_base_once_and_then_adapters_alone(adapting: Rig) -> None:
    run = adapting.run
    base, count = (run.folder / BASE).stat().st_size, parameter_count(run.data.spec)
    assert base > 10 * 4 * count
    before = evaluate(run.data.spec, run.weights.published, *held(run), frozen=run.frozen).loss
    for number in (1, 2, 3):
        entries = await adapting.train(segments=3, number=number)
        assert [entry.outcome for entry in entries] == ["committed"] * 2, [entry.reason for entry in entries]
        for entry in entries:
            down = entry.bytes_down - (sealed_size(base) if number == 1 else 0)
            assert 0 < down < 100_000 + SMALL, "rows, the adapters' weights"
            assert encoded_size(count) < entry.bytes_up < encoded_size(count) + SMALL
            assert entry.bytes_up + (down if number > 1 else 0) < base
            found = await adapting.audit(entry, whole=number == 2)
            assert found.accepted, found.reason
            entry.outcome = "accepted"
            adapting.chain.job.seats[entry.seat].awarded += entry.segments * STEP * run.state.price
        assert run.round is not None
        _advance(run, run.round)
    assert evaluate(run.data.spec, run.weights.published, *held(run), frozen=run.frozen).loss < before
    assert [kind for _, kind in adapting.cluster.calls].count("train") == 6


def held(run) -> tuple[np.ndarray, np.ndarray]:
    return run.data.holdout_features, run.data.holdout_targets


async def test_skipped_work_is_rejected_with_evidence_that_names_the_base(adapting: Rig) -> None:
    run = adapting.run
    adapting.add("lazy", runner_factory=SkipsOneStepInTen)
    *_, lazy = await adapting.train(segments=3)
    verdict = await adapting.audit(lazy, whole=True)
    assert verdict.verdict == "rejected"
    folder = run.folder / "evidence" / f"1-{lazy.seat}"
    assert (folder / "spec.json").read_bytes() == run.data.spec.to_bytes()
    assert not list(folder.glob("*base*"))
    with pytest.raises(ValueError, match=str(run.data.spec.frozen)):
        recheck(folder)
    assert recheck(folder, run.folder / BASE).confirmed


async def test_a_contributor_refuses_another_base_and_deletes_the_right_one_with_the_job(adapting: Rig) -> None:
    run = adapting.run
    await adapting.begin()
    kept = run.state.frozen
    assert kept is not None
    other = write_base(adapting.folder / "other", "qwen2 wide", seed=1).read_bytes()
    assert hashlib.sha256(other).hexdigest() != run.data.spec.frozen
    (run.folder / BASE).write_bytes(other)
    run.state.frozen = None
    from tasks.pretrained import seal_frozen

    await seal_frozen(run)
    assert {(e.outcome, e.reason.partition(":")[0]) for e in await adapting.send()} == {("refused", "hash")}
    assert not list(adapting.folder.glob("*/jobs/*/frozen-*"))
    run.state.frozen = kept
    assert run.round is not None
    for entry in run.round.entries:
        entry.outcome = "ordered"
    assert {e.outcome for e in await adapting.send()} == {"committed"}
    assert len(list(adapting.folder.glob("*/jobs/*/frozen-*"))) == 2


async def test_who_lacks_the_extra_refuses_the_order(adapting: Rig) -> None:
    adapting.add("plain", extras=())
    *_, plain = await adapting.train(segments=1)
    assert (plain.outcome, plain.reason.partition(":")[0]) == ("refused", "spec")
    assert "huggingface" in plain.reason
