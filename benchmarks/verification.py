"""What the audit catches, what it costs, and whether it ever rejects honest work. Digits, the product's own code.

    python -m benchmarks.verification [--seeds 3] [--jobs 2000] [--honest 250] [--json]

Each attack trains real shards (10 segments of 10 steps, `SegmentRunner` with the cheat in it) and commits to them;
every segment is then really replayed, once from the opened before-state and once from the published weights, which also
checks what it passes through, and once within the tolerance of another device class (calibrated here). Jobs of 20
rounds are then drawn by the product's `draw` at its default rate: a contributor that cheats in every round, in a job of
four or more, a newcomer in the first round. "Formula" is the protocol's: with m of 10 segments missed, 1 - C(10-m, k) /
C(10, k), times the coin for the last. Intervals are 95% (Clopper-Pearson). "Gain" is what the cheat changes of one
round's pay where the work costs its contributor 80% of it: saved work less lost pay, at the measured share caught with
opened before-states, which is the smaller one. As a control, every attack's draws are replayed in full for a few seeds
and must agree with what single segments said.

Honest contributors: fresh shards with 1 thread, held bit for bit; and with 2 threads, held by 1 within the tolerance.

Not covered: gates and the robust rule (they look at uploads, and only add to what is caught), contributors that adapt
to being audited, openings that are refused, GPUs. Without gateway, chain or payment, all in one process.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # two threads on a busy machine else wait for each other spinning

import argparse
import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from math import comb
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.audit_attacks import (
    ATTACKS,
    COST,
    OPENING_LATENCY,
    OPENING_RATE,
    ROUNDS,
    SEGMENTS,
    STEPS,
    Honest,
    Shard,
    trained,
)
from benchmarks.digits_quality import ROOT, digits_job
from cloudlinkup.tables.prepare import prepare
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.tables.read import read_table
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.quantize import encoded_size
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import state_size
from cloudlinkup.verify.calibration import Measured, Setting, measure
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.replay import ReplayCosts, plan_openings, replay
from cloudlinkup.verify.tolerance import replay_within
from cloudlinkup.wire.hashes import digest

# ---------------------------------------------------------------- measuring


def orders(data: Prepared, seeds: int) -> list[Honest]:
    """One order a seed, each of another place in the schedule, from weights that a few segments have moved."""
    found = []
    for seed in range(seeds):
        start = round(800_000 * seed / max(1, seeds - 1)) if seeds > 1 else 100_000
        rows = np.random.default_rng(seed).permutation(len(data.features))[:400]
        work = ShardWork(digest("benchmark", seed), STEPS, SEGMENTS, start, start + 50_000)
        order = Honest(data.spec, work, initial_weights(data.spec), data.features[rows], data.targets[rows])
        warm = order.runner(work=replace(work, seed=digest("warm", seed)))
        warm.run_segment()
        found.append(replace(order, published=warm.weights()))
    return found


def misses(shard: Shard, tolerance: float) -> dict[str, frozenset[int]]:
    """Which single segments miss when drawn: from opened states, from the published weights, and within a tolerance."""
    each = [frozenset({k}) for k in range(1, SEGMENTS + 1)]
    return {
        "opened": _missed(each, lambda k: replay(shard.case(k, opened=True)).accepted),
        "published": _missed(each, lambda k: replay(shard.case(k, opened=False)).accepted),
        "tolerance": _missed(each, lambda k: replay_within(shard.case(k, opened=True, after=True), tolerance).accepted),
    }


def _missed(each: list[frozenset[int]], accepted: Callable[[frozenset[int]], bool]) -> frozenset[int]:
    return frozenset(next(iter(k)) for k in each if not accepted(k))


def drawn(attack: str, seed: int, job: int, number: int) -> frozenset[int]:
    """Round `number` (1-based) of a simulated job: the product's draw at its default rate."""
    return draw(digest("draw", attack, seed, job, number), SEGMENTS, newcomer=number == 1, small_job=False)


def formula(missed: frozenset[int], newcomer: bool) -> float:
    """The protocol's: k random segments and the last by its coin."""
    count, k = len(missed), 2 if newcomer else 1
    slips = comb(SEGMENTS - count, k) / comb(SEGMENTS, k)
    return 1 - slips * ((0.0 if newcomer else 0.5) if SEGMENTS in missed else 1.0)


