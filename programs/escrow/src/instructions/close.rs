//! close_job: takes the fee, refunds the client what nobody is owed, and erases a job when nothing is owed any more.
//! Anybody may call it, as often as they like.

use pinocchio::{error::ProgramError, AccountView, Address, ProgramResult};

use crate::args::Args;
use crate::checks::{self, Context};
use crate::error::{add, require, sub, Error};
use crate::events::JobSwept;
use crate::rules::{clock, fee, id_time, Moment};
use crate::runtime::find_address;
use crate::state::{self, Client, Config, JobData, OPEN_WINDOW};
use crate::transfers::{close_vault, job_seeds, Out};

/// What the sweep does, decided before anything moves.
struct Sweep {
    fee_due: u64,
    /// What must stay: for seats, their bonds, and the fee on what they may still be paid.
    kept: u64,
    nothing_owed: bool,
    forfeited: bool,
    id_is_old: bool,
    client: Address,
    mint: Address,
    job_id: [u8; 16],
    bump: [u8; 1],
}

/// Checks the time, settles the fee in the books and says what is owed.
fn settle(data: &mut JobData, now: i64) -> Result<Sweep, ProgramError> {
    let (job, seats) = data.split();
    let moment = Moment::of(job, now)?;
    require(now >= moment.sweep_from(seats.len()), Error::JobNotEnded)?;
    let forfeited = now >= moment.forfeit_from();
    let (mut owed, mut bonds) = (0, 0);
    if !forfeited {
        for seat in seats.iter() {
            owed = add(owed, moment.owed(seat)?)?;
            bonds = add(bonds, seat.bond_held())?;
        }
    }
    let fee_due = sub(fee(job.paid_total, job.fee_bps), job.fee_paid)?;
    job.fee_paid += fee_due;
    let reserve = sub(fee(add(job.paid_total, owed)?, job.fee_bps), job.fee_paid)?;
    Ok(Sweep {
        fee_due,
        kept: add(add(owed, bonds)?, reserve)?,
        nothing_owed: owed == 0 && bonds == 0,
        forfeited,
        id_is_old: now >= id_time(&job.job_id) + OPEN_WINDOW,
        client: job.client,
        mint: job.mint,
        job_id: job.job_id,
        bump: [job.bump],
    })
}

/// Moves every lamport out and leaves an empty account of the System program.
fn erase(account: &mut AccountView, to: &mut AccountView) -> ProgramResult {
    account.try_borrow_mut()?.fill(0);
    to.set_lamports(add(to.lamports(), account.lamports())?);
    account.set_lamports(0);
    account.close()
}

#[inline(never)]
pub fn close_job(ctx: &Context) -> ProgramResult {
    Args(ctx.data).end()?;
    let [config, client_account, client_vault, mut job_account, vault, treasury_token, mut rent_payer, token] =
        ctx.accounts()?;
    let config = state::read::<Config>(&config, ctx.program)?;
    let client = state::read::<Client>(&client_account, ctx.program)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    checks::token_program(&token)?;
    let head = data.head();
    checks::job_of(head, &client_account)?;
    checks::same(&client_vault, &client.vault)?;
    checks::same(&vault, &head.vault)?;
    checks::same(&rent_payer, &head.rent_payer)?;
    // Searched, not taken from the caller: no other bump can name an account that does not exist and dodge the fee.
    let seeds = [config.treasury.as_array().as_slice(), pinocchio_token::ID.as_array(), head.mint.as_array()];
    checks::same(&treasury_token, &find_address(&seeds, &checks::ASSOCIATED_TOKEN).0)?;
    let sweep = settle(&mut data, clock()?.0)?;
    drop(data);

    let seeds = job_seeds(&sweep.client, &sweep.job_id, &sweep.bump);
    let out = |to, amount| Out { vault: &vault, to, parent: &job_account, seeds: &seeds, amount };
    let (mut fee_sent, mut waived) = (0, 0);
    if sweep.fee_due > 0 {
        if checks::usable(&treasury_token, &sweep.mint, Some(&config.treasury))? {
            out(&treasury_token, sweep.fee_due).send()?;
            fee_sent = sweep.fee_due;
        } else {
            waived = sweep.fee_due;
        }
    }
    // The amount is the vault's own, so stray deposits go to the client and cannot block closing.
    let free = sub(checks::vault_amount(&vault)?, sweep.kept)?;
    let mut to_client = 0;
    if free > 0 && checks::usable(&client_vault, &sweep.mint, None)? {
        out(&client_vault, free).send()?;
        to_client = free;
    }

    let closed = sweep.nothing_owed && sweep.id_is_old && checks::vault_amount(&vault)? == 0;
    if closed {
        close_vault(&vault, &rent_payer, &job_account, &seeds)?;
        erase(&mut job_account, &mut rent_payer)?;
    }
    JobSwept { job: &job_key, to_client, fee: fee_sent, waived, forfeited: sweep.forfeited, closed }.emit();
    Ok(())
}
