"""After the pilot: who is kept, and whether the job goes on. Then, after every round: when it will be done.

What the pilot's shards verified is paid like any other work. Those that are not kept stay seated without orders (their
caps cannot fall), and are the first to come back when somebody is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict

from models.correction import Correction
from models.estimate import Estimate, estimate, rest_of
from models.plan import JobPlan
from models.race import Racer, Waiting, keep, regressed, returning
from models.telemetry import Telemetry
from tasks.context import Run
from tasks.peers import Peer
from tasks.planning import by_wallet

MOST_FAULTS = 2  # in a row, after which a seat gets no further order


def in_pilot(run: Run, plan: JobPlan) -> bool:
    """Whether the next round is the pilot: until one of its shards was verified, of somebody who is still here."""
    if not plan.pilot_segments or run.job.search is not None or run.state.raced:
        return False
    return not any(seat.accepted for seat in run.state.active())


async def decide(
    run: Run, plan: JobPlan, remaining: int, affordable: Callable[[Collection[int]], int], peers: dict[str, Peer]
) -> bool:
    """Keeps the best of the pilot; False when the job ends here. `affordable`: the steps that the budget still holds
    when only these seats go on, as the caps of the others are stranded."""
    if run.job.search is not None or not plan.pilot_segments or run.state.raced == "kept":
        return True
    if run.state.raced == "ended":
        return False
    from tasks.audit import tell_finished  # the audit needs the rounds' rows, and the rounds this

    assert run.state.terms is not None
    # awards stop at the chain's deadline, which may be sooner than the client's
    left = min(run.job.deadline.timestamp(), run.state.terms.deadline) - await run.ledger.now()
    beliefs = regressed({seat.seat: Correction(**seat.belief) for seat in run.state.active()})
    places = min(run.job.contributors.max, len(plan.seats))
    rest = rest_of(plan, remaining, min(places, len(beliefs)), handling(run))
    kept = keep(await _racers(run, beliefs), places, rest=rest, seconds_left=left)
    assert kept.finish is not None  # somebody here delivered, or this would still be the pilot
    why = ""
    if kept.late(left):
        why = f"after the pilot the P90 is {kept.finish.quantile(0.9):.0f} s, beyond the deadline"
    elif (most := affordable(kept.kept)) // plan.segment_steps < remaining // plan.segment_steps:
        why = f"after the pilot the budget holds {most} of {remaining} steps"
    if why:
        run.state.ended_early = f"{why}: the pilot's verified work is paid, the rest returns"
        run.state.raced = "ended"
        run.save()
        run.event("race_ended", why=why)
        return False
    for seat in run.state.seats:  # also who is away: whoever comes back finds its place taken
        if seat.seat not in kept.kept and seat.state != "rejected":
            seat.dropped, seat.state, seat.has_weights = True, "idle", -1
        if seat.seat in beliefs:
            seat.belief = asdict(beliefs[seat.seat])
    run.state.raced = "kept"
    run.save()
    run.event("raced", kept=list(kept.kept), dropped=list(kept.dropped), by=kept.by)
    for seat in run.state.seats:
        if seat.dropped and seat.attempts and seat.agent in peers:
            await tell_finished(run, seat, "released")
    return True


async def _racers(run: Run, beliefs: Mapping[int, Correction]) -> list[Racer]:
    """Those still here, with what they delivered so far (a pilot that brought nothing is held again)."""
    telemetry, found = Telemetry(run.settings.home.telemetry_db), []
    for seat in run.state.active():
        found.append(
            Racer(
                seat=seat.seat,
                speed=beliefs[seat.seat].prediction,
                segments=seat.accepted,
                record=await telemetry.track_record(seat.wallet, str(run.owner)),
                wallet=seat.wallet if by_wallet(run.job) else "",
            )
        )
    return found


def revive(run: Run, peers: dict[str, Peer], places: int) -> None:
    """Free places go first to those that raced and were not kept, or had a newcomer's shard, the fastest first.

    Who was lost after the race waits with them, so that nobody comes back to a place that is taken.
    """
    raced = run.state.raced == "kept"
    gone = run.state.rejected_wallets()
    for seat in run.state.seats:
        seat.dropped = seat.dropped or (raced and seat.state == "lost")
    # without a race there is only the newcomer, once it is measured
    waiting = [s for s in run.state.seats if s.dropped and (raced or s.accepted)]
    waiting = [s for s in waiting if s.state != "rejected" and s.faults < MOST_FAULTS]
    waiting = [s for s in waiting if s.agent in peers and peers[s.agent].fits(s) and s.wallet not in gone]
    found = [Waiting(s.seat, Correction(**s.belief).mean, s.accepted > 0, s.wallet) for s in waiting]
    held = [s.wallet for s in run.state.active()]
    for number in returning(found, places - len(held), held if by_wallet(run.job) else None):
        seat = run.state.seat(number)
        seat.dropped, seat.state = False, "active"
        run.event("seated", seat=seat.seat, wallet=seat.wallet)


def handling(run: Run) -> float:
    """Seconds beside training of a round, as the last one had them."""
    return max(0.0, run.state.round_seconds - run.state.round_training)


def tell_estimate(run: Run, plan: JobPlan, remaining: int) -> Estimate | None:
    """The plan's present estimate, into the state and the job's events; None before anything was observed."""
    speeds = [Correction(**seat.belief).prediction for seat in run.state.active()]
    if not run.state.steps_done or not speeds or run.job.search is not None:
        return None
    waiting = [s for s in run.state.seats if s.dropped and s.accepted and s.faults < MOST_FAULTS]
    waiting = [s for s in waiting if s.state != "rejected"]
    spares = [Correction(**seat.belief).prediction for seat in waiting]
    found = estimate(rest_of(plan, remaining, len(speeds), handling(run)), speeds, spares)
    run.event(
        "estimate",
        round=run.state.round,
        p50_seconds=round(found.quantile(0.5), 1),
        p90_seconds=round(found.quantile(0.9), 1),
        steps_left=remaining,
    )
    return found
