"""Have predictions drifted? The latest first shards of jobs against the band that the intervals promise.

Only the first accepted shard of each contributor in each job counts: later ones were planned by what was observed. A
contributor's own band is the half width for one contributor; about a fifth of the shards may lie outside of it. It is
drift when so many of the latest `WINDOW` do that chance explains it in under 2 of 100 cases. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom

from models.predictor import LEVEL, Predictor

WINDOW, LEAST = 40, 20  # shards
CHANCE = 0.02


@dataclass(frozen=True)
class Drift:
    """`outside` of `shards` lay outside the band; `fold`: the median miss, 1.0 is none; `drifted`: beyond chance."""

    version: str
    shards: int
    outside: int
    fold: float
    drifted: bool


def find_drift(attempts: pd.DataFrame, champion: Predictor) -> Drift:
    """From rows of the `attempts` table; those that another version planned do not count."""
    kept = pd.DataFrame(attempts[(attempts["outcome"] == "accepted") & (attempts["version"] == champion.version)])
    first = kept.sort_values(["at", "round"]).drop_duplicates(["job_id", "agent"]).tail(WINDOW)
    taken = first["seconds"].to_numpy(dtype=float) / np.maximum(first["steps"].to_numpy(dtype=float), 1)
    planned = first["predicted"].to_numpy(dtype=float)
    good = (taken > 0) & (planned > 0) & np.isfinite(taken) & np.isfinite(planned)
    miss = np.abs(np.log(taken[good] / planned[good]))
    band = max([champion.half_width("rank-1", 1), *(champion.half_width("", 1, e) for e in champion.experts)])
    outside, n = int((miss > band).sum()), len(miss)
    drifted = n >= LEAST and float(binom.sf(outside - 1, n, 1 - LEVEL)) < CHANCE
    return Drift(champion.version, n, outside, float(np.exp(np.median(miss))) if n else 1.0, drifted)
