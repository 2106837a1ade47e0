"""1,000 jobs on 10,000 contributors, through the product's queue, quotes, races and rounds, and how long that takes.

    python -m benchmarks.fleet [--contributors 10000] [--jobs 1000] [--seed 1] [--json]
    python -m benchmarks.fleet --fit [--jobs 200]       # `models.margin.TOGETHER`, from seeds 1000 to 1003

Contributors are the hosts of the measured GPU table, each with a hidden lognormal slowdown of sigma 0.3, probes as
measured, an ask an hour by its datasheet's FP32 (a lognormal factor of 0.4), a line of 50 MB/s in the median, and a
time of being there: a tenth comes late, a tenth leaves within the run. Jobs are the networks that all hosts were timed
on, 20 measured batches to a step, 2,000 to 10,000 steps, 4 to 16 places, 100 clients, arriving over three hours; 40 run
at once. The deadline is 2 to 8 times, from the arrival, what as many reference machines as the job can use would train.
Rank-1 predicts: it learns nothing, so nothing that was measured on these hosts is known to it.

`ranked` starts jobs by `models.priority`, the baseline in the order of arrival. `on time` is of all jobs, `P90 kept`
the share of those that ran and were done within their quote's P90, `over P50` the median of what a job took over its
quote's P50, both less the quote's audit: no auditor is simulated. `--fit` finds the part of the predictions' half
width that is wrong for all together, so that the P90 is kept by 90% of the jobs of four fleets. `wall` and `cpu` are
seconds of the simulation alone. Intervals are 95% Wilson ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from math import exp, inf
from typing import Any

import numpy as np

from benchmarks.fields import FP32, PRICE_SIGMA, wilson
from cloudlinkup.wire.messages import Probe
from models.dataset import PROBES, Table, load_table
from models.facts import Candidate, JobFacts, ReferenceProfile
from models.fleet import Asked, Fleet, Served
from models.goodput import most_useful
from models.leave_out import REFERENCE
from models.margin import times_p90, training_spread
from models.predictor import Predictor
from models.simulator import World

SIGMA, LATE, LEAVES = 0.3, 0.1, 0.1
BATCHES, HOURS, AT_ONCE, CLIENTS = 20, 3.0, 40, 100
LINE, UPDATE, ROWS = 50e6, 40e6, 200e6  # bytes a second, a round, a partition
CLASS = "cuda|measured"
FITTED, LEVEL = (1000, 1001, 1002, 1003), 0.9  # seeds, and the share of jobs


def probes(table: Table, host: str) -> tuple[Probe, ...]:
    times = [(name, exp(table.seconds[host, "fp32", name])) for name in PROBES]
    return tuple(Probe(name=name, precision="fp32", seconds=s, spread=0.02) for name, s in times)


def make_fleet(table: Table, count: int, hosts: list[str], rng: np.random.Generator) -> dict[str, Any]:
    picks, hidden = rng.integers(0, len(hosts), count), np.exp(rng.normal(0, SIGMA, count))
    span = HOURS * 3_600
    since = np.where(rng.random(count) < LATE, rng.random(count) * span, 0.0)
    until = np.where(rng.random(count) < LEAVES, since + rng.random(count) * span, inf)
    known = {host: probes(table, host) for host in hosts}
    flops = [FP32[table.gpu[hosts[i]]] for i in picks]
    asks = np.rint(1e5 * np.array(flops) * np.exp(rng.normal(0, PRICE_SIGMA, count))).astype(int)
    crowd = [
        Candidate(
            agent=f"a{i}",
            wallet=f"w{i}",
            device_class=CLASS,
            kind="cuda",
            memory=2**34,
            probes=known[hosts[h]],
            ask=int(asks[i]),
        )
        for i, h in enumerate(picks)
    ]
    lines = LINE * np.exp(rng.normal(0, 0.5, count))
    presence = list(zip(since.tolist(), until.tolist(), strict=True))
    return {"crowd": crowd, "presence": presence, "lines": lines.tolist(), "host": picks, "hidden": hidden}


def make_jobs(table: Table, networks: list[str], count: int, rng: np.random.Generator) -> tuple[list[Asked], list[str]]:
    jobs: list[Asked] = []
    names: list[str] = []
    for i, at in enumerate(np.sort(rng.random(count) * HOURS * 3_600)):
        network, steps = networks[int(rng.integers(len(networks)))], int(rng.integers(20, 101)) * 100
        step, places = BATCHES * exp(table.seconds[REFERENCE, "fp32", network]), int(rng.choice((4, 8, 16)))
        profile = ReferenceProfile(
            overhead=0.0, per_sample=step, kind="cuda", device_class=CLASS, probes=probes(table, REFERENCE)
        )
        facts = JobFacts(features={}, samples=steps, batch=1, profile=profile, memory=2**32)
        within = float(rng.uniform(2.0, 8.0)) * steps * step / most_useful(steps, places)
        jobs.append(Asked(f"j{i:04d}", f"c{int(rng.integers(CLIENTS))}", float(at), facts, places, within))
        names.append(network)
    return jobs, names


def serve(contributors: int, count: int, seed: int, *, ranked: bool) -> tuple[list[Served], dict[str, float]]:
    """(how each job went, seconds that the simulation took)."""
    table, rng = load_table(), np.random.default_rng(seed)
    hosts = sorted(h for h in table.gpu if h != REFERENCE and all((h, "fp32", p) in table.seconds for p in PROBES))
    shared = [{n for (h, p, n) in table.seconds if h == host and p == "fp32"} for host in (*hosts, REFERENCE)]
    networks = sorted(set.intersection(*shared) - set(PROBES))
    made, (jobs, names) = make_fleet(table, contributors, hosts, rng), make_jobs(table, networks, count, rng)
    network = {job.key: name for job, name in zip(jobs, names, strict=True)}
    true = {
        name: np.array([BATCHES * exp(table.seconds[hosts[h], "fp32", name]) for h in made["host"]]) * made["hidden"]
        for name in networks
    }
    world = World(dispatch=5.0, jitter=0.05, update=UPDATE, rows=ROWS)
    fleet = Fleet(
        made["crowd"],
        made["presence"],
        made["lines"],
        lambda job, i: float(true[network[job.key]][i]),
        Predictor.rank1(),
        rng,
        world,
        AT_ONCE,
        ranked,
    )
    began, cpu = time.perf_counter(), time.process_time()
    served = fleet.run(jobs)
    return served, {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu}


def run(contributors: int, count: int, seed: int, *, ranked: bool) -> dict[str, Any]:
    served, spent = serve(contributors, count, seed, ranked=ranked)
    return summarise(served, count) | spent


def fit(contributors: int, count: int) -> float:
    """`models.margin.TOGETHER` with which the P90 is kept by `LEVEL` of the jobs of `FITTED`'s fleets."""
    found = [serve(contributors, count, seed, ranked=True)[0] for seed in FITTED]
    ran = [s for served in found for s in served if not s.why]

    def kept(together: float) -> float:
        return sum(s.took <= _p90(s, together) for s in ran) / len(ran)

    return next(t for t in np.arange(0.0, 1.0, 0.005).tolist() if kept(t) >= LEVEL)


