//! The three accounts, byte by byte, and the only code that turns account bytes into them.
//!
//! All are `repr(C)` with the natural alignment of their fields, little-endian as the machine is, and without padding:
//! the assertions below fail the build when an offset moves. Bytes 0..8 are the discriminator, so every struct starts
//! with it. Reading an account always checks owner, then discriminator, then length.

use core::mem::{align_of, offset_of, size_of};

use pinocchio::{
    account::{Ref, RefMut},
    error::ProgramError,
    AccountView, Address, ProgramResult, Resize,
};

use crate::discriminator;
use crate::error::{require, Error};

pub const MAX_SEATS: u16 = 1024;
pub const MAX_FEE_BPS: u16 = 1000;
pub const MAX_WINDOW: u32 = 2_592_000;
pub const MAX_JOB: i64 = 31_622_400;
pub const OPEN_WINDOW: i64 = 86_400;
pub const OPEN_SKEW: i64 = 300;
pub const UNCLAIMED: i64 = 15_552_000;

/// A seat whose bond was asked for and not yet posted: `bond` is a demand.
pub const SEAT_ASKED: u8 = 0;
/// An active seat: `bond` is money held in the job's vault.
pub const SEAT_ACTIVE: u8 = 1;

pub const APPEAL_NONE: u8 = 0;
pub const APPEAL_OPEN: u8 = 1;
pub const APPEAL_USED: u8 = 2;

pub const ZERO: Address = Address::new_from_array([0; 32]);

/// Terms for new jobs, and who may rule on and earn from all of them. Seeds `["config"]`.
#[repr(C)]
pub struct Config {
    pub discriminator: [u8; 8],
    pub admin: Address,
    pub pending_admin: Address,
    pub arbiter: Address,
    pub treasury: Address,
    pub min_window: u32,
    pub arbiter_window: u32,
    pub fee_bps: u16,
    pub bump: u8,
    pub reserved: [u8; 5],
}

/// One owner's account for one mint. Seeds `["client", owner, mint]`. Its free balance is its vault's amount.
#[repr(C)]
pub struct Client {
    pub discriminator: [u8; 8],
    pub owner: Address,
    pub mint: Address,
    pub vault: Address,
    pub operator: Address,
    pub verifier: Address,
    pub max_per_job: u64,
    pub allowance_left: u64,
    pub allowance_expires: i64,
    pub seq: u64,
    pub bump: u8,
    pub reserved: [u8; 7],
}

/// One job, followed in its account by `seat_count` seats. Seeds `["job", client, job_id]`.
#[repr(C)]
pub struct Job {
    pub discriminator: [u8; 8],
    pub client: Address,
    pub mint: Address,
    pub vault: Address,
    pub verifier: Address,
    pub rent_payer: Address,
    pub spec_hash: [u8; 32],
    pub commit_root: [u8; 32],
    pub job_id: [u8; 16],
    pub budget: u64,
    pub caps_total: u64,
    pub paid_total: u64,
    /// Fee settled so far: sent to the treasury, or waived because the treasury could not take it.
    pub fee_paid: u64,
    pub opened_at: i64,
    pub deadline: i64,
    pub commit_slot: u64,
    pub dispute_window: u32,
    pub arbiter_window: u32,
    pub round: u32,
    pub fee_bps: u16,
    pub bump: u8,
    pub reserved: [u8; 5],
    /// The length prefix of the Borsh vector of seats.
    pub seat_count: u32,
}

/// A contributor's place in one job.
#[repr(C)]
pub struct Seat {
    pub wallet: Address,
    pub cap: u64,
    /// Everything ever awarded; of it `fresh + aging` cannot be paid yet, and `paid` was.
    pub awarded: u64,
    pub fresh: u64,
    pub aging: u64,
    pub paid: u64,
    pub bond: u64,
    /// When the client objected; 0 = no objection.
    pub disputed_at: i64,
    /// The window of time, `now / dispute_window`, in which the buckets were last moved.
    pub epoch: u32,
    pub state: u8,
    pub appeal: u8,
    pub reserved: [u8; 2],
}

