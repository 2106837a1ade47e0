"""`submit`, `status`, `watch`, `download`: a job from job.json to the folder with the model."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import uuid
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from cloudlinkup.cli.receipt import show_receipt
from cloudlinkup.cli.stack import require_checkout
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home, Settings
from cloudlinkup.jobs import JobEvent, JobStore, JobView
from cloudlinkup.types import JobSpec, canonical_json, parse_job


def read_job(path: Path) -> JobSpec:
    """job.json, checked as far as that goes without its data. Raises BadInput."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(
            "job", str(path), "there is no such file", "`cloudlinkup init DATA --label Y` writes one"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise BadInput("job", str(path), "it cannot be read", "give a readable JSON file") from None
    except ValueError as error:
        raise BadInput("job", str(path), f"not JSON: {error}", "correct it there") from None
    job = parse_job(document)
    if job.deadline <= datetime.now(UTC):
        raise BadInput("deadline", job.deadline.isoformat(), "is in the past", "give a later time, in UTC")
    return job


GOALS = ("deadline", "budget", "cheapest")


def check_goal(goal: str | None) -> None:
    """Raises BadInput for what `--for` does not know."""
    if goal is not None and goal not in GOALS:
        raise BadInput("--for", goal, "unknown", f"use one of {', '.join(GOALS)}")


def as_request_id(text: str | None) -> str:
    """A UUID in its usual form; a new one for None. Raises BadInput."""
    try:
        return str(uuid.UUID(text)) if text else str(uuid.uuid4())
    except ValueError:
        raise BadInput("request-id", text, "not a UUID", "leave it out, and a new one is made") from None


def with_checked_uri(job: JobSpec, settings: Settings) -> JobSpec:
    """The job, its URIs allowed and, for files here, whole: the run works in another folder. Raises BadInput."""
    found = job.model_copy(update={"data": job.data.model_copy(update={"uri": _checked(job.data.uri, settings)})})
    if (initial := job.train.initial) is None:
        return found
    try:
        uri = _checked(initial.uri, settings)
    except BadInput as error:
        raise BadInput("train.initial.uri", error.value, error.problem, error.fix) from None
    train = job.train.model_copy(update={"initial": initial.model_copy(update={"uri": uri})})
    return found.model_copy(update={"train": train})


def _checked(uri: str, settings: Settings) -> str:
    from cloudlinkup.tables.uri import check_uri, local_file, scheme_of

    if scheme_of(uri) == "file":
        return local_file(uri, settings.file_roots).as_uri()
    check_uri(uri, settings.file_roots)
    return uri


async def submit_job(
    path: Path, settings: Settings, request_id: str, *, watch: bool, compare: bool, goal: str | None = None
) -> tuple[dict[str, Any], float]:
    """Submits, and follows to the end if asked. Returns the receipt or where it is, and the comparison's time.

    `goal`: instead of the job's own.
    """
    check_goal(goal)
    job = with_checked_uri(read_job(path), settings)
    if goal is not None:
        job = job.model_copy(update={"goal": goal})
    from cloudlinkup.cli.runs import Runs
    from cloudlinkup.cli.watching import follow

    store = JobStore(settings.home.make().jobs_db)
    before = store.view(request_id)
    if before is not None and before.finished:
        terminal.note(f"Request {request_id} had ended already.")
        return _document(before), 0.0
    seen = max((event.id for event in store.events(request_id)), default=0)
    run = await Runs(settings.prefect_api).submit(job.model_dump(mode="json"), request_id)
    store.begin(request_id, canonical_json(job).decode(), run.id)  # `status` knows it, and `watch` asks for this run
    terminal.note(f"Request {request_id}, Prefect run {run.id} ({run.state.lower()}).")
    if not watch and not compare:
        return {"request_id": request_id, "flow_run_id": run.id, "state": run.state}, 0.0
    view = await follow(settings, request_id, run.id, after=seen)
    assert view.receipt is not None
    receipt, seconds = view.receipt, 0.0
    if compare:
        from cloudlinkup.cli.compare import compare as run_alone

        terminal.note("Training the same job in a plain loop on this machine...")
        began = time.monotonic()
        alone = await run_alone(settings.home, request_id, job)
        seconds = time.monotonic() - began
        receipt = {**receipt, "score_single_machine": alone.score}
    return receipt, seconds


