//! Every error that the program itself returns: one table, codes from 6000, in the order of the IDL.
//!
//! Errors of the runtime (too few accounts, a missing writable flag) and of the Token program pass through unchanged.

use pinocchio::error::ProgramError;

macro_rules! errors {
    ($($code:literal $name:ident $message:literal)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Error {
            $(#[doc = $message] $name = $code,)*
        }
    };
}

errors! {
    6000 InvalidData "The instruction data is malformed."
    6001 MathOverflow "An amount does not fit."
    6002 MissingSignature "A required signature is missing."
    6003 Unauthorized "This key may not do that."
    6004 WrongOwner "The account belongs to another program."
    6005 WrongAccountType "The account is of another kind."
    6006 WrongAddress "The account is not the expected one."
    6007 AccountExists "The account already exists."
    6008 UnsupportedTokenProgram "Only the classic Token program is supported."
    6009 BadMint "The mint is not an initialised classic mint."
    6010 BadTokenAccount "The token account is frozen, missing or of another mint."
    6011 FeeTooHigh "The fee is above ten percent."
    6012 TermsChanged "The terms on chain are not the ones you signed."
    6013 BadWindow "The window is out of bounds."
    6014 BadDeadline "The deadline is out of bounds."
    6015 ZeroAmount "The amount must be positive."
    6016 JobIdTime "The job id is too old or from the future."
    6017 StaleSequence "The client account changed; read it again."
    6018 AllowanceExpired "The operator's allowance has expired."
    6019 AllowanceExceeded "The operator's allowance is too small."
    6020 VerifierNotApproved "The owner did not approve this verifier."
    6021 InsufficientFunds "The vault holds less than that."
    6022 JobEnded "The deadline has passed."
    6023 JobNotEnded "It is too early to close this job."
    6024 BadSeatIndex "There is no such seat, or seats do not start there."
    6025 TooManySeats "The job has no room for more seats."
    6026 OverBudget "Caps and fee exceed the budget."
    6027 CapBelowCurrent "A cap may only be raised."
    6028 SeatNotActive "The seat's bond has not been posted."
    6029 SeatAlreadyActive "The seat is already active."
    6030 BadRound "That is not the current or next round."
    6031 CommitTooRecent "The commitment must be from an earlier slot."
    6032 AwardBelowCurrent "An award never goes down."
    6033 AwardAboveCap "The award exceeds the seat's cap."
    6034 NothingToDispute "None of these seats has anything to dispute."
    6035 AppealClosed "Appeals are taken in the window after the deadline."
    6036 AlreadyAppealed "This seat has used its appeal."
    6037 NothingToResolve "The seat is under neither dispute nor appeal."
    6038 AwardOutOfRange "The amount is outside the allowed range."
    6039 SlashAboveBond "The slash exceeds the bond held."
    6040 NothingToPay "Nothing is payable on this seat yet."
}

impl From<Error> for ProgramError {
    fn from(error: Error) -> Self {
        ProgramError::Custom(error as u32)
    }
}

/// `Err(error)` unless `condition`: the shape of every check in the program.
#[inline(always)]
pub fn require(condition: bool, error: Error) -> Result<(), ProgramError> {
    if condition {
        Ok(())
    } else {
        Err(error.into())
    }
}

/// Checked addition; `MathOverflow` when the sum does not fit.
#[inline(always)]
pub fn add(a: u64, b: u64) -> Result<u64, ProgramError> {
    a.checked_add(b).ok_or(Error::MathOverflow.into())
}

/// Checked subtraction; `MathOverflow` when `b` is larger than `a`.
#[inline(always)]
pub fn sub(a: u64, b: u64) -> Result<u64, ProgramError> {
    a.checked_sub(b).ok_or(Error::MathOverflow.into())
}
