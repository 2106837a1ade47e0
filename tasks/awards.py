"""What the chain still has to be told about verified work: cumulative awards, built upon what the chain says.

An award on chain is a seat's total. Ours is *what the chain has, plus what verified since*, never steps times price: a
ruling that struck an award would be undone by the next one. The total is fixed and stored before it is sent, so that a
repeat sends the same number; where the chain passes a seat over because it is under dispute, the difference is carried
to the next round, or to the end. A cap falls only by a ruling, which is how a ruling in between is seen.
Not covered: a run that dies between sending and storing, and finds a ruling when it comes back: whether that ruling had
the award before it cannot be told, so the ruling is left as it is. The contributor's way is an appeal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cloudlinkup.errors import JobFailed, ProgramError
from cloudlinkup.ledger import money
from cloudlinkup.ledger.accounts import Job, Seat
from tasks.context import Run
from tasks.state import Award

TRIES = 3  # looks at the chain: a ruling or a dispute can land between a look and the transaction


def owing(award: Award, seat: Seat) -> Award | None:
    """The award as it has to be sent now, by what the chain has of the seat; None when there is nothing to send."""
    if seat.cap < award.cap:  # a ruling
        if award.sent:
            return None
        return Award(base=seat.awarded, target=seat.awarded + award.amount, cap=seat.cap)
    if seat.awarded >= award.target:
        return None
    return award.model_copy(update={"base": seat.awarded, "cap": seat.cap})


def with_pay(awards: Mapping[int, Award], pay: Mapping[int, int], job: Job) -> dict[int, Award]:
    """Open awards with `pay` (base units by seat) added to them; the seats as `job` has them."""
    out = dict(awards)
    for number, units in pay.items():
        seat = job.seats[number]
        base, carried = (out[number].base, out[number].amount) if number in out else (seat.awarded, 0)
        out[number] = Award(base=base, target=base + carried + units, cap=seat.cap)
    return out


def carried(run: Run, seat: int) -> int:
    """Base units of verified work that the chain has not taken yet."""
    award = run.state.awards.get(seat)
    return award.amount if award else 0


def owed(run: Run, seat: int) -> int:
    """Base units that the chain has not taken and may have to: verified ones, and those of a round whose audit is
    under way, all of them until then."""
    round_, step = run.open, int(run.state.plan["segment_steps"])
    if round_ is None or run.state.awards_round >= round_.round:
        return carried(run, seat)
    open_ = sum(entry.segments for entry in round_.entries if entry.seat == seat and entry.commit is not None)
    return carried(run, seat) + open_ * step * run.state.price


async def read_job(run: Run) -> Job:
    """The job on chain. Raises JobFailed when its account is gone."""
    job = await run.ledger.job(run.account)
    if job is None:
        raise JobFailed(f"the job's account {run.account} is gone from the chain")
    return job


async def award_round(run: Run, number: int, pay: Mapping[int, int]) -> None:
    """Awards what round `number` earned, base units by seat, and what earlier rounds left; once, however often called.

    Raises ProgramError (JobEnded) when the deadline passed before it.
    """
    job = await read_job(run)
    _look(run, job)
    if run.state.awards_round < number:
        run.state.awards, run.state.awards_round = with_pay(run.state.awards, pay, job), number
    run.save()
    await send_awards(run, job)


async def send_awards(run: Run, job: Job | None = None) -> None:
    """Sends what is open and not on hold, until the chain has it. What is on hold stays open."""
    for _ in range(TRIES):
        job = job or await read_job(run)
        _look(run, job)
        now = await run.ledger.now()
        ready = {s: a.target for s, a in run.state.awards.items() if not money.on_hold(job.seats[s], job, now)}
        if not ready:
            break
        try:
            # a ruling lowered the cap below what verified since: the client grants that anew
            run.sent("raise_caps", await run.ledger.raise_caps(run.operator, run.account, ready))
            _mark(run, ready, sent=True)
            run.sent("award", await run.ledger.award(run.verifier, run.account, job.round, ready))
        except ProgramError as error:
            if error.name != "AwardAboveCap":  # a ruling was quicker
                raise
            _mark(run, ready, sent=False)
        job = await read_job(run)
        if not _look(run, job):
            break
        held = [s for s in run.state.awards if money.on_hold(job.seats[s], job, await run.ledger.now())]
        _mark(run, held, sent=False)  # confirmed, and passed over
    run.save()


async def unawarded(run: Run, number: int) -> set[int] | None:
    """Seats whose pay of round `number` the chain has not taken, once it takes no more; None: none was ever sent."""
    if run.state.awards_round < number:
        return None
    _look(run, await read_job(run))
    run.save()
    return set(run.state.awards)


async def award_late(run: Run) -> None:
    """Sends what disputes held back, as long as the chain takes awards."""
    if not run.state.awards:
        return
    try:
        await send_awards(run)
    except ProgramError as error:
        if error.name != "JobEnded":
            raise


def _look(run: Run, job: Job) -> bool:
    """Drops what the chain has, rebases what a ruling came before; True when something is open."""
    kept = {number: owing(award, job.seats[number]) for number, award in run.state.awards.items()}
    for number, award in run.state.awards.items():
        if kept[number] is None and job.seats[number].awarded < award.target:
            run.event("ruled", seat=number, awarded=str(job.seats[number].awarded), instead_of=str(award.target))
    run.state.awards = {number: award for number, award in kept.items() if award is not None}
    return bool(run.state.awards)


def _mark(run: Run, seats: Iterable[int], *, sent: bool) -> None:
    """Stored before it is sent, with the cap that it then has: at least the award."""
    awards = dict(run.state.awards)
    for number in seats:
        one = awards[number]
        awards[number] = one.model_copy(update={"sent": sent, "cap": max(one.cap, one.target) if sent else one.cap})
    run.state.awards = awards
    run.save()
