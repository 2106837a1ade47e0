"""`init` and `quote`: before anything is submitted."""

from __future__ import annotations

import asyncio
import importlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from cloudlinkup.cli.jobs import check_goal, read_job, with_checked_uri
from cloudlinkup.cli.receipt import size
from cloudlinkup.cli.stack import require_checkout
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Settings
from cloudlinkup.types import CAPS, format_tokens, parse_job

EPOCHS = 40  # of the table, in the job that `init` writes
MOST_SAMPLES = 2_000_000  # in the job that `init` writes
MOST_CLASSES = 50  # whole numbers with more distinct values are taken for a regression
BATCH = 32
TEXT = (".txt", ".md", ".text")
CONTEXT = 64  # tokens, which are bytes, in the job that `init` writes for a text
TEXT_EPOCHS = 20
PEEK = 200_000  # rows read to tell the task


def init(data: Path, /, *, label: str | None = None, out: Path = Path("job.json")) -> None:
    """Write a job.json for a table or a text, with sensible values to start from.

    Parameters
    ----------
    data
        A CSV or Parquet file with one row an example, or plain text (.txt, .md), for a language model.
    label
        Of a table: the column to predict. Text, booleans and few whole numbers make a classification, the rest a
        regression.
    out
        The file to write; it must not exist.
    """
    if out.exists():
        raise BadInput("out", str(out), "exists already", "name another file with --out")
    if data.suffix.lower() in TEXT:
        if label is not None:
            raise BadInput("--label", label, "plain text has none", "leave it out")
        job = describe_text(data)
    elif label is None:
        raise BadInput("--label", "(absent)", "a table needs the column to predict", "add --label COLUMN")
    else:
        job = describe_table(data, label)
    parse_job(job)
    out.write_text(json.dumps(job, indent=2) + "\n")
    document = {"file": str(out), "job": job}
    terminal.result(
        document,
        lambda console: console.print(
            f"{out}: {job['task']}, {job['train']['samples']} samples, budget {job['budget']}. "
            f"Next: cloudlinkup quote {out}",
            soft_wrap=True,
        ),
    )


def describe_table(data: Path, label: str) -> dict[str, Any]:
    """A job for this table, as a document. Raises BadInput; never quotes a cell."""
    import numpy as np
    import pandas as pd
    import pyarrow.parquet as pq

    kind = "parquet" if data.suffix in (".parquet", ".pq") else "csv"
    try:
        if kind == "parquet":
            columns, rows = pq.read_schema(data).names, pq.read_metadata(data).num_rows
            frame = pq.read_table(data, columns=[label]).to_pandas() if label in columns else None
        else:
            frame = pd.read_csv(data, nrows=PEEK)
            columns, rows = list(frame.columns), len(frame)
    except FileNotFoundError:
        raise BadInput("data", str(data), "there is no such file", "give a CSV or Parquet file") from None
    except (OSError, ValueError) as error:
        raise BadInput(
            "data", str(data), f"not a {kind} table ({type(error).__name__})", "give CSV or Parquet"
        ) from None
    if frame is None or label not in columns:
        shown = ", ".join(map(str, columns[:20]))
        raise BadInput("label", label, "there is no such column", f"use one of: {shown}")
    values = frame[label].dropna()
    different = len(values.unique())
    if different < 2:
        raise BadInput("label", label, "has fewer than two different values", "choose another column")
    numeric = bool(pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values))
    whole = numeric and different <= MOST_CLASSES and bool(np.all(values.to_numpy() % 1 == 0))
    samples = min(max(rows, 1) * EPOCHS, MOST_SAMPLES, CAPS["samples"])
    return _job(
        {"uri": data.resolve().as_uri(), "format": kind, "label": label, "holdout": 0.2},
        "classification" if whole or not numeric else "regression",
        {"kind": "mlp", "hidden": [64, 32], "activation": "relu"},
        {"samples": samples, "batch": BATCH, "lr": 0.01, "seed": 0, "precision": "fp32"},
    )


def describe_text(data: Path) -> dict[str, Any]:
    """A job for this text, as a document. Raises BadInput."""
    try:
        windows = data.stat().st_size // CONTEXT
    except FileNotFoundError:
        raise BadInput("data", str(data), "there is no such file", "give a text file") from None
    samples = min(max(windows, 1) * TEXT_EPOCHS, MOST_SAMPLES)
    return _job(
        {"uri": data.resolve().as_uri(), "format": "text", "holdout": 0.1},
        "next_token",
        {
            "kind": "transformer",
            "width": 64,
            "depth": 2,
            "heads": 4,
            "context": CONTEXT,
            "positions": "rotary",
            "tied": True,
        },
        {"samples": samples, "batch": BATCH, "lr": 0.005, "seed": 0, "precision": "fp32"},
    )


