"""A quote in words: who takes part and why, what holds the job up, what the client should know, when not to use us.

The bottleneck is found by asking what each limit costs: the time is computed once more without it (the memory that some
lack, the hours that end, the places that are full, all that is not training, or with the busiest contributor twice as
fast), and the one that saves most is named. Pure. Not here: any choice; `quote` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cloudlinkup.types import format_tokens
from models.facts import Candidate, JobFacts, Limits, Prediction
from models.goodput import efficiency
from models.plan import JobPlan
from models.predictor import Predictor
from models.reputation import standing
from models.selection import Ranked, Selection, refusal

Goal = Literal["both", "deadline", "budget", "cheapest"]
THIN = 0.85  # of a step that counts (`goodput`), below which the quote warns


def size(count: float) -> str:
    """Bytes for a person."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def nobody(job: JobFacts, candidates: Sequence[Candidate], selection: Selection) -> str:
    """Why nobody takes part, with one fix."""
    if not candidates:
        return "no contributor is connected. Fix: start one with `cloudlinkup contribute`, or wait for one"
    most = max(c.memory for c in candidates)
    if most < job.memory:
        return (
            f"none of {len(candidates)} connected contributors has enough memory: the job needs {size(job.memory)}, "
            f"the most that one offers is {size(most)}. Fix: a smaller network, batch or table, or wait for another"
        )
    first = "; ".join(f"{r.agent[:8]}: {r.reason}" for r in selection.refused[:3])
    return f"none of {len(selection.refused)} connected contributors may and can do this job ({first})"


def reasons(selection: Selection, plan: JobPlan, group: Sequence[Ranked]) -> tuple[str, ...]:
    """A line for every candidate, and one for the price."""
    total = sum(1 / s.prediction.seconds for s in plan.seats)
    taken = {r.candidate.agent for r in group}
    lines = [
        f"{r.candidate.agent[:8]} takes part with about {100 / r.prediction.seconds / total:.0f}% of the steps:"
        f" {1000 * r.prediction.seconds:.3g} ms a step ({1000 * r.prediction.low:.3g} to"
        f" {1000 * r.prediction.high:.3g}), ask {r.ask} a step{_standing(r)}"
        for r in group
    ]
    lines += [
        f"{r.candidate.agent[:8]} does not take part: without it the goal is met better, or at all"
        for r in selection.chosen
        if r.candidate.agent not in taken
    ]
    racers = {s.agent for s in plan.racers}
    lines += [f"{s.agent[:8]} races for a place in the pilot, of {plan.pilot_segments} segments" for s in plan.racers]
    lines += _newcomer(plan)
    others = [
        r for r in selection.refused if r.agent not in racers and (not plan.newcomer or r.agent != plan.newcomer.agent)
    ]
    lines += [f"{r.agent[:8]} does not take part: {r.reason}" for r in others]
    dearest = max(plan.seats, key=lambda s: s.ask)
    lines.append(
        f"{plan.price} base units per verified step for everybody: the highest ask per step among those taken"
        f" ({dearest.agent[:8]})"
    )
    return tuple(lines)


def _newcomer(plan: JobPlan) -> list[str]:
    if plan.newcomer is None:
        return []
    part = 100 * plan.newcomer_steps / plan.total_steps
    return [
        f"{plan.newcomer.agent[:8]} is new and does one shard that somebody known does as well: at most"
        f" {plan.newcomer_steps} steps ({part:.1f}% of the job) are paid twice, and the model does not depend on it"
    ]


def _standing(entry: Ranked) -> str:
    off = standing(entry.candidate.record)
    return f", ranked {100 * off:.1f}% cheaper for its verified work" if off >= 0.001 else ""


