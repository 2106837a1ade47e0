"""What to do about each of the escrow program's errors: one sentence an error, by name.

The table of codes, names and messages is the program's IDL; a test holds both to the same names.
"""

from __future__ import annotations

from typing import Final

FIXES: Final[dict[str, str]] = {
    "InvalidData": "use the IDL that belongs to the deployed program",
    "MathOverflow": "lower the amounts: their sum has to fit 64 bits",
    "MissingSignature": "sign with the key that this call names",
    "Unauthorized": "sign with the key that `escrow show` or `ops config show` names for this",
    "WrongOwner": "name an account that the escrow program made",
    "WrongAccountType": "name an account of the kind that this call asks for",
    "WrongAddress": "name the address that belongs to this job or client",
    "AccountExists": "use what is there: it was made before",
    "UnsupportedTokenProgram": "use a mint of the classic Token program, not of Token-2022",
    "BadMint": "name an initialised classic mint of this chain",
    "BadTokenAccount": "name a thawed token account of this mint, or make the associated one first",
    "FeeTooHigh": "use at most 1000 basis points",
    "TermsChanged": "read the terms again, and sign them if you still agree",
    "BadWindow": "use 1 s <= min window <= arbiter window <= 30 days, and at least the platform's min window for a job",
    "BadDeadline": "use a deadline after now by the chain's clock and within 366 days",
    "ZeroAmount": "give an amount above 0",
    "JobIdTime": "mint a new job id from the chain's clock",
    "StaleSequence": "read the client account again, then repeat the call",
    "AllowanceExpired": "let the owner approve the operator again with `account operator`",
    "AllowanceExceeded": "lower the budget, or let the owner raise the spending limit with `account operator`",
    "VerifierNotApproved": "use the approved verifier, or let the owner approve this one with `account operator`",
    "InsufficientFunds": "deposit more with `account deposit`, or lower the amount",
    "JobEnded": "open a new job: this one takes nothing after its deadline",
    "JobNotEnded": "wait until the deadline and one dispute window have passed by the chain's clock",
    "BadSeatIndex": "read the job again, and use a seat that it has",
    "TooManySeats": "open another job: one holds at most 1024 seats",
    "OverBudget": "lower the caps, or open a job with a larger budget",
    "CapBelowCurrent": "give each seat at least the cap that it has",
    "SeatNotActive": "let the contributor post the seat's bond first",
    "SeatAlreadyActive": "go on: the bond was posted before",
    "BadRound": "read the job again, and use its current round, or the next one for a commitment",
    "CommitTooRecent": "repeat the call one slot later",
    "AwardBelowCurrent": "give the seat's total so far, which is at least what it was awarded",
    "AwardAboveCap": "raise the seat's cap first, or award less",
    "NothingToDispute": "leave it: what these seats were awarded has matured, or is nothing",
    "AppealClosed": "appeal between the deadline and one dispute window later",
    "AlreadyAppealed": "wait for the ruling: a seat has one appeal",
    "NothingToResolve": "leave it: no dispute or appeal of this seat is open",
    "AwardOutOfRange": "choose an amount within the bounds that `escrow show` prints for this seat",
    "SlashAboveBond": "slash at most the bond that the seat holds",
    "NothingToPay": "wait until an award of this seat has matured",
}
