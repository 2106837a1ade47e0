//! Calls into the Token and System programs: moving tokens, closing a vault, creating program accounts.

use pinocchio::{
    cpi::{Seed, Signer},
    error::ProgramError,
    AccountView, Address, ProgramResult,
};
use pinocchio_system::instructions::{Allocate, Assign, CreateAccount, Transfer as LamportTransfer};
use pinocchio_token::instructions::{CloseAccount, InitializeAccount3, Transfer};

use crate::error::{require, Error};
use crate::runtime::rent_bytes;

/// The length of a classic token account.
pub const VAULT_LEN: usize = 165;

/// The seeds, with the bump, of the account that the program signs for.
pub type Seeds<'a> = [Seed<'a>; 4];

pub fn client_seeds<'a>(owner: &'a Address, mint: &'a Address, bump: &'a [u8; 1]) -> Seeds<'a> {
    [Seed::from(b"client"), Seed::from(owner.as_array()), Seed::from(mint.as_array()), Seed::from(bump)]
}

pub fn job_seeds<'a>(client: &'a Address, job_id: &'a [u8; 16], bump: &'a [u8; 1]) -> Seeds<'a> {
    [Seed::from(b"job"), Seed::from(client.as_array()), Seed::from(job_id), Seed::from(bump)]
}

/// A transfer out of a vault, signed by its parent.
pub struct Out<'a> {
    pub vault: &'a AccountView,
    pub to: &'a AccountView,
    pub parent: &'a AccountView,
    pub seeds: &'a Seeds<'a>,
    pub amount: u64,
}

impl Out<'_> {
    #[inline(never)]
    pub fn send(&self) -> ProgramResult {
        Transfer::new(self.vault, self.to, self.parent, self.amount).invoke_signed(&[Signer::from(self.seeds)])
    }
}

/// A transfer that a wallet signed for itself.
pub struct In<'a> {
    pub from: &'a AccountView,
    pub vault: &'a AccountView,
    pub wallet: &'a AccountView,
    pub amount: u64,
}

impl In<'_> {
    #[inline(never)]
    pub fn send(&self) -> ProgramResult {
        Transfer::new(self.from, self.vault, self.wallet, self.amount).invoke()
    }
}

/// Closes an empty vault; its lamports go to `to`.
#[inline(never)]
pub fn close_vault(vault: &AccountView, to: &AccountView, parent: &AccountView, seeds: &Seeds) -> ProgramResult {
    CloseAccount::new(vault, to, parent).invoke_signed(&[Signer::from(seeds)])
}

/// The lamports that keep an account of `len` bytes. The exemption threshold is 1.0 on clusters today and was 2.0.
pub fn rent_minimum(len: usize) -> Result<u64, ProgramError> {
    let bytes = rent_bytes().ok_or(ProgramError::UnsupportedSysvar)?;
    let (rate, rest) = bytes.split_first_chunk::<8>().ok_or(ProgramError::UnsupportedSysvar)?;
    let threshold = rest.first_chunk::<8>().ok_or(ProgramError::UnsupportedSysvar)?;
    let rate = u64::from_le_bytes(*rate);
    let times = match u64::from_le_bytes(*threshold) {
        0x3FF0_0000_0000_0000 => 0, // 1.0
        0x4000_0000_0000_0000 => 1, // 2.0
        _ => return Err(ProgramError::UnsupportedSysvar),
    };
    if rate > u32::MAX as u64 {
        return Err(ProgramError::UnsupportedSysvar);
    }
    // wrapping: the rate is below 2^32 and lengths are below 2^24.
    Ok((len as u64 + 128).wrapping_mul(rate) << times)
}

/// Transfers to `account` what it lacks for `len` bytes.
pub fn top_up(payer: &AccountView, account: &AccountView, len: usize) -> ProgramResult {
    let lamports = rent_minimum(len)?.saturating_sub(account.lamports());
    if lamports == 0 {
        return Ok(());
    }
    LamportTransfer { from: payer, to: account, lamports }.invoke()
}

/// A program address that is about to be created.
pub struct NewAccount<'a, 'b> {
    pub payer: &'a AccountView,
    pub account: &'a AccountView,
    pub len: usize,
    pub owner: &'a Address,
    pub seeds: &'a [Seed<'b>],
}

impl NewAccount<'_, '_> {
    /// Creates it. Somebody may have sent lamports there before: then the shortfall is added instead.
    #[inline(never)]
    pub fn create(&self) -> ProgramResult {
        let signer = [Signer::from(self.seeds)];
        let (to, space, owner) = (self.account, self.len as u64, self.owner);
        if to.lamports() == 0 {
            let lamports = rent_minimum(self.len)?;
            return CreateAccount { from: self.payer, to, lamports, space, owner }.invoke_signed(&signer);
        }
        top_up(self.payer, to, self.len)?;
        Allocate { account: to, space }.invoke_signed(&signer)?;
        Assign { account: to, owner }.invoke_signed(&signer)
    }
}

/// Creates the token account of `mint` at `["vault", parent]`, owned by `parent`.
#[inline(never)]
pub fn create_vault(new: &NewAccount, mint: &AccountView, parent: &Address) -> ProgramResult {
    new.create()?;
    InitializeAccount3::new(new.account, mint, parent).invoke()
}

/// An address that nobody has used yet: owned by the System program.
pub fn unused(account: &AccountView) -> ProgramResult {
    require(account.owned_by(&pinocchio_system::ID), Error::AccountExists)
}