def bottleneck(
    job: JobFacts,
    candidates: Sequence[Candidate],
    predictions: Sequence[Prediction],
    limits: Limits,
    plan: JobPlan,
    group: Sequence[Ranked],
    seconds: float,
) -> str:
    """What holds the job up most, in one sentence: memory, hours, places, speed, or all that is not training."""
    rate = sum(1 / r.prediction.seconds for r in group)
    taken = {r.candidate.agent for r in group}
    training = plan.total_steps / rate
    fixed = limits.setup_seconds + plan.rounds * limits.round_seconds
    lacking: dict[str, list[Prediction]] = {"memory": [], "hours": [], "places": []}
    for candidate, prediction in zip(candidates, predictions, strict=True):
        if candidate.agent in taken:
            continue
        lifts: dict[str, dict[str, float | None]] = {
            "places": {},
            "memory": {"memory": float(job.memory)},
            "hours": {"open_seconds": None},
        }
        for name, lift in lifts.items():
            if refusal(job, candidate.model_copy(update=lift), prediction, limits) is None:
                lacking[name].append(prediction)
                break
    savings = {
        name: training - plan.total_steps / (rate + sum(1 / p.seconds for p in found))
        for name, found in lacking.items()
        if found
    }
    hours = [r for r in group if r.candidate.open_seconds is not None]
    if hours:
        savings["hours"] = max(savings.get("hours", 0.0), seconds - fixed - training)
    busiest = min(group, key=lambda r: r.prediction.seconds)
    savings["speed"] = training - plan.total_steps / (rate + 1 / busiest.prediction.seconds)
    savings["rounds"] = fixed
    name = max(savings, key=lambda key: savings[key])
    saved = f"without that it would be done {savings[name]:.0f} s sooner"
    if name == "memory":
        who = ", ".join(p.agent[:8] for p in lacking[name][:3])
        return f"{who} is the bottleneck: memory, the job needs {size(job.memory)} and it offers less; {saved}"
    if name == "hours":
        who = ", ".join(a[:8] for a in [r.candidate.agent for r in hours] + [p.agent for p in lacking["hours"]])
        return f"{who} is the bottleneck: its hours end before the job does, or have not begun; {saved}"
    if name == "places":
        who = f"{len(lacking[name])} more contributors could take part, but not within the job's limits"
        return f"the number of places is the bottleneck: {who}; with all of them it would be {savings[name]:.0f} s less"
    if name == "rounds":
        return (
            f"the rounds are the bottleneck, not the contributors: {fixed:.0f} s go to setup, transfers and chain,"
            f" {training:.0f} s to training"
        )
    part = 100 / busiest.prediction.seconds / rate
    return (
        f"{busiest.candidate.agent[:8]} is the bottleneck: speed, it does {part:.0f}% of the steps at"
        f" {1000 * busiest.prediction.seconds:.3g} ms each; twice as fast would save {savings[name]:.0f} s"
    )


def notes(
    job: JobFacts,
    limits: Limits,
    plan: JobPlan,
    predictor: Predictor,
    goal: Goal,
    numbers: tuple[float, int, float],
    *,
    shared: bool = True,
) -> tuple[str, ...]:
    """What the client should know. `numbers`: P90 seconds, hard cap, the audit's seconds. `shared`: one training."""
    (p90, hard_cap, audit), n = numbers, len(plan.seats)
    found = predictor.notes(job, [s.prediction for s in plan.seats])
    found.append(
        f"{n} contributor{'s' if n > 1 else ''} will decrypt and read their part of your rows, and the auditor all"
    )
    found.append(
        f"{limits.round_seconds:.3g} s a round and {limits.setup_seconds:.3g} s once are allowed for transfers and"
        f" chain, {_whence(limits)}, and {audit:.1f} s of the auditor's machine for replays"
    )
    if job.rates:
        rates = ", ".join(f"{rate}: {loss:.4g}" for rate, loss in job.rates.items())
        found.append(
            f"learning rate {min(job.rates, key=lambda rate: (job.rates[rate], float(rate)))}, chosen by a pilot on the"
            f" auditor's machine (loss on training rows kept back, by rate: {rates})"
        )
    if plan.kept:
        found.append(
            f"rounds of {plan.local_steps} steps a contributor, each going on with its own optimizer state, which the"
            " audit opens where it needs it (train.rounds: kept)"
        )
    if limits.at_reserve:
        found.append("the budget does not reach what contributors ask: cleared at the reserves that they take")
    if goal not in ("both", "budget") and hard_cap > limits.budget:
        found.append(f"submit it with a budget of at least {format_tokens(hard_cap, limits.decimals)}")
    if goal not in ("both", "deadline") and p90 > limits.deadline_seconds:
        found.append(f"submit it with a deadline of at least {p90:.0f} s from then")
    if shared and (counts := efficiency(n, plan.total_steps)) < THIN:
        found.append(
            f"{plan.total_steps // n} sequential steps per contributor are few, a step counts about {counts:.0%}: one"
            " machine may reach a better score from the same samples"
        )
    if plan.dropped_steps:
        found.append(
            f"the last {plan.dropped_steps} of {job.steps} steps fill no segment of {plan.segment_steps}: left out"
        )
    return tuple(found)


def _whence(limits: Limits) -> str:
    jobs = limits.measured_jobs
    if not jobs:
        return "which no job has measured here yet"
    return f"by the last {jobs} jobs here" if jobs > 1 else "by the last job here"


def advice(limits: Limits, single: float, seconds: float, cost: int) -> str | None:
    """Against us, where the client's own machine (`single` seconds) is faster or cheaper; None otherwise."""
    against: list[str] = []
    if single <= seconds:
        against.append(f"it takes {single:.1f} s there and {seconds:.1f} s here")
    if limits.own_hourly is not None and (own := round(limits.own_hourly * single / 3600)) <= cost:
        units = format_tokens(own, limits.decimals), format_tokens(cost, limits.decimals)
        against.append(f"it costs {units[0]} there and {units[1]} here")
    return f"Train this on your own machine: {', and '.join(against)}" if against else None
