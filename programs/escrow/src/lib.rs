//! The escrow program: holds a client's tokens for one training job and pays contributors for verified work.
//!
//! Where to read: `state.rs` is every byte that is stored, `rules.rs` the money rules, `checks.rs` every check on
//! accounts and keys, `instructions/` what each instruction does, in one order everywhere: data shape, number of
//! accounts, signers, owner/discriminator/length, addresses, authority, time and state, amounts, effects. State is
//! written before tokens leave. The README has the picture, the threats and what this program does not promise.
//!
//! No allocator, no floating point, no 128-bit arithmetic; additions and subtractions are overflow-checked by the build.

#![cfg_attr(not(test), no_std)]

pub mod args;
pub mod checks;
pub mod discriminator;
pub mod error;
pub mod events;
pub mod instructions;
pub mod rules;
pub mod runtime;
pub mod state;
pub mod transfers;

use pinocchio::{AccountView, Address, ProgramResult};

use checks::Context;
use error::Error;
use instructions as ix;

pinocchio::program_entrypoint!(process);
pinocchio::no_allocator!();
#[cfg(not(test))]
pinocchio::nostd_panic_handler!();

macro_rules! dispatch {
    ($context:ident, $tag:ident: $($name:ident => $handler:path)*) => {{
        $(
            #[allow(non_upper_case_globals)]
            const $name: u64 = u64::from_le_bytes(discriminator!("global", stringify!($name)));
            if $tag == $name {
                return $handler(&$context);
            }
        )*
        Err(Error::InvalidData.into())
    }};
}

/// Reads the discriminator and calls the instruction's handler. The ones that run most often come first.
#[inline(always)]
pub fn process(program: &Address, accounts: &mut [AccountView], data: &[u8]) -> ProgramResult {
    let (tag, data) = data.split_first_chunk::<8>().ok_or(Error::InvalidData)?;
    let tag = u64::from_le_bytes(*tag);
    let context = Context { program, accounts, data };
    dispatch! { context, tag:
        award => ix::rounds::award
        pay => ix::payment::pay
        commit_round => ix::rounds::commit_round
        raise_caps => ix::seats::raise_caps
        assign_seats => ix::seats::assign_seats
        accept_seat => ix::seats::accept_seat
        pay_to => ix::payment::pay_to
        open_job => ix::job::open_job
        finish_job => ix::job::finish_job
        close_job => ix::close::close_job
        dispute => ix::disputes::dispute
        appeal => ix::disputes::appeal
        resolve => ix::disputes::resolve
        withdraw => ix::client::withdraw
        set_operator => ix::client::set_operator
        open_client => ix::client::open_client
        set_config => ix::config::set_config
        accept_admin => ix::config::accept_admin
        initialize => ix::config::initialize
    }
}
