"""Which waiting job starts next, and why: computed from what settled on chain and from the clock, never submitted.

    priority = 0.40 fair share + 0.25 urgency + 0.20 age + 0.15 tier, each from 0 to 1

fair share  2^(-usage / share): usage is what the client's jobs spent, halved every 14 days; the share grows with the
            fees it settled and with the verified pay it earned as a contributor from others.
urgency     time the job needs over time that is left to its deadline.
age         time waited over `WAIT`.
tier        by fees settled, in four steps.

Weights alone starve: an old job of a client without standing has at most 0.20 for its age, and a new urgent one of a
good client 0.80. So a job that has waited for `WAIT` is *due*, and due jobs start before all others, oldest first: only
jobs that were submitted before it can then start before it. Fees cost money, so neither a client that hires itself nor
one that splits into many wallets gains by it: a new wallet has the smallest share and tier.

Pure. Not here: moving the runs (`flows/rank_queue`). Nothing that started is ever preempted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WEIGHTS = {"fair share": 0.40, "urgency": 0.25, "age": 0.20, "tier": 0.15}
HALF_LIFE = 14 * 86_400.0  # seconds
WAIT = 3_600.0  # seconds after which a waiting job is due
BASE_SHARE = 10_000_000  # base units of spending that halve a newcomer's fair share: 10 tokens of six decimals
FEE_SHARE = 20  # share that a settled fee adds, as a multiple of it
TIERS = (1, 1_000_000, 100_000_000)  # settled fees, base units, from which tiers 1, 2 and 3 begin
NEEDS = 900.0  # seconds that a job is taken to need before it was quoted


@dataclass(frozen=True)
class Settled:
    """One settled job, as its receipt and the chain have it. Money in base units, `at` in unix seconds."""

    client: str
    spent: int  # paid to contributors, and the fee
    fee: int
    at: float


@dataclass(frozen=True)
class Account:
    """A client's standing now. `usage` and `share` in base units; `tier` 0 to 3."""

    usage: float = 0.0
    share: float = float(BASE_SHARE)
    tier: int = 0

    @property
    def fair(self) -> float:
        return 2.0 ** -(self.usage / self.share)


@dataclass(frozen=True)
class Waiting:
    """A job that waits for its start. Times in unix seconds; `needs`: seconds it takes at P90, where it was quoted."""

    key: str
    client: str
    submitted: float
    deadline: float
    needs: float = NEEDS


@dataclass(frozen=True)
class Place:
    """Where a job stands. `place` counts from 1; `parts` are the four terms before their weights."""

    key: str
    place: int
    of: int
    priority: float
    due: bool
    parts: Mapping[str, float]

    @property
    def reason(self) -> str:
        """Why, in words."""
        if self.due:
            return f"waited for {WAIT / 60:.0f} minutes, so only jobs older than it start before it"
        terms = " + ".join(f"{WEIGHTS[name]:.2f} x {self.parts[name]:.2f} {name}" for name in WEIGHTS)
        return f"priority {self.priority:.3f} = {terms}"


def account(client: str, settled: Iterable[Settled], *, contributed: int = 0, now: float) -> Account:
    """A client's standing. `contributed`: verified pay that its wallet earned in others' jobs.

    What seems to lie in the future, because a clock was set back, counts as of now.
    """
    mine = [s for s in settled if s.client == client]
    fees = sum(s.fee for s in mine)
    return Account(
        usage=sum(s.spent * 0.5 ** (max(0.0, now - s.at) / HALF_LIFE) for s in mine),
        share=float(BASE_SHARE + FEE_SHARE * fees + contributed),
        tier=sum(fees >= least for least in TIERS),
    )


def parts(job: Waiting, client: Account, now: float) -> dict[str, float]:
    """The four terms. A deadline that has passed is not urgent; a clock that ran backwards makes nothing old."""
    left = job.deadline - now
    return {
        "fair share": client.fair,
        "urgency": min(1.0, max(0.0, job.needs) / left) if left > 0 else 0.0,
        "age": min(1.0, max(0.0, now - job.submitted) / WAIT),
        "tier": client.tier / len(TIERS),
    }


def rank(waiting: Sequence[Waiting], accounts: Mapping[str, Account], now: float) -> tuple[Place, ...]:
    """Everybody's place, next to start first. Unknown clients have an empty account. The order given is no matter."""
    found = []
    for job in waiting:
        terms = parts(job, accounts.get(job.client, Account()), now)
        priority = sum(WEIGHTS[name] * terms[name] for name in WEIGHTS)
        due = terms["age"] >= 1.0
        found.append((not due, 0.0 if due else -priority, job.submitted, job.key, priority, terms))
    found.sort(key=lambda entry: entry[:4])
    return tuple(
        Place(key=key, place=i, of=len(found), priority=priority, due=not later, parts=terms)
        for i, (later, _, _, key, priority, terms) in enumerate(found, 1)
    )
