//! The events, all of them. Each is logged as one contiguous slice: `sha256("event:<Name>")[..8]`, then the fields.
//!
//! Logs are cut at 10,000 bytes a transaction: the accounts are the truth, events a convenience.

use pinocchio::Address;

use crate::discriminator;
use crate::runtime::log_data;

/// Room for the largest event, `JobOpened` with 147 bytes.
const MAX_LEN: usize = 160;

trait Put {
    fn put(&self, out: &mut [u8; MAX_LEN], at: usize) -> usize;
}

#[inline(always)]
fn bytes(out: &mut [u8; MAX_LEN], at: usize, bytes: &[u8]) -> usize {
    let end = at + bytes.len();
    if let Some(room) = out.get_mut(at..end) {
        room.copy_from_slice(bytes);
    }
    end
}

impl Put for &Address {
    #[inline(always)]
    fn put(&self, out: &mut [u8; MAX_LEN], at: usize) -> usize {
        bytes(out, at, self.as_array())
    }
}

impl<const N: usize> Put for &[u8; N] {
    #[inline(always)]
    fn put(&self, out: &mut [u8; MAX_LEN], at: usize) -> usize {
        bytes(out, at, *self)
    }
}

impl Put for bool {
    #[inline(always)]
    fn put(&self, out: &mut [u8; MAX_LEN], at: usize) -> usize {
        bytes(out, at, &[*self as u8])
    }
}

macro_rules! put_integer {
    ($($type:ty)*) => {$(
        impl Put for $type {
            #[inline(always)]
            fn put(&self, out: &mut [u8; MAX_LEN], at: usize) -> usize {
                bytes(out, at, &self.to_le_bytes())
            }
        }
    )*};
}
put_integer!(u16 u32 u64 i64);

macro_rules! events {
    ($($name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        pub struct $name<'a> { $(pub $field: $type),* }
        impl $name<'_> {
            #[inline(never)]
            pub fn emit(&self) {
                const DISCRIMINATOR: [u8; 8] = discriminator!("event", stringify!($name));
                let mut out = [0; MAX_LEN];
                let at = bytes(&mut out, 0, &DISCRIMINATOR);
                $(let at = self.$field.put(&mut out, at);)*
                log_data(out.get(..at).unwrap_or(&out));
            }
        }
    )*};
}

events! {
    ConfigChanged {
        admin: &'a Address, pending_admin: &'a Address, arbiter: &'a Address, treasury: &'a Address,
        fee_bps: u16, min_window: u32, arbiter_window: u32,
    }
    ClientOpened { client: &'a Address, owner: &'a Address, mint: &'a Address, vault: &'a Address }
    OperatorSet {
        client: &'a Address, operator: &'a Address, verifier: &'a Address,
        max_per_job: u64, allowance: u64, expires: i64, seq: u64,
    }
    Withdrawn { client: &'a Address, destination: &'a Address, amount: u64 }
    JobOpened {
        job: &'a Address, client: &'a Address, job_id: &'a [u8; 16], verifier: &'a Address, budget: u64,
        deadline: i64, dispute_window: u32, arbiter_window: u32, fee_bps: u16, by_operator: bool,
    }
    SeatsAssigned { job: &'a Address, first: u16, count: u16, caps_total: u64 }
    CapsRaised { job: &'a Address, count: u16, caps_total: u64 }
    SeatAccepted { job: &'a Address, seat: u16, bond: u64 }
    RoundCommitted { job: &'a Address, round: u32, root: &'a [u8; 32], slot: u64 }
    Awarded { job: &'a Address, round: u32, count: u16, skipped: u16, amount: u64 }
    Paid { job: &'a Address, wallet: &'a Address, seat: u16, award: u64, bond: u64 }
    PaySkipped { job: &'a Address, seat: u16 }
    Disputed { job: &'a Address, seat: u16, amount: u64, until: i64 }
    Appealed { job: &'a Address, seat: u16, amount: u64, until: i64 }
    Resolved { job: &'a Address, seat: u16, before: u64, after: u64, slashed: u64 }
    JobFinished { job: &'a Address, deadline: i64 }
    JobSwept { job: &'a Address, to_client: u64, fee: u64, waived: u64, forfeited: bool, closed: bool }
}
