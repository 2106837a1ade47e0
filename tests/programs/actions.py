"""What may happen to the twins: every instruction, the clock, gifts, and token accounts that break.

How arguments are chosen is left to `Draw`, so that hypothesis (which shrinks) and a plain random generator (which is
fast) drive the same code. Choices lean towards the edges: the seconds around every deadline, one unit around every
bound, keys that may not, indexes that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from solders.pubkey import Pubkey
from spl.token import instructions as spl

from tests.programs.chain import TOKEN, associated
from tests.programs.model import DAY, UNCLAIMED, Job
from tests.programs.twins import ALLOWANCE, WALLETS, Mismatch, Twins
from tests.programs.world import JobRef

T = TypeVar("T")


class Draw(Protocol):
    """Where choices come from."""

    def __call__(self, options: Sequence[T]) -> T: ...


class Player(Twins):
    """The twins, and everything that one random step can do to them."""

    def pick(self, draw: Draw) -> tuple[int, Job, JobRef] | None:
        """One of the open jobs, rather one that runs; with none, opens one (None where even that is refused)."""
        self.tick(draw([0, 1, 1, 1]))
        if not self.running():
            self.open_job(draw)
        if not (numbers := sorted(self.model.jobs)):
            return None
        if (running := self.running()) and draw(range(4)):
            numbers = running
        n = draw(numbers)
        if n in running and not self.model.jobs[n].seats and draw(range(8)):
            seats = [(i, 100, 0 if draw(range(3)) else 30) for i in range(draw([2, 3, 4]))]
            self._assign(n, "operator", self.world.operator, 0, seats)
        return n, self.model.jobs[n], self.refs[n]

    def index(self, draw: Draw, job: Job) -> int:
        return len(job.seats) if draw(range(16)) == 0 else draw(range(max(1, len(job.seats))))

    def authority(self, draw: Draw) -> tuple[str, Pubkey]:
        who = draw(["operator"] * 14 + ["owner"] * 6 + ["stranger"])
        return who, getattr(self.world, who)

    def wait(self, draw: Draw) -> None:
        """Moves the clock: a little, to an edge of some job, or (rarely) far."""
        m, now = self.model, self.model.now
        w_, l_ = self.window, m.arbiter_window
        steps = [0, 1, 1, 1, 2, w_ // 2, w_ // 2, w_ - 1, w_, w_ + 1, l_, l_ - 1]
        edges = []
        for job in m.jobs.values():
            marks = [job.deadline, job.deadline + job.window, job.t_last, job.t_last - job.window]
            marks += [s.disputed_at + job.arbiter_window for s in job.seats if s.disputed_at]
            if draw(range(12)) == 0:
                marks += [job.id_time + DAY, job.t_last + UNCLAIMED]
            edges += [t for mark in marks for t in (mark - 1, mark) if t > now]
        target = draw(edges) if edges and draw(range(6)) == 0 else now + draw(steps)
        if len(m.jobs) >= 4 and not self.running():
            target = max(now, *(job.id_time + DAY for job in m.jobs.values()))  # a cluster's clock does not go back
        self.jump(target, draw([0, 1, 1, 1]))

    def open_job(self, draw: Draw) -> None:
        if len(self.running()) >= 2 or len(self.model.jobs) >= 5:
            return
        w, m = self.world, self.model
        again = bool(self.refs) and draw(range(16)) == 0
        if again:
            number = draw(sorted(self.refs))
            ref = self.refs[number]
            id_time = int.from_bytes(ref.id[:6], "big") // 1000
        else:
            number, id_time = self.opened, m.now + draw([0] * 24 + [-1, 300, 301, -DAY, 1 - DAY])
            ref = w.ref(w.new_id(at=id_time))
        who, key_ = self.authority(draw)
        budget = draw([1_000] * 20 + [1_500, 1_501, 1, 0, 777, m.allowance, m.allowance + 1])
        deadline = m.now + draw([self.window * 10 + 2 * m.arbiter_window] * 24 + [1, 0, 31_622_400, 31_622_401])
        window = draw([self.window] * 30 + [0, 1, 2_592_000, 2_592_001])
        terms = w.terms(
            ref.id, budget=budget, deadline=deadline, dispute_window=window, arbiter_window=m.arbiter_window
        )
        if again and number not in m.jobs and m.now < id_time + DAY:
            raise Mismatch("a job was erased while its id could still be opened")
        error = self.do(
            "open_job", lambda: w.call("open_job", *terms, job=ref, authority=key_),
            number, who, id_time, budget, deadline, window,
        )  # fmt: skip
        if not error:
            self.refs[number] = ref
            self.opened += not again
            self.spent_since_approval += budget if who == "operator" else 0
            w.token_accounts[w.mint].add(ref.vault)
            self.compare()

    def assign_seats(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None or len(found[1].seats) >= 6:
            return
        n, job, _ = found
        who, key_ = self.authority(draw)
        first = draw([len(job.seats)] * 14 + [0, len(job.seats) + 1])
        room = job.budget - job.caps_total
        new = [
            (
                draw(range(WALLETS)),
                draw([100] * 9 + [50, 0, max(0, room), max(0, room // 2), 2**64 - 1]),
                draw([0, 0, 30, 1]),
            )
            for _ in range(draw([1, 2, 3]))
        ]
        self._assign(n, who, key_, first, new)

    def _assign(self, n: int, who: str, key_: Pubkey, first: int, new: list[tuple[int, int, int]]) -> None:
        args = [(bytes(self.world.wallet(i)), cap, bond) for i, cap, bond in new]
        call = lambda: self.world.call("assign_seats", first, args, job=self.refs[n], authority=key_)  # noqa: E731
        self.do("assign_seats", call, n, who, first, new)

    def raise_caps(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        who, key_ = self.authority(draw)
        caps = []
        for _ in range(draw([1, 2])):
            i = self.index(draw, job)
            cap = job.seats[i].cap if i < len(job.seats) else 5
            caps.append((i, max(0, cap + draw([0, 1, 10, 10, 50, 50, 50, -1, 1_000]))))
        self.do("raise_caps", lambda: self.world.call("raise_caps", caps, job=ref, authority=key_), n, who, caps)

    def accept_seat(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        asked = [i for i, s in enumerate(job.seats) if s.state == 0]
        i = draw(asked) if asked and draw(range(6)) else self.index(draw, job)
        seat = job.seats[i] if i < len(job.seats) else None
        wallet = draw([seat.wallet if seat else 0] * 8 + [0])
        bond = (seat.bond if seat else 0) + draw([0] * 8 + [1])
        source = associated(self.world.wallet(wallet), self.world.mint)[0]
        call = lambda: self.world.call(  # noqa: E731
            "accept_seat", i, bond, job=ref, wallet=self.world.wallet(wallet), source=source
        )
        self.do("accept_seat", call, n, i, wallet, bond)

    def commit_round(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        who = draw(["verifier"] * 8 + ["stranger"])
        round_ = max(0, job.round + draw([1] * 8 + [0, 2]))
        key_ = getattr(self.world, who)
        call = lambda: self.world.call("commit_round", round_, b"\3" * 32, job=ref, verifier=key_)  # noqa: E731
        self.do("commit_round", call, n, who, round_)

    def award(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        if job.round == 0 and draw(range(8)):
            commit = lambda: self.world.call("commit_round", 1, b"\3" * 32, job=ref)  # noqa: E731
            self.do("commit_round", commit, n, "verifier", 1)
            self.tick(1)
        who = draw(["verifier"] * 20 + ["operator"])
        round_ = max(0, job.round + draw([0] * 20 + [1, -1]))
        awards = []
        for _ in range(draw([1, 1, 2, 3])):
            i = self.index(draw, job)
            seat = job.seats[i] if i < len(job.seats) else None
            amount = draw([seat.awarded + 10, seat.cap, seat.cap, seat.awarded, seat.cap + 1] if seat else [1])
            awards.append((i, amount - draw([0] * 12 + [1]) if amount else 0))
        key_ = getattr(self.world, who)
        call = lambda: self.world.call("award", round_, awards, job=ref, verifier=key_)  # noqa: E731
        self.do("award", call, n, who, round_, awards)

    def pay(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        indexes = [self.index(draw, job) for _ in range(draw([1, 2, 4]))]
        self.do("pay", lambda: self.pay_call(job, ref, indexes), n, indexes)

    def pay_to(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        i = self.index(draw, job)
        wallet = draw([job.seats[i].wallet if i < len(job.seats) else 0] * 6 + [0, 1])
        call = lambda: self.world.call(  # noqa: E731
            "pay_to", i, job=ref, wallet=self.world.wallet(wallet), destination=self.elsewhere[wallet]
        )
        self.do("pay_to", call, n, i, wallet)

    def dispute(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, job, ref = found
        who, key_ = self.authority(draw)
        young = [i for i, s in enumerate(job.seats) if s.fresh + s.aging or s.held]
        indexes = [draw(young) if young and draw(range(4)) else self.index(draw, job) for _ in range(draw([1, 1, 3]))]
        self.do("dispute", lambda: self.world.call("dispute", indexes, job=ref, authority=key_), n, who, indexes)

    def appeal(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        if self.running() and draw(range(4)) == 0:
            self.jump(self.model.jobs[draw(self.running())].deadline)
        ending = [n for n, j in self.model.jobs.items() if 0 <= self.model.now - j.deadline < j.window]
        n = draw(ending) if ending and draw(range(4)) else found[0]
        job, ref = self.model.jobs[n], self.refs[n]
        i = self.index(draw, job)
        seat = job.seats[i] if i < len(job.seats) else None
        wallet = draw([seat.wallet if seat else 0] * 12 + [0])
        amount = draw([seat.cap, seat.cap, seat.awarded + 1, seat.awarded, seat.cap + 1] if seat else [1])
        call = lambda: self.world.call("appeal", i, amount, job=ref, wallet=self.world.wallet(wallet))  # noqa: E731
        self.do("appeal", call, n, i, wallet, amount)

    def resolve(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        m = self.model
        waiting = [n for n, j in m.jobs.items() if any(m.on_hold(j, s) or m.appeal_live(j, s) for s in j.seats)]
        n = draw(waiting) if waiting and draw(range(6)) else found[0]
        job, ref = self.model.jobs[n], self.refs[n]
        open_ = [i for i, s in enumerate(job.seats) if m.on_hold(job, s) or m.appeal_live(job, s)]
        i = draw(open_) if open_ and draw(range(6)) else self.index(draw, job)
        seat = job.seats[i] if i < len(job.seats) else None
        who = draw(["arbiter"] * 10 + ["operator"])
        options = (
            [seat.matured, seat.awarded, seat.cap, seat.cap + 1, max(0, seat.matured - 1), seat.paid] if seat else [0]
        )
        awarded, slash = draw(options), draw([0, 0, seat.bond, 1, seat.bond + 1] if seat else [0])
        key_ = getattr(self.world, who)
        call = lambda: self.world.call("resolve", i, awarded, slash, job=ref, arbiter=key_)  # noqa: E731
        self.do("resolve", call, n, who, i, awarded, slash)

    def finish_job(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None or draw(range(3)):
            return
        n, _, ref = found
        who, key_ = self.authority(draw)
        self.do("finish_job", lambda: self.world.call("finish_job", job=ref, authority=key_), n, who)

    def close_job(self, draw: Draw) -> None:
        if (found := self.pick(draw)) is None:
            return
        n, _, ref = found
        self.do("close_job", lambda: self.world.call("close_job", job=ref), n)

    def withdraw(self, draw: Draw) -> None:
        tokens = self.model.client.tokens
        amount = draw([1, 10, tokens // 4, 0, tokens + 1])
        to = draw([self.owner_account] * 4 + [self.world.client_vault])
        call = lambda: self.world.call("withdraw", amount, destination=to)  # noqa: E731
        self.do("withdraw", call, amount, to == self.owner_account)

    def set_operator(self, draw: Draw) -> None:
        w, m = self.world, self.model
        allowance, seq = draw([ALLOWANCE] * 6 + [1_200, 0]), m.seq - draw([0] * 5 + [1])
        expires = m.now + draw([400 * DAY] * 9 + [60, 0])
        call = lambda: w.call("set_operator", w.operator, w.verifier, 1_500, allowance, expires, seq)  # noqa: E731
        if not self.do("set_operator", call, 1_500, allowance, expires, seq):
            self.spent_since_approval, self.approved = 0, allowance

    def gift(self, draw: Draw) -> None:
        """Tokens nobody asked for, to a job's vault or (a deposit) the client's."""
        amount, found = draw([1, 7, 500]), self.pick(draw)
        if found is None or draw([True, False]):
            if self.model.client.status == "ok":
                self.world.mint_to(self.world.client_vault, amount)
                self.model.client.tokens += amount
        else:
            self.world.mint_to(found[2].vault, amount)
            found[1].vault += amount
        self.compare()

    def trouble(self, draw: Draw) -> None:
        """Freezes, thaws, closes or makes somebody's token account."""
        w, m = self.world, self.model
        name = draw(["wallet 0", "wallet 1", "wallet 2", "treasury"] * 2 + ["client"])
        if m.client.status == "frozen" and draw([True, False]):
            name = "client"
        account = m.client if name == "client" else m.treasury if name == "treasury" else m.wallets[int(name[-1])]
        owner = w.treasury if name == "treasury" else w.wallet(int(name[-1])) if name != "client" else w.client
        address = w.client_vault if name == "client" else associated(owner, w.mint)[0]
        if account.status == "frozen":
            w.thaw(address)
            account.status = "ok"
        elif account.status == "missing":
            w.token_account(owner)
            account.status = "ok"
        elif name not in ("client",) and account.tokens == 0:
            params = spl.CloseAccountParams(program_id=TOKEN, account=address, dest=owner, owner=owner)
            w.sent(spl.close_account(params))
            account.status = "missing"
        else:
            w.freeze(address)
            account.status = "frozen"
        self.compare()


ACTIONS: dict[str, tuple[int, Callable[[Player, Draw], None]]] = {
    # how often, and what
    "wait": (9, Player.wait),
    "open_job": (4, Player.open_job),
    "assign_seats": (6, Player.assign_seats),
    "raise_caps": (4, Player.raise_caps),
    "accept_seat": (5, Player.accept_seat),
    "commit_round": (5, Player.commit_round),
    "award": (10, Player.award),
    "pay": (8, Player.pay),
    "pay_to": (3, Player.pay_to),
    "dispute": (6, Player.dispute),
    "appeal": (4, Player.appeal),
    "resolve": (6, Player.resolve),
    "finish_job": (2, Player.finish_job),
    "close_job": (4, Player.close_job),
    "withdraw": (2, Player.withdraw),
    "set_operator": (2, Player.set_operator),
    "gift": (2, Player.gift),
    "trouble": (3, Player.trouble),
}
