"""The program and the model side by side: every action is done to both, then every number is compared.

`Twins` holds the two and compares them; what is done to them is in `actions.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from solders.pubkey import Pubkey

from tests.programs.chain import PROGRAM_FILE, associated, idl
from tests.programs.model import DAY, Account, Job, Model
from tests.programs.world import JobRef, World, check_job

WALLETS = 4
FUNDS = 20_000
ALLOWANCE = 4_000


class Mismatch(AssertionError):
    """Program and model disagree."""


class Twins:
    """One client with up to three open jobs, four contributors, and everybody's token accounts, on both sides."""

    def __init__(self, *, bps: int, window: int, arbiter_window: int, program_file: Path = PROGRAM_FILE) -> None:
        w = World(program_file, fee_bps=bps)
        self.world, self.window = w, window
        w.ok("initialize", w.admin, w.arbiter, w.treasury, bps, 1, arbiter_window)
        w.ok("open_client")
        w.token_accounts[w.mint].add(w.client_vault)
        w.mint_to(w.client_vault, FUNDS)
        w.token_account(w.treasury)
        self.owner_account = w.token_account(w.owner)
        w.ok("set_operator", w.operator, w.verifier, 1_500, ALLOWANCE, w.chain.now + 50 * DAY, 0)
        self.model = m = Model(w.chain.now, w.chain.slot, bps=bps, min_window=1, arbiter_window=arbiter_window)
        m.client.tokens = FUNDS
        m.seq, m.max_per_job, m.allowance, m.expires = 1, 1_500, ALLOWANCE, w.chain.now + 50 * DAY
        self.elsewhere: dict[int, Pubkey] = {}
        for i in range(WALLETS):
            w.paid_wallet(i, 500)
            m.wallets[i] = Account(500)
            self.elsewhere[i] = w.other_account(f"elsewhere {i}", w.wallet(i))
        self.refs: dict[int, JobRef] = {}
        self.opened = 0
        self.counts: dict[str, int] = {}
        self.agreed: dict[str, int] = {}
        self.refusals: dict[tuple[str, str], int] = {}
        self.spent_since_approval = 0
        self.approved = ALLOWANCE
        self.made: dict[tuple[int, int], list[tuple[int, int]]] = {}  # when each seat's award became how much
        self.ruled: set[tuple[int, int]] = set()

    # ---- doing one thing to both

    def do(self, name: str, program: Callable[[], Any], *args: object) -> str:
        """Runs the instruction on both sides and compares the answers; returns the common error, '' on success."""
        jobs = {n: idl().account("Job", self.world.chain.data(r.address)) for n, r in self.live().items()}
        want = self.model.attempt(name, *args)
        outcome = program()
        other = want not in NAMED and want != ""  # the Token program's own refusals go by other names
        same = outcome.error == want or (other and outcome.error not in NAMED and outcome.error != "")
        if not same:
            logs = "\n".join(outcome.logs[-6:])
            raise Mismatch(f"{name}{args}: program {outcome.error or 'succeeded'}, model {want or 'succeeded'}\n{logs}")
        self.counts[name] = self.counts.get(name, 0) + 1
        if want:
            self.refusals[name, want] = self.refusals.get((name, want), 0) + 1
        else:
            self.agreed[name] = self.agreed.get(name, 0) + 1
        self.compare()
        self.one_way(jobs, name)
        if not want:
            self.on_time(jobs, name, args)
        return want

    def live(self) -> dict[int, JobRef]:
        return {n: self.refs[n] for n in self.model.jobs}

    def compare(self) -> None:
        """Every stored number and every balance, and the money invariants."""
        w, m = self.world, self.model
        client = idl().account("Client", w.chain.data(w.client))
        got = (client.allowance_left, client.allowance_expires, client.max_per_job, client.seq)
        _same("client", got, (m.allowance, m.expires, m.max_per_job, m.seq))
        _same("client vault", w.chain.tokens(w.client_vault), m.client.tokens)
        _same("treasury", w.tokens(w.treasury), m.treasury.tokens)
        _same("owner", w.chain.tokens(self.owner_account), m.owner_tokens)
        for i, account in m.wallets.items():
            _same(f"wallet {i}", w.tokens(w.wallet(i)), account.tokens)
            _same(f"elsewhere {i}", w.chain.tokens(self.elsewhere[i]), m.elsewhere.get(i, 0))
        for n, ref in self.refs.items():
            job = m.jobs.get(n)
            if job is None:
                if w.chain.account(ref.address) is not None or w.chain.account(ref.vault) is not None:
                    raise Mismatch(f"job {n} should be gone")
                continue
            read = idl().account("Job", w.chain.data(ref.address))
            _same(f"job {n}", _numbers(read), _model_numbers(job))
            for i, (got_seat, seat) in enumerate(zip(read.seats, job.seats, strict=True)):
                _same(f"job {n} seat {i} wallet", got_seat.wallet, w.wallet(seat.wallet))
                _same(f"job {n} seat {i}", [getattr(got_seat, f) for f in SEAT], [getattr(seat, f) for f in SEAT])
            _same(f"vault {n}", w.chain.tokens(ref.vault), job.vault)
            check_job(read, job.vault, m.now)
        if self.spent_since_approval > self.approved:
            raise Mismatch("the operator locked more than it was allowed")

    def one_way(self, before: dict[int, Any], name: str) -> None:
        """paid never falls; awards and caps fall by a ruling only, and never below what matured."""
        for n, old in before.items():
            if n not in self.model.jobs:
                continue
            new = idl().account("Job", self.world.chain.data(self.refs[n].address))
            for a, b in zip(old.seats, new.seats, strict=False):
                falls = b.awarded < a.awarded or b.cap < a.cap
                if b.paid < a.paid or b.wallet != a.wallet or (falls and name != "resolve"):
                    raise Mismatch(f"{name} lowered what may only rise: {a} -> {b}")
                if b.awarded < a.awarded - a.fresh - a.aging:
                    raise Mismatch("a ruling took matured money")

    def on_time(self, before: dict[int, Any], name: str, args: tuple[Any, ...]) -> None:
        """Without a ruling, pay covers only awards made more than W ago, and from 2W + L on it covers them."""
        if name not in ("award", "resolve", "pay", "pay_to") or args[0] not in before:
            return
        n, now = args[0], self.model.now
        job = self.model.jobs[n]
        touched = {"pay": args[1], "pay_to": [args[1]]}.get(name, [])
        for i, (old, new) in enumerate(zip(before[n].seats, job.seats, strict=False)):
            made = self.made.setdefault((n, i), [])
            if name == "award" and new.awarded > old.awarded:
                made.append((now, new.awarded))
            elif name == "resolve" and args[2] == i:
                self.ruled.add((n, i))
            elif i in touched and (n, i) not in self.ruled:
                if new.paid > max((a for t, a in made if now - t > job.window), default=0):
                    raise Mismatch(f"seat {i} was paid before its time: {made}")
                reachable = name == "pay_to" or self.model.wallets[new.wallet].status == "ok"
                due = max((a for t, a in made if now - t >= 2 * job.window + job.arbiter_window), default=0)
                if reachable and new.paid < due:
                    raise Mismatch(f"seat {i} still waits: {made}")

    # ---- helpers that actions share

    def tick(self, slots: int) -> None:
        self.world.chain.wait(0, slots)
        self.model.slot += slots

    def running(self) -> list[int]:
        return sorted(n for n, job in self.model.jobs.items() if self.model.now < job.deadline)

    def jump(self, target: int, slots: int = 1) -> None:
        self.world.chain.wait(target - self.model.now, slots)
        self.model.now, self.model.slot = target, self.model.slot + slots
        self.compare()

    def pay_call(self, job: Job, ref: JobRef, indexes: list[int]) -> Any:
        items, extra = [], []
        for i in indexes:
            wallet = self.world.wallet(job.seats[i].wallet if i < len(job.seats) else 0)
            address, bump = associated(wallet, self.world.mint)
            items.append((i, bump))
            extra.append(address)
        return self.world.call("pay", items, job=ref, extra=extra)

    # ---- the end

    def finish(self) -> None:
        """Liveness: from any state, at T_last and a day after the id, pay and one close leave nothing behind."""
        w, m = self.world, self.model
        for i, account in [*m.wallets.items(), (-1, m.treasury), (-2, m.client)]:
            owner = w.treasury if i == -1 else w.client if i == -2 else w.wallet(i)
            if account.status == "missing":
                w.token_account(owner)
            elif account.status == "frozen":
                w.thaw(w.client_vault if i == -2 else associated(owner, w.mint)[0])
            account.status = "ok"
        for n, ref in self.live().items():
            job = m.jobs[n]
            self.jump(max(m.now, job.t_last, job.id_time + DAY))
            for i in range(len(job.seats)):
                indexes = [i]
                self.do("pay", lambda j=job, r=ref, x=indexes: self.pay_call(j, r, x), n, indexes)
            self.do("close_job", lambda r=ref: w.call("close_job", job=r), n)
            if n in m.jobs or w.chain.account(ref.address) or w.chain.account(ref.vault):
                raise Mismatch(f"job {n} did not end")
        total = sum(w.chain.tokens(a) for a in w.token_accounts[w.mint])
        _same("supply", total, w.minted[w.mint])


NAMED = set(idl().errors.values())
SEAT = ("cap", "awarded", "fresh", "aging", "paid", "bond", "disputed_at", "epoch", "state", "appeal")


def _same(what: str, got: object, want: object) -> None:
    if got != want:
        raise Mismatch(f"{what}: program {got}, model {want}")


def _numbers(job: Any) -> list[int]:
    return [
        job.budget, job.caps_total, job.paid_total, job.fee_paid, job.deadline, job.commit_slot, job.dispute_window,
        job.arbiter_window, job.round, job.fee_bps,
    ]  # fmt: skip


def _model_numbers(job: Job) -> list[int]:
    return [
        job.budget, job.caps_total, job.paid_total, job.fee_paid, job.deadline, job.commit_slot, job.window,
        job.arbiter_window, job.round, job.bps,
    ]  # fmt: skip
