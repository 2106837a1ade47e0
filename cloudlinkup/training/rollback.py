"""Whether a round's new weights are kept: by the score on held-out rows before and after it. Pure.

A round that made the model much worse (a poisoned update that slipped through gates, audit and robust rule; a learning
rate that diverged) is taken back: the weights of the round before are published again and the round is done anew, under
a new number and so with new seeds. The margins are wide, since a score moves between rounds anyway and held-out rows
are few: what stays within them costs little, and the next rounds mend it. At most `MOST` rounds of a job are taken
back, so that a job that cannot learn ends all the same.
"""

from __future__ import annotations

from math import isfinite, sqrt

from cloudlinkup.training.evaluate import Score
from cloudlinkup.training.headline import better

MOST = 2  # rounds of one job
DROP = 0.1  # of a score between 0 and 1, beside three standard errors of it
FACTOR = 2.0  # by which a perplexity, or 1 - R2, may grow
LEAST_LOSS = 0.1  # of 1 - R2: below it growth is no harm


def rolls_back(before: float | None, after: Score) -> str:
    """Why the round is taken back, or an empty string. `before`: the same metric's value before it; None: unknown."""
    if not (isfinite(after.value) and isfinite(after.loss)):
        return "the held-out rows' loss is not a number"
    if before is None or better(after.metric, after.value) >= better(after.metric, before):
        return ""
    if after.metric == "perplexity":
        worse = after.value > FACTOR * before
    elif after.metric == "r2":
        worse = 1 - after.value > FACTOR * max(1 - before, LEAST_LOSS)
    else:
        worse = before - after.value > DROP + 3 * sqrt(max(0.0, before * (1 - before)) / after.rows)
    return f"{after.metric} on held-out rows went from {before:.4g} to {after.value:.4g}" if worse else ""
