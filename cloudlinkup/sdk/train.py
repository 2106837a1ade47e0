"""`cloudlinkup.train(frame, label=..., budget=...)`: a DataFrame in, a trained model and its receipt out.

From a script or a notebook beside a local stack (`cloudlinkup up`) and its contributors. The rows are written below a
folder that the stack may read, the job is submitted like any other, its progress is followed, and the delivered model
loaded. The rows' file is deleted once the job has ended; one that is interrupted goes on without its caller.

It blocks, inside a running event loop (a notebook's) too, because the work happens on a thread with a loop of its own.
Not covered: stacks on other machines, tables that do not fit into memory (write a job.json for those).
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cloudlinkup.errors import BadInput, Unavailable
from cloudlinkup.home import Settings, checkout
from cloudlinkup.types import JobSpec, Receipt, parse_job

if TYPE_CHECKING:
    import pandas as pd

    from cloudlinkup.jobs import JobView
    from cloudlinkup.sdk.delivered import DeliveredModel

TABLES = "cloudlinkup-tables"  # the folder below an allowed root where frames are written
T = TypeVar("T")


class Trained(NamedTuple):
    """``model, receipt = train(...)``; `receipt.request_id` names the job for `cloudlinkup download` and `status`."""

    model: DeliveredModel
    receipt: Receipt


def train(
    frame: pd.DataFrame,
    *,
    label: str,
    budget: str | int,
    task: str | None = None,
    model: Mapping[str, Any] | Sequence[int] | None = None,
    samples: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    holdout: float = 0.2,
    contributors: int = 4,
    allow: Sequence[str] = (),
    search: Mapping[str, Any] | None = None,
    goal: str | None = None,
    deadline: datetime | None = None,
    progress: bool = True,
) -> Trained:
    """Trains on `frame` (one row an example, `label` among its columns) and returns the model and the receipt.

    `budget`: tokens, as text ("12.5") or a whole number. `task`, `samples` and `deadline` as `cloudlinkup init` would
    choose them, unless given. `model`: job.json's model object, or the widths of a perceptron's hidden layers.
    `search`: job.json's search object: several independent trainings, each of `samples` (docs/search.md).
    `goal`: deadline, budget or cheapest, which of the plans that keep both deadline and budget is run. `allow`: the
    wallets that may see the rows; none means whoever the stack admits. Raises BadInput, Unavailable when no stack runs
    here, JobFailed, and `cloudlinkup.cli.watching.JobEnded` with what the job's own run raised.
    """
    data, tokens = _as_parquet(frame, label), _tokens(budget)
    settings = _running_stack()
    path = _place(settings)
    path.write_bytes(data)
    try:
        job = _job(
            path,
            label,
            {
                "search": search and dict(search),
                "goal": goal,
                "task": task,
                "budget": tokens,
                "deadline": deadline and _utc(deadline),
            },
            data={"holdout": holdout},
            model=model,
            train={"samples": samples, "batch": batch, "lr": lr, "seed": seed},
            contributors={"max": contributors, "allow": list(allow)},
        )
        view = _on_a_thread(_submitted(settings, job, progress=progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise  # the job goes on, and may not have read the rows yet
    except BaseException:
        _forget(path)
        raise
    _forget(path)
    from cloudlinkup.sdk.delivered import load_model

    folder = settings.home.job_folder(view.request_id) / "delivered"
    return Trained(load_model(folder), Receipt.model_validate(view.receipt))


def _running_stack() -> Settings:
    """Raises Unavailable that names the one command that is missing."""
    if checkout() is None:
        raise Unavailable(
            "cloudlinkup.train needs the stack (Prefect, XGBoost, the escrow program), which the wheel leaves out. "
            "Fix: run it in a clone of the repository, after `make setup` and `cloudlinkup up`"
        )
    from cloudlinkup.cli.stack import read_stack

    settings = Settings.load()
    if read_stack(settings.home) is None and not os.environ.get("CLOUDLINKUP_PREFECT_API"):
        raise Unavailable(
            f"no stack runs in {settings.home.root}. Fix: run `cloudlinkup up`, and `cloudlinkup contribute` for at "
            "least one contributor; CLOUDLINKUP_HOME names another home"
        )
    return settings


def _as_parquet(frame: pd.DataFrame, label: str) -> bytes:
    """The rows as Parquet. Raises BadInput that names a column, never a cell."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise BadInput("frame", type(frame).__name__, "not a pandas DataFrame", "give one, with the label as a column")
    odd = [name for name in frame.columns if not isinstance(name, str)]
    if odd:
        raise BadInput("frame", odd[0], "column names must be text", "frame.columns = frame.columns.astype(str)")
    if label not in frame.columns:
        shown = ", ".join(frame.columns[:20])
        raise BadInput("label", label, "there is no such column", f"use one of: {shown}")
    for name in dict.fromkeys(frame.columns):
        try:
            frame[[name]].to_parquet(BytesIO(), index=False)
        except Exception:  # whatever pyarrow makes of it; its message may hold a cell
            problem = "is there twice, or holds values of several kinds"
            raise BadInput(f"frame[{name!r}]", "(not shown)", problem, "rename it, or give it one type") from None
    out = BytesIO()
    frame.to_parquet(out, index=False)
    return out.getvalue()


