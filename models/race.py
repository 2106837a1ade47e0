"""The race of round 0: who of those that took part in the pilot is kept.

More contributors than the job has places (`racing` says how many) do the pilot (`plan.plan_pilot`), a few segments
each, that are verified and paid like any shard. Everybody is paid the same price a step, so the best are those that
take least time for a valid on-time step:

    measured seconds a step / (on time x valid)

the last two as 5% lower bounds of the record, which has the pilot in it. An ask at a measured over a predicted speed is
no measure: it makes whoever was predicted slow look cheap. Where the best would miss the deadline at the P90, the
fastest are kept instead; where those miss it too, or the budget does not reach, the job ends, and everything but the
pilots' verified pay returns. A cap on chain never falls, so what those that are not kept could still have earned stays
locked until the job is closed: at most their pilot's pay, which the hard cap counts.

Nothing here believes a claimed speed: somebody is measured or is not kept. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import TypeVar

import numpy as np

from models.correction import SHARD_NOISE, Correction
from models.estimate import Estimate, Rest, estimate
from models.facts import Prediction, TrackRecord
from models.plan import JobPlan
from models.selection import Ranked, reliability
from models.wallets import admit


@dataclass(frozen=True)
class Racer:
    """One contributor after the pilot. `speed`: what is known now; `segments`: verified. `wallet`: "" for one that no
    other racer has."""

    seat: int
    speed: Prediction
    segments: int
    record: TrackRecord
    wallet: str = ""

    @property
    def seconds(self) -> float:
        """Expected seconds of a valid on-time step, as far as known; infinite where nothing verified came."""
        return self.speed.seconds / reliability(self.record) if self.segments else inf


@dataclass(frozen=True)
class Kept:
    """`kept` and `dropped` seats, best first; `finish`: None where nobody delivered."""

    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    finish: Estimate | None
    by: str  # record or speed

    def late(self, seconds: float, level: float = 0.9) -> bool:
        """Whether the job would miss a deadline in `seconds`."""
        return self.finish is None or self.finish.quantile(level) > seconds


def keep(racers: Sequence[Racer], places: int, *, rest: Rest, seconds_left: float) -> Kept:
    """The `places` best of the racers, for the `rest` of the job in `seconds_left`; of one wallet as many as `wallets`
    says.

    The order of `racers` does not matter. Raises ValueError for fewer than one place.
    """
    if places < 1:
        raise ValueError("a race is for at least one place")
    delivered = [r for r in racers if r.segments]
    failed = tuple(sorted(r.seat for r in racers if not r.segments))
    if not delivered:
        return Kept((), failed, None, "record")
    orders = {
        "record": sorted(delivered, key=lambda r: (r.seconds, r.speed.seconds, r.seat)),
        "speed": sorted(delivered, key=lambda r: (r.speed.seconds, r.seconds, r.seat)),
    }
    found: list[Kept] = []
    for by, order in orders.items():
        taken = admit([r.wallet or f"seat {r.seat}" for r in order], places)
        first, others = [order[i] for i in taken], [r for i, r in enumerate(order) if i not in taken]
        finish = estimate(rest, [r.speed for r in first], [r.speed for r in others])
        kept = Kept(tuple(r.seat for r in first), (*(r.seat for r in others), *failed), finish, by)
        if not kept.late(seconds_left):
            return kept
        found.append(kept)
    return found[-1]


def regressed(beliefs: Mapping[int, Correction], noise: float = SHARD_NOISE) -> dict[int, Correction]:
    """Beliefs by seat after the pilot, as they are to be expected of those that are picked for having measured well.

    Who is picked from many was partly lucky. Tweedie's formula (Robbins 1956; Efron 2011) takes that back without
    knowing how the true speeds are spread: E[x | y] = y + noise^2 d log f / dy, f the density of all that was measured,
    here by Gaussian kernels as wide as the noise. Among machines that are all alike, most of a lead was luck; where
    they differ much, hardly any. Who was not measured stays as it was.
    """
    measured = {seat: b for seat, b in beliefs.items() if b.segments}
    if not measured:
        return dict(beliefs)
    y = np.array([b.mean for b in measured.values()])
    apart = y[:, None] - y[None, :]
    near = np.exp(-(apart**2) / (2 * noise**2))
    means = y - (near * apart).sum(1) / near.sum(1)
    moved = {seat: replace(b, mean=float(m)) for (seat, b), m in zip(measured.items(), means, strict=True)}
    return dict(beliefs) | moved


@dataclass(frozen=True)
class Waiting:
    """A seat without work that is here: it was not kept, or was lost. `mean`: log seconds a step, as known."""

    seat: int
    mean: float
    measured: bool
    wallet: str = ""


T = TypeVar("T")


def returning(waiting: Sequence[Waiting], free: int, held: Sequence[str] | None = None) -> tuple[int, ...]:
    """Who of them takes the `free` places: the fastest that were measured first. `held`: the wallets of those at work,
    where it counts whose a place is."""
    order = sorted(waiting, key=lambda w: (not w.measured, w.mean, w.seat))
    return tuple(w.seat for w in _first(order, [w.wallet for w in order], free, held))


def latecomers(
    ranked: Sequence[Ranked], price: int, free: int, held: Sequence[str] | None = None
) -> tuple[Ranked, ...]:
    """Who of those that never had a seat, best first, takes the `free` places left: only who takes the job's price.
    `held`: as in `returning`."""
    willing = [r for r in ranked if r.ask <= price]
    return _first(willing, [r.candidate.wallet for r in willing], free, held)


def _first(order: Sequence[T], wallets: Sequence[str], free: int, held: Sequence[str] | None) -> tuple[T, ...]:
    if held is None:
        return tuple(order[: max(0, free)])
    return tuple(order[i] for i in admit(wallets, max(0, free) + len(held), held))


def stranded_by_race(plan: JobPlan) -> int:
    """Steps whose caps may be stranded with those that are not kept: a pilot each, if none of it verified."""
    return len(plan.racers) * plan.pilot_segments * plan.segment_steps
