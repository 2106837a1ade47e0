"""When a seat that a round has no work for is measured again.

A seat that looked slow once (a busy minute, a long first transfer) gets no segment while its first would end after the
round, and who has no work is not measured: that would be for ever. So it is given a single segment after `AFTER` rounds
without work, and where that changes nothing after twice as many, and so on. In R rounds these are at most
log2(R / AFTER + 1), so what they cost does not grow with the job, and whoever is quick again is found in a bounded
time. Its training ends with the round's bell like everybody's, so that only its own overhead can lengthen a round.

A belief that grew wider with the rounds unmeasured would need a drift of its own, hundreds of rounds for a seat that
looked ten times too slow, and says nothing of overheads. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

AFTER = 2  # rounds without work
MOST_DOUBLINGS = 16


@dataclass(frozen=True)
class Waited:
    """`rounds` without work, in a row; `tries` that led to no work in the round after them."""

    rounds: int = 0
    tries: int = 0

    @property
    def due(self) -> bool:
        """Whether the next round that has no work for it gives it one segment all the same."""
        return self.rounds >= AFTER * 2 ** min(self.tries, MOST_DOUBLINGS)

    def after(self, *, worked: bool) -> Waited:
        """After one more round. Work right after work is no try: it is planned again."""
        if not worked:
            return Waited(self.rounds + 1, self.tries)
        return Waited(0, self.tries + 1 if self.rounds else 0)
