"""The rule by which a challenger may replace the champion, on held-out jobs of the past. Pure and deterministic.

Promoted only when all of it holds: the error is lower with a 95% paired bootstrap interval (over jobs) above 0; the
replayed makespan and cost (`replay`) are not worse, their intervals above -2%; no device class gets over 10% worse; and
the challenger's P10 to P90 holds, for the worst contributor of a job, in as many of the held-out jobs as chance allows
below its level.

The design asks that makespan and cost improve too. By that letter a challenger that only makes quotes better is kept
out for ever, and that is most of what there is to learn: the split is measured in the job and needs no predictor, so
where networks run slower than predicted on all contributors alike, makespan and cost cannot move at all. What the rule
is for is that retraining cannot make things worse, and that is a question of non-inferiority: 2% is what rounds of
whole segments move a makespan by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import NormalDist

import numpy as np

from models.base import Array
from models.predictor import LEVEL, Predictor
from models.replay import past_job, replay
from models.seen import Seen

WORSE = 1.10  # of a device class's error
MARGIN = 0.02  # of makespan and cost, that the interval of the gain may reach below 0
MOST_REPLAYED = 100  # jobs, the latest
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WHO = ("champion", "challenger")


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger may plan, why (not), and the figures. Errors are mean absolute relative ones.

    `calibration`: (stated level, share of held-out jobs inside) by predictor; the widths of other levels than 80% are
    scaled as a Gaussian's, so only that point is a promise.
    """

    promote: bool
    reason: str
    figures: dict[str, float]
    calibration: dict[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class _Found:
    """By held-out job, for champion and challenger: summed errors, worst miss in half widths, makespan, cost."""

    errors: Array  # (2, shards)
    misses: Array  # (2, jobs)
    makespan: Array  # (2, replayed jobs)
    cost: Array


def _measure(pair: tuple[Predictor, Predictor], held: Sequence[Seen], jobs: Sequence[str]) -> _Found:
    errors, misses = np.zeros((2, len(held))), np.zeros((2, len(jobs)))
    replayed = list(jobs[-MOST_REPLAYED:])
    makespan, cost = np.zeros((2, len(replayed))), np.zeros((2, len(replayed)))
    for number, job in enumerate(jobs):
        mine = [i for i, s in enumerate(held) if s.job_id == job]
        agents = {held[i].candidate.agent: held[i] for i in mine}
        for which, predictor in enumerate(pair):
            found = predictor.predict(held[mine[0]].job, [s.candidate for s in agents.values()])
            by_agent = dict(zip(agents, found, strict=True))
            for i in mine:
                s, p = held[i], by_agent[held[i].candidate.agent]
                took = float(np.exp(s.truth)) / s.candidate.share
                errors[which, i] = abs(p.seconds / took - 1)
                side = log(p.high / p.seconds) if took > p.seconds else log(p.seconds / p.low)
                misses[which, number] = max(misses[which, number], abs(log(took / p.seconds)) / side)
            if job in replayed:
                at = replayed.index(job)
                makespan[which, at], cost[which, at] = replay(past_job([held[i] for i in mine]), predictor)
    return _Found(errors, misses, makespan, cost)


def _gain(pair: Array, draws: int) -> tuple[float, float, float]:
    """(gain, low, high): by how much the challenger's sum over jobs lies below the champion's, as a share."""
    picks = np.random.default_rng(0).integers(0, pair.shape[1], (draws, pair.shape[1]))
    gains = 1 - pair[1][picks].sum(axis=1) / np.maximum(pair[0][picks].sum(axis=1), 1e-12)
    low, high = (float(v) for v in np.quantile(gains, [0.025, 0.975]))
    return float(1 - pair[1].sum() / max(pair[0].sum(), 1e-12)), low, high


def _relative(pair: Array) -> Array:
    """Each job counts alike, however long it is."""
    return pair / np.maximum(pair[:1], 1e-12)


def judge(champion: Predictor, challenger: Predictor, held: Sequence[Seen], draws: int = 2_000) -> Verdict:
    """The rule."""
    first = {s.job_id: s.at for s in reversed(held)}
    jobs = sorted(first, key=lambda j: (first[j], j))
    found = _measure((champion, challenger), held, jobs)
    owner = np.array([jobs.index(s.job_id) for s in held])
    per_job = np.zeros((2, len(jobs)))
    for row, errors in zip(per_job, found.errors, strict=True):
        np.add.at(row, owner, errors)
    gains = {
        "error": _gain(per_job, draws),
        "makespan": _gain(_relative(found.makespan), draws),
        "cost": _gain(_relative(found.cost), draws),
    }
    classes = np.array([s.candidate.device_class for s in held])
    worst = max(
        float(found.errors[1][classes == name].mean() / max(found.errors[0][classes == name].mean(), 1e-12))
        for name in set(classes.tolist())
    )
    coverage = [float((m <= 1 + 1e-9).mean()) for m in found.misses]
    least = LEVEL - 2 * sqrt(LEVEL * (1 - LEVEL) / len(jobs))
    figures = {"held-out jobs": float(len(jobs))}
    figures |= {f"{who} error": float(e.mean()) for who, e in zip(WHO, found.errors, strict=True)}
    for name, values in gains.items():
        figures |= {f"{name} {part}": v for part, v in zip(("gain", "gain low", "gain high"), values, strict=True)}
    figures |= {"worst class ratio": worst}
    figures |= {f"{who} coverage": share for who, share in zip(WHO, coverage, strict=True)}
    return Verdict(*_rule(gains, worst, coverage[1], least), figures, _curves(found.misses))


def _rule(
    gains: dict[str, tuple[float, float, float]], worst: float, coverage: float, least: float
) -> tuple[bool, str]:
    if gains["error"][1] <= 0:
        return False, "its error is not lower with confidence: the interval of the gain holds 0"
    if worst > WORSE:
        return False, "a device class gets over 10% worse"
    if coverage < least:
        return False, f"its P10 to P90 covers {coverage:.0%} of the held-out jobs, {least:.0%} is needed"
    for name in ("makespan", "cost"):
        if gains[name][1] <= -MARGIN:
            return False, f"its error is lower, but the replayed {name} may be over {MARGIN:.0%} worse"
    better = [name for name in ("makespan", "cost") if gains[name][1] > 0]
    also = f"replayed {' and '.join(better)} too" if better else "replayed makespan and cost are not worse"
    return True, f"its error is lower with confidence, {also}, no class is worse, and its intervals cover"


def _curves(misses: Array) -> dict[str, tuple[tuple[float, float], ...]]:
    normal = NormalDist()
    at = normal.inv_cdf((1 + LEVEL) / 2)
    return {
        who: tuple((level, float((row <= normal.inv_cdf((1 + level) / 2) / at + 1e-9).mean())) for level in LEVELS)
        for who, row in zip(WHO, misses, strict=True)
    }
