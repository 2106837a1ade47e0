"""What past jobs took beside training, read back from a home's receipts and attempts; what says nothing is left out."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cloudlinkup.home import Home
from cloudlinkup.jobs import JobStore
from cloudlinkup.wire.messages import Probe
from models.facts import JobFacts, ReferenceProfile
from models.overheads import ROUND, SETUP, Spent, expected
from models.telemetry import Attempt, Telemetry
from tasks.overheads import one_job, spent

STAGES = {"segment": 4.0, "allocate": 1.0, "lock": 1.0, "deliver": 1.0, "settle": 5.0}
ROUNDS = {"plan": 1.0, "train": 30.0, "verify": 20.0, "release": 5.0, "rebalance": 4.0}


def receipt(**more: Any) -> dict[str, Any]:
    known = {"job_id": "j1", "rounds": 10, "seconds": 74.0, "audit_seconds": 2.0}
    return known | {"quoted": {"stage_seconds": STAGES | ROUNDS}} | more


def attempt(round_: int, seat: int, seconds: float) -> Attempt:
    probes = (Probe(name="mlp", precision="fp32", seconds=0.01, spread=0.1),)
    profile = ReferenceProfile(overhead=0.0, per_sample=1e-3, probes=probes)
    job = JobFacts(features={"macs": 1.0}, samples=100, batch=10, profile=profile)
    return Attempt(
        request_id="r1", job_id="j1", round=round_, seat=seat, attempt=0, wallet="w", agent="a", device_class="cpu|x",
        predictor="p", version="0", predicted=0.1, job=job, probes=probes, share=0.5, steps=20, segments=2,
        seconds=seconds, bytes_up=1, bytes_down=2, outcome="accepted",
    )  # fmt: skip


def test_setup_is_what_happens_once_and_a_round_is_what_is_left() -> None:
    assert one_job(receipt(), 20.0) == Spent(12.0, 4.16)  # of ten rounds' 2 s of audit those of two rounds show
    # of stages that overlapped the sum is more than the whole, which counts
    assert one_job(receipt(seconds=50.0), 20.0) == Spent(12.0, pytest.approx(1.76))  # type: ignore[arg-type]
    assert one_job(receipt(seconds=20.0), 20.0) == Spent(12.0, 0.0)


@pytest.mark.parametrize(
    "useless",
    [{"rounds": 0}, {"seconds": 3_600.0}, {"seconds": 5.0}, {"quoted": {}}, {"quoted": {"stage_seconds": {}}}],
)
def test_a_job_that_says_nothing_is_left_out(useless: dict[str, Any]) -> None:
    assert one_job(receipt(**useless), 20.0) is None


async def test_it_is_read_from_the_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert await spent(home) == []
    store = JobStore(home.jobs_db)
    for number, seconds in enumerate((74.0, 84.0, 94.0)):
        store.begin(f"r{number}", "{}", "run")
        if number < 2:
            store.finish(f"r{number}", receipt(job_id=f"j{number}", seconds=seconds))
        await asyncio.sleep(0.01)  # the latest is told by its time
    telemetry = Telemetry(home.telemetry_db)
    for round_, seat, seconds in ((1, 0, 5.0), (1, 1, 7.0), (2, 0, 3.0)):
        assert await telemetry.record_attempt(attempt(round_, seat, seconds))
    assert await telemetry.longest_shards(["j0", "j1"]) == {"j1": 10.0}
    found = await spent(home)
    assert found == [Spent(12.0, 6.16), Spent(12.0, 6.0)]
    told = expected(found)
    assert told.jobs == 2 and ROUND < told.round < 6.16 and told.setup == pytest.approx(SETUP)
