"""Which metrics fit which task, and which of them is a job's headline: `metric` in job.json, else its task's first.

What a job is judged by: its curve, the choice among trainings, early stopping. Not here: computing them (metrics.py).
"""

from __future__ import annotations

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "auc"),
    "regression": ("r2",),
    "next_token": ("perplexity", "accuracy"),
}
LOWER_IS_BETTER = ("loss", "perplexity")


def better(metric: str, value: float) -> float:
    """The score so that higher is better."""
    return -value if metric in LOWER_IS_BETTER else value


def headline(task: str, wanted: str | None = None) -> str:
    """The metric that a job is judged by. Raises ValueError where it does not fit the task."""
    known = METRICS[task]
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise ValueError(f"{wanted} does not fit {task}: use {', '.join(known)}")
    return wanted
