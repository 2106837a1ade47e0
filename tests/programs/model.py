"""The escrow's rules once more, in plain Python and written from the rules, not from the Rust: what each instruction
must answer and how every number must change. No accounts, bytes or bumps; those are the other tests' business.

Every method returns the error's name, or '' and has changed the state; a refusal changes nothing.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

DAY = 86_400
UNCLAIMED = 15_552_000
U64 = 2**64 - 1


class Refused(Exception):
    """An instruction's error, by name."""


def require(condition: bool, error: str) -> None:
    if not condition:
        raise Refused(error)


@dataclass
class Seat:
    wallet: int
    cap: int
    bond: int
    state: int
    awarded: int = 0
    fresh: int = 0
    aging: int = 0
    paid: int = 0
    disputed_at: int = 0
    epoch: int = 0
    appeal: int = 0

    @property
    def matured(self) -> int:
        return self.awarded - self.fresh - self.aging

    @property
    def held(self) -> int:
        return self.bond if self.state == 1 else 0


@dataclass
class Job:
    id_time: int
    budget: int
    deadline: int
    window: int
    arbiter_window: int
    bps: int
    vault: int
    caps_total: int = 0
    paid_total: int = 0
    fee_paid: int = 0
    commit_slot: int = 0
    round: int = 0
    seats: list[Seat] = field(default_factory=list)

    def fee(self, amount: int) -> int:
        return amount * self.bps // 10_000

    @property
    def t_end(self) -> int:
        return self.deadline + (self.window if self.seats else 0)

    @property
    def t_last(self) -> int:
        return self.deadline + 2 * self.window + self.arbiter_window


@dataclass
class Account:
    """A token account: `ok`, `frozen` or `missing`."""

    tokens: int = 0
    status: str = "ok"