def share(hits: int, count: int) -> dict[str, Any]:
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return {"share": hits / count, "low": low, "high": high, "of": count}


def attack_row(name: str, how: Callable[..., Shard], saved: float, data: list[Honest], jobs: int, tol: float) -> dict:
    sets: dict[str, list[frozenset[int]]] = {"opened": [], "published": [], "tolerance": []}
    agree = control = 0
    for seed, order in enumerate(data):
        shard = how(order, seed)
        for way, found in misses(shard, tol).items():
            sets[way].append(found)
        for number in range(1, 5):  # whole draws, replayed as the audit does
            together = drawn(name, seed, 0, number)
            caught = not replay(shard.case(together, opened=True)).accepted
            agree, control = agree + (caught == bool(together & sets["opened"][-1])), control + 1
    row: dict[str, Any] = {"attack": name, "saved": saved, "control": [agree, control]}
    for way, found in sets.items():
        rounds = jobs_caught = 0
        for job in range(jobs):
            hits = [
                bool(drawn(name, job % len(found), job, number) & found[job % len(found)])
                for number in range(1, ROUNDS + 1)
            ]
            rounds += sum(hits[1:])
            jobs_caught += any(hits)
        first = mean(formula(one, True) for one in found)
        later = mean(formula(one, False) for one in found)
        job = 1 - mean((1 - formula(one, True)) * (1 - formula(one, False)) ** (ROUNDS - 1) for one in found)
        row[way] = {
            "missed_segments": [sorted(one) for one in found],
            "round": share(rounds, jobs * (ROUNDS - 1)),
            "job": share(jobs_caught, jobs),
            "formula_first_round": first,
            "formula_round": later,
            "formula_job": job,
        }
    # of a later round: the first one, a newcomer's, is opened more
    row["gain"] = COST * saved - row["opened"]["round"]["share"]
    return row


def honest_rows(data: Prepared, count: int, tolerance: float) -> list[dict[str, Any]]:
    """Fresh honest shards of three segments: what the default rate rejects of them."""
    rows = []
    for name, threads in (("1 thread, bit for bit", 1), ("2 threads, by 1 within the tolerance", 2)):
        rejected, started = 0, perf_counter()
        for number in range(count):
            rng = np.random.default_rng([threads, number])
            rows_of = rng.permutation(len(data.features))[:200]
            start = int(rng.integers(0, 900_000))
            work = ShardWork(digest("honest", threads, number), 5, 3, start, start + 20_000)
            order = Honest(data.spec, work, initial_weights(data.spec), data.features[rows_of], data.targets[rows_of])
            shard = trained(order.runner(threads=threads), order)
            opened = draw(digest("honest draw", threads, number), 3, newcomer=number % 2 == 0, small_job=False)
            if threads == 1:
                accepted = replay(shard.case(opened, opened=number % 3 == 0)).accepted
            else:
                accepted = replay_within(shard.case(opened, opened=True, after=True), tolerance).accepted
            rejected += not accepted
        seconds = perf_counter() - started
        rows.append({"who": name, "rejected": rejected, **share(rejected, count), "seconds": seconds})
    return rows


def cost_rows(data: Prepared, draws: int) -> list[dict[str, Any]]:
    """What the default rate costs at several sizes: replayed segments and opened bytes, as `plan_openings` chooses."""
    rows = []
    for hidden in ((64, 32), (512, 256), (2_048, 2_048)):
        spec = replace(data.spec, model={**data.spec.model, "hidden": list(hidden)})
        weights = initial_weights(spec)
        runner = SegmentRunner(
            spec, ShardWork(digest("cost"), STEPS, SEGMENTS, 0, 10**6), weights, data.features, data.targets
        )
        runner.run_segment()
        started = perf_counter()
        runner.run_segment()
        seconds = perf_counter() - started
        size = state_size(len(weights))
        costs = ReplayCosts(seconds, OPENING_LATENCY + size / OPENING_RATE)
        replayed, opened = [], []
        for number in range(draws):
            chosen = draw(digest("cost draw", number), SEGMENTS, newcomer=False, small_job=False)
            opens = plan_openings(chosen, costs)
            at = total = 0
            for k in sorted(chosen):
                total, at = total + (1 if k in opens else k - at), k
            replayed.append(total)
            opened.append(len(opens))
        rows.append(
            {
                "parameters": len(weights),
                "segment_seconds": seconds,
                "replayed_share": mean(replayed) / SEGMENTS,  # of the shard's work, so of its pay at its own price
                "audit_seconds": mean(replayed) * seconds,
                "opened_bytes": mean(opened) * size,
                "update_bytes": encoded_size(len(weights)),
                "across_classes_bytes": mean(
                    2 * len(draw(digest("cost draw", n), SEGMENTS, newcomer=False, small_job=False))
                    for n in range(draws)
                )
                * size,
            }
        )
    return rows


