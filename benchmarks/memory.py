"""Memory that preparing a large table or text takes, beside reading it whole.

    python -m benchmarks.memory [--sizes 200,400,800] [--kinds parquet,csv,text] [--keep FOLDER] [--json]

Sources of so many megabytes are made from a seed: tables of 24 numbers, a word and a label in ten classes, the Parquet
file without compression of its random numbers to speak of; text of words in lines. Each is prepared by a process of its
own, as a job has it (`tasks.planning.load_data`, then the hash of the prepared rows), and by another that reads it
whole: pandas for tables, and for text its bytes as the windows that training takes.

"own": the most memory that the process had for itself (RssAnon, looked at every 10 ms), which is what grows out of a
machine. "resident": the most with the pages of mapped files (VmHWM), which the system takes back when it needs them.
Both in MB (10^6), less what the process has with its libraries alone. "prepared": the size of the rows on disk. Not
here: what sealing a contributor's partition takes, which is in memory while it is sealed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from cloudlinkup.tables.windows import stretches
from cloudlinkup.types import JobSpec, parse_job
from tasks.planning import load_data

NUMBERS, CONTEXT, ROWS, LOOKS = 24, 64, 50_000, 0.01
LEAST_MB, MOST_TEXT_MB = 65, 500  # below which a table is read whole anyway; and above which a text is refused


# ---------------------------------------------------------------- sources


def make(kind: str, megabytes: int, place: Path, seed: int) -> Path:
    """A file of at least so many megabytes; what is there already is kept."""
    path = place / f"{kind}-{megabytes}-{seed}"
    if path.exists():
        return path
    part, rng = path.with_suffix(".part"), np.random.default_rng(seed)
    with part.open("wb") as file:
        if kind == "text":
            words = np.array(["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 9))) for _ in range(5_000)])
            while file.tell() < megabytes * 1e6:
                lines = rng.choice(words, (10_000, 12))
                file.write("".join(" ".join(line) + "\n" for line in lines.tolist()).encode())
        else:
            _table(kind, megabytes, file, rng)
    part.rename(path)
    return path


def _table(kind: str, megabytes: int, file: Any, rng: np.random.Generator) -> None:
    schema = _piece(rng).schema
    writer = pq.ParquetWriter(file, schema) if kind == "parquet" else csv.CSVWriter(file, schema)
    with writer:
        while file.tell() < megabytes * 1e6:
            writer.write_table(_piece(rng))


def _piece(rng: np.random.Generator) -> pa.Table:
    label = rng.integers(0, 10, ROWS)
    columns: dict[str, Any] = {
        f"x{i}": np.round(rng.standard_normal(ROWS) + 0.1 * label * (i % 3), 5).astype(np.float32)
        for i in range(NUMBERS)
    }
    columns["word"] = rng.choice(np.array(["red", "green", "blue"]), ROWS)
    return pa.table(columns | {"label": label})


def job(kind: str, path: Path) -> JobSpec:
    data: dict[str, Any] = {"uri": path.resolve().as_uri(), "format": kind}
    model: dict[str, Any] = {"kind": "mlp", "hidden": [32], "activation": "relu"}
    if kind == "text":
        model = {"kind": "transformer", "width": 16, "depth": 1, "heads": 2, "context": CONTEXT}
    else:
        data["label"] = "label"
    task = "next_token" if kind == "text" else "classification"
    document = {"version": 1, "data": data, "task": task, "model": model, "train": {"samples": 10_000}}
    return parse_job(document | {"budget": "1", "deadline": "2035-01-01T00:00:00Z"})


# ---------------------------------------------------------------- in a process of its own


def ours(kind: str, path: Path) -> int:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        place = Path(folder) / "prepared"
        prepared = asyncio.run(load_data(job(kind, path), (path.parent.resolve(),), place))
        assert prepared.hash
        return sum(file.stat().st_size for file in place.iterdir())


def whole(kind: str, path: Path) -> int:
    """What reading it into memory comes to, in bytes."""
    if kind == "text":
        tokens = np.frombuffer(path.read_bytes(), np.uint8)
        runs, _ = stretches(len(tokens), CONTEXT, job(kind, path))
        held = [tokens[first:last].astype(np.int32) for first, last in runs]  # all of them at once
        return sum(one.nbytes for one in held)
    frame = pd.read_parquet(path) if kind == "parquet" else pd.read_csv(path)
    return int(frame.memory_usage(deep=True).sum())


def status(field: str) -> float:
    """MB of this process, by a field of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def watched(way: str, kind: str, path: Path) -> dict[str, float]:
    own, resident, peak = status("RssAnon"), status("VmRSS"), [0.0]
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOKS):
            peak[0] = max(peak[0], status("RssAnon"))

    thread = threading.Thread(target=look)
    thread.start()
    began = time.perf_counter()
    try:
        size = {"ours": ours, "whole": whole}[way](kind, path)
    finally:
        over.set()
        thread.join()
    seconds = time.perf_counter() - began
    told = {"own": peak[0] - own, "resident": status("VmHWM") - resident}
    return told | {"seconds": seconds, "prepared": size / 1e6}


def measure(way: str, kind: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", "--child", way, kind, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}, {kind}: {done.stderr[-2_000:]}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="200,400,800", help="megabytes of the source")
    parser.add_argument("--kinds", default="parquet,csv,text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder of sources that are not made twice")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        way, kind, name = given.child
        print(json.dumps(watched(way, kind, Path(name))))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as fresh:
        place = given.keep or Path(fresh)
        place.mkdir(parents=True, exist_ok=True)
        for kind in given.kinds.split(","):
            for size in (int(size) for size in given.sizes.split(",")):
                if size < LEAST_MB or (kind == "text" and size > MOST_TEXT_MB):
                    print(f"{kind} of {size} MB is left out: see LEAST_MB and MOST_TEXT_MB", file=sys.stderr)
                    continue
                path = make(kind, size, place, given.seed)
                one: dict[str, Any] = {"kind": kind, "megabytes": path.stat().st_size / 1e6}
                rows.append(one | {way: measure(way, kind, path) for way in ("ours", "whole")})
                print(f"{kind} {size} MB is measured", file=sys.stderr)
    if given.json:
        print(json.dumps({"benchmark": "memory", "seed": given.seed, "rows": rows}, indent=2))
        return
    print("MB of memory above the libraries'; whole: pandas' read of it, or a text's windows")
    heads = ("own", "resident", "whole own", "ratio", "prepared", "s", "whole s")
    print(f"{'source':10}{'MB':>8}" + "".join(f"{head:>12}" for head in heads))
    for row in rows:
        it, its = row["ours"], row["whole"]
        cells = (it["own"], it["resident"], its["own"], it["own"] / its["own"], it["prepared"])
        shown = "".join(f"{cell:12.2f}" if i == 3 else f"{cell:12.0f}" for i, cell in enumerate(cells))
        print(f"{row['kind']:10}{row['megabytes']:8.0f}{shown}{it['seconds']:12.1f}{its['seconds']:12.1f}")


if __name__ == "__main__":
    main()
