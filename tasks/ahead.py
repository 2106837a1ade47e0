"""A round that goes ahead: its updates enter the weights at once, and its audit runs beside the next round's training.

Training then waits neither for replays nor for the chain's finality. In the order of what happens to such a round r:
while its commitment is on its way to the chain, its updates are averaged and the next round is planned and sealed; once
the chain has it, the paths to its root and then the next orders go out; beside their training it is judged, awarded and
counted; only then is r + 1 committed, as the program takes awards for the latest commitment alone. What its audit does
not accept is taken out again: the weights become what they would be without it, and the next round's updates are added
to that. Those had begun with the worse weights; that is the price.

A contributor credits one round without an award, or ten minutes of it: that is used up here, so long rounds wait for
their audit, and so do rounds of somebody with a gap in its awards (it did not open once, a result got lost on its way,
or a dispute holds them back).
A round waits too with somebody in it that has no verified round in this job, or with an update that a gate finds odd
and that did not prove itself (`tasks/cleared`): whoever is likeliest to cheat is in no model before its audit. The last
round waits as well, and a search's waves do, since a training there goes on from its own last state.

Whoever did not open the optimizer state that its next shard began with (where it is kept) is not paid for that shard
either: nobody ever looked at that state. That makes two faults in a row, and two rounds without an award are more than
it credits, so it gets no further order then.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np

from cloudlinkup.training.aggregate import aggregate
from cloudlinkup.training.outer import Published
from cloudlinkup.training.quantize import dequantise
from cloudlinkup.training.schedule import outer_momentum, outer_rate
from models.auditing import LONGEST
from tasks.context import Run
from tasks.newcomer import one_of_each
from tasks.orders import update_name
from tasks.state import Entry, RoundState
from tasks.subject import generation


def goes_ahead(run: Run, round_: RoundState, odd: Mapping[int, str]) -> bool:
    """Whether the round's audit may run beside the next one. `odd`: seats whose update a gate found odd."""
    if run.job.search is not None or odd:
        return False
    inside = [entry for entry in round_.entries if entry.outcome == "committed"]
    step = int(run.state.plan["segment_steps"])
    done = run.state.steps_done + step * sum(entry.segments for entry in inside)
    seats = [run.state.seat(entry.seat) for entry in inside]
    known = all(s.rounds_done > 0 and not s.unopened and not s.gap for s in seats) and not run.state.awards
    short = max((entry.seconds for entry in inside), default=0.0) <= LONGEST
    return known and short and run.state.total_steps - done >= step


def counts(entry: Entry) -> bool:
    """Whether its update is in the weights: verified, or of a round that goes ahead."""
    return entry.outcome in ("committed", "accepted") and not entry.void


def averaged(run: Run, round_: RoundState, entries: list[Entry]) -> np.ndarray:
    """The round's update, fp32 (parameters,): of these entries, by their steps, times the outer learning rate."""
    size, step = run.weights.weights.size, int(run.state.plan["segment_steps"])
    updates = {
        entry.seat: (
            dequantise((run.folder / update_name(round_.round, entry.seat)).read_bytes(), size),
            entry.segments * step,
        )
        for entry in entries
    }
    found = aggregate(updates, {seat: run.state.seat(seat).wallet for seat in updates})
    return found.update * np.float32(outer_rate(run.data.spec, found.shares.values()))


def momentum(run: Run, steps_before: int) -> float:
    """Of the outer step of a round that began after so many of the job's steps."""
    return outer_momentum(run.data.spec, steps_before / run.state.total_steps)


def without_misses(run: Run, round_: RoundState) -> Published | None:
    """The weights without what the audit of `round_`, which went ahead, did not accept, also in the job's folder; None
    where it accepted all. What contributors hold stays what it is: the next round's delta leads them from there."""
    inside, kept = _inside(round_)
    if kept == inside or round_.round in run.state.rolled_back:
        return None
    if not round_.led_to:
        return run.weights
    before, now = generation(run, round_.generation), run.weights
    if kept:
        with suppress(ValueError):  # it diverges without them: then it is as if the round had not been
            before.step(averaged(run, round_, one_of_each(kept)), momentum(run, round_.steps_before))
    found = Published(before.weights, now.published, now.rounds, before.velocity)
    run.write(f"weights-{now.rounds}.bin", found.to_bytes())
    return found


def take_out(run: Run, round_: RoundState, weights: Published) -> None:
    """The state follows the weights. At one stroke: the next round's training saves the state at any moment."""
    inside, kept = _inside(round_)
    run.published = weights
    run.state.steps_done += _steps(run, kept) - _steps(run, inside)
    run.state.unpublished = run.state.unpublished or bool(round_.led_to)
    if round_.best_before is not None:  # what that round scored says nothing
        best = round_.best_before
        run.state.best_score, run.state.best_generation, run.state.best_round, run.state.worse_rounds = best
    gone = {str(entry.seat): entry.reason for entry in inside if entry not in kept}
    run.event("taken_out", round=round_.round, seats=gone)


def _inside(round_: RoundState) -> tuple[list[Entry], list[Entry]]:
    """(the entries whose updates went into the weights, those of them that the audit accepted)"""
    inside = [entry for entry in round_.entries if entry.commit is not None and not entry.void]
    return inside, [entry for entry in inside if entry.outcome == "accepted"]


def _steps(run: Run, entries: list[Entry]) -> int:
    return int(run.state.plan["segment_steps"]) * sum(entry.segments for entry in one_of_each(entries))
