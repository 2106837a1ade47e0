//! dispute, appeal, resolve: the client objects to an award, a contributor to a missing one, the arbiter rules.
//!
//! Silence decides: an unanswered dispute upholds the award after the arbiter's window, an unanswered appeal upholds the
//! verifier. So nothing waits for ever.

use pinocchio::ProgramResult;

use crate::args::Args;
use crate::checks::{self, Context};
use crate::error::{add, require, Error};
use crate::events::{Appealed, Disputed, Resolved};
use crate::rules::{clock, Moment};
use crate::state::{self, at, Client, Config, JobData, APPEAL_NONE, APPEAL_OPEN, APPEAL_USED};

/// Puts immature awards and bonds on hold. Seats with nothing to dispute are passed over, so that a bulk dispute
/// survives a seat that just matured.
#[inline(never)]
pub fn dispute(ctx: &Context) -> ProgramResult {
    let indexes = Args(ctx.data).last_list::<u16>()?;
    let [authority, client_account, mut job_account] = ctx.accounts()?;
    checks::signed(&authority)?;
    let client = state::read::<Client>(&client_account, ctx.program)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, seats) = data.split();
    checks::job_of(job, &client_account)?;
    checks::client_authority(&authority, &client)?;
    let moment = Moment::of(job, clock()?.0)?;

    let mut any = false;
    for index in indexes.iter() {
        let seat = at(seats, index)?;
        if moment.on_hold(seat) {
            continue;
        }
        moment.roll(seat);
        let immature = add(seat.fresh, seat.aging)?;
        if immature > 0 || (seat.bond_held() > 0 && moment.now < moment.appeals_end()) {
            seat.disputed_at = moment.now;
            any = true;
            Disputed { job: &job_key, seat: index, amount: immature, until: moment.dispute_until() }.emit();
        }
    }
    require(any, Error::NothingToDispute)
}

/// A contributor says that it was awarded too little. Once per seat, in the window after the deadline; until it is
/// decided the seat's whole cap stays reserved. `amount` is evidence, not state.
#[inline(never)]
pub fn appeal(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let index: u16 = args.get()?;
    let amount: u64 = args.get()?;
    args.end()?;

    let [wallet, mut job_account] = ctx.accounts()?;
    checks::signed(&wallet)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, seat) = data.seat(index)?;
    checks::is_key(&wallet, &seat.wallet)?;
    let moment = Moment::of(job, clock()?.0)?;
    require(moment.ended() && moment.now < moment.appeals_end(), Error::AppealClosed)?;
    require(seat.is_active(), Error::SeatNotActive)?;
    require(seat.appeal == APPEAL_NONE, Error::AlreadyAppealed)?;
    require(seat.awarded < amount && amount <= seat.cap, Error::AwardOutOfRange)?;

    seat.appeal = APPEAL_OPEN;
    Appealed { job: &job_key, seat: index, amount, until: moment.appeals_lapse() }.emit();
    Ok(())
}

/// The arbiter rules: between what matured and the award as it was, or up to the cap under an appeal; and takes from
/// the bond. What it leaves is payable at once.
#[inline(never)]
pub fn resolve(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let index: u16 = args.get()?;
    let awarded: u64 = args.get()?;
    let slash: u64 = args.get()?;
    args.end()?;

    let [arbiter, config, mut job_account] = ctx.accounts()?;
    checks::signed(&arbiter)?;
    let config = state::read::<Config>(&config, ctx.program)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, seat) = data.seat(index)?;
    checks::arbiter(&arbiter, &config)?;
    let moment = Moment::of(job, clock()?.0)?;
    let appealed = moment.appeal_live(seat);
    require(appealed || moment.on_hold(seat), Error::NothingToResolve)?;
    moment.roll(seat);
    let before = seat.awarded;
    let most = if appealed { seat.cap } else { before };
    require(seat.matured()? <= awarded && awarded <= most, Error::AwardOutOfRange)?;
    require(slash <= seat.bond_held(), Error::SlashAboveBond)?;

    if awarded < before {
        // Struck for good: later awards cannot restore it unless the client raises this cap again.
        job.caps_total -= seat.cap - awarded;
        seat.cap = awarded;
    }
    seat.awarded = awarded;
    seat.fresh = 0;
    seat.aging = 0;
    seat.disputed_at = 0;
    if seat.appeal == APPEAL_OPEN {
        seat.appeal = APPEAL_USED;
    }
    seat.bond -= slash;
    Resolved { job: &job_key, seat: index, before, after: awarded, slashed: slash }.emit();
    Ok(())
}
