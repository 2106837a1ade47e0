//! open_job and finish_job: locking a budget, and ending early.

use pinocchio::{cpi::Seed, Address, ProgramResult};

use crate::args::Args;
use crate::checks::{self, Context};
use crate::error::{add, require, Error};
use crate::events::{JobFinished, JobOpened};
use crate::rules::{clock, id_time, Moment};
use crate::runtime::find_address;
use crate::state::{self, Client, Config, Job, JobData, MAX_JOB, MAX_WINDOW, OPEN_SKEW, OPEN_WINDOW};
use crate::transfers::{client_seeds, create_vault, job_seeds, unused, NewAccount, Out, VAULT_LEN};

struct OpenJob {
    job_id: [u8; 16],
    verifier: Address,
    spec_hash: [u8; 32],
    budget: u64,
    deadline: i64,
    dispute_window: u32,
    arbiter_window: u32,
    fee_bps: u16,
}

/// Locks `budget` for one job. The id carries its own time, so that it can be opened once only: inside a day of that
/// time while the account exists, and never after, because the account is erased only when the day is over.
#[inline(never)]
pub fn open_job(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let terms = OpenJob {
        job_id: args.get()?,
        verifier: args.get()?,
        spec_hash: args.get()?,
        budget: args.get()?,
        deadline: args.get()?,
        dispute_window: args.get()?,
        arbiter_window: args.get()?,
        fee_bps: args.get()?,
    };
    args.end()?;

    let [authority, payer, config, mut client_account, client_vault, mint, mut job_account, vault, token, system] =
        ctx.accounts()?;
    checks::signed(&authority)?;
    checks::signed(&payer)?;
    let config = state::read::<Config>(&config, ctx.program)?;
    let client_key = *client_account.address();
    let mut client = state::write::<Client>(&mut client_account, ctx.program)?;
    checks::token_program(&token)?;
    checks::system_program(&system)?;
    checks::same(&client_vault, &client.vault)?;
    checks::same(&mint, &client.mint)?;
    let (address, bump) = find_address(&[b"job", client_key.as_array(), &terms.job_id], ctx.program);
    checks::same(&job_account, &address)?;
    unused(&job_account)?;
    let (address, vault_bump) = find_address(&[b"vault", job_account.address().as_array()], ctx.program);
    checks::same(&vault, &address)?;
    unused(&vault)?;
    checks::client_authority(&authority, &client)?;

    let (now, _) = clock()?;
    let opens = id_time(&terms.job_id);
    require(opens - OPEN_SKEW <= now && now < opens + OPEN_WINDOW, Error::JobIdTime)?;
    require(now < terms.deadline && terms.deadline <= now + MAX_JOB, Error::BadDeadline)?;
    let window = terms.dispute_window;
    require(config.min_window <= window && window <= MAX_WINDOW, Error::BadWindow)?;
    // The signer agreed to these; a config changed meanwhile must not bind it.
    let agreed = terms.fee_bps == config.fee_bps && terms.arbiter_window == config.arbiter_window;
    require(agreed, Error::TermsChanged)?;
    require(terms.budget > 0, Error::ZeroAmount)?;
    let by_operator = authority.address() != &client.owner;
    if by_operator {
        require(now < client.allowance_expires, Error::AllowanceExpired)?;
        let within = terms.budget <= client.max_per_job && terms.budget <= client.allowance_left;
        require(within, Error::AllowanceExceeded)?;
        require(terms.verifier == client.verifier, Error::VerifierNotApproved)?;
        client.allowance_left -= terms.budget;
    }
    require(terms.budget <= checks::vault_amount(&client_vault)?, Error::InsufficientFunds)?;
    client.seq = add(client.seq, 1)?;
    let (owner, client_bump) = (client.owner, [client.bump]);
    drop(client);

    NewAccount {
        payer: &payer,
        account: &job_account,
        len: size_of::<Job>(),
        owner: ctx.program,
        seeds: &job_seeds(&client_key, &terms.job_id, &[bump]),
    }
    .create()?;
    let vault_seeds = [
        Seed::from(b"vault"),
        Seed::from(job_account.address().as_array()),
        Seed::from(core::slice::from_ref(&vault_bump)),
    ];
    let new_vault =
        NewAccount { payer: &payer, account: &vault, len: VAULT_LEN, owner: &pinocchio_token::ID, seeds: &vault_seeds };
    create_vault(&new_vault, &mint, job_account.address())?;

    let job_key = *job_account.address();
    {
        let mut job = state::init::<Job>(&mut job_account)?;
        job.client = client_key;
        job.mint = *mint.address();
        job.vault = *vault.address();
        job.verifier = terms.verifier;
        job.rent_payer = *payer.address();
        job.spec_hash = terms.spec_hash;
        job.job_id = terms.job_id;
        job.budget = terms.budget;
        job.opened_at = now;
        job.deadline = terms.deadline;
        job.dispute_window = window;
        job.arbiter_window = terms.arbiter_window;
        job.fee_bps = terms.fee_bps;
        job.bump = bump;
    }
    let seeds = client_seeds(&owner, mint.address(), &client_bump);
    Out { vault: &client_vault, to: &vault, parent: &client_account, seeds: &seeds, amount: terms.budget }.send()?;
    JobOpened {
        job: &job_key,
        client: &client_key,
        job_id: &terms.job_id,
        verifier: &terms.verifier,
        budget: terms.budget,
        deadline: terms.deadline,
        dispute_window: window,
        arbiter_window: terms.arbiter_window,
        fee_bps: terms.fee_bps,
        by_operator,
    }
    .emit();
    Ok(())
}

/// Moves the deadline to one dispute window from now, never later than it was: what is verified and not yet awarded can
/// still be awarded, so that ending a job cannot cut off pay for work done.
#[inline(never)]
pub fn finish_job(ctx: &Context) -> ProgramResult {
    Args(ctx.data).end()?;
    let [authority, client_account, mut job_account] = ctx.accounts()?;
    checks::signed(&authority)?;
    let client = state::read::<Client>(&client_account, ctx.program)?;
    let job_key = *job_account.address();
    let mut data = JobData::load(&mut job_account, ctx.program)?;
    let (job, _) = data.split();
    checks::job_of(job, &client_account)?;
    checks::client_authority(&authority, &client)?;
    let (now, _) = clock()?;
    let moment = Moment::of(job, now)?;
    require(!moment.ended(), Error::JobEnded)?;

    job.deadline = job.deadline.min(now + job.dispute_window as i64);
    JobFinished { job: &job_key, deadline: job.deadline }.emit();
    Ok(())
}