class Model:
    """One client, its jobs by number, contributors by number, one treasury."""

    def __init__(self, now: int, slot: int, *, bps: int, min_window: int, arbiter_window: int) -> None:
        self.now, self.slot = now, slot
        self.bps, self.min_window, self.arbiter_window = bps, min_window, arbiter_window
        self.client = Account()
        self.treasury = Account()
        self.wallets: dict[int, Account] = {}
        self.elsewhere: dict[int, int] = {}  # tokens that pay_to sent to a wallet's other account
        self.owner_tokens = 0
        self.seq = 0
        self.max_per_job = self.allowance = self.expires = 0
        self.jobs: dict[int, Job] = {}

    def attempt(self, name: str, *args: object) -> str:
        """Runs an instruction, or changes nothing and returns why not."""
        before = pickle.dumps(self.__dict__)
        try:
            getattr(self, name)(*args)
        except Refused as refused:
            self.__dict__ = pickle.loads(before)
            return str(refused)
        return ""

    # ---- time

    def on_hold(self, job: Job, seat: Seat) -> bool:
        return seat.disputed_at != 0 and self.now < seat.disputed_at + job.arbiter_window

    def appeal_live(self, job: Job, seat: Seat) -> bool:
        return seat.appeal == 1 and self.now < job.deadline + job.window + job.arbiter_window

    def roll(self, job: Job, seat: Seat) -> None:
        if self.on_hold(job, seat):
            return
        seat.disputed_at = 0
        epoch = self.now // job.window
        behind = max(0, epoch - seat.epoch)
        if behind == 1:
            seat.aging, seat.fresh = seat.fresh, 0
        elif behind >= 2:
            seat.aging = seat.fresh = 0
        if behind:
            seat.epoch = epoch

    def payable(self, job: Job, seat: Seat) -> tuple[int, int]:
        free = self.now >= job.deadline + job.window and not self.on_hold(job, seat)
        bond = seat.held if free and not self.appeal_live(job, seat) else 0
        return seat.matured - seat.paid, bond

    @staticmethod
    def seat(job: Job, index: int) -> Seat:
        require(index < len(job.seats), "BadSeatIndex")
        return job.seats[index]

    # ---- client

    def set_operator(self, max_per_job: int, allowance: int, expires: int, seq: int) -> None:
        require(seq == self.seq, "StaleSequence")
        self.max_per_job, self.allowance, self.expires = max_per_job, allowance, expires
        self.seq += 1

    def withdraw(self, amount: int, usable: bool) -> None:
        require(usable, "BadTokenAccount")
        require(amount > 0, "ZeroAmount")
        require(amount <= self.client.tokens, "InsufficientFunds")
        require(self.client.status == "ok", "AccountFrozen")
        self.client.tokens -= amount
        self.owner_tokens += amount

    def open_job(self, number: int, who: str, id_time: int, budget: int, deadline: int, window: int) -> None:
        require(number not in self.jobs, "AccountExists")
        require(who in ("owner", "operator"), "Unauthorized")
        require(id_time - 300 <= self.now < id_time + DAY, "JobIdTime")
        require(self.now < deadline <= self.now + 31_622_400, "BadDeadline")
        require(self.min_window <= window <= 2_592_000, "BadWindow")
        require(budget > 0, "ZeroAmount")
        if who == "operator":
            require(self.now < self.expires, "AllowanceExpired")
            require(budget <= min(self.max_per_job, self.allowance), "AllowanceExceeded")
            self.allowance -= budget
        require(budget <= self.client.tokens, "InsufficientFunds")
        require(self.client.status == "ok", "AccountFrozen")
        self.client.tokens -= budget
        self.seq += 1
        self.jobs[number] = Job(id_time, budget, deadline, window, self.arbiter_window, self.bps, vault=budget)

    def assign_seats(self, number: int, who: str, first: int, new: list[tuple[int, int, int]]) -> None:
        job = self.jobs[number]
        require(who in ("owner", "operator"), "Unauthorized")
        require(self.now < job.deadline, "JobEnded")
        require(first == len(job.seats), "BadSeatIndex")
        for wallet, cap, bond in new:
            job.caps_total += cap
            job.seats.append(Seat(wallet, cap, bond, 0 if bond else 1))
        self.within_budget(job)

    @staticmethod
    def within_budget(job: Job) -> None:
        require(job.caps_total <= U64 and job.caps_total + job.fee(job.caps_total) <= U64, "MathOverflow")
        require(job.caps_total + job.fee(job.caps_total) <= job.budget, "OverBudget")

    def raise_caps(self, number: int, who: str, caps: list[tuple[int, int]]) -> None:
        job = self.jobs[number]
        require(who in ("owner", "operator"), "Unauthorized")
        require(self.now < job.deadline, "JobEnded")
        for index, cap in caps:
            seat = self.seat(job, index)
            require(cap >= seat.cap, "CapBelowCurrent")
            job.caps_total += cap - seat.cap
            seat.cap = cap
        self.within_budget(job)

    def accept_seat(self, number: int, index: int, wallet: int, bond: int) -> None:
        job = self.jobs[number]
        seat = self.seat(job, index)
        require(seat.wallet == wallet, "Unauthorized")
        require(self.now < job.deadline, "JobEnded")
        require(seat.state == 0, "SeatAlreadyActive")
        require(bond == seat.bond, "TermsChanged")
        source = self.wallets[wallet]
        require(source.status != "missing", "missing source")
        require(source.status == "ok", "AccountFrozen")
        require(bond <= source.tokens, "token: insufficient funds")
        source.tokens -= bond
        job.vault += bond
        seat.state = 1

    def finish_job(self, number: int, who: str) -> None:
        job = self.jobs[number]
        require(who in ("owner", "operator"), "Unauthorized")
        require(self.now < job.deadline, "JobEnded")
        job.deadline = min(job.deadline, self.now + job.window)

    # ---- verifier

    def commit_round(self, number: int, who: str, round_: int) -> None:
        job = self.jobs[number]
        require(who == "verifier", "Unauthorized")
        require(self.now < job.deadline, "JobEnded")
        require(round_ == job.round + 1, "BadRound")
        job.round, job.commit_slot = round_, self.slot

    def award(self, number: int, who: str, round_: int, awards: list[tuple[int, int]]) -> None:
        job = self.jobs[number]
        require(who == "verifier", "Unauthorized")
        require(self.now < job.deadline, "JobEnded")
        require(round_ == job.round >= 1, "BadRound")
        require(self.slot > job.commit_slot, "CommitTooRecent")
        for index, amount in awards:
            seat = self.seat(job, index)
            require(seat.state == 1, "SeatNotActive")
            if amount == seat.awarded or self.on_hold(job, seat):
                continue
            require(amount > seat.awarded, "AwardBelowCurrent")
            require(amount <= seat.cap, "AwardAboveCap")
            self.roll(job, seat)
            seat.fresh += amount - seat.awarded
            seat.awarded = amount

    # ---- payment

    def pay(self, number: int, indexes: list[int]) -> None:
        job = self.jobs[number]
        for index in indexes:
            seat = self.seat(job, index)
            self.roll(job, seat)
            award, bond = self.payable(job, seat)
            account = self.wallets[seat.wallet]
            if award + bond == 0 or account.status != "ok":
                continue
            self.settle(job, seat, award, bond)
            account.tokens += award + bond

    @staticmethod
    def settle(job: Job, seat: Seat, award: int, bond: int) -> None:
        seat.paid += award
        seat.bond -= bond
        job.paid_total += award
        job.vault -= award + bond

    def pay_to(self, number: int, index: int, wallet: int) -> None:
        job = self.jobs[number]
        seat = self.seat(job, index)
        require(seat.wallet == wallet, "Unauthorized")
        self.roll(job, seat)
        award, bond = self.payable(job, seat)
        require(award + bond > 0, "NothingToPay")
        self.settle(job, seat, award, bond)
        self.elsewhere[wallet] = self.elsewhere.get(wallet, 0) + award + bond

    # ---- objections

    def dispute(self, number: int, who: str, indexes: list[int]) -> None:
        job, any_ = self.jobs[number], False
        require(who in ("owner", "operator"), "Unauthorized")
        for index in indexes:
            seat = self.seat(job, index)
            if self.on_hold(job, seat):
                continue
            self.roll(job, seat)
            if seat.fresh + seat.aging > 0 or (seat.held > 0 and self.now < job.deadline + job.window):
                seat.disputed_at = self.now
                any_ = True
        require(any_, "NothingToDispute")

    def appeal(self, number: int, index: int, wallet: int, amount: int) -> None:
        job = self.jobs[number]
        seat = self.seat(job, index)
        require(seat.wallet == wallet, "Unauthorized")
        require(job.deadline <= self.now < job.deadline + job.window, "AppealClosed")
        require(seat.state == 1, "SeatNotActive")
        require(seat.appeal == 0, "AlreadyAppealed")
        require(seat.awarded < amount <= seat.cap, "AwardOutOfRange")
        seat.appeal = 1

    def resolve(self, number: int, who: str, index: int, awarded: int, slash: int) -> None:
        job = self.jobs[number]
        seat = self.seat(job, index)
        require(who == "arbiter", "Unauthorized")
        live = self.appeal_live(job, seat)
        require(live or self.on_hold(job, seat), "NothingToResolve")
        self.roll(job, seat)
        require(seat.matured <= awarded <= (seat.cap if live else seat.awarded), "AwardOutOfRange")
        require(slash <= seat.held, "SlashAboveBond")
        if awarded < seat.awarded:
            job.caps_total -= seat.cap - awarded
            seat.cap = awarded
        seat.awarded, seat.fresh, seat.aging, seat.disputed_at = awarded, 0, 0, 0
        seat.appeal = 2 if seat.appeal == 1 else seat.appeal
        seat.bond -= slash

    # ---- closing

    def close_job(self, number: int) -> None:
        job = self.jobs[number]
        require(self.now >= job.t_end, "JobNotEnded")
        owed = bonds = 0
        if self.now < job.t_last + UNCLAIMED:
            owed = sum((s.cap if self.appeal_live(job, s) else s.awarded) - s.paid for s in job.seats)
            bonds = sum(s.held for s in job.seats)
        due = job.fee(job.paid_total) - job.fee_paid
        job.fee_paid += due
        if self.treasury.status == "ok":
            job.vault -= due
            self.treasury.tokens += due
        free = job.vault - owed - bonds - (job.fee(job.paid_total + owed) - job.fee_paid)
        assert free >= 0, "the vault does not cover what is owed"
        if self.client.status == "ok":
            job.vault -= free
            self.client.tokens += free
        if owed == bonds == job.vault == 0 and self.now >= job.id_time + DAY:
            del self.jobs[number]