/// A type that account bytes may be read as.
///
/// # Safety
/// The implementor is `repr(C)`, at most 8-aligned, has no padding, and every bit pattern is a valid value of it.
pub unsafe trait Plain: Sized {}

/// An account of this program with a fixed length.
///
/// # Safety
/// As [`Plain`], and the first eight bytes are the discriminator.
pub unsafe trait Account: Plain {
    const DISCRIMINATOR: [u8; 8];
}

// SAFETY (all four): `repr(C)` of integers, byte arrays and addresses (which are byte arrays); sizes below leave no padding.
unsafe impl Plain for Config {}
unsafe impl Plain for Client {}
unsafe impl Plain for Job {}
unsafe impl Plain for Seat {}

// SAFETY (all three): their first field is the discriminator.
unsafe impl Account for Config {
    const DISCRIMINATOR: [u8; 8] = discriminator!("account", "Config");
}
unsafe impl Account for Client {
    const DISCRIMINATOR: [u8; 8] = discriminator!("account", "Client");
}
unsafe impl Account for Job {
    const DISCRIMINATOR: [u8; 8] = discriminator!("account", "Job");
}

macro_rules! layout {
    ($type:ident, $size:literal: $($field:ident @ $offset:literal)*) => {
        const _: () = {
            assert!(size_of::<$type>() == $size, concat!(stringify!($type), " has another size"));
            assert!(align_of::<$type>() <= 8);
            $(assert!(offset_of!($type, $field) == $offset, concat!(stringify!($field), " has moved"));)*
        };
    };
}

layout!(Config, 152: discriminator @ 0 admin @ 8 pending_admin @ 40 arbiter @ 72 treasury @ 104 min_window @ 136
    arbiter_window @ 140 fee_bps @ 144 bump @ 146 reserved @ 147);
layout!(Client, 208: discriminator @ 0 owner @ 8 mint @ 40 vault @ 72 operator @ 104 verifier @ 136 max_per_job @ 168
    allowance_left @ 176 allowance_expires @ 184 seq @ 192 bump @ 200 reserved @ 201);
layout!(Job, 328: discriminator @ 0 client @ 8 mint @ 40 vault @ 72 verifier @ 104 rent_payer @ 136 spec_hash @ 168
    commit_root @ 200 job_id @ 232 budget @ 248 caps_total @ 256 paid_total @ 264 fee_paid @ 272 opened_at @ 280
    deadline @ 288 commit_slot @ 296 dispute_window @ 304 arbiter_window @ 308 round @ 312 fee_bps @ 316 bump @ 318
    reserved @ 319 seat_count @ 324);
layout!(Seat, 96: wallet @ 0 cap @ 32 awarded @ 40 fresh @ 48 aging @ 56 paid @ 64 bond @ 72 disputed_at @ 80
    epoch @ 88 state @ 92 appeal @ 93 reserved @ 94);

/// The length of a job's account with `seats` seats, at most 98,632.
pub fn job_len(seats: u16) -> usize {
    // wrapping: at most 65,535 * 96, and checked 64-bit multiplication does not link on this target.
    size_of::<Job>() + (seats as usize).wrapping_mul(size_of::<Seat>())
}

fn aligned(bytes: &[u8]) -> bool {
    // The runtime lays out account data at multiples of eight; this makes it a fact rather than a belief.
    bytes.as_ptr() as usize % 8 == 0
}

/// Checks owner, discriminator and length, in this order.
fn recognise<T: Account>(view: &AccountView, program: &Address, fixed: bool) -> ProgramResult {
    require(view.owned_by(program), Error::WrongOwner)?;
    let data = view.try_borrow()?;
    let found = data.first_chunk::<8>().ok_or(ProgramError::from(Error::WrongAccountType))?;
    require(u64::from_le_bytes(*found) == u64::from_le_bytes(T::DISCRIMINATOR), Error::WrongAccountType)?;
    let length = if fixed { data.len() == size_of::<T>() } else { data.len() >= size_of::<T>() };
    require(length && aligned(&data), Error::WrongAccountType)
}

