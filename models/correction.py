"""What a contributor's own segments say about its speed in this job: a Gaussian in log space, nothing else.

A prediction made before the job is a prior for log seconds per step; each shard that came back is an observation. The
prior's width is at least the hidden slowdown of shared servers (sigma 0.3, the lognormal that the planning
benchmark draws from), so one observed shard outweighs any prior: measured elsewhere on real GPU times, the error
falls to 2.7% after one segment whatever came before. Nothing is carried over to other jobs: a residual learned from
other jobs on the same contributor made predictions worse.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log, sqrt

from models.facts import Prediction

Z90 = 1.2815515655446004  # P90 of a standard Gaussian
HIDDEN = 0.3  # sigma of a contributor's hidden slowdown in log space
SHARD_NOISE = 0.05  # sigma of one shard's mean time that does not shrink with its segments (other load, transfers)
SEGMENT_NOISE = 0.10  # sigma of one segment's time
DRIFT = 0.05  # sigma by which a contributor's speed may move from one round to the next


@dataclass(frozen=True)
class Correction:
    """Belief about one contributor in one job: log seconds per step ~ N(mean, variance). Immutable."""

    agent: str
    base: float
    mean: float
    variance: float
    segments: int = 0

    @classmethod
    def start(cls, prediction: Prediction) -> Correction:
        """From the prediction before the job; its interval widens the prior."""
        width = log(prediction.high / prediction.low) / (2 * Z90)
        return cls(prediction.agent, prediction.base, log(prediction.seconds), max(width, HIDDEN) ** 2)

    def observe(self, seconds: float, steps: int, segments: int, blur: float = 0.0) -> Correction:
        """After a shard of `segments` segments and `steps` steps that took `seconds` in all.

        `blur`: the part of `seconds` that may not be training, as a ratio to it; a shard as short as its own handling
        says little, and believing it would give slow contributors ever shorter shards.
        Nothing changes when it did no step. Raises ValueError for seconds that are not positive and finite.
        """
        if steps <= 0 or segments <= 0:
            return self
        if not 0 < seconds < float("inf"):
            raise ValueError("seconds must be positive and finite")
        prior = self.variance + (DRIFT**2 if self.segments else 0.0)
        noise = SHARD_NOISE**2 + SEGMENT_NOISE**2 / segments + blur**2
        gain = prior / (prior + noise)
        mean = self.mean + gain * (log(seconds / steps) - self.mean)
        return replace(self, mean=mean, variance=(1 - gain) * prior, segments=self.segments + segments)

    def unfinished(self, seconds: float, steps: int) -> Correction:
        """After a shard of which not one segment of `steps` steps was done in `seconds`: at least that slow, so that
        nobody looks quicker for it."""
        found = self.observe(2 * seconds, steps, 1)
        return found if found.mean > self.mean else replace(self, segments=found.segments)

    @property
    def prediction(self) -> Prediction:
        """Seconds per step now. The interval is this contributor's own (Gaussian), not conformal."""
        width = Z90 * sqrt(self.variance)
        return Prediction(
            agent=self.agent,
            seconds=exp(self.mean),
            low=exp(self.mean - width),
            high=exp(self.mean + width),
            base=self.base,
            source="observed",
        )