def _p90(one: Served, together: float) -> float:
    return one.fixed + (one.p50 - one.fixed) * times_p90(training_spread(one.speeds, together))


def summarise(served: list[Served], count: int) -> dict[str, Any]:
    ran = [s for s in served if not s.why]
    done = [s for s in ran if s.took < inf]
    why = sorted({s.why for s in served if s.why})
    kept, on_time = sum(s.took <= s.p90 for s in ran), sum(s.on_time for s in ran)
    waits = [s.waited for s in ran]
    return {
        "jobs": count,
        "done": len(done),
        "broke off": len(ran) - len(done),
        "refused": {name: sum(s.why == name for s in served) for name in why},
        "on time": on_time / count,
        "on time interval": wilson(on_time, count),
        "P90 kept": kept / max(1, len(ran)),
        "P90 interval": wilson(kept, max(1, len(ran))),
        "over P50": float(np.median([s.took / s.p50 for s in done])) if done else inf,
        "waited, median": float(np.median(waits)) if ran else 0.0,
        "waited, P95": float(np.quantile(waits, 0.95)) if ran else 0.0,
        "rounds": sum(s.rounds for s in ran),
        "seated late": sum(s.late for s in ran),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contributors", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.fit:
        print(f"{fit(given.contributors, given.jobs):.3f}")
        return
    if given.seed in FITTED:
        parser.error(f"the margin was fitted on seeds {FITTED}")
    orders = {"ranked": True, "in the order of arrival": False}
    found = {name: run(given.contributors, given.jobs, given.seed, ranked=by) for name, by in orders.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if given.json:
        head = {"benchmark": "fleet", "seed": given.seed, "contributors": given.contributors, "memory MB": memory}
        print(json.dumps(head | {"orders": found}, indent=1))
        return
    print(f"{given.jobs:,} jobs on {given.contributors:,} contributors, seed {given.seed}, {memory:.0f} MB at the most")
    for name, one in found.items():
        print(f"\n{name}")
        for key, value in one.items():
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            print(f"  {key:18} {shown}")


if __name__ == "__main__":
    main()
