//! pay and pay_to: matured awards and free bonds leave the job's vault for the seat's wallet.

use pinocchio::{error::ProgramError, AccountView, Address, ProgramResult};

use crate::args::{Args, SeatBump};
use crate::checks::{self, Context};
use crate::error::{add, require, Error};
use crate::events::{Paid, PaySkipped};
use crate::rules::{clock, Moment};
use crate::runtime::sha256;
use crate::state::{Job, JobData, Seat};
use crate::transfers::{job_seeds, Out};

const MARKER: &[u8; 21] = b"ProgramDerivedAddress";

/// `address` is this wallet's associated token account under this bump. A wrong bump names an account that cannot exist
/// (nobody can sign for it), so it needs no check of its own.
fn is_associated(address: &Address, wallet: &Address, mint: &Address, bump: u8) -> bool {
    let hash = sha256(&[
        wallet.as_array(),
        pinocchio_token::ID.as_array(),
        mint.as_array(),
        &[bump],
        checks::ASSOCIATED_TOKEN.as_array(),
        MARKER,
    ]);
    address == &Address::new_from_array(hash)
}

/// Books the payment of everything that is payable on a rolled seat.
fn book(job: &mut Job, seat: &mut Seat, award: u64, bond: u64) -> ProgramResult {
    seat.paid = add(seat.paid, award)?;
    seat.bond -= bond;
    job.paid_total = add(job.paid_total, award)?;
    Ok(())
}

/// What the transfers of one call share.
struct Source<'a> {
    program: &'a Address,
    now: i64,
    mint: Address,
    client: Address,
    job_id: [u8; 16],
    bump: [u8; 1],
    vault: &'a AccountView,
}

impl Source<'_> {
    fn send(&self, job: &AccountView, to: &AccountView, amount: u64) -> ProgramResult {
        let seeds = job_seeds(&self.client, &self.job_id, &self.bump);
        Out { vault: self.vault, to, parent: job, seeds: &seeds, amount }.send()
    }

    /// One item of `pay`. The job is borrowed until the books are written and released before the transfer.
    #[inline(never)]
    fn pay_one(&self, account: &mut AccountView, to: &AccountView, item: &SeatBump) -> ProgramResult {
        let job_key = *account.address();
        let (wallet, award, bond) = {
            let mut data = JobData::load(account, self.program)?;
            let (job, seat) = data.seat(item.seat)?;
            let moment = Moment::of(job, self.now)?;
            moment.roll(seat);
            let (award, bond) = moment.payable(seat)?;
            if award == 0 && bond == 0 {
                return Ok(());
            }
            require(is_associated(to.address(), &seat.wallet, &self.mint, item.bump), Error::WrongAddress)?;
            if !checks::usable(to, &self.mint, Some(&seat.wallet))? {
                PaySkipped { job: &job_key, seat: item.seat }.emit();
                return Ok(());
            }
            book(job, seat, award, bond)?;
            (seat.wallet, award, bond)
        };
        self.send(account, to, add(award, bond)?)?;
        Paid { job: &job_key, wallet: &wallet, seat: item.seat, award, bond }.emit();
        Ok(())
    }
}

/// Checks the accounts that both instructions share, and reads what a payment needs.
fn source<'a>(
    ctx: &'a Context<'a>,
    job: &mut AccountView,
    vault: &'a AccountView,
    token: &AccountView,
) -> Result<Source<'a>, ProgramError> {
    let data = JobData::load(job, ctx.program)?;
    checks::token_program(token)?;
    checks::same(vault, &data.head().vault)?;
    let head = data.head();
    Ok(Source {
        program: ctx.program,
        now: clock()?.0,
        mint: head.mint,
        client: head.client,
        job_id: head.job_id,
        bump: [head.bump],
        vault,
    })
}

/// Pays seats to their associated token accounts. Anybody may call it; an account that is missing or frozen is passed
/// over, so that it delays nobody else.
#[inline(never)]
pub fn pay(ctx: &Context) -> ProgramResult {
    let items = Args(ctx.data).last_list::<SeatBump>()?;
    let [job, vault, token, destinations @ ..] = ctx.accounts else {
        return Err(ProgramError::NotEnoughAccountKeys);
    };
    require(destinations.len() == items.count(), Error::InvalidData)?;
    let mut job = *job;
    let source = source(ctx, &mut job, vault, token)?;
    for (item, to) in items.iter().zip(destinations) {
        source.pay_one(&mut job, to, &item)?;
    }
    Ok(())
}

/// Pays one seat wherever its wallet says: the way out for a frozen or lost associated account.
#[inline(never)]
pub fn pay_to(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let index: u16 = args.get()?;
    args.end()?;

    let [wallet, mut job_account, vault, to, token] = ctx.accounts()?;
    checks::signed(&wallet)?;
    let source = source(ctx, &mut job_account, &vault, &token)?;
    let job_key = *job_account.address();
    let (award, bond) = {
        let mut data = JobData::load(&mut job_account, ctx.program)?;
        let (job, seat) = data.seat(index)?;
        checks::is_key(&wallet, &seat.wallet)?;
        let usable = to.address() != vault.address() && checks::usable(&to, &source.mint, None)?;
        require(usable, Error::BadTokenAccount)?;
        let moment = Moment::of(job, source.now)?;
        moment.roll(seat);
        let (award, bond) = moment.payable(seat)?;
        require(award > 0 || bond > 0, Error::NothingToPay)?;
        book(job, seat, award, bond)?;
        (award, bond)
    };
    source.send(&job_account, &to, add(award, bond)?)?;
    Paid { job: &job_key, wallet: wallet.address(), seat: index, award, bond }.emit();
    Ok(())
}
