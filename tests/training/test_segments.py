import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.training.architectures import build_with, initial_weights
from cloudlinkup.training.schedule import rate
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import hash_state, read_state, state_size


def run(spec, work, rows, segments=None, **kwargs):
    runner = SegmentRunner(spec, work, initial_weights(spec), *rows, **kwargs)
    for _ in range(work.max_segments if segments is None else segments):
        assert runner.run_segment() == work.segment_steps
    return runner


def test_same_inputs_same_bytes_here_and_in_another_process(spec, work):
    script = """
import sys, numpy as np
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import hash_state, read_state, state_size
spec = TrainingSpec.from_bytes(sys.argv[1].encode())
work = ShardWork(b"s" * 32, 10, 6, 0, 500_000)
x = (np.arange(300 * 64).reshape(300, 64) % 97 / 97).astype(np.float32)
runner = SegmentRunner(spec, work, initial_weights(spec), x, np.arange(300) % 10)
while runner.run_segment(): pass
print(runner.state_hash().hex())
"""
    x = (np.arange(300 * 64).reshape(300, 64) % 97 / 97).astype(np.float32)
    here = run(spec, work, (x, np.arange(300) % 10))
    assert here.state_bytes() == run(spec, work, (x, np.arange(300) % 10)).state_bytes()
    command = [sys.executable, "-c", script, spec.to_bytes().decode()]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert child.stdout.strip() == here.state_hash().hex()


@settings(deadline=None, max_examples=50)
@given(st.integers(4, 60), st.integers(1, 9), st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_rounds_go_through_the_rows_without_a_gap(count, batch, rounds):
    spec = TrainingSpec("classification", {"kind": "mlp", "hidden": [], "activation": "relu"}, 2, 2, batch, 0.01, 1)
    x, y = np.zeros((count, 2), np.float32), np.arange(count) % 2
    seen, before = [], 0
    for steps in rounds:  # each a shard of its own, with one seed
        runner = SegmentRunner(
            spec, ShardWork(b"r" * 32, 1, steps, 0, 1, rows_before=before), initial_weights(spec), x, y
        )
        seen += [int(row) for index in range(steps) for row in runner.rows(index)]
        before += steps * batch
    assert len(seen) == before
    for start in range(0, before - count + 1, count):
        assert sorted(seen[start : start + count]) == list(range(count)), "no row again before all others"
    rest = seen[before - before % count :]
    assert len(set(rest)) == len(rest)


def test_a_segment_replays_alone_from_its_opened_state(spec, work, digits):
    first = run(spec, work, digits, segments=3)
    opened = first.state_bytes()
    first.run_segment()
    alone = SegmentRunner(spec, work, initial_weights(spec), *digits)
    alone.load_state(opened)
    assert alone.segment == 3
    alone.run_segment()
    assert alone.state_bytes() == first.state_bytes()
    assert alone.state_hash() == hash_state(first.state_bytes())


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "silu"])
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("hidden", [[], [7], [9, 5, 4]])
def test_it_is_the_adamw_and_autograd_that_torch_runs(digits, activation, task, hidden):
    outputs = 10 if task == "classification" else 2
    spec = TrainingSpec(task, {"kind": "mlp", "hidden": hidden, "activation": activation}, 64, outputs, 16, 0.01, 1)
    work = ShardWork(b"k" * 32, 10, 2, 0, 1_000_000)
    x, y = digits
    if task == "regression":
        y = np.stack([y / 10, y % 2], 1).astype(np.float32)
    runner = run(spec, work, (x, y))
    module = build_with(spec, initial_weights(spec))
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99), eps=1e-8, weight_decay=0)
    for index in range(20):
        rows = runner.rows(index)
        optimizer.param_groups[0]["lr"] = rate(spec, work, index)
        optimizer.zero_grad()
        out = module(torch.from_numpy(x[rows]))
        target = torch.from_numpy(y[rows])
        loss = torch.nn.functional.cross_entropy if task == "classification" else torch.nn.functional.mse_loss
        loss(out, target).backward()
        optimizer.step()
    theirs = torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy()
    moved = np.linalg.norm(theirs - initial_weights(spec))
    assert np.linalg.norm(runner.weights() - theirs) < 1e-3 * moved
    np.testing.assert_array_equal(runner.update(), runner.weights() - initial_weights(spec))


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 40), batch=st.integers(1, 90))
def test_every_batch_is_full_and_every_epoch_sees_each_row_once(rows, batch):
    spec = TrainingSpec("classification", {"kind": "mlp", "hidden": [], "activation": "relu"}, 2, 2, batch, 0.01, 0)
    work = ShardWork(b"e" * 32, 10, 2, 0, 1)
    runner = SegmentRunner(spec, work, initial_weights(spec), np.zeros((rows, 2), np.float32), np.zeros(rows, np.int64))
    batches = [runner.rows(i) for i in range(20)]
    assert all(b.shape == (batch,) for b in batches)
    stream = np.concatenate(batches)
    for start in range(0, len(stream) - rows + 1, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))
    np.testing.assert_array_equal(runner.rows(7), batches[7])  # out of order, too


