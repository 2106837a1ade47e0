//! assign_seats, raise_caps, accept_seat: who may earn how much, and against which bond.

use pinocchio::ProgramResult;

use crate::args::{Args, SeatAmount, SeatInit};
use crate::checks::{self, Context};
use crate::error::{add, require, Error};
use crate::events::{CapsRaised, SeatAccepted, SeatsAssigned};
use crate::rules::{clock, fee};
use crate::state::{self, at, grow_job, job_len, Client, Job, JobData, MAX_SEATS, SEAT_ACTIVE, SEAT_ASKED};
use crate::transfers::{top_up, In};

/// Everything that could be awarded, and the fee on it, is covered by the budget.
fn within_budget(job: &Job) -> ProgramResult {
    require(add(job.caps_total, fee(job.caps_total, job.fee_bps))? <= job.budget, Error::OverBudget)
}

/// Appends seats. `first` must be the number of seats there are, so that a retry cannot append them twice.
#[inline(never)]
pub fn assign_seats(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let first: u16 = args.get()?;
    let new = args.last_list::<SeatInit>()?;

    let [authority, payer, client_account, mut job_account, system] = ctx.accounts()?;
    checks::signed(&authority)?;
    checks::signed(&payer)?;
    let client = state::read::<Client>(&client_account, ctx.program)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    checks::system_program(&system)?;
    let (job, seats) = data.split();
    checks::job_of(job, &client_account)?;
    checks::client_authority(&authority, &client)?;
    require(clock()?.0 < job.deadline, Error::JobEnded)?;
    require(first as usize == seats.len(), Error::BadSeatIndex)?;
    let total = seats.len() + new.count();
    require(total <= MAX_SEATS as usize, Error::TooManySeats)?;
    for seat in new.iter() {
        job.caps_total = add(job.caps_total, seat.cap)?;
    }
    within_budget(job)?;
    let caps_total = job.caps_total;
    drop(data);

    let total = total as u16; // at most MAX_SEATS
    top_up(&payer, &job_account, job_len(total))?;
    grow_job(&mut job_account, total)?;
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (_, seats) = data.split();
    for (seat, new) in seats.iter_mut().skip(first as usize).zip(new.iter()) {
        seat.wallet = new.wallet;
        seat.cap = new.cap;
        seat.bond = new.bond;
        seat.state = if new.bond == 0 { SEAT_ACTIVE } else { SEAT_ASKED };
    }
    SeatsAssigned { job: &job_key, first, count: total - first, caps_total }.emit();
    Ok(())
}

/// Sets new, higher caps. Only a ruling lowers one, so that a client cannot erase a claim to unpaid work.
#[inline(never)]
pub fn raise_caps(ctx: &Context) -> ProgramResult {
    let caps = Args(ctx.data).last_list::<SeatAmount>()?;

    let [authority, client_account, mut job_account] = ctx.accounts()?;
    checks::signed(&authority)?;
    let client = state::read::<Client>(&client_account, ctx.program)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, seats) = data.split();
    checks::job_of(job, &client_account)?;
    checks::client_authority(&authority, &client)?;
    require(clock()?.0 < job.deadline, Error::JobEnded)?;

    for new in caps.iter() {
        let seat = at(seats, new.seat)?;
        require(new.amount >= seat.cap, Error::CapBelowCurrent)?;
        job.caps_total = add(job.caps_total, new.amount - seat.cap)?;
        seat.cap = new.amount;
    }
    within_budget(job)?;
    CapsRaised { job: &job_key, count: caps.count() as u16, caps_total: job.caps_total }.emit();
    Ok(())
}

/// Posts the bond that the seat asks for; the wallet names it, so that it signs what it pays.
#[inline(never)]
pub fn accept_seat(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let index: u16 = args.get()?;
    let bond: u64 = args.get()?;
    args.end()?;

    let [wallet, source, mut job_account, vault, token] = ctx.accounts()?;
    checks::signed(&wallet)?;
    let job_key = *job_account.address();
    {
        let mut data = JobData::load(&mut job_account, ctx.program)?;
        checks::token_program(&token)?;
        checks::same(&vault, &data.head().vault)?;
        let (job, seat) = data.seat(index)?;
        checks::is_key(&wallet, &seat.wallet)?;
        require(clock()?.0 < job.deadline, Error::JobEnded)?;
        require(!seat.is_active(), Error::SeatAlreadyActive)?;
        require(source.address() != vault.address(), Error::BadTokenAccount)?;
        require(bond == seat.bond, Error::TermsChanged)?;
        seat.state = SEAT_ACTIVE;
    }
    In { from: &source, vault: &vault, wallet: &wallet, amount: bond }.send()?;
    SeatAccepted { job: &job_key, seat: index, bond }.emit();
    Ok(())
}