def _job(data: dict[str, Any], task: str, model: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    deadline = datetime.now(UTC) + timedelta(hours=6)
    return {
        "version": 1,
        "data": data,
        "task": task,
        "model": model,
        "train": train,
        "contributors": {"max": 4, "allow": []},
        "budget": "10",
        "deadline": deadline.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def quote(
    job: Path | None = None,
    /,
    *,
    for_: Annotated[str | None, Parameter(name="--for")] = None,
    own_hourly: str | None = None,
    replay: Path | None = None,
) -> None:
    """What a job would take and cost with the contributors that are connected now. Locks nothing, needs no wallet.

    Parameters
    ----------
    job
        A job.json, as `cloudlinkup init` writes it.
    for_
        deadline: the cheapest that keeps the deadline. budget: the fastest that keeps the budget. cheapest: the least
        money. Each says what budget and deadline it would take. By default what submitting the job gets: the most
        contributors within both, or the job's own goal within both.
    own_hourly
        Tokens that an hour of your own machine costs you: then the quote says when that is cheaper.
    replay
        A job's quote.json instead of a job: computes the quote again from the inputs in it, and checks that it agrees.
    """
    require_checkout()
    check_goal(for_)
    if (job is None) == (replay is None):
        raise BadInput("job", str(job), "give a job.json, or --replay with a quote.json", "give one of the two")
    flow = importlib.import_module("flows.quote")  # named, not imported: the wheel has no planner
    if replay is not None:
        document = _as_document(flow.replay_quote(replay))
    else:
        assert job is not None
        checked = with_checked_uri(read_job(job), Settings.load())  # as `submit` sends it
        document = _as_document(asyncio.run(flow.quote_job(checked, for_, own_hourly)))
    terminal.result(document, lambda console: show_quote(console, document))


AMOUNTS = ("cost_p50", "cost_p90", "hard_cap", "price_per_step")


def _as_document(found: Any) -> dict[str, Any]:
    """A Quote as a document, amounts as text of base units."""
    document = found.model_dump(mode="json")
    amounts = {name: str(document[name]) for name in AMOUNTS}
    cost = None if document["audit_cost"] is None else str(document["audit_cost"])
    options = [{**option, **{k: str(option[k]) for k in ("cost", "hard_cap")}} for option in document["options"]]
    more = {"audit_cost": cost, "options": options, "decimals": found.inputs.limits.decimals}
    return {**document, **amounts, **more}


def show_quote(console: Console, document: dict[str, Any]) -> None:
    """`document`: as `quote --json` prints it."""

    def tokens(amount: str) -> str:
        return format_tokens(int(amount), document["decimals"])

    console.print(f"{document['seconds_p50']:.1f} s (P50), {document['seconds_p90']:.1f} s (P90)")
    console.print(
        f"{tokens(document['cost_p50'])} (P50), {tokens(document['cost_p90'])} (P90), "
        f"never more than {tokens(document['hard_cap'])}"
    )
    console.print(f"One machine like this: {document['single_machine_seconds']:.1f} s. {document['advice'] or ''}")
    readers = document["plaintext_readers"]
    audit = "" if document["audit_cost"] is None else f", which costs {tokens(document['audit_cost'])}"
    console.print(
        f"The audit: {document['audit_seconds']:.1f} s of this machine{audit}, {size(document['audit_bytes'])}. "
        f"{readers} contributor{'s' if readers > 1 else ''} would read rows in plaintext.",
        soft_wrap=True,
    )
    console.print(f"{document['bottleneck']}.", soft_wrap=True)
    console.print(f"placed by {document['predictor']} {document['version']}")
    if len(document["options"]) > 1:
        table = Table("contributors", "P50", "P90", "cost", "at most", title="The choice, fastest first")
        for option in document["options"]:
            times = (f"{option['seconds_p50']:.1f} s", f"{option['seconds_p90']:.1f} s")
            table.add_row(str(option["contributors"]), *times, tokens(option["cost"]), tokens(option["hard_cap"]))
        console.print(table)
    for text in (*document["reasons"], *document["notes"]):
        console.print(f"- {text}", soft_wrap=True)