def submit(
    job: Path,
    /,
    *,
    watch: bool = False,
    compare: bool = False,
    request_id: str | None = None,
    for_: Annotated[str | None, Parameter(name="--for")] = None,
) -> None:
    """Submit a job; it runs in the background unless you watch it.

    Parameters
    ----------
    job
        A job.json, as `cloudlinkup init` writes it.
    watch
        Follow its progress and print the receipt.
    compare
        Follow it, then train the same job in a plain loop on this machine and add its score to the receipt.
    request_id
        A UUID that names this request. The same id again shows, or continues, the same job and never pays twice.
    for_
        What of the plans within budget and deadline is run. deadline: the cheapest. budget: the fastest. cheapest: the
        least money, without a newcomer's shard. By default the job's own goal, or the most contributors.
    """
    require_checkout()
    settings, request = Settings.load(), as_request_id(request_id)
    document, _ = asyncio.run(submit_job(job, settings, request, watch=watch, compare=compare, goal=for_))
    terminal.result(document, lambda console: show_document(console, document))


def show_document(console: Console, document: dict[str, Any]) -> None:
    """A receipt, or where a job is."""
    if "contributors" in document:
        show_receipt(console, document)
        console.print(f"The model: cloudlinkup download {document['request_id']}")
    elif "stage" in document:
        console.print(_sentence(document))
    else:
        console.print(f"Follow it: cloudlinkup watch {document['request_id']}")


def _document(view: JobView) -> dict[str, Any]:
    """The receipt of a job that is done; where it is otherwise."""
    return view.receipt if view.receipt is not None and view.stage == "done" else asdict(view)


def _sentence(job: dict[str, Any]) -> str:
    rounds = f", round {job['round']} of {job['rounds']}" if job["rounds"] else ""
    error = f": {job['error'].get('message', '')}" if job["error"] else ""
    if waiting := job.get("waiting"):
        return f"{job['request_id']}  waiting, place {waiting['place']} of {waiting['of']}: {waiting['reason']}"
    left = f", about {job['seconds_left']:.0f} s to go" if job.get("seconds_left") is not None else ""
    if left and job.get("seconds_left_p90") is not None:
        left += f" ({job['seconds_left_p90']:.0f} s at P90)"
    return f"{job['request_id']}  {job['stage']}{rounds}{left}{error}"


def _where(store: JobStore, view: JobView) -> dict[str, Any]:
    """Where a job is: `waiting` with its place and the reason; `seconds_left` at P50 and at P90 as the plan has it now,
    or by the rounds so far where it says nothing; None otherwise."""
    document = {**asdict(view), "waiting": None, "seconds_left": None, "seconds_left_p90": None}
    if view.finished:
        return document
    events = store.events(view.request_id)
    if events and events[-1].kind == "queued" and events[-1].at >= view.updated:
        document["waiting"] = events[-1].data
    if (planned := planned_seconds(events, now := time.time())) is not None:
        document["seconds_left"], document["seconds_left_p90"] = planned
    else:
        document["seconds_left"] = seconds_left(events, now)
    return document


def planned_seconds(events: list[JobEvent], now: float) -> tuple[float, float] | None:
    """(P50, P90) of what is left: the plan's estimate before its latest round; the quote's until the first has ended.

    None before the money is locked, and in a job of several trainings after its first round.
    """
    last = {event.kind: event for event in events}
    told = last.get("estimate")
    if told is None and "locked" in last and "round" not in last:
        told = last.get("allocated")
    if told is None:
        return None
    begun = told.at if told.kind == "estimate" else next(e.at for e in events if e.kind == "locked")
    since = max(0.0, now - begun)  # clocks are set back
    return max(0.0, told.data["p50_seconds"] - since), max(0.0, told.data["p90_seconds"] - since)


