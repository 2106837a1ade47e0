"""Adapters on a frozen base through the real round: the base travels once, then adapters alone; audit, delivery."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloudlinkup.crypto.seal import sealed_size
from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.delivered import load_model
from cloudlinkup.training.architectures import flat_base, parameter_count
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.frozen import file_hash
from cloudlinkup.training.quantize import encoded_size
from cloudlinkup.types import parse_job
from cloudlinkup.verify.evidence import recheck
from tasks.deliver import _write
from tasks.pretrained import BASE, seal_frozen
from tasks.rebalance import _advance
from tasks.segment import FACTS, segment, stored_facts
from tests.tasks.conftest import JOB, STEP, Rig
from tests.tasks.test_audit import SkipsOneStepInTen
from tests.training.tiny_language_models import LENGTH, config, write_base

SMALL = 40_000  # bytes of orders, signatures and frames that a call takes beside its blobs


def language_job(rig: Rig, base: Path, **model: Any) -> None:
    """The rig's job becomes a fine-tuning one, with nothing prepared yet."""
    run = rig.run
    run.prepared, run.settings = None, replace(run.settings, file_roots=(rig.folder.resolve(),))
    (rig.folder / "notes.txt").write_text("".join(f"line {k} of a text that is to be learnt\n" for k in range(80)))
    weights = {"uri": str(base), "sha256": file_hash(base)}
    lora = {"rank": 3, "alpha": 6, "targets": ["v_proj", "q_proj"]}
    document = JOB | {
        "data": {"uri": str(rig.folder / "notes.txt"), "format": "text", "context": LENGTH, "holdout": 0.2},
        "task": "next_token",
        "model": {"kind": "huggingface", "config": config("bytes"), "lora": lora, "weights": weights} | model,
        "train": {"samples": 8_000, "batch": 4, "seed": 5, "lr": 0.02, "rounds": "stateless"},
    }
    run.job = parse_job(document)
    (run.folder / FACTS).unlink(missing_ok=True)


@pytest.fixture
async def adapting(rig: Rig) -> Rig:
    """The rig with a language model whose adapters are trained, on a base of random weights, once it is segmented."""
    base = write_base(rig.folder / "base", "bytes")
    language_job(rig, base)
    await segment.fn(rig.run)
    base.unlink()  # the job has its own
    facts = stored_facts(rig.run)
    assert facts.extra.startswith("huggingface transformers 5.")
    assert facts.memory > (rig.run.folder / BASE).stat().st_size
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
    run.state.generation = run.weights.rounds
    _write(run)
    base_again = write_base(adapting.folder / "base", "bytes")
    model = load_model(run.folder / "delivered", base=base_again)
    np.testing.assert_array_equal(model.weights, run.weights.published)
    assert model.metrics["score"] == pytest.approx(run.state.score)
    assert len(model.generate("line 7 of ", tokens=4)) > 0
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
    other = write_base(adapting.folder / "other", "bytes", seed=1).read_bytes()
    assert hashlib.sha256(other).hexdigest() != run.data.spec.frozen
    (run.folder / BASE).write_bytes(other)
    run.state.frozen = None
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


async def test_all_of_a_base_may_be_trained(rig: Rig) -> None:
    run, base = rig.run, write_base(rig.folder / "base", "bytes", half=True)
    language_job(rig, base, lora=None)
    await segment.fn(run)
    assert run.data.spec.frozen is None and run.frozen is None and run.base is not None
    np.testing.assert_array_equal(run.weights.published, flat_base(run.data.spec, run.base))
    entries = await rig.train(segments=1)
    assert [entry.outcome for entry in entries] == ["committed"] * 2, [entry.reason for entry in entries]
    assert (await rig.audit(entries[0])).accepted


REFUSED = {
    "the wrong hash": ({"weights": {"uri": "base/model.safetensors", "sha256": "0" * 64}}, "model.weights.sha256"),
    "no such file": ({"weights": {"uri": "missing.safetensors", "sha256": "0" * 64}}, "model.weights.uri"),
    "another network": ({"config": config("bytes") | {"num_hidden_layers": 2}}, "model.weights.uri"),
    "too small a vocabulary": ({"config": config("qwen2")}, "data.tokenizer"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_base_that_does_not_fit_is_refused_before_anything_is_locked(rig: Rig, name: str) -> None:
    changes, field = REFUSED[name]
    language_job(rig, write_base(rig.folder / "base", "bytes"), **changes)
    with pytest.raises(BadInput) as refused:
        await segment.fn(rig.run)
    assert refused.value.field == field
    assert refused.value.fix
