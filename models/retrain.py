"""From telemetry to a challenger. Pure.

A challenger is the champion with its *local* expert trained anew on this installation's own attempts: the residual of
accepted shards over the base, by the very rows that planning computes. The latest jobs are held out for the judgement
(`judge`).

The gateway measures times, but a contributor can still work slowly on purpose, or a writer can be broken. So rows are
validated again, duplicates dropped, and an agent whose median residual is more than threefold away from the others' is
left out of training and judging; when that is more than a third of the rows or agents, nothing is promoted at all.
Not here: the rule of promotion (`judge`), learning inside a job (`correction`), and relearning the physical base.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log

import numpy as np
import pandas as pd

from models.base import Array
from models.predictor import GROUPS, LEARNED, LEVEL, Expert, Predictor, make_box, make_facts
from models.residual import apply, fit
from models.schemas import ATTEMPTS, bad_rows
from models.seen import Seen, parse_seen

LOCAL = "local"
LEAST_JOBS, LEAST_HELD, LEAST_ROWS = 12, 5, 40
HELD_SHARE = 0.25
SUSPECT = log(3.0)  # an agent's median residual against the median of all agents
MOST_SUSPECT = 1 / 3  # of rows or agents
FOLDS = 4


@dataclass(frozen=True)
class Window:
    """What a retraining run looks at. `dropped`: reason to number of rows."""

    seen: tuple[Seen, ...]
    dropped: dict[str, int]
    suspects: tuple[str, ...] = ()
    suspect_share: float = 0.0  # the larger of their share of rows and of agents

    @property
    def jobs(self) -> list[str]:
        """Jobs by the time of their first attempt, oldest first."""
        first: dict[str, float] = {}
        for s in self.seen:
            first[s.job_id] = min(s.at, first.get(s.job_id, s.at))
        return sorted(first, key=lambda j: (first[j], j))


def read_window(frame: pd.DataFrame, champion: Predictor, now: float | None = None) -> Window:
    """Validates, drops duplicates and what was not accepted, parses, sets suspects aside.

    `now` (unix seconds): rows from later than a day after it are dropped; the clock that wrote them has run backwards
    since, and they would be the "latest" jobs for ever.
    """
    dropped: dict[str, int] = {}

    def drop(reason: str, count: int = 1) -> None:
        if count:
            dropped[reason] = dropped.get(reason, 0) + count

    unique = frame.drop_duplicates(["job_id", "round", "seat", "attempt"]) if len(frame) else frame
    drop("duplicate", len(frame) - len(unique))
    if now is not None:
        ahead = unique["at"] > now + 86_400
        drop("from the future", int(np.count_nonzero(ahead)))
        unique = pd.DataFrame(unique[~ahead])
    seen: list[Seen] = []
    accepted = pd.DataFrame(unique[unique["outcome"] == "accepted"], columns=list(ATTEMPTS.columns))
    later = [name for name in ("client", "evidence") if name not in unique]  # rows kept before these columns were
    accepted[later] = ""
    drop("not accepted", len(unique) - len(accepted))
    bad = bad_rows(ATTEMPTS, accepted.astype({"score": "float64"})) if len(accepted) else set()
    drop("breaks the schema", len(bad))
    for position, record in enumerate(accepted.to_dict(orient="records")):
        if position in bad:
            continue
        try:
            seen.append(parse_seen(record))
        except (ValueError, KeyError):  # pydantic's errors are ValueErrors
            drop("does not parse")
    known = [s for s in seen if make_facts(champion.base, s.job, s.candidate.kind, s.candidate.probes) is not None]
    drop("no probe in common", len(seen) - len(known))
    return _set_suspects_aside(Window(tuple(known), dropped), champion)


def _set_suspects_aside(window: Window, champion: Predictor) -> Window:
    by_agent: dict[str, list[float]] = {}
    for s in window.seen:
        facts = make_facts(champion.base, s.job, s.candidate.kind, s.candidate.probes)
        assert facts is not None
        by_agent.setdefault(s.candidate.agent, []).append(s.truth - facts.base)
    medians = {agent: float(np.median(v)) for agent, v in by_agent.items()}
    if len(medians) < 3:
        return window
    centre = float(np.median(list(medians.values())))
    suspects = tuple(sorted(a for a, m in medians.items() if abs(m - centre) > SUSPECT))
    rows = sum(len(by_agent[a]) for a in suspects)
    share = max(rows / len(window.seen), len(suspects) / len(medians))
    kept = tuple(s for s in window.seen if s.candidate.agent not in suspects)
    dropped = {**window.dropped, **({"of a suspect contributor": rows} if rows else {})}
    return Window(kept, dropped, suspects, share)


def too_little(window: Window) -> str | None:
    """Why nothing can be learned from this window; None when something can."""
    if window.suspect_share > MOST_SUSPECT:
        return f"{window.suspect_share:.0%} of the rows or contributors stand apart from the rest: not trustworthy"
    if len(window.seen) < LEAST_ROWS or len(window.jobs) < LEAST_JOBS:
        return (
            f"too little data: {len(window.seen)} accepted shards of {len(window.jobs)} jobs,"
            f" {LEAST_ROWS} of {LEAST_JOBS} are needed"
        )
    return None


def split(window: Window) -> tuple[list[Seen], list[Seen]]:
    """(training, held out): the latest quarter of the jobs, at least five, is held out."""
    jobs = window.jobs
    held = set(jobs[-max(LEAST_HELD, ceil(HELD_SHARE * len(jobs))) :])
    return [s for s in window.seen if s.job_id not in held], [s for s in window.seen if s.job_id in held]


def _rows(champion: Predictor, seen: Sequence[Seen]) -> tuple[Array, Array, Array]:
    """(x, residual, weights 1 / sqrt(rows of the same agent and job features))."""
    facts = [make_facts(champion.base, s.job, s.candidate.kind, s.candidate.probes) for s in seen]
    x = np.array([f.row for f in facts if f is not None])
    residual = np.array([s.truth - f.base for s, f in zip(seen, facts, strict=True) if f is not None])
    cells = [(s.candidate.agent, json.dumps(s.job.features, sort_keys=True)) for s in seen]
    count = {cell: cells.count(cell) for cell in set(cells)}
    weights = np.array([count[cell] ** -0.5 for cell in cells])
    return x, residual, weights / weights.mean()


def train_challenger(champion: Predictor, seen: Sequence[Seen], version: str, metadata: dict[str, object]) -> Predictor:
    """The champion with a new local expert. Its widths come from cross-validation by job on the same rows."""
    x, residual, weights = _rows(champion, seen)
    leaf = max(3.0, 0.05 * len(x))
    jobs = sorted({s.job_id for s in seen})
    fold = np.array([jobs.index(s.job_id) % FOLDS for s in seen])
    gap = np.zeros(len(x))
    for k in range(FOLDS):
        inside = fold == k
        if inside.any() and not inside.all():
            gap[inside] = residual[inside] - apply(
                fit(x[~inside], residual[~inside], weights[~inside], leaf), x[inside]
            )
    expert = Expert(LOCAL, fit(x, residual, weights, leaf), make_box(x), _widths(seen, gap))
    others = tuple(e for e in champion.experts if e.name != LOCAL)
    return replace(champion, name=LEARNED, version=version, experts=(*others, expert), metadata=dict(metadata))


def _widths(seen: Sequence[Seen], gap: Array) -> dict[int, float]:
    """Conformal half widths: the worst of n contributors of a job, one score a job and draw."""
    worst: dict[str, dict[str, float]] = {}
    for s, g in zip(seen, gap, strict=True):
        agents = worst.setdefault(s.job_id, {})
        agents[s.candidate.agent] = max(agents.get(s.candidate.agent, 0.0), abs(float(g)))
    rng = np.random.default_rng(0)
    out: dict[int, float] = {}
    for group in GROUPS:
        scores = sorted(float(rng.permutation(list(a.values()))[:group].max()) for a in worst.values())
        out[group] = min(5.0, max(0.02, scores[min(len(scores), ceil((len(scores) + 1) * LEVEL)) - 1]))
    return out