/// Borrows an account of fixed length for reading.
pub fn read<'a, T: Account>(view: &'a AccountView, program: &Address) -> Result<Ref<'a, T>, ProgramError> {
    recognise::<T>(view, program, true)?;
    // SAFETY: `recognise` checked length and alignment; `T` is plain; the `Ref` keeps the borrow flag set.
    Ok(Ref::map(view.try_borrow()?, |data| unsafe { &*data.as_ptr().cast::<T>() }))
}

/// Borrows an account of fixed length for writing.
pub fn write<'a, T: Account>(view: &'a mut AccountView, program: &Address) -> Result<RefMut<'a, T>, ProgramError> {
    recognise::<T>(view, program, true)?;
    // SAFETY: as in `read`; the `RefMut` is the only borrow, because the runtime's flag is shared by duplicates.
    Ok(RefMut::map(view.try_borrow_mut()?, |data| unsafe { &mut *data.as_mut_ptr().cast::<T>() }))
}

/// Starts a freshly created account: zero bytes with the discriminator in front.
pub fn init<'a, T: Account>(view: &'a mut AccountView) -> Result<RefMut<'a, T>, ProgramError> {
    let mut data = view.try_borrow_mut()?;
    require(data.len() == size_of::<T>() && aligned(&data), Error::WrongAccountType)?;
    let tag = data.first_chunk_mut::<8>().ok_or(ProgramError::from(Error::WrongAccountType))?;
    *tag = T::DISCRIMINATOR;
    // SAFETY: length and alignment checked above; `T` is plain.
    Ok(RefMut::map(data, |data| unsafe { &mut *data.as_mut_ptr().cast::<T>() }))
}

/// A borrowed job: its head and its seats.
pub struct JobData<'a>(RefMut<'a, [u8]>);

impl<'a> JobData<'a> {
    /// Checks owner, discriminator and length (exactly head + seats), and borrows the account for writing.
    pub fn load(view: &'a mut AccountView, program: &Address) -> Result<Self, ProgramError> {
        recognise::<Job>(view, program, false)?;
        let data = Self(view.try_borrow_mut()?);
        let count = data.head().seat_count;
        require(count <= MAX_SEATS as u32 && data.0.len() == job_len(count as u16), Error::WrongAccountType)?;
        Ok(data)
    }

    pub fn head(&self) -> &Job {
        // SAFETY: `load` checked length and alignment; `Job` is plain.
        unsafe { &*self.0.as_ptr().cast::<Job>() }
    }

    /// Head and seats, both for writing: they are disjoint parts of one borrow.
    pub fn split(&mut self) -> (&mut Job, &mut [Seat]) {
        let (head, seats) = self.0.split_at_mut(size_of::<Job>());
        // SAFETY: `load` checked length and alignment (328 is a multiple of eight); both types are plain; the seats'
        // length in bytes is a multiple of 96 by `load`.
        unsafe {
            (
                &mut *head.as_mut_ptr().cast::<Job>(),
                core::slice::from_raw_parts_mut(seats.as_mut_ptr().cast::<Seat>(), seats.len() / size_of::<Seat>()),
            )
        }
    }

    /// Head and one seat, or `BadSeatIndex`.
    pub fn seat(&mut self, index: u16) -> Result<(&mut Job, &mut Seat), ProgramError> {
        let (head, seats) = self.split();
        Ok((head, at(seats, index)?))
    }
}

/// One seat of a list, or `BadSeatIndex`.
pub fn at(seats: &mut [Seat], index: u16) -> Result<&mut Seat, ProgramError> {
    seats.get_mut(index as usize).ok_or(Error::BadSeatIndex.into())
}

/// Grows a job that `JobData::load` accepted to `seats` seats; the new ones are zero. No borrow may be alive.
pub fn grow_job(view: &mut AccountView, seats: u16) -> ProgramResult {
    view.resize(job_len(seats))?;
    let mut data = view.try_borrow_mut()?;
    const AT: usize = offset_of!(Job, seat_count);
    let count = data.get_mut(AT..).and_then(|rest| rest.first_chunk_mut::<4>());
    *count.ok_or(ProgramError::from(Error::WrongAccountType))? = (seats as u32).to_le_bytes();
    Ok(())
}
