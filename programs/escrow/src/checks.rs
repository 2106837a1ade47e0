//! Every check on who signed and which account was passed. Instructions call these, in the program's one order: data
//! shape, number of accounts, signers, owner/discriminator/length, addresses, authority, time and state, amounts.

use pinocchio::{error::ProgramError, AccountView, Address, ProgramResult};

use crate::error::{require, Error};
use crate::state::{Client, Config, Job, ZERO};

/// The Token-2022 program, named only to refuse it clearly.
pub const TOKEN_2022: Address = Address::from_str_const("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb");
/// The Associated Token Account program.
pub const ASSOCIATED_TOKEN: Address = Address::from_str_const("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL");
/// The loader that owns upgradeable programs' ProgramData accounts.
pub const UPGRADEABLE_LOADER: Address = Address::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111");

const MINT_LEN: usize = 82;
const TOKEN_ACCOUNT_LEN: usize = 165;

/// What one instruction was called with.
pub struct Context<'a> {
    pub program: &'a Address,
    pub accounts: &'a [AccountView],
    pub data: &'a [u8],
}

impl<'a> Context<'a> {
    /// The first `N` accounts; the runtime's `NotEnoughAccountKeys` when there are fewer. Views are pointers: copies of
    /// one, and duplicates in the list, share one borrow flag.
    #[inline(always)]
    pub fn accounts<const N: usize>(&self) -> Result<[AccountView; N], ProgramError> {
        self.accounts.first_chunk::<N>().copied().ok_or(ProgramError::NotEnoughAccountKeys)
    }
}

pub fn signed(account: &AccountView) -> ProgramResult {
    require(account.is_signer(), Error::MissingSignature)
}

pub fn same(account: &AccountView, expected: &Address) -> ProgramResult {
    require(account.address() == expected, Error::WrongAddress)
}

pub fn token_program(account: &AccountView) -> ProgramResult {
    require(account.address() == &pinocchio_token::ID, Error::UnsupportedTokenProgram)
}

pub fn system_program(account: &AccountView) -> ProgramResult {
    same(account, &pinocchio_system::ID)
}

/// A key that acts by itself: never the zero key, which stands for "nobody".
pub fn is_key(account: &AccountView, key: &Address) -> ProgramResult {
    require(account.address() == key && key != &ZERO, Error::Unauthorized)
}

/// The owner, or the operator that the client account names now.
pub fn client_authority(account: &AccountView, client: &Client) -> ProgramResult {
    let key = account.address();
    require(key == &client.owner || (key == &client.operator && key != &ZERO), Error::Unauthorized)
}

pub fn arbiter(account: &AccountView, config: &Config) -> ProgramResult {
    is_key(account, &config.arbiter)
}

/// The job belongs to this client account.
pub fn job_of(job: &Job, client: &AccountView) -> ProgramResult {
    same(client, &job.client)
}

/// Fee and windows of a config are in bounds.
pub fn config_bounds(config: &Config) -> ProgramResult {
    require(config.fee_bps <= crate::state::MAX_FEE_BPS, Error::FeeTooHigh)?;
    require(
        1 <= config.min_window
            && config.min_window <= config.arbiter_window
            && config.arbiter_window <= crate::state::MAX_WINDOW,
        Error::BadWindow,
    )
}

/// An initialised mint of the classic Token program.
pub fn mint(account: &AccountView) -> ProgramResult {
    require(!account.owned_by(&TOKEN_2022), Error::UnsupportedTokenProgram)?;
    require(account.owned_by(&pinocchio_token::ID) && account.data_len() == MINT_LEN, Error::BadMint)?;
    require(account.try_borrow()?.get(45) == Some(&1), Error::BadMint)
}

/// Whether a transfer of `mint` into this account works and reaches `owner` (any owner when none is named): owned by
/// the classic Token program, 165 bytes, initialised, not frozen, of this mint.
pub fn usable(account: &AccountView, mint: &Address, owner: Option<&Address>) -> Result<bool, ProgramError> {
    if !account.owned_by(&pinocchio_token::ID) || account.data_len() != TOKEN_ACCOUNT_LEN {
        return Ok(false);
    }
    let data = account.try_borrow()?;
    Ok(data.get(108) == Some(&1)
        && address_at(&data, 0, mint)
        && owner.is_none_or(|owner| address_at(&data, 32, owner)))
}

/// The amount in a vault: a token account at an address that the program made and stored.
pub fn vault_amount(vault: &AccountView) -> Result<u64, ProgramError> {
    let data = vault.try_borrow()?;
    let bytes = bytes_at::<8>(&data, 64).ok_or(ProgramError::from(Error::BadTokenAccount))?;
    Ok(u64::from_le_bytes(*bytes))
}

/// The `N` bytes at `offset`. Slices of unknown length are read this way everywhere: an index that can fail would bring
/// number formatting into the program, which does not link on this target.
pub fn bytes_at<const N: usize>(data: &[u8], offset: usize) -> Option<&[u8; N]> {
    data.get(offset..)?.first_chunk::<N>()
}

/// Whether the 32 bytes at `offset` are this address.
pub fn address_at(data: &[u8], offset: usize, expected: &Address) -> bool {
    bytes_at(data, offset).is_some_and(|bytes| &Address::new_from_array(*bytes) == expected)
}
