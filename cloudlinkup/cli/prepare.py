"""`init` and `quote`: before anything is submitted."""

from __future__ import annotations

import asyncio
import importlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from cloudlinkup.cli.jobs import read_job
from cloudlinkup.cli.stack import require_checkout
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.types import CAPS, JobSpec, format_tokens, parse_job

EPOCHS = 40  # of the table, in the job that `init` writes
MOST_SAMPLES = 2_000_000  # in the job that `init` writes
MOST_CLASSES = 50  # whole numbers with more distinct values are taken for a regression
BATCH = 32
PEEK = 200_000  # rows read to tell the task


def init(data: Path, /, *, label: str, out: Path = Path("job.json")) -> None:
    """Write a job.json for a table, with sensible values to start from.

    Parameters
    ----------
    data
        A CSV or Parquet file with one row an example.
    label
        The column to predict. Text, booleans and few whole numbers make a classification, the rest a regression.
    out
        The file to write; it must not exist.
    """
    if out.exists():
        raise BadInput("out", str(out), "exists already", "name another file with --out")
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
    deadline = datetime.now(UTC) + timedelta(hours=6)
    return {
        "version": 1,
        "data": {"uri": data.resolve().as_uri(), "format": kind, "label": label, "holdout": 0.2},
        "task": "classification" if whole or not numeric else "regression",
        "model": {"kind": "mlp", "hidden": [64, 32], "activation": "relu"},
        "train": {"samples": samples, "batch": BATCH, "lr": 0.01, "seed": 0, "precision": "fp32"},
        "contributors": {"max": 4, "allow": []},
        "budget": "10",
        "deadline": deadline.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def quote(job: Path, /) -> None:
    """What a job would take and cost with the contributors that are connected now. Locks nothing, needs no wallet.

    Parameters
    ----------
    job
        A job.json, as `cloudlinkup init` writes it.
    """
    require_checkout()
    spec = read_job(job)
    document = asyncio.run(_quote(spec))

    def show(console: Console) -> None:
        def tokens(name: str) -> str:
            return format_tokens(int(document[name]), document["decimals"])

        console.print(f"{document['seconds_p50']:.1f} s (P50), {document['seconds_p90']:.1f} s (P90)")
        console.print(f"{tokens('cost_p50')} (P50), {tokens('cost_p90')} (P90), never more than {tokens('hard_cap')}")
        console.print(f"One machine like this: {document['single_machine_seconds']:.1f} s. {document['advice'] or ''}")
        console.print(f"placed by {document['predictor']} {document['version']}")
        for text in (*document["reasons"], *document["notes"]):
            console.print(f"- {text}", soft_wrap=True)

    terminal.result(document, show)


async def _quote(spec: JobSpec) -> dict[str, Any]:
    """A Quote as a document, amounts as text of base units. The planner is named, not imported: the wheel has none."""
    found = await importlib.import_module("flows.quote").quote_job(spec)
    document = found.model_dump(mode="json")
    amounts = {name: str(document[name]) for name in ("cost_p50", "cost_p90", "hard_cap", "price_per_step")}
    return {**document, **amounts, "decimals": found.inputs.limits.decimals}
