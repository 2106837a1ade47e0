"""How much of a shard is opened: the protocol's default, and more where there is more to fear. Pure.

Let n segments be committed to, m of them not trained as ordered, k drawn at random without replacement. The cheat is
found with p = 1 - C(n-m, k) / C(n, k), which is at least m/n for every k >= 1. Counted on one round's pay P alone, with
c the share of the pay that the work costs its contributor, cheating changes what it keeps by

    c m/n P - p P   <=   (c - 1) m/n P

so it loses by every cheat, spread or concentrated, as long as work costs less than it pays, and **one segment of every
shard is the floor that no record lowers**. What is taken beyond the round (the seat, the bond, disputed awards,
reputation) is not counted in.

Above the floor: one more in a contributor's first round (and always the last segment, as in jobs below four
contributors); more for a shard that is worth much of the budget, as the pay that slips through unearned, P x (1-x)^k at
share x, is held below `TOLERATED` of the budget; for a record of misses; and for work done faster than its own
predicted interval allows. And the last segment of everybody with more than a quarter of the round's steps: a poisoned
upload after honest training saves no work, so no rate on pay deters it, and one that is fitted to gates and robust rule
is let in until the last segment is drawn. Nobody else can do as much harm before that (docs/robustness.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from cloudlinkup.verify.challenge import SMALL_JOB

TOLERATED = 0.02  # of the budget: expected unearned pay of one shard, whatever share of it is not trained
HASTE = 1.5  # times faster than the fast end (P10) of its own prediction: hardly possible
LARGE_SHARE = 0.25  # of a round's steps, above which the last segment is always opened
MOST_EXTRA = 4  # beyond the default: what an audit may cost is bounded too


@dataclass(frozen=True)
class Risk:
    """What is known before the draw. `value`: the shard's pay as a share of the job's budget. `pace`: P10 of the
    predicted seconds over the seconds it took; 0 where unknown. `misses`: failed audits on record, openings that never
    came included. `share`: of the round's committed steps, all devices of
    the contributor together."""

    rounds: int
    contributors: int
    value: float = 0.0
    misses: float = 0.0
    pace: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class Rate:
    """What `challenge.draw` is told. `small_job`: the last segment is always opened, because contributors are few or
    the share is large. `why`: in words, what raised it above the default."""

    newcomer: bool
    small_job: bool
    extra: int = 0
    why: tuple[str, ...] = ()

    @property
    def random(self) -> int:
        """Segments drawn at random, at least 1; the last one comes on top."""
        return 1 + self.newcomer + self.extra

    @property
    def last(self) -> float:
        """Probability that the last segment is opened whatever else is drawn."""
        return 1.0 if self.newcomer or self.small_job or self.extra else 0.5


def rate(risk: Risk) -> Rate:
    """The rate of one shard. Raises ValueError for negative facts."""
    if min(risk.rounds, risk.contributors, risk.value, risk.misses, risk.pace, risk.share) < 0:
        raise ValueError("facts of a risk are not negative")
    newcomer, small_job = risk.rounds == 0, risk.contributors < SMALL_JOB
    large = not small_job and risk.share > LARGE_SHARE
    by_value = max(0, drawn_for_value(risk.value) - 1 - newcomer)
    extras = [
        (by_value, f"worth {risk.value:.0%} of the budget"),
        (min(MOST_EXTRA, int(-(-risk.misses // 1))), f"{risk.misses:g} misses on record"),
        (2 if risk.pace >= HASTE else 0, f"{risk.pace:.1f} times faster than its interval"),
    ]
    extra = min(MOST_EXTRA, sum(more for more, _ in extras))
    why = [why for more, why in extras if more]
    if large:
        why.append(f"{risk.share:.0%} of the round's steps")
    return Rate(newcomer, small_job or large, extra, tuple(why))


def slipping(drawn: int) -> float:
    """The most that slips through unearned at `drawn` segments, as a share of the shard's pay: max over x of
    x (1-x)^k, at x = 1/(k+1)."""
    return (drawn / (drawn + 1)) ** drawn / (drawn + 1)


def drawn_for_value(value: float) -> int:
    """The least number of drawn segments at which a shard of this value (share of the budget) slips at most
    `TOLERATED`; at most 1 + MOST_EXTRA."""
    drawn = 1
    while drawn <= MOST_EXTRA and value * slipping(drawn) > TOLERATED:
        drawn += 1
    return drawn


def caught(segments: int, cheated: int, drawn: int) -> float:
    """Probability that `drawn` random segments meet at least one of the `cheated`. The last segment, opened on top of
    them, is not counted: a lower bound where it is cheated too. Raises ValueError outside 0..segments."""
    if not 0 <= cheated <= segments or segments < 1 or drawn < 0:
        raise ValueError("cheated segments lie within the shard")
    return 1 - comb(segments - cheated, min(drawn, segments)) / comb(segments, min(drawn, segments))


def gain(segments: int, cheated: int, drawn: int, cost: float) -> float:
    """What the cheat changes of one round's pay, as a share of it: work saved less pay lost. `cost`: what the whole
    work costs its contributor, as a share of the pay."""
    return cost * cheated / segments - caught(segments, cheated, drawn)
