//! initialize, set_config, accept_admin: the terms of later jobs. Open jobs keep the fee and windows they copied.

use pinocchio::{cpi::Seed, Address, ProgramResult};

use crate::args::Args;
use crate::checks::{self, Context};
use crate::error::{require, Error};
use crate::events::ConfigChanged;
use crate::runtime::find_address;
use crate::state::{self, Config, ZERO};
use crate::transfers::{unused, NewAccount};

/// Creates the config. Only the key that may upgrade the program: whoever holds it can change every rule anyway.
#[inline(never)]
pub fn initialize(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let admin: Address = args.get()?;
    let arbiter: Address = args.get()?;
    let treasury: Address = args.get()?;
    let fee_bps: u16 = args.get()?;
    let min_window: u32 = args.get()?;
    let arbiter_window: u32 = args.get()?;
    args.end()?;
    require(admin != ZERO, Error::InvalidData)?;

    let [authority, payer, program_data, mut config, system] = ctx.accounts()?;
    checks::signed(&authority)?;
    checks::signed(&payer)?;
    require(program_data.owned_by(&checks::UPGRADEABLE_LOADER), Error::WrongOwner)?;
    checks::system_program(&system)?;
    let (address, _) = find_address(&[ctx.program.as_array()], &checks::UPGRADEABLE_LOADER);
    checks::same(&program_data, &address)?;
    let (address, bump) = find_address(&[b"config"], ctx.program);
    checks::same(&config, &address)?;
    unused(&config)?;
    {
        // A ProgramData account: tag u32 = 3, slot u64, option tag u8 = 1, upgrade authority.
        let data = program_data.try_borrow()?;
        let is_authority = checks::bytes_at::<4>(&data, 0) == Some(&[3, 0, 0, 0])
            && data.get(12) == Some(&1)
            && checks::address_at(&data, 13, authority.address());
        require(is_authority, Error::Unauthorized)?;
    }

    let terms = Config {
        discriminator: [0; 8],
        admin,
        pending_admin: ZERO,
        arbiter,
        treasury,
        min_window,
        arbiter_window,
        fee_bps,
        bump,
        reserved: [0; 5],
    };
    checks::config_bounds(&terms)?;
    NewAccount {
        payer: &payer,
        account: &config,
        len: size_of::<Config>(),
        owner: ctx.program,
        seeds: &[Seed::from(b"config"), Seed::from(&[bump])],
    }
    .create()?;
    let mut stored = state::init::<Config>(&mut config)?;
    let discriminator = stored.discriminator;
    *stored = Config { discriminator, ..terms };
    emit(&stored);
    Ok(())
}

/// Changes what is given; the zero `pending_admin` cancels a hand-over.
#[inline(never)]
pub fn set_config(ctx: &Context) -> ProgramResult {
    let mut args = Args(ctx.data);
    let arbiter: Option<Address> = args.option()?;
    let treasury: Option<Address> = args.option()?;
    let fee_bps: Option<u16> = args.option()?;
    let min_window: Option<u32> = args.option()?;
    let arbiter_window: Option<u32> = args.option()?;
    let pending_admin: Option<Address> = args.option()?;
    args.end()?;

    let [admin, mut config] = ctx.accounts()?;
    checks::signed(&admin)?;
    let mut config = state::write::<Config>(&mut config, ctx.program)?;
    checks::is_key(&admin, &config.admin)?;

    // A failed instruction changes nothing, so the bounds are checked on the result.
    config.arbiter = arbiter.unwrap_or(config.arbiter);
    config.treasury = treasury.unwrap_or(config.treasury);
    config.fee_bps = fee_bps.unwrap_or(config.fee_bps);
    config.min_window = min_window.unwrap_or(config.min_window);
    config.arbiter_window = arbiter_window.unwrap_or(config.arbiter_window);
    config.pending_admin = pending_admin.unwrap_or(config.pending_admin);
    checks::config_bounds(&config)?;
    emit(&config);
    Ok(())
}

/// The named successor takes over, by signing: a mistyped key cannot.
#[inline(never)]
pub fn accept_admin(ctx: &Context) -> ProgramResult {
    Args(ctx.data).end()?;
    let [new_admin, mut config] = ctx.accounts()?;
    checks::signed(&new_admin)?;
    let mut config = state::write::<Config>(&mut config, ctx.program)?;
    checks::is_key(&new_admin, &config.pending_admin)?;
    config.admin = config.pending_admin;
    config.pending_admin = ZERO;
    emit(&config);
    Ok(())
}

fn emit(config: &Config) {
    ConfigChanged {
        admin: &config.admin,
        pending_admin: &config.pending_admin,
        arbiter: &config.arbiter,
        treasury: &config.treasury,
        fee_bps: config.fee_bps,
        min_window: config.min_window,
        arbiter_window: config.arbiter_window,
    }
    .emit();
}
