"""The benchmark of peers, less the peers: its problem, its accounts, its table, its resumption, its network."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import problem as problems
from benchmarks.peers.__main__ import place, still_to_run
from benchmarks.peers.local import Loop
from benchmarks.peers.measure import Result, account, bytes_at, from_json, idle_share, reached, to_json
from benchmarks.peers.network import HUB_ADDRESS, Network, address, missing
from benchmarks.peers.pace import BEHIND, Pace
from benchmarks.peers.record import ModelLog, Snapshot, Work, WorkerLog, lines, work_until
from benchmarks.peers.setup import SPEEDS, STEP, Setup
from benchmarks.peers.table import losses, show, summary
from cloudlinkup.training.architectures import flat_weights

RESULT = Result(
    system="ours",
    scenario="plain",
    seed=0,
    single=0.9,
    target=0.855,
    to_target=20.0,
    training_to_target=15.0,
    bytes_to_target=5_000_000,
    seconds=30.0,
    score=0.89,
    bytes=8_000_000,
    idle=0.3,
    wasted=0,
    false=0,
    samples=76_800,
    cut=False,
)


# ---------------------------------------------------------------- the problem


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small problem, with a short single-machine training."""
    folder = tmp_path_factory.mktemp("problem")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problems, "ROWS", 600)
        patch.setattr(problems, "TOTAL_STEPS", 30)
        facts = problems.make(folder, seed=3)
        assert problems.make(folder, seed=3) == facts, "what is there is kept"
    return folder


def test_every_system_gets_the_same_rows_and_start(made: Path) -> None:
    problem = problems.load(made)
    parts = [problem.part(i, len(SPEEDS)) for i in range(len(SPEEDS))]
    assert sum(len(x) for x, _ in parts) == len(problem.features) == 600 - len(problem.holdout_features)
    assert max(len(x) for x, _ in parts) - min(len(x) for x, _ in parts) <= 1
    loop = Loop(problem.spec, *parts[0], seed=1)
    assert np.array_equal(flat_weights(loop.module), problem.start)
    job = json.loads((made / "job.json").read_text())
    assert job["train"]["batch"] == problem.spec.batch
    assert job["model"] == dict(problem.spec.model)


def test_the_score_is_the_single_machines(made: Path) -> None:
    problem, facts = problems.load(made), json.loads((made / "single.json").read_text())
    assert facts["target"] == pytest.approx(0.95 * facts["score"])
    assert problem.score(problem.start) < facts["score"], "thirty steps teach something"


def test_a_machines_share_follows_its_speed(made: Path) -> None:
    shares = problems.shares(made, steps=5, repeats=1)
    assert shares == problems.shares(made), "measured once"
    assert problems.shares(made, 2 * STEP) == pytest.approx([one / 2 for one in shares], abs=1e-5)
    assert np.allclose(np.array(shares) / shares[0], SPEEDS, rtol=0.05)


# ---------------------------------------------------------------- speed, faults and what is written down


def test_a_step_takes_the_machines_time_and_lost_time_is_made_up_for() -> None:
    pace = Pace(0.02)
    pace.start()
    assert pace.pause() > 0
    time.sleep(0.05)
    assert pace.pause() == 0, "a step that took too long is followed at once"
    pace._due -= 100
    pace.pause()
    assert pace._due > time.perf_counter() - BEHIND - 1, "what is made up for has a bound"


def test_faults_hit_one_worker(tmp_path: Path) -> None:
    setup = Setup("dask", "straggler", 0, str(tmp_path), "", 10.0, (0.1, 0.2, 0.3, 0.4))
    setup.save()
    assert Setup.load(str(tmp_path)) == setup
    assert [setup.step_seconds(i) / STEP for i in range(4)] == pytest.approx([1, 1 / 2, 10 / 4, 1 / 8])
    free = replace(setup, scenario="free-rider")
    assert [free.free(i) for i in range(4)] == [False, False, True, False]
    assert free.slower(2) == 1


def test_workers_lines_add_up_over_their_lives(tmp_path: Path) -> None:
    log = WorkerLog(tmp_path, 1)
    for _ in range(3):
        log.step(0.5)
    log.flush()
    first = lines(next(tmp_path.glob("worker-1-*.jsonl")))
    assert (first[-1]["steps"], first[-1]["seconds"]) == (3, 1.5)
    later = {"t": first[-1]["t"] + 10, "steps": 2, "seconds": 1.0}
    (tmp_path / "worker-1-0.jsonl").write_text(json.dumps(later) + "\n" + '{"cut off')
    assert work_until(tmp_path, 2, later["t"]).steps == {0: 0, 1: 5}
    before = work_until(tmp_path, 2, later["t"] - 1)
    assert (before.steps, before.seconds) == ({0: 0, 1: 3}, {0: 0.0, 1: 1.5})
    assert before.first == pytest.approx(first[0]["t"] - first[0]["seconds"])


def test_the_model_after_each_round_is_kept(tmp_path: Path) -> None:
    log = ModelLog(tmp_path)
    log.save(np.zeros(3, np.float32), {0: 10})
    log.save(np.ones(3, np.float32), {0: 20, 1: 5})
    kept = lines(tmp_path / "model.jsonl")
    assert kept[1]["steps"] == {"0": 20, "1": 5}
    assert np.load(tmp_path / kept[1]["file"]).sum() == 3


# ---------------------------------------------------------------- accounts