def seconds_left(events: list[JobEvent], now: float) -> float | None:
    """Until the last step, at the pace of the rounds since the money was locked. None before the first round ended."""
    locked = next((e.at for e in reversed(events) if e.kind == "locked"), None)
    last = next((e for e in reversed(events) if e.kind == "round"), None)
    if locked is None or last is None or last.at <= locked or not last.data.get("steps"):
        return None
    pace = (last.at - locked) / last.data["steps"]
    return max(0.0, pace * (last.data["of"] - last.data["steps"]) - max(0.0, now - last.at))


def _view(request_id: str) -> JobView:
    path = Home.find().jobs_db
    view = JobStore(path).view(request_id) if path.exists() else None
    if view is None:
        raise BadInput("request", request_id, "no such request in this home", "see `cloudlinkup status`")
    return view


def status(request: str | None = None, /) -> None:
    """Where one job is, or all of them. A finished one shows its receipt.

    Parameters
    ----------
    request
        The request id that `submit` printed.
    """
    if request is not None:
        view = _view(request)
        done = view.receipt is not None and view.stage == "done"
        document = _document(view) if done else _where(JobStore(Home.find().jobs_db), view)
        terminal.result(document, lambda console: show_document(console, document))
        return
    path = Home.find().jobs_db
    store = JobStore(path) if path.exists() else None
    jobs = [_where(store, view) for view in store.list()] if store else []

    def show(console: Console) -> None:
        table = Table("request", "stage", "rounds", "submitted", "error")
        table.columns[0].no_wrap = table.columns[3].no_wrap = True
        for job in jobs:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job["created"]))
            error = (job["error"] or {}).get("message", "")[:60]
            waiting = job["waiting"]
            stage = f"waiting {waiting['place']}/{waiting['of']}" if waiting else job["stage"]
            table.add_row(job["request_id"], stage, f"{job['round']}/{job['rounds']}", when, error)
        console.print(table if jobs else "No job was submitted in this home.")
        for job in jobs:
            if job["waiting"]:
                console.print(_sentence(job), soft_wrap=True)

    terminal.result({"jobs": jobs}, show)


def watch(request: str, /) -> None:
    """Follow a job to its end and print its receipt.

    Parameters
    ----------
    request
        The request id that `submit` printed.
    """
    from cloudlinkup.cli.watching import follow

    settings = Settings.load()
    view = _view(request)
    document = _document(asyncio.run(follow(settings, request, view.flow_run_id)))
    terminal.result(document, lambda console: show_document(console, document))


def download(request: str, /, *, to: Path | None = None) -> None:
    """Copy a finished job's model: weights, spec, preprocessing, metrics, learning curve, model card, receipt.

    A job that failed after some rounds has a model too: what those trained, and were paid for.

    Parameters
    ----------
    request
        The request id that `submit` printed.
    to
        The folder to make; by default `model-` and the first eight letters of the request id.
    """
    view = _view(request)
    source = Home.find().job_folder(request) / "delivered"
    if not view.finished or not (source / "metrics.json").exists():
        raise BadInput(
            "request", request, f"its model is not there (stage {view.stage})", f"`cloudlinkup watch {request}`"
        )
    target = to or Path(f"model-{request[:8]}")
    if target.exists():
        raise BadInput("to", str(target), "exists already", "name a folder that does not exist")
    shutil.copytree(source, target)
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    what, line = _how_to_use(target)

    def show(console: Console) -> None:
        console.print(f"{target}: {', '.join(files)}", soft_wrap=True)
        console.print(f"{what}: {line}", markup=False, soft_wrap=True)

    terminal.result({"folder": str(target), "files": files, "python": line}, show)


def _how_to_use(folder: Path) -> tuple[str, str]:
    """What the model does, and a line of Python that does it."""

    def told(name: str) -> dict[str, Any]:
        path = folder / name
        return json.loads(path.read_bytes()) if path.exists() else {}

    if told("preprocessing.json").get("task") != "next_token":
        line = f"import cloudlinkup, pandas; print(cloudlinkup.predict({str(folder)!r}, pandas.read_csv('rows.csv')))"
        return "Predict on raw rows", line
    base = ", base='BASE'" if told("spec.json").get("frozen") else ""
    model = f"cloudlinkup.load_model({str(folder)!r}{base})"
    return "Write on from a text", f"import cloudlinkup; print({model}.generate('Once upon a time', tokens=100))"
