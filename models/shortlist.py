"""A large field cut to a shortlist, so that a plan over 100,000 contributors costs little more than one over 200.

Up to `FULL` candidates are all compared in full. Of more, those that may and can take part are ordered by the cost of a
valid on-time step with the time of the rank-1 rule (reference time x geometric mean of the probe ratios), in numpy;
the best `FULL` of that order go on to the predictor, the exact selection and the plan. The last eighth of the places is
kept for newcomers, whose record puts them behind. A job has at most 64 contributors and as many racers, so 64
again stand between the rule and the learned prediction.

Not here: conditions in words (`selection.refusal`), which only those on the shortlist are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log

import numpy as np
from numpy.typing import NDArray

from models.facts import Candidate, JobFacts, Limits
from models.pricing import EXACT, TERA
from models.reputation import standing
from models.selection import NEWCOMER, reliability

FULL = 192
NEW = FULL // 8  # places on the shortlist for contributors without a record


def shortlist(job: JobFacts, candidates: Sequence[Candidate], limits: Limits) -> tuple[Candidate, ...]:
    """At most `FULL` of the candidates, in their own order; all of them where there are no more.

    Where nobody may take part it is the first `FULL`, so that the reasons can be told.
    """
    if len(candidates) <= FULL:
        return tuple(candidates)
    cost, new = _costs(job, candidates, limits)
    possible = int(np.isfinite(cost).sum())
    if not possible:
        return tuple(candidates[:FULL])
    known = _best(np.where(new, inf, cost), FULL - NEW)
    fresh = _best(np.where(new, cost, inf), FULL - len(known))
    if len(fresh) < FULL - len(known):
        known = _best(np.where(new, inf, cost), FULL - len(fresh))
    return tuple(candidates[i] for i in np.sort(np.concatenate([known, fresh])))


def _best(cost: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Indices of the `most` least finite costs; ties by index."""
    most = min(most, int(np.isfinite(cost).sum()))
    if not most:
        return np.empty(0, np.int64)
    limit = np.partition(cost, most - 1)[most - 1]
    inside = np.flatnonzero(cost <= limit)
    return inside[np.argsort(cost[inside], kind="stable")[:most]]


def _costs(
    job: JobFacts, candidates: Sequence[Candidate], limits: Limits
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(cost of a valid on-time step, infinite for who cannot take part; who is new)."""
    count = len(candidates)
    mine = {p.name: log(p.seconds) for p in job.profile.probes if p.precision == "fp32"}
    reference = job.profile.step_seconds(job.batch)
    allow, classes = frozenset(limits.allow), limits.replay_classes and frozenset(limits.replay_classes)
    tera = float(job.features.get("macs", 0.0)) / TERA
    records: dict[object, tuple[float, bool]] = {}
    probed = np.ones(count)  # product of the common probes' seconds, of `number` of them
    number, own = np.zeros(count), np.zeros(count)
    share, ask, factor = np.ones(count), np.zeros(count), np.ones(count)
    hourly, new = np.ones(count, bool), np.zeros(count, bool)
    out = np.zeros(count, bool)
    for i, c in enumerate(candidates):
        if (
            c.memory < job.memory
            or (allow and c.wallet not in allow)
            or (classes is not None and c.device_class not in classes)
            or (c.open_seconds is not None and c.open_seconds <= limits.setup_seconds)
        ):
            out[i] = True
            continue
        product, common = 1.0, 0
        for p in c.probes:
            if p.precision == "fp32" and p.name in mine:
                product *= p.seconds
                common += 1
                own[i] += mine[p.name]
        probed[i], number[i], share[i] = product, common, c.share
        price = c.ask if not limits.at_reserve or c.reserve is None else c.reserve
        ask[i] = min(price, EXACT)
        if c.ask_per != "hour":
            hourly[i] = False
            ask[i] *= tera if c.ask_per == "tmac" else 1.0
        record = c.record
        key = (record.on_time, record.late, record.valid, record.rejected, record.earned, record.slower)
        if (kept := records.get(key)) is None:
            kept = (1 - standing(record)) / reliability(record) * max(1.0, record.slower)
            kept = records[key] = (kept, record.valid + record.rejected < NEWCOMER)
        factor[i], new[i] = kept
    out |= number == 0
    ratio = np.exp((np.log(probed) - own) / np.maximum(number, 1))
    seconds = reference * ratio  # at full duty, which is what an hour is asked for
    per_step = np.maximum(1.0, np.where(hourly, ask * seconds / 3600, ask))
    # where the price is the same the quicker one goes first, as in the selection
    cost = per_step * factor * (1 + 1e-9 * seconds / share / (1 + seconds / share))
    return np.where(out, inf, cost), new
