"""What is remembered across `kill -9` comes back as it was, and an id of a job is a UUIDv7 of the chain's time."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cloudlinkup.jobs import JobStore
from tasks.context import Run
from tasks.escrow import uuid7
from tasks.state import JobState, RoundState

if TYPE_CHECKING:
    from tests.tasks.conftest import Rig


@given(st.integers(0, 2**48 // 1000 - 1))
def test_a_job_id_is_a_uuid_of_version_7_with_the_chains_time(now: int) -> None:
    raw = uuid7(now)
    made = uuid.UUID(bytes=raw)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert int.from_bytes(raw[:6], "big") == now * 1000
    assert uuid7(now) != raw


async def test_job_and_round_come_back_from_the_store(rig: Rig) -> None:
    await rig.train(segments=2)
    run = rig.run
    run.state.round_began = 12.5
    run.save("rounds")
    run.save_round()
    again = Run(run.job, run.request_id, "another-run", run.settings, run.ledger, run.cluster)
    assert again.state.model_dump() == run.state.model_dump() | {"flow_run_id": "another-run"}
    assert run.round is not None
    assert again.round is not None
    assert again.round.model_dump() == run.round.model_dump()
    assert [entry.outcome for entry in again.round.entries] == ["committed", "committed"]
    assert again.sealing.public == run.sealing.public
    assert again.spec_hash == run.spec_hash


async def test_a_finished_round_is_not_taken_up_again(rig: Rig) -> None:
    await rig.train(segments=1)
    run = rig.run
    assert run.round is not None
    run.round.stage = "finished"
    run.save()
    run.save_round()
    assert Run(run.job, run.request_id, "later", run.settings, run.ledger, run.cluster).round is None


@pytest.mark.parametrize("change", [{"surprise": 1}, {"stage": "nowhere"}, {"price": "dear"}])
def test_a_document_of_another_form_is_refused(change: dict[str, Any]) -> None:
    good = {"started": 1.0, "result_key": "00" * 32}
    JobState.model_validate(good)
    with pytest.raises(ValidationError):
        JobState.model_validate(good | change)


def test_what_is_set_is_checked() -> None:
    state = JobState(started=0.0, result_key="")
    with pytest.raises(ValidationError):
        state.stage = "nowhere"  # type: ignore[assignment]


def test_the_store_answers_about_its_own_request_only(rig: Rig) -> None:
    run = rig.run
    run.save("rounds")
    store = JobStore(run.settings.home.jobs_db)
    assert store.rounds("another") == []
    assert store.state("another") is None
    assert store.begin(run.request_id, "another job", "run-2") != "another job"
    round_ = {"round": 1, "secret": "", "weights_hash": "", "snapshot_blob": "", "snapshot_key": "", "snapshot_size": 1}
    store.save_round("another", 1, RoundState.model_validate(round_).model_dump_json())
    assert store.rounds(run.request_id) == []
