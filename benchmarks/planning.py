"""How near do rounds come to the bound when contributors are slower than they seem?

    python -m benchmarks.planning [--json]

Simulations: 60 contributors whose times are measured step times of left-out cases times a hidden lognormal slowdown
(sigma 0.3), 5% of whom vanish; the ratio is to the bound, all work divided by the summed true speeds. How good the
predictions are is `benchmarks.predictor`'s question.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from models.base import FP32_ONLY
from models.correction import Correction
from models.dataset import load_table
from models.facts import Prediction
from models.leave_out import REFERENCE, Bases, Case, leave_out
from models.plan import JobPlan, plan_round

SIGMA, VANISH, CONTRIBUTORS = 0.3, 0.05, 60


# ---------------------------------------------------------------- the split, with no predictor at all


def rounds_over_bound(seconds: np.ndarray, vanish_at: np.ndarray, *, predicted: np.ndarray, rounds: int = 40) -> float:
    """Makespan of our rounds over the bound. `vanish_at`: the round in which a contributor leaves (0: never).

    Uses the product's own `plan_round` and `Correction`; a contributor works until it is done or the time-box is over,
    and whole segments count. `predicted` is what the first round is planned with.
    """
    n, steps = len(seconds), 50
    total = n * steps * rounds
    plan = JobPlan(
        total_steps=total,
        dropped_steps=0,
        batch=1,
        segment_steps=5,  # what plan_job chooses at 50 local steps
        local_steps=steps,
        rounds=rounds,
        price=1,
        seats=(),
        predictor="none",
        version="0",
    )
    beliefs = {}
    for i, guess in enumerate(predicted):
        prior = Prediction(agent=str(i), seconds=guess, low=guess / 1.6, high=guess * 1.6, base=guess, source="rank-1")
        beliefs[i] = Correction.start(prior)
    remaining, spent, number = total, 0.0, 0
    while remaining > 0:
        number += 1
        split = plan_round(plan, number, remaining, {i: b.prediction for i, b in beliefs.items()})
        took = 0.0
        for seat in split.seats:
            if vanish_at[seat.seat] == number:
                del beliefs[seat.seat]
                continue
            each = seconds[seat.seat] * seat.segment_steps
            done = min(seat.max_segments, int(split.time_box / each))
            took = max(took, min(split.time_box, seat.max_segments * each))
            if done:
                remaining -= done * seat.segment_steps
                beliefs[seat.seat] = beliefs[seat.seat].observe(done * each, done * seat.segment_steps, done)
            else:  # too slow for one segment: known to be at least that slow
                late = beliefs[seat.seat].observe(2 * split.time_box, seat.segment_steps, 1)
                beliefs[seat.seat] = late
        spent += took
    gone = vanish_at > 0
    # vanished contributors do no work in their last round: the bound counts them until then
    share = np.where(gone, (vanish_at - 1) / rounds, 1.0)
    return spent / (total / float((share / seconds).sum()))


def split_table(cases: list[Case], draws: int = 6) -> dict[str, Any]:
    """Mean ratio to the bound: equal split at once, split by rank-1 at once, and our rounds without any predictor."""
    by_job: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        by_job.setdefault(case.job, []).append(case)
    jobs = sorted(j for j, hosts in by_job.items() if len(hosts) >= 4)
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {"equal": [], "by rank-1": [], "rounds, no predictor": []}
    for index in rng.choice(len(jobs), draws, replace=False):
        hosts = by_job[jobs[int(index)]]
        picks = rng.integers(0, len(hosts), CONTRIBUTORS)
        seconds = np.exp([hosts[i].truth for i in picks]) * np.exp(rng.normal(0, SIGMA, CONTRIBUTORS))
        guess = np.exp([hosts[i].predicted["rank-1"] for i in picks])
        bound = 1 / (1 / seconds).sum()
        found["equal"].append(float((seconds / CONTRIBUTORS).max() / bound))
        found["by rank-1"].append(float((seconds * (1 / guess) / (1 / guess).sum()).max() / bound))
        gone = np.where(rng.random(CONTRIBUTORS) < VANISH, rng.integers(1, 20, CONTRIBUTORS), 0)
        flat = np.full(CONTRIBUTORS, np.median(seconds))
        found["rounds, no predictor"].append(rounds_over_bound(seconds, gone, predicted=flat))
    return {name: float(np.mean(v)) for name, v in found.items()}


def run() -> dict[str, Any]:
    """Everything, as plain JSON."""
    cases = leave_out(Bases(load_table()), (REFERENCE,), FP32_ONLY, strict=False)
    split = split_table(cases)
    return {"split": split, "gate 6, within 1.10 of the bound": split["rounds, no predictor"] <= 1.10}


def main() -> None:
    parser = argparse.ArgumentParser(description="Planning benchmark")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = run()
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print("makespan over the bound:")
    for name, ratio in result["split"].items():
        print(f"  {name:22s} {ratio:.2f}")
    print("gate 6:", "reached" if result["gate 6, within 1.10 of the bound"] else "NOT reached")


if __name__ == "__main__":
    main()
