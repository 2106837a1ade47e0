"""The flow on a real Prefect server of its own: it promotes by the rule, and the next plan uses the new version."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from cloudlinkup.home import Home
from flows.retrain_allocator import report, retrain_allocator
from models.facts import Candidate, JobFacts, Limits
from models.quote import QuoteInputs, quote_job
from models.registry import Registry
from models.telemetry import Telemetry
from tasks.drift import look_for_drift

# Prefect's own client leaves sockets of the temporary server to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

SHARED = Path(__file__).resolve().parents[1] / "models" / "conftest.py"


def _shared() -> ModuleType:
    """The planner tests' invented telemetry."""
    found = importlib.util.spec_from_file_location("planner_conftest", SHARED)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


shared = _shared()


def law(width: int, agent: int) -> float:
    """What there is to learn: by the network's width, and by the shape of an agent's probes."""
    return {16: 0.7, 64: 1.0, 256: 1.6}[width] * (1.5 if agent % 2 else 1.0)


make_telemetry = shared.make_telemetry


@pytest.fixture(scope="module")
def harness() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


async def test_retraining_changes_the_next_plan(
    harness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_telemetry: Any
) -> None:
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path))
    home, registry = Home.find(), Registry(tmp_path / "models")
    store = Telemetry(home.telemetry_db)

    nothing = await retrain_allocator(days=36_500)
    assert not nothing["promoted"] and "too little data" in nothing["reason"]

    rows = [row | {"at": row["at"] - 10**9} for row in make_telemetry(law)]  # years ago, whenever this runs
    assert await store.record_rows(rows) == len(rows)
    facts = JobFacts.model_validate_json(rows[-1]["job"])
    candidates = tuple(
        Candidate(agent=f"a{i}", wallet=f"w{i}", device_class=shared.CLASS, probes=shared.probes(1 + i / 2), ask=10**9)
        for i in range(3)
    )
    inputs = QuoteInputs(job=facts, candidates=candidates, limits=Limits(budget=10**15, deadline_seconds=10_000))
    before = quote_job(inputs, registry.champion())

    outcome = await retrain_allocator(days=36_500)
    assert outcome["promoted"], outcome
    after = quote_job(inputs, registry.champion())
    assert (before.version, after.version) == ("0", outcome["challenger"])
    assert after.plan.version == "1" and after.predictor == "rank1-roofline-xgboost"
    new = after.plan.predictions[0]
    assert new.source == "xgboost" and new.seconds == pytest.approx(1.6 * new.base, rel=0.15)
    assert registry.champion().metadata["data"]["jobs"] == 18
    assert registry.champion().metadata["metrics"]["makespan gain low"] > 0

    again = await retrain_allocator(days=36_500)  # nothing new to learn: the champion stays
    assert not again["promoted"] and registry.champion().version == "1"

    async with get_client() as client:
        artifacts = await client.read_artifacts()
    texts = [str(a.data) for a in artifacts if a.key == "retrain-allocator"]
    assert len(texts) == 3 and any("Promoted version 1" in t and "data:image/svg+xml;base64," in t for t in texts)
    assert not any("agent-" in t or "wallet-" in t for t in texts)

    registry.rollback()
    assert quote_job(inputs, registry.champion()) == before


async def test_a_store_or_champion_that_cannot_be_used_keeps_the_champion(
    harness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path))
    store = Home.find().telemetry_db
    store.parent.mkdir(parents=True, exist_ok=True)
    store.write_bytes(b"not a database, but long enough to look like a file" * 10)
    outcome = await retrain_allocator()
    assert not outcome["promoted"] and "telemetry store" in outcome["reason"] and "Fix: " in outcome["reason"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "champion.json").write_text("{")
    outcome = await retrain_allocator()
    assert not outcome["promoted"] and "champion pointer" in outcome["reason"]


async def test_drift_queues_one_run_however_many_jobs_notice(
    harness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_telemetry: Any
) -> None:
    monkeypatch.setenv("CLOUDLINKUP_HOME", str(tmp_path))
    home = Home.find()
    rows = make_telemetry(lambda width, agent: 4.0, rounds=1)
    assert await Telemetry(home.telemetry_db).record_rows([row | {"at": time.time()} for row in rows]) == len(rows)
    assert await look_for_drift(home) is None  # no deployment on this server: said in the log, the job goes on
    async with get_client() as client:
        flow_id = await client.create_flow(retrain_allocator)
        deployment = await client.create_deployment(flow_id, name="retrain-allocator")
        for _ in range(2):
            found = await look_for_drift(home)
            assert found is not None and found.drifted
        runs = await client.read_flow_runs()
    assert [run.deployment_id for run in runs if "drift" in run.tags] == [deployment]


def test_the_report_names_the_reason() -> None:
    outcome = {
        "promoted": False,
        "champion": "0",
        "challenger": None,
        "reason": "too little data",
        "shards": 3,
        "jobs": 1,
    }
    text = report(outcome | {"dropped": {"duplicate": 2}, "figures": {"gain low": 0.1}})
    assert (
        text.startswith("# Kept version 0")
        and "| rows dropped: duplicate | 2 |" in text
        and "| gain low | 0.1 |" in text
    )
