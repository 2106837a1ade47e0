"""One accepted shard of the past, ready to learn from, and whether a contributor's claimed speed agrees with its own.

Probes are the contributor's word; shards are timed by the gateway. Where the latest accepted shards took over three
times what the planning predictor makes of job and probes, the probes are not believed and the contributor is planned
by its shards (`Predictor.predict`, source "record"). The predictor is asked and not the plain probe ratio, since small
duty shares honestly run up to 3.5 times slower than their probes say (`models.data.measure_cpu`). Only slower counts:
who works faster than it claims just delivers more.

Not here: the audit, which holds the work itself; what is learned inside a job (`correction`).
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median

from pydantic import TypeAdapter

from cloudlinkup.wire.messages import Probe
from models.facts import Candidate, JobFacts
from models.predictor import DISAGREE, Predictor, make_facts

LEAST, MOST = 3, 8  # shards that are looked at: fewer say nothing, the latest count

_probes = TypeAdapter(tuple[Probe, ...])


@dataclass(frozen=True)
class Seen:
    """One accepted attempt, ready to learn from. `truth`: log seconds per step at full duty."""

    job_id: str
    at: float
    job: JobFacts
    candidate: Candidate
    truth: float
    steps: int


def parse_seen(row: Mapping[Hashable, object]) -> Seen:
    """From a row of the `attempts` table. Raises ValueError or KeyError for what is none."""
    device, share, steps = str(row["device_class"]), float(str(row["share"])), int(str(row["steps"]))
    candidate = Candidate(
        agent=str(row["agent"]),
        wallet=str(row["wallet"]),
        device_class=device,
        kind="cuda" if device.startswith("cuda|") else "cpu",
        probes=_probes.validate_python(json.loads(str(row["probes"]))),
        share=share,
    )
    job = JobFacts.model_validate_json(str(row["job"]))
    if steps <= 0:
        raise ValueError("no step")
    truth = log(float(str(row["seconds"])) * share / steps)
    return Seen(str(row["job_id"]), float(str(row["at"])), job, candidate, truth, steps)


def slower(predictor: Predictor, rows: Sequence[Mapping[Hashable, object]]) -> float:
    """By how much one contributor's latest shards took longer than job and probes promise.

    `rows`: of the `attempts` table, accepted ones, newest first; what does not parse counts as nothing. The median; 1
    where there are too few shards, or where they agree within `DISAGREE`.
    """
    gaps: list[float] = []
    known: list[Seen] = []
    for row in rows[:MOST]:
        try:
            seen = parse_seen(row)
        except (ValueError, KeyError):
            continue
        facts = make_facts(None, seen.job, "cpu", seen.candidate.probes)
        if facts is not None:
            known.append(seen)
            gaps.append(exp(seen.truth - facts.rank1))
    # the probe ratio first: it is cheap, and where it agrees there is nothing to ask the predictor
    if len(known) < LEAST or median(gaps) <= DISAGREE:
        return 1.0
    promised = [predictor.predict(s.job, [s.candidate])[0].seconds * s.candidate.share for s in known]
    found = median(exp(s.truth) / each for s, each in zip(known, promised, strict=True))
    return found if found > DISAGREE else 1.0