def test_the_seed_decides_the_rows(spec, work, digits):
    one = SegmentRunner(spec, work, initial_weights(spec), *digits)
    two = SegmentRunner(spec, replace(work, seed=b"t" * 32), initial_weights(spec), *digits)
    assert (one.rows(0) != two.rows(0)).any()


def test_between_steps_runs_after_each_step_and_may_stop(spec, work, digits):
    runner = SegmentRunner(spec, work, initial_weights(spec), *digits)
    calls = []
    runner.between_steps = lambda: calls.append(runner.segment)
    runner.run_segment()
    assert calls == [0] * 10

    def stop():
        raise KeyboardInterrupt

    runner.between_steps = stop
    before = runner.state_bytes()
    with pytest.raises(KeyboardInterrupt):
        runner.run_segment()
    assert runner.segment == 1
    runner.between_steps = lambda: None
    with pytest.raises(RuntimeError, match="inside"):
        runner.run_segment()
    runner.load_state(before)
    runner.run_segment()
    assert runner.state_bytes() == run(spec, work, digits, segments=2).state_bytes()


def test_a_finished_shard_runs_no_further(spec, work, digits):
    runner = run(spec, work, digits)
    before = runner.state_hash()
    assert runner.done and runner.run_segment() == 0 and runner.state_hash() == before


def test_state_bytes_are_the_documented_ones(spec, work, digits):
    runner = run(spec, work, digits, segments=2)
    data = runner.state_bytes()
    count = runner.weights().shape[0]
    assert data[:16] == b"CLST" + (2).to_bytes(4, "little") + count.to_bytes(8, "little")
    assert len(data) == state_size(count) == 16 + 12 * count + 8
    assert int.from_bytes(data[-8:], "little") == 20
    w, _, v, steps = read_state(data, count)
    np.testing.assert_array_equal(w, runner.weights())
    assert steps == 20 and (v >= 0).all()


@pytest.mark.parametrize("change", ["short", "magic", "half segment", "too far", "count"])
def test_a_state_that_does_not_fit_is_refused(spec, work, digits, change):
    runner = run(spec, work, digits, segments=1)
    data = bytearray(runner.state_bytes())
    if change == "short":
        del data[-1]
    elif change == "magic":
        data[0] ^= 1
    elif change == "count":
        data[8] ^= 1
    else:
        data[-8:] = (7 if change == "half segment" else 70).to_bytes(8, "little")
    with pytest.raises(ValueError):
        runner.load_state(bytes(data))


def test_wrong_inputs_are_refused(spec, work, digits):
    x, y = digits
    start = initial_weights(spec)
    for weights, features, targets in [
        (start[:-1], x, y),
        (start.astype(np.float64), x, y),
        (start, x[:, :-1], y),
        (start, x[:5], y),
        (start, x, y + 1),
        (start, x, y.astype(np.int32)),
        (start, x[:0], y[:0]),
        (start, np.where(x == 0, np.nan, x).astype(np.float32), y),
    ]:
        with pytest.raises(ValueError):
            SegmentRunner(spec, work, weights, features, targets)


def test_two_threads_differ_from_one_only_by_rounding(spec, work, digits):
    one, two = run(spec, work, digits), run(spec, work, digits, threads=2)
    deviation = np.linalg.norm(one.update() - two.update()) / np.linalg.norm(one.update())
    assert deviation < 1e-2
