"""The order in which waiting jobs start: reads the queue, ranks it, and writes the ranks back to Prefect.

A plain coroutine that the pool's worker calls every few seconds, rather than a flow: a run of its own would take eight
seconds. All jobs wait in the one work queue `jobs`, whose limit says how many run at a time; a free place goes to the
run with the earliest scheduled time. So a rank is written as a scheduled time, a little earlier than everybody else's,
with the reason as the state's message. (Prefect's API cannot move a run to another queue: its update of a flow run has
no such field. And a queue a class would let no old job of a low class pass a new one of a high class.)

Nothing is done while there is a free place. Only the first few ranks are written, since only they can start before
the next look. Every run of `train` is ranked, whoever made it and whatever queue or time in the past it was given.
Not here: the formula (`models/priority`); several owners in one home: all its jobs are the configured wallet's,
unless `whose` says otherwise; what that wallet earned as a contributor elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from cloudlinkup.home import Settings
from cloudlinkup.jobs import JobStore
from models.priority import Account, Place, Settled, Waiting, account, rank

POOL, QUEUE, DEPLOYMENT = "local", "jobs", "train"
MOST = 200  # runs looked at: those that wait longest
AHEAD = 4  # ranks written
WAITS = ("Scheduled", "Late", "AwaitingConcurrencySlot")  # not retries, which keep their own time
STEP = timedelta(milliseconds=1)


class Ranker:
    """Remembers what it told, so that a job's events hold each of its places once."""

    def __init__(self, settings: Settings, whose: Callable[[FlowRun], str] | None = None) -> None:
        owner = settings.owner or ""
        self._settings, self._owner, self._whose = settings, owner, whose or (lambda run: owner)
        self._told: dict[str, tuple[int, bool]] = {}  # by request

    async def look(self, now: float | None = None) -> tuple[Place, ...]:
        """Ranks what waits; empty while nothing has to. `now`: unix seconds, by default this moment."""
        now = time.time() if now is None else now
        async with get_client() as client:
            runs = await _waiting(client, now)
            if not runs or not await _full(client):
                self._tell({}, ())
                return ()
            jobs = [as_waiting(run, self._whose(run)) for run in runs]
            places = rank(jobs, {self._owner: standing_of(self._settings, now)}, now)
            await reorder(client, runs, places)
        self._tell({str(run.id): run for run in runs}, places)
        return places

    def _tell(self, runs: dict[str, FlowRun], places: Sequence[Place]) -> None:
        named = {str(runs[place.key].parameters.get("request_id") or place.key): place for place in places}
        if not named and not self._told:
            return
        store = JobStore(self._settings.home.make().jobs_db)
        for request in self._told.keys() - named.keys():
            store.event(request, "dequeued")
        for request, place in named.items():
            if self._told.get(request) != (place.place, place.due):
                store.event(request, "queued", place=place.place, of=place.of, reason=place.reason)
        self._told = {request: (place.place, place.due) for request, place in named.items()}


def as_waiting(run: FlowRun, client: str) -> Waiting:
    """A run as the formula takes it. A deadline that cannot be read is no hurry: such a run fails when it starts."""
    submitted = run.created or run.expected_start_time or datetime.now(UTC)
    job = run.parameters.get("job")
    try:
        deadline = datetime.fromisoformat(str(job["deadline"]) if isinstance(job, dict) else "").timestamp()
    except (KeyError, ValueError, OverflowError):
        deadline = float("inf")
    return Waiting(str(run.id), client, submitted.timestamp(), deadline)


def standing_of(settings: Settings, now: float) -> Account:
    """The owner's account, from the receipts of what settled; what is still pending counts for nothing."""
    owner, path = settings.owner or "", settings.home.jobs_db
    views = JobStore(path).list(limit=10_000) if path.exists() else []
    settled: list[Settled] = []
    for view in views:
        receipt = view.receipt
        if receipt is None or not receipt.get("settled"):
            continue
        fee = int(receipt["fee"])
        settled.append(Settled(owner, int(receipt["paid"]) + fee, fee, view.updated))
    return account(owner, settled, now=now)


async def reorder(client: PrefectClient, runs: Sequence[FlowRun], places: Sequence[Place]) -> int:
    """Makes the first few places the first to be handed out. Returns how many runs were moved."""
    times = {str(run.id): _time(run) for run in runs}
    wanted = [place.key for place in places]
    there = sorted(times, key=lambda key: times[key])
    if there[:AHEAD] == wanted[:AHEAD]:
        return 0
    first, moved = min(times.values()), 0
    for place in places[:AHEAD]:
        run = await client.read_flow_run(UUID(place.key))
        if run.state_type != StateType.SCHEDULED:  # it was taken meanwhile
            continue
        at = first - (AHEAD + 1 - place.place) * STEP
        message = f"Place {place.place} of {place.of}: {place.reason}"
        await client.set_flow_run_state(run.id, Scheduled(scheduled_time=at, message=message))
        moved += 1
    return moved


async def _waiting(client: PrefectClient, now: float) -> list[FlowRun]:
    """Runs of jobs that would start if they could; not what somebody scheduled for later."""
    found = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
        ),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT])),
        sort=FlowRunSort.NEXT_SCHEDULED_START_TIME_ASC,
        limit=MOST,
    )
    until = datetime.fromtimestamp(now, UTC)
    return [run for run in found if run.state_name in WAITS and _time(run) <= until]


def _time(run: FlowRun) -> datetime:
    return run.next_scheduled_start_time or run.expected_start_time or datetime.now(UTC)


async def _full(client: PrefectClient) -> bool:
    """Whether as many jobs run as the queue allows. Without a limit nothing ever waits."""
    try:
        queue = await client.read_work_queue_by_name(QUEUE, work_pool_name=POOL)
    except ObjectNotFound:
        return False
    if queue.concurrency_limit is None:
        return False
    busy = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
        ),
        deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[DEPLOYMENT])),
        limit=MOST,
    )
    return len(busy) >= queue.concurrency_limit
