//! open_client, set_operator, withdraw: an owner's account and vault for one mint.
//!
//! Deposits are ordinary token transfers to the vault; there is no instruction for them.

use pinocchio::{cpi::Seed, Address, ProgramResult};

use crate::args::Args;
use crate::checks::{self, Context};
use crate::error::{add, require, Error};
use crate::events::{ClientOpened, OperatorSet, Withdrawn};
use crate::runtime::find_address;
use crate::state::{self, Client};
use crate::transfers::{client_seeds, create_vault, unused, NewAccount, Out, VAULT_LEN};

/// Creates the client account and its vault, with no operator, verifier or allowance.
#[inline(never)]
pub fn open_client(ctx: &Context) -> ProgramResult {
    Args(ctx.data).end()?;
    let [owner, payer, mint, mut client, vault, token, system] = ctx.accounts()?;
    checks::signed(&owner)?;
    checks::signed(&payer)?;
    checks::mint(&mint)?;
    checks::token_program(&token)?;
    checks::system_program(&system)?;
    let (address, bump) =
        find_address(&[b"client", owner.address().as_array(), mint.address().as_array()], ctx.program);
    checks::same(&client, &address)?;
    unused(&client)?;
    let (address, vault_bump) = find_address(&[b"vault", client.address().as_array()], ctx.program);
    checks::same(&vault, &address)?;
    unused(&vault)?;

    NewAccount {
        payer: &payer,
        account: &client,
        len: size_of::<Client>(),
        owner: ctx.program,
        seeds: &client_seeds(owner.address(), mint.address(), &[bump]),
    }
    .create()?;
    let vault_seeds =
        [Seed::from(b"vault"), Seed::from(client.address().as_array()), Seed::from(core::slice::from_ref(&vault_bump))];
    let new_vault =
        NewAccount { payer: &payer, account: &vault, len: VAULT_LEN, owner: &pinocchio_token::ID, seeds: &vault_seeds };
    create_vault(&new_vault, &mint, client.address())?;

    let key = *client.address();
    let mut stored = state::init::<Client>(&mut client)?;
    stored.owner = *owner.address();
    stored.mint = *mint.address();
    stored.vault = *vault.address();
    stored.bump = bump;
    ClientOpened { client: &key, owner: &stored.owner, mint: &stored.mint, vault: &stored.vault }.emit();
    Ok(())
}

/// Names the operator and what it may do. `expected_seq` refuses a replay, and any job opened in between.
#[inline(never)]
pub fn set_operator(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let operator: Address = args.get()?;
    let verifier: Address = args.get()?;
    let max_per_job: u64 = args.get()?;
    let allowance: u64 = args.get()?;
    let expires: i64 = args.get()?;
    let expected_seq: u64 = args.get()?;
    args.end()?;

    let [owner, mut client_account] = ctx.accounts()?;
    checks::signed(&owner)?;
    let key = *client_account.address();
    let mut client = state::write::<Client>(&mut client_account, ctx.program)?;
    checks::is_key(&owner, &client.owner)?;
    require(client.seq == expected_seq, Error::StaleSequence)?;

    client.operator = operator;
    client.verifier = verifier;
    client.max_per_job = max_per_job;
    client.allowance_left = allowance;
    client.allowance_expires = expires;
    client.seq = add(client.seq, 1)?;
    OperatorSet {
        client: &key,
        operator: &operator,
        verifier: &verifier,
        max_per_job,
        allowance,
        expires,
        seq: client.seq,
    }
    .emit();
    Ok(())
}

/// Takes free tokens out: everything in the client's vault is free, locked money is in the jobs' vaults.
#[inline(never)]
pub fn withdraw(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let amount: u64 = args.get()?;
    args.end()?;

    let [owner, client_account, vault, destination, token] = ctx.accounts()?;
    checks::signed(&owner)?;
    let client = state::read::<Client>(&client_account, ctx.program)?;
    checks::token_program(&token)?;
    checks::same(&vault, &client.vault)?;
    checks::is_key(&owner, &client.owner)?;
    let usable = destination.address() != vault.address() && checks::usable(&destination, &client.mint, None)?;
    require(usable, Error::BadTokenAccount)?;
    require(amount > 0, Error::ZeroAmount)?;
    require(amount <= checks::vault_amount(&vault)?, Error::InsufficientFunds)?;

    let (owner, mint, bump) = (client.owner, client.mint, [client.bump]);
    drop(client);
    let seeds = client_seeds(&owner, &mint, &bump);
    Out { vault: &vault, to: &destination, parent: &client_account, seeds: &seeds, amount }.send()?;
    Withdrawn { client: client_account.address(), destination: destination.address(), amount }.emit();
    Ok(())
}
