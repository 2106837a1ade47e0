//! The money rules, as plain functions of a job's terms, one seat and the time. No account is touched here.
//!
//! An award passes through two buckets. Time is cut into windows of the job's dispute window W; an award made in window
//! e is `fresh` in e, `aging` in e + 1 and matured from e + 2 on: more than W and at most 2W after it was made. Two
//! buckets suffice, and a later award never delays an earlier one.

use pinocchio::{
    error::ProgramError,
    sysvars::{clock::Clock, Sysvar},
};

use crate::error::{sub, Error};
use crate::state::*;

/// The platform's fee on `amount`: floor(amount * bps / 10,000), without 128-bit arithmetic.
pub fn fee(amount: u64, bps: u16) -> u64 {
    let bps = bps as u64;
    // wrapping: bps <= 1,000, so both products are below 2^64 (2^64 / 10,000 * 1,000 and 10,000 * 1,000).
    (amount / 10_000).wrapping_mul(bps) + (amount % 10_000).wrapping_mul(bps) / 10_000
}

/// The time inside a UUIDv7, in whole seconds.
pub fn id_time(id: &[u8; 16]) -> i64 {
    let millis = u64::from_be_bytes([0, 0, id[0], id[1], id[2], id[3], id[4], id[5]]);
    (millis / 1000) as i64
}

/// The chain's time and slot. A clock at or before 1970 is refused.
pub fn clock() -> Result<(i64, u64), ProgramError> {
    let clock = Clock::get()?;
    if clock.unix_timestamp <= 0 {
        return Err(ProgramError::UnsupportedSysvar);
    }
    Ok((clock.unix_timestamp, clock.slot))
}

/// A job's times, as of now. Additions cannot overflow: deadlines are at most a year after some `now`, windows 30 days.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now: i64,
    pub epoch: u32,
    pub deadline: i64,
    window: i64,
    arbiter_window: i64,
}

impl Moment {
    pub fn of(job: &Job, now: i64) -> Result<Self, ProgramError> {
        // Unsigned: this target has no signed division. `now` and the window are positive.
        let epoch =
            (now as u64).checked_div(job.dispute_window as u64).ok_or(ProgramError::from(Error::MathOverflow))?;
        Ok(Self {
            now,
            epoch: u32::try_from(epoch).map_err(|_| ProgramError::from(Error::MathOverflow))?,
            deadline: job.deadline,
            window: job.dispute_window as i64,
            arbiter_window: job.arbiter_window as i64,
        })
    }

    pub fn ended(&self) -> bool {
        self.now >= self.deadline
    }

    /// D + W: appeals and disputes of bonds end, bonds are payable.
    pub fn appeals_end(&self) -> i64 {
        self.deadline + self.window
    }

    /// D + W + L: an appeal that nobody ruled on lapses.
    pub fn appeals_lapse(&self) -> i64 {
        self.appeals_end() + self.arbiter_window
    }

    /// T_end: the first moment at which the job may be swept.
    pub fn sweep_from(&self, seats: usize) -> i64 {
        if seats == 0 {
            self.deadline
        } else {
            self.appeals_end()
        }
    }

    /// T_forfeit: D + 2W + L, when everything is decided, and 180 days.
    pub fn forfeit_from(&self) -> i64 {
        self.appeals_lapse() + self.window + UNCLAIMED
    }

    /// When a dispute raised now lapses.
    pub fn dispute_until(&self) -> i64 {
        self.now + self.arbiter_window
    }

    pub fn on_hold(&self, seat: &Seat) -> bool {
        seat.disputed_at != 0 && self.now < seat.disputed_at + self.arbiter_window
    }

    pub fn appeal_live(&self, seat: &Seat) -> bool {
        seat.appeal == APPEAL_OPEN && self.now < self.appeals_lapse()
    }

    /// Moves the buckets to this window of time. A seat on hold stands still; a lapsed dispute is forgotten.
    pub fn roll(&self, seat: &mut Seat) {
        if self.on_hold(seat) {
            return;
        }
        seat.disputed_at = 0;
        if self.epoch > seat.epoch {
            seat.aging = if self.epoch - seat.epoch == 1 { seat.fresh } else { 0 };
            seat.fresh = 0;
            seat.epoch = self.epoch;
        }
    }

    /// What `pay` owes a rolled seat: matured and unpaid awards, and the bond.
    pub fn payable(&self, seat: &Seat) -> Result<(u64, u64), ProgramError> {
        let held = seat.state == SEAT_ACTIVE
            && self.now >= self.appeals_end()
            && !self.on_hold(seat)
            && !self.appeal_live(seat);
        Ok((sub(seat.matured()?, seat.paid)?, if held { seat.bond } else { 0 }))
    }

    /// What a seat may still earn or has earned and not received, at most: its cap while an appeal is open.
    pub fn owed(&self, seat: &Seat) -> Result<u64, ProgramError> {
        sub(if self.appeal_live(seat) { seat.cap } else { seat.awarded }, seat.paid)
    }
}

impl Seat {
    pub fn matured(&self) -> Result<u64, ProgramError> {
        sub(sub(self.awarded, self.fresh)?, self.aging)
    }

    pub fn is_active(&self) -> bool {
        self.state == SEAT_ACTIVE
    }

    /// The bond in the job's vault: none before it was posted.
    pub fn bond_held(&self) -> u64 {
        if self.is_active() {
            self.bond
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fee_is_the_floor_of_the_exact_product() {
        for amount in [0, 1, 9, 10, 99, 9_999, 10_000, 10_001, 123_456_789, u64::MAX - 1, u64::MAX] {
            for bps in [0, 1, 7, 250, 999, 1000] {
                assert_eq!(fee(amount, bps) as u128, amount as u128 * bps as u128 / 10_000);
            }
        }
    }

    #[test]
    fn id_time_reads_big_endian_milliseconds() {
        let mut id = [0u8; 16];
        id[..6].copy_from_slice(&1_700_000_000_999u64.to_be_bytes()[2..]);
        assert_eq!(id_time(&id), 1_700_000_000);
    }
}
