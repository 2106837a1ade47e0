"""The table of docs/peers.md.

    python -m benchmarks.peers.environments                     (once: makes the peers' environments)
    python -m benchmarks.peers [--seeds 3] [--scenario plain ...] [--system ours ...] [--folder DIR] [--json]

Runs every system one after the other for each scenario and seed, on network namespaces of this machine. Every run
leaves a JSON file in the folder, and what is there is not run again; `--table` prints what is there and runs nothing.
A run takes at most `--cap` seconds and its start. Needs root and iproute2. Progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers import problem as problems
from benchmarks.peers.environments import FOLDER, interpreter
from benchmarks.peers.measure import Result, from_json, measure, to_json
from benchmarks.peers.network import Network, missing
from benchmarks.peers.setup import SCENARIOS, STEP, Scenario, Setup
from benchmarks.peers.systems import ROOT, Failed, System
from benchmarks.peers.table import show, summary

CAP = 75.0


def systems() -> dict[str, type[System]]:
    """By name, in the order in which they run."""
    from benchmarks.peers.flower import Flower
    from benchmarks.peers.hivemind_peers import Hivemind
    from benchmarks.peers.ours import Ours
    from benchmarks.peers.plain_dask import PlainDask
    from benchmarks.peers.ray_train import RayTrain

    return {one.name: one for one in (Ours, PlainDask, Flower, RayTrain, Hivemind)}


def place(folder: Path, scenario: Scenario, seed: int, system: str) -> Path:
    """Where a run's result lies."""
    return folder / "results" / f"{scenario}-{seed}-{system}.json"


def kept(folder: Path) -> list[Result]:
    """What was run so far."""
    return [from_json(path.read_text()) for path in sorted((folder / "results").glob("*.json"))]


def still_to_run(
    folder: Path, scenarios: Sequence[Scenario], seeds: Sequence[int], names: Sequence[str]
) -> list[tuple[Scenario, int, str]]:
    """All systems of one seed and scenario back to back, another one first in each seed; less what is there."""
    every: list[tuple[Scenario, int, str]] = []
    for seed in seeds:
        first = seed % len(names)
        turned = (*names[first:], *names[:first])
        every.extend((scenario, seed, name) for scenario in scenarios for name in turned)
    return [one for one in every if not place(folder, *one).exists()]


def run_one(given: argparse.Namespace, scenario: Scenario, seed: int, kind: type[System]) -> Result:
    """One run, kept in the folder. Raises Failed."""
    problem = given.folder / "problems" / str(seed)
    facts = problems.make(problem, seed)
    shares = problems.shares(problem, given.step)
    folder = given.folder / "runs" / f"{scenario}-{seed}-{kind.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    setup = Setup(kind.name, scenario, seed, str(folder), str(problem), given.cap, shares, given.step)
    setup.save()
    with Network(given.prefix, len(setup.share)) as network:
        result = measure(
            kind(setup, network, interpreter(given.environments, kind.environment), problem), network, setup, facts
        )
    path = place(given.folder, scenario, seed, kind.name)
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(to_json(result))
    part.replace(path)
    for model in folder.glob("model-*.npy"):
        model.unlink()
    return result


def main() -> int:
    known = systems()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="0 to one less")
    parser.add_argument("--seed", type=int, action="append", help="this one alone (repeatable)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS)
    parser.add_argument("--system", action="append", choices=list(known))
    parser.add_argument("--folder", type=Path, default=ROOT / ".cloudlinkup/peers")
    parser.add_argument("--environments", type=Path, default=FOLDER)
    parser.add_argument("--cap", type=float, default=CAP, help="seconds of one run")
    parser.add_argument(
        "--step", type=float, default=STEP, help="seconds of a step at speed 1; give another folder too"
    )
    parser.add_argument("--prefix", default="peers", help="of the namespaces: give another to a second benchmark")
    parser.add_argument("--table", action="store_true", help="print what was run so far")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.folder = given.folder.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = 0
    if not given.table:
        if why := missing():
            print(f"cannot run: {why}", file=sys.stderr)
            return 3
        names: Sequence[str] = given.system or list(known)
        seeds = given.seed or range(given.seeds)
        for scenario, seed, name in still_to_run(given.folder, given.scenario or SCENARIOS, seeds, names):
            began = time.monotonic()
            try:
                result = run_one(given, scenario, seed, known[name])
            except Failed as error:
                failed += 1
                print(f"{scenario} {seed} {name}: {error}", file=sys.stderr, flush=True)
                continue
            line = {k: v for k, v in asdict(result).items() if k not in ("notes", "single", "target")}
            print(f"{time.monotonic() - began:.0f} s: {json.dumps(line)}", file=sys.stderr, flush=True)
    results = kept(given.folder)
    if given.json:
        print(
            json.dumps(
                {"benchmark": "peers", "cap": given.cap, **summary(results), "runs": [asdict(r) for r in results]}
            )
        )
    else:
        print(show(results))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
