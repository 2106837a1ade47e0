"""Who takes part: first who may and can, then who gives a valid on-time step for the least money.

Hard conditions are checked one by one and each refusal has a reason in words. Those left are ranked by expected cost of
a *valid on-time* step: ask per step / (on-time x valid), the last two as 5% lower bounds of Beta(1, 1) posteriors of
the contributor's record, so a newcomer is neither refused nor trusted.

How many of them take part is also a question of quality: more contributors at equal samples mean fewer sequential
steps and a worse model, so their number is capped by `goodput`, unless the client named every one of them, which is its
own choice; each gets at least `LEAST_STEPS` steps on average. Not here: the paid race between candidates (`race`), and
the shard of a newcomer (`newcomer`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

from scipy.special import betaincinv

from models.facts import Candidate, JobFacts, Limits, Prediction, TrackRecord
from models.goodput import efficiency, most_useful
from models.pricing import step_ask, unpayable
from models.racing import MOST
from models.reputation import standing
from models.wallets import admit, most_places

LEAST_STEPS = 30  # three segments of ten: fewer are not worth a seat
DEAR = 3.0  # times the median ask per step: one outlier would set the uniform price for everybody
NEWCOMER = 3  # rounds on record below which somebody is new


@dataclass(frozen=True)
class Refused:
    """A candidate that does not take part, and why."""

    agent: str
    reason: str


@dataclass(frozen=True)
class Ranked:
    """A candidate that may take part. `cost` is base units per expected valid on-time step, `ask` per step."""

    candidate: Candidate
    prediction: Prediction
    ask: int
    cost: float


@dataclass(frozen=True)
class Selection:
    """`chosen` best first; `refused` everybody else; `spare` those of them who may race for a place, and `newcomers`
    those who are new, both best first."""

    chosen: tuple[Ranked, ...]
    refused: tuple[Refused, ...]
    spare: tuple[Ranked, ...] = ()
    newcomers: tuple[Ranked, ...] = ()


@lru_cache(maxsize=65_536)
def lower_bound(good: float, bad: float) -> float:
    """5% lower bound of a share under a uniform prior; a newcomer has 0.05."""
    return float(betaincinv(good + 1, bad + 1, 0.05))


def reliability(record: TrackRecord) -> float:
    """On time times valid, both as lower bounds."""
    return lower_bound(record.on_time, record.late) * lower_bound(record.valid, record.rejected)


def most_contributors(steps: int, limits: Limits) -> int:
    """How many contributors the job can use without starving each of sequential steps; at least 1."""
    most = max(1, min(limits.max_contributors, steps // LEAST_STEPS))
    return most_useful(steps, most) if limits.by_goodput else most


def is_new(entry: Ranked) -> bool:
    """Whether its record is too short to know it by."""
    record = entry.candidate.record
    return record.valid + record.rejected < NEWCOMER


def refusal(job: JobFacts, candidate: Candidate, prediction: Prediction, limits: Limits) -> str | None:
    """Why this candidate may not or cannot take part; None when it may."""
    if limits.allow and candidate.wallet not in limits.allow:
        return "its wallet is not on the job's allow-list"
    if limits.replay_classes is not None and candidate.device_class not in limits.replay_classes:
        return "the auditor cannot replay its device class bit for bit, and no calibration that fits the job admits it"
    if lack := _lack(job, candidate):
        return lack
    if prediction.source == "unknown":
        return "it has no probe in common with the reference machine, so its speed cannot be predicted"
    if candidate.open_seconds is None or candidate.open_seconds > limits.setup_seconds:
        return None
    return f"its hours end in {candidate.open_seconds:.0f} s" if candidate.open_seconds else "it is outside its hours"


def _lack(job: JobFacts, candidate: Candidate) -> str | None:
    if job.extra and job.extra not in candidate.extras:
        return f"the job needs {job.extra}, in the very versions that the auditor has, and it does not offer that"
    if candidate.memory < job.memory:
        return f"it offers {candidate.memory} bytes of memory, the job needs {job.memory}"
    return None


def _too_few(steps: int, most: int, limits: Limits) -> str:
    """Why not more than `most` take part, though the client would have them."""
    if most == max(1, steps // LEAST_STEPS):
        return f"the job has too few steps for more than {most} contributors"
    more = min(limits.max_contributors, 2 * most)
    return (
        f"{steps} steps by more than {most} contributors teach less: by {more}, a step would count"
        f" {efficiency(more, steps):.0%}, by {most} it counts {efficiency(most, steps):.0%} (goodput)"
    )


def _of_one_wallet(devices: int, places: int) -> str:
    return (
        f"of {places} places its wallet has {devices}: one wallet may not hold more than a third of a job, and four or"
        " more places take three wallets"
    )


def select(
    job: JobFacts, candidates: Sequence[Candidate], predictions: Sequence[Prediction], limits: Limits
) -> Selection:
    """At most `limits.max_contributors` candidates, best first, of one wallet no more than `wallets` says.

    `predictions` are in the order of `candidates`. The choice does not depend on that order. The result may be empty.
    """
    refused: list[Refused] = []
    ranked: list[Ranked] = []
    for candidate, prediction in zip(candidates, predictions, strict=True):
        if candidate.agent != prediction.agent:
            raise ValueError("predictions are not in the order of the candidates")
        if (reason := refusal(job, candidate, prediction, limits)) is not None:
            refused.append(Refused(candidate.agent, reason))
            continue
        ask = step_ask(candidate, job, prediction.seconds, reserve=limits.at_reserve)
        if unpayable(ask):
            refused.append(Refused(candidate.agent, "a step at its price is more than a token account can hold"))
            continue
        record = candidate.record
        cost = ask * (1 - standing(record)) / reliability(record)
        ranked.append(Ranked(candidate, prediction, ask, cost))
    ranked.sort(key=lambda r: (r.cost, r.prediction.seconds, r.candidate.agent))
    if ranked:
        most_ask = DEAR * median(r.ask for r in ranked)
        refused += [
            Refused(
                r.candidate.agent, f"its ask per step is over {DEAR:g} times the median, and would set the price of all"
            )
            for r in ranked
            if r.ask > most_ask
        ]
        ranked = [r for r in ranked if r.ask <= most_ask]
    chosen: list[Ranked] = []
    spare: list[Ranked] = []
    newcomers: list[Ranked] = []
    most = most_contributors(job.steps, limits)
    whose = [r.candidate.wallet for r in ranked]
    taken = set(admit(whose, most) if limits.by_wallet else range(min(most, len(ranked))))
    bound = most_places(len(taken)) if limits.by_wallet else len(ranked)
    devices = Counter(whose[i] for i in taken)
    for index, entry in enumerate(ranked):
        if index in taken:
            chosen.append(entry)
            continue
        wallet = entry.candidate.wallet
        if is_new(entry) and not devices[wallet]:
            newcomers.append(entry)
        if devices[wallet] >= bound or len(taken) < most:
            refused.append(Refused(entry.candidate.agent, _of_one_wallet(devices[wallet], len(taken))))
            continue
        if len(spare) < (MOST - 1) * most:
            spare.append(entry)
            devices[wallet] += 1
        if most < limits.max_contributors:
            refused.append(Refused(entry.candidate.agent, _too_few(job.steps, most, limits)))
        else:
            refused.append(Refused(entry.candidate.agent, f"{most} others cost less per valid on-time step"))
    return Selection(tuple(chosen), tuple(refused), tuple(spare), tuple(newcomers))