def show(document: dict[str, Any]) -> None:
    def text(one: dict[str, Any]) -> str:
        half = 50 * (one["high"] - one["low"])
        return f"{100 * one['share']:5.1f} +-{half:4.1f}"

    print(
        f"Caught at the default rate, % ({document['seeds']} shards an attack, {document['jobs']:,} drawn jobs of 20)"
    )
    print(
        f"{'':38}{'opened: round':>15}{'formula':>9}{'job':>13}{'formula':>9}{'published: round':>18}{'job':>13}",
        end="",
    )
    print(f"{'tolerance: round':>18}{'gain':>8}{'control':>9}")
    for row in document["attacks"]:
        opened, published = row["opened"], row["published"]
        print(f"{row['attack']:38}{text(opened['round']):>15}{100 * opened['formula_round']:9.1f}", end="")
        print(
            f"{text(opened['job']):>13}"
            f"{100 * opened['formula_job']:9.1f}{text(published['round']):>18}{text(published['job']):>13}"
            f"{text(row['tolerance']['round']):>18}{100 * row['gain']:+8.1f}"
            f"{row['control'][0]:>6}/{row['control'][1]}"
        )
    print(f"gain: % of a later round's pay, opened, at a cost of {COST:.0%} of it")
    found = document["calibration"]
    print(
        f"\ntolerance {document['tolerance']:.3g}: honest worst {found['worst']:.3g} over {found['segments']} segments "
        f"(rows reversed {found['reordered']:.3g}), smallest cheat {found['cheat']:.3g}"
    )
    print("\nHonest contributors rejected")
    for row in document["honest"]:
        print(f"{row['who']:38}{row['rejected']:>5} of {row['of']} (95%: at most {100 * row['high']:.2f}%)")
    print("\nCost of the audit of one shard of 100 steps, default rate, known contributor")
    print(
        f"{'parameters':>12}{'ms/segment':>12}{'replayed':>10}{'seconds':>10}{'opened':>12}{'update':>12}{'across':>12}"
    )
    for row in document["cost"]:
        print(
            f"{row['parameters']:12,}{1000 * row['segment_seconds']:12.1f}{100 * row['replayed_share']:9.0f}%"
            f"{row['audit_seconds']:10.3f}{row['opened_bytes']:12,.0f}{row['update_bytes']:12,}"
            f"{row['across_classes_bytes']:12,.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="shards of each attack")
    parser.add_argument("--jobs", type=int, default=2_000, help="drawn jobs")
    parser.add_argument("--honest", type=int, default=250, help="shards for each number of threads")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    job = digits_job()
    frame = asyncio.run(read_table(job.data.model_copy(update={"uri": str(ROOT / job.data.uri)}), (ROOT,)))
    data = prepare(frame, job)
    found: Measured = measure(data.spec, data.features, data.targets, contributor=Setting(threads=2), segments=20)
    made = orders(data, given.seeds)
    document = {
        "benchmark": "verification",
        "seeds": given.seeds,
        "jobs": given.jobs,
        "tolerance": found.tolerance,
        "calibration": {key: getattr(found, key) for key in ("segments", "worst", "median", "reordered", "cheat")},
        "attacks": [attack_row(*attack, made, given.jobs, found.tolerance) for attack in ATTACKS],
        "honest": honest_rows(data, given.honest, found.tolerance),
        "cost": cost_rows(data, 500),
    }
    if given.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)


if __name__ == "__main__":
    main()