def _place(settings: Settings) -> Path:
    """A file that does not exist yet, below a folder that `file:` URIs may name. Raises Unavailable."""
    from cloudlinkup.tables.uri import local_file

    here = Path.cwd().resolve()
    below = [here] if any(here.is_relative_to(root) for root in settings.file_roots) else []
    for root in (*below, *reversed(settings.file_roots)):
        folder = root / TABLES
        path = folder / f"{uuid.uuid4()}.parquet"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600, exist_ok=False)
            local_file(path.as_uri(), settings.file_roots)
        except (OSError, BadInput):
            with suppress(OSError):
                path.unlink()
            continue
        return path
    roots = ", ".join(map(str, settings.file_roots))
    raise Unavailable(f"the rows can be written below none of {roots}. Fix: `cloudlinkup up --file-root FOLDER`")


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
        path.parent.rmdir()  # where it was the last


def _job(
    path: Path,
    label: str,
    changes: Mapping[str, Any],
    *,
    model: Mapping[str, Any] | Sequence[int] | None,
    **parts: Mapping[str, Any],
) -> JobSpec:
    """What `init` would write for this table, with what was given in its place. Raises BadInput."""
    from cloudlinkup.cli.prepare import describe_table

    document = describe_table(path, label)
    document |= {key: value for key, value in changes.items() if value is not None}
    for part, given in parts.items():
        document[part] |= {key: value for key, value in given.items() if value is not None}
    if isinstance(model, Mapping):
        document["model"] = dict(model)
    elif model is not None:
        document["model"]["hidden"] = list(model)
    return parse_job(document)


def _tokens(budget: str | int) -> str:
    if isinstance(budget, bool) or not isinstance(budget, str | int):
        raise BadInput("budget", budget, "money is text or a whole number of tokens", 'write it like "12.5"')
    return str(budget)


def _utc(deadline: datetime) -> str:
    if deadline.tzinfo is None:
        raise BadInput("deadline", deadline.isoformat(), "has no time zone", "use datetime.now(UTC) + timedelta(...)")
    return deadline.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _submitted(settings: Settings, job: JobSpec, *, progress: bool) -> JobView:
    from cloudlinkup.cli.runs import Runs
    from cloudlinkup.cli.watching import follow
    from cloudlinkup.sdk.progress import Bar, quiet

    request_id = str(uuid.uuid4())
    run = await Runs(settings.prefect_api).submit(job.model_dump(mode="json"), request_id)
    with Bar(request_id) if progress else quiet() as show:
        return await follow(settings, request_id, run.id, show=show)


def _on_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, run by a loop of its own. Ctrl-C cancels it and passes on."""
    loop = asyncio.new_event_loop()
    done: list[T] = []
    failed: list[BaseException] = []
    task = loop.create_task(work)

    def run() -> None:
        try:
            done.append(loop.run_until_complete(task))
        except BaseException as error:
            failed.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run, name="cloudlinkup.train", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        with suppress(RuntimeError):  # it has just ended
            loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
        raise
    if failed:
        raise failed[0]
    return done[0]
