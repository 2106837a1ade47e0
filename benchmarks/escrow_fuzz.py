"""Random histories of the escrow program against the plain-Python model: every answer and every number compared.

    python -m benchmarks.escrow_fuzz [--instructions N] [--seed S] [--json]

Prints how many instructions ran, how many succeeded, and the throughput on this machine (by the wall clock and by its
own CPU time, the figure for a busy machine). After each history every job is brought to its end by payments and one
`close_job`. The first disagreement ends the run: its seed, and exit code 1. Ctrl-C ends it with what ran so far.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout, when run as a file

from tests.programs.actions import ACTIONS, Player
from tests.programs.chain import PROGRAM_FILE

T = TypeVar("T")
STEPS = 150  # actions a history


def history(seed: int, program_file: Path = PROGRAM_FILE, steps: int = STEPS) -> Player:
    """One random history, to the end of its jobs. Raises Mismatch where program and model part."""
    rng = random.Random(seed)
    twins = Player(
        bps=rng.choice([0, 1, 250, 1000]),
        window=rng.choice([10, 60]),
        arbiter_window=rng.choice([5, 30, 200]),
        program_file=program_file,
    )
    names = list(ACTIONS)
    weights = [ACTIONS[n][0] for n in names]

    def draw(options: Sequence[T]) -> T:
        return options[rng.randrange(len(options))]

    for name in rng.choices(names, weights, k=steps):
        ACTIONS[name][1](twins, draw)
    twins.finish()
    return twins


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--instructions", type=int, default=10_000, help="run at least this many")
    parser.add_argument("--seed", type=int, default=1, help="of the first history; the next ones count up")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    args = parser.parse_args()
    ran: Counter[str] = Counter()
    succeeded: Counter[str] = Counter()
    started, seed = time.perf_counter(), args.seed
    while sum(ran.values()) < args.instructions:
        try:
            twins = history(seed)
        except AssertionError as mismatch:
            print(f"seed {seed}: {mismatch}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:  # what ran so far is worth telling
            break
        ran.update(twins.counts)
        succeeded.update(twins.agreed)
        seed += 1
    seconds = time.perf_counter() - started
    result = {
        "instructions": sum(ran.values()),
        "succeeded": sum(succeeded.values()),
        "histories": seed - args.seed,
        "seconds": round(seconds, 1),
        "instructions_per_second": round(sum(ran.values()) / seconds),
        "instructions_per_cpu_second": round(sum(ran.values()) / time.process_time()),
        "by_instruction": {n: [ran[n], succeeded[n]] for n in sorted(ran)},
    }
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            if name != "by_instruction":
                print(f"{name:24} {value}")
        for name, (tried, done) in result["by_instruction"].items():
            print(f"  {name:22} {tried:>7} tried {done:>7} succeeded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
