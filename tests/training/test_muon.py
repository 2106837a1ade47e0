"""Muon: which matrices it moves, that its steps are orthogonal and torch's own, and that they replay bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cloudlinkup.training.architectures import build_with, check_spec, flat_weights, initial_weights
from cloudlinkup.training.baseline import train_alone
from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.moments import unpack_moments
from cloudlinkup.training.muon import matrices, orthogonal
from cloudlinkup.training.schedule import rate
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import moments_of
from cloudlinkup.wire.hashes import sha256
from tests.training.specs import SPECS, rows_for


def muon(spec: TrainingSpec) -> TrainingSpec:
    return replace(spec, optimizer="muon")


def run(spec: TrainingSpec, work: ShardWork, rows: tuple[np.ndarray, np.ndarray], **kwargs) -> SegmentRunner:
    runner = SegmentRunner(spec, work, initial_weights(spec), *rows, **kwargs)
    while runner.run_segment():
        pass
    return runner


@pytest.mark.parametrize("shape", [(5, 5), (40, 7), (7, 40), (1, 9), (64, 64)])
def test_a_steps_singular_values_are_about_one(shape) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    found = orthogonal(given)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and found.is_contiguous()
    if min(shape) < 64:  # a square matrix's least values take more iterations
        assert values.min() > 0.5 and values.max() < 1.25
    assert torch.nn.functional.cosine_similarity(found.flatten(), (left @ right).flatten(), 0) > 0.9
    assert not orthogonal(torch.zeros(shape)).any()


def test_embeddings_outputs_and_vectors_are_left_to_adamw() -> None:
    mlp = TrainingSpec("classification", {"kind": "mlp", "hidden": [9, 4], "activation": "relu"}, 5, 3, 4, 0.01, 1)
    assert matrices(mlp) == ()
    assert [(m.start, m.rows, m.columns) for m in matrices(muon(mlp))] == [(0, 9, 5), (54, 4, 9)]
    model = {"kind": "transformer", "width": 8, "depth": 1, "heads": 2, "context": 6, "positions": "learned"}
    for tied in (True, False):
        text = TrainingSpec("next_token", {**model, "tied": tied}, 6, 20, 4, 0.01, 1)
        assert [(m.rows, m.columns) for m in matrices(muon(text))] == [(24, 8), (8, 8), (32, 8), (8, 32)]
    with pytest.raises(ValueError, match="optimizer"):
        check_spec(replace(mlp, optimizer="sgd"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_segment_replays_bit_for_bit_and_the_steps_are_others(name) -> None:
    spec, work = muon(SPECS[name]), ShardWork(b"m" * 32, 3, 3, 0, 1_000_000)
    rows = rows_for(spec)
    whole, again = run(spec, work, rows), SegmentRunner(spec, work, initial_weights(spec), *rows)
    again.run_segment()
    alone = SegmentRunner(spec, work, initial_weights(spec), *rows)
    alone.load_state(again.state_bytes())
    while alone.run_segment():
        pass
    assert alone.state_bytes() == whole.state_bytes()
    assert np.isfinite(whole.weights()).all()
    assert (run(SPECS[name], work, rows).state_hash() != whole.state_hash()) == bool(matrices(spec))


def test_it_is_the_muon_that_torch_has(digits) -> None:
    """torch iterates in bf16, whose rounding shows where a gradient has no direction."""
    model = {"kind": "mlp", "hidden": [24, 16], "activation": "relu"}
    spec, work = muon(TrainingSpec("classification", model, 64, 10, 16, 0.01, 1)), ShardWork(b"k" * 32, 4, 1, 0, 10**6)
    runner, start = run(spec, work, digits), initial_weights(spec)
    module = build_with(spec, start)
    named = dict(module.named_parameters())
    hidden = [p for n, p in named.items() if p.dim() == 2 and p.shape[0] != 10]
    rest = [p for p in named.values() if all(p is not h for h in hidden)]
    both = [
        torch.optim.AdamW(rest, betas=(0.9, 0.99), eps=1e-8, weight_decay=0),
        torch.optim.Muon(hidden, momentum=0.9, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
    ]
    for index in range(4):
        rows = runner.rows(index)
        for optimizer in both:
            optimizer.param_groups[0]["lr"] = rate(spec, work, index)
            optimizer.zero_grad()
        out = module(torch.from_numpy(digits[0][rows]))
        torch.nn.functional.cross_entropy(out, torch.from_numpy(digits[1][rows])).backward()
        for optimizer in both:
            optimizer.step()
    ours, theirs = runner.weights() - start, flat_weights(module) - start
    assert np.linalg.norm(ours - theirs) < 0.2 * np.linalg.norm(ours)


def test_kept_state_goes_on_from_its_packed_momentum(digits) -> None:
    spec = muon(TrainingSpec("classification", SPECS["mlp"].model, 64, 10, 32, 0.01, 3, rounds="kept"))
    first = run(spec, ShardWork(b"a" * 32, 5, 4, 0, 300_000), digits)
    moments = moments_of(first.state_bytes())
    momentum, _, steps = unpack_moments(moments, len(first.weights()))
    assert steps == 20 and all(momentum[m.start : m.start + m.rows * m.columns].any() for m in matrices(spec))
    work = ShardWork(b"b" * 32, 5, 4, 300_000, 600_000, bytes.fromhex(sha256(moments)), 20)
    second = run(spec, work, digits, moments=moments)
    assert second.state_bytes() == run(spec, work, digits, moments=moments).state_bytes()


def test_it_learns_and_so_does_the_baseline_beside_it(digits) -> None:
    spec = muon(TrainingSpec("classification", SPECS["mlp"].model, 64, 10, 32, 0.01, 3))
    x, y = digits
    found = run(spec, ShardWork(b"l" * 32, 10, 40, 0, 1_000_000), (x[:1400], y[:1400])).weights()
    alone = train_alone(spec, x[:1400], y[:1400], 400 * 32).weights
    scores = [evaluate(spec, weights, x[1400:], y[1400:]).value for weights in (found, alone)]
    assert min(scores) > 0.85 and abs(scores[0] - scores[1]) < 0.06
