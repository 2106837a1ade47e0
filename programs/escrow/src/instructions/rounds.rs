//! commit_round and award: the verifier fixes what was submitted before the challenge is drawn, then awards.

use pinocchio::ProgramResult;

use crate::args::{Args, SeatAmount};
use crate::checks::{self, Context};
use crate::error::{add, require, Error};
use crate::events::{Awarded, RoundCommitted};
use crate::rules::{clock, Moment};
use crate::state::{at, JobData};

/// Stores the root over the round's submissions. The challenge comes from a later slot, which nobody knows yet.
#[inline(never)]
pub fn commit_round(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let round: u32 = args.get()?;
    let root: [u8; 32] = args.get()?;
    args.end()?;

    let [verifier, mut job_account] = ctx.accounts()?;
    checks::signed(&verifier)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, _) = data.split();
    checks::is_key(&verifier, &job.verifier)?;
    let (now, slot) = clock()?;
    require(now < job.deadline, Error::JobEnded)?;
    require(job.round.checked_add(1) == Some(round), Error::BadRound)?;

    job.round = round;
    job.commit_root = root;
    job.commit_slot = slot;
    RoundCommitted { job: &job_key, round, root: &root, slot }.emit();
    Ok(())
}

/// Sets seats' cumulative verified pay. A seat on hold is passed over, so that one dispute does not stop a batch.
#[inline(never)]
pub fn award(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let round: u32 = args.get()?;
    let awards = args.last_list::<SeatAmount>()?;

    let [verifier, mut job_account] = ctx.accounts()?;
    checks::signed(&verifier)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, seats) = data.split();
    checks::is_key(&verifier, &job.verifier)?;
    let (now, slot) = clock()?;
    let moment = Moment::of(job, now)?;
    require(!moment.ended(), Error::JobEnded)?;
    require(round >= 1 && round == job.round, Error::BadRound)?;
    require(slot > job.commit_slot, Error::CommitTooRecent)?;

    let (mut count, mut skipped, mut amount) = (0u16, 0u16, 0u64);
    for new in awards.iter() {
        let seat = at(seats, new.seat)?;
        require(seat.is_active(), Error::SeatNotActive)?;
        if new.amount == seat.awarded {
            continue;
        }
        if moment.on_hold(seat) {
            skipped += 1;
            continue;
        }
        require(new.amount > seat.awarded, Error::AwardBelowCurrent)?;
        require(new.amount <= seat.cap, Error::AwardAboveCap)?;
        moment.roll(seat);
        let rise = new.amount - seat.awarded;
        seat.fresh = add(seat.fresh, rise)?;
        seat.awarded = new.amount;
        amount = add(amount, rise)?;
        count += 1;
    }
    Awarded { job: &job_key, round, count, skipped, amount }.emit();
    Ok(())
}