def test_time_and_bytes_to_the_target() -> None:
    curve = [Snapshot(1.0, 0.5, {}), Snapshot(2.0, 0.9, {}), Snapshot(3.0, 0.8, {})]
    assert reached(curve, 0.85) == 2.0
    assert reached(curve, 0.95) is None
    assert bytes_at([(1.0, 10), (2.5, 30), (3.0, 40)], 2.0) == 30
    assert bytes_at([(1.0, 10)], 2.0) == 10
    assert bytes_at([], 2.0) == 0


def test_idle_time_is_weighted_by_speed_and_a_dead_machine_is_not_idle() -> None:
    work = Work({0: 0, 1: 0}, {0: 10.0, 1: 5.0}, 0.0)
    assert idle_share(work, [1, 8], 0.0, 10.0, {}) == pytest.approx(1 - (10 + 40) / 90)
    assert idle_share(work, [1, 8], 0.0, 10.0, {1: 5.0}) == pytest.approx(0.0)
    assert idle_share(work, [0, 0], 0.0, 10.0, {}) == 0


def test_wasted_and_false_steps() -> None:
    assert account({0: 50, 1: 50}, {0: 50, 1: 60}, set()) == (10, 0)
    assert account({0: 50, 1: 50}, {0: 50, 1: 0}, {1}) == (0, 50)
    assert account({0: 100}, {0: 30, 1: 40}, {2}) == (0, 30), "who claimed it is not known"
    assert account({0: 50}, {0: 49, 1: 0}, set()) == (0, 0)


# ---------------------------------------------------------------- results


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    names = ("ours", "dask")
    every = still_to_run(tmp_path, ("plain", "killed"), range(2), names)
    assert len(every) == 8
    assert [name for *_, name in every[:2]] == list(names), "back to back"
    assert [name for *_, name in every[-2:]] == list(reversed(names)), "another one first in each seed"
    path = place(tmp_path, *every[0])
    path.parent.mkdir()
    path.write_text(to_json(RESULT))
    assert still_to_run(tmp_path, ("plain", "killed"), range(2), names) == every[1:]
    assert from_json(path.read_text()) == RESULT


def test_the_table_says_where_we_lose() -> None:
    slower = replace(RESULT, system="dask", to_target=40.0, bytes_to_target=30_000_000)
    assert losses([RESULT, slower]) == []
    faster = replace(slower, system="hivemind", to_target=10.0, score=0.95)
    found = losses([RESULT, slower, faster])
    assert [one.split(" (")[0] for one in found] == [
        "plain: hivemind is ahead in time to 95%",
        "plain: hivemind is ahead in score",
    ]
    never = replace(RESULT, to_target=None, bytes_to_target=None)
    assert len(losses([never, slower])) == 2, "who never arrives loses to who does"
    assert losses([never, replace(slower, to_target=None, bytes_to_target=None)]) == []
    text = show([RESULT, slower, faster])
    assert "hivemind is ahead in score (95.0%, ours 89.0%)" in text
    assert "nowhere" in show([RESULT, slower])


def test_only_seeds_that_both_ran_are_compared() -> None:
    other = replace(RESULT, system="dask", seed=1, to_target=1.0)
    assert losses([RESULT, other]) == []


def test_a_median_over_runs_that_did_not_arrive() -> None:
    runs = [replace(RESULT, seed=i, to_target=t) for i, t in enumerate((10.0, None, None))]
    row = summary(runs)["scenarios"]["plain"]["ours"]
    assert row["to_target"] == (None, 10.0, None)
    assert (row["reached"], row["runs"]) == (1, 3)


# ---------------------------------------------------------------- the network


@pytest.fixture
def network() -> Network:
    if why := missing():
        pytest.skip(why)
    return Network("clutest", 2)


def test_a_workers_bytes_are_counted_and_its_rate_is_limited(network: Network) -> None:
    size = 6_000_000
    send = f"import socket;s=socket.create_connection(('{HUB_ADDRESS}',9000));s.sendall(bytes({size}));s.close()"
    take = (
        "import socket,time;l=socket.create_server(('0.0.0.0',9000));print('up',flush=True);c,_=l.accept();"
        "b=time.time();n=0\nwhile d:=c.recv(65536): n+=len(d)\nprint(n,time.time()-b,flush=True)"
    )
    with network:
        hub = network.within(network.hub, [sys.executable, "-c", take])
        with subprocess.Popen(hub, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            assert network.running(network.hub) == [server.pid]
            before = network.sent()
            worker = network.within(network.worker(1), [sys.executable, "-c", send])
            assert subprocess.run(worker, timeout=60, check=False).returncode == 0
            got, seconds = server.stdout.readline().split()
        sent = {name: after - before[name] for name, after in network.sent().items()}
    assert int(got) == size
    assert size < sent["w1"] < 1.2 * size, "headers included"
    assert sent["w0"] < size / 100
    assert float(seconds) > 0.9 * (size - 200_000) * 8 / 100e6, "100 Mbit/s, less the bucket that begins full"


def test_workers_reach_each_other_and_nothing_stays(network: Network) -> None:
    take = "import socket;l=socket.create_server(('0.0.0.0',9001));print('up',flush=True);l.accept()"
    knock = f"import socket;s=socket.create_connection(('{address(0)}',9001))"
    with network:
        argv = network.within(network.worker(0), [sys.executable, "-c", take])
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            other = network.within(network.worker(1), [sys.executable, "-c", knock])
            assert subprocess.run(other, timeout=60, check=False).returncode == 0
            assert server.wait(60) == 0
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "clutest" not in left
