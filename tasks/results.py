"""What a job with `search` delivers: the best of its trainings, all of them, or their blend, and a table of all.

The best is chosen by the first half of the held-out rows and reported on the second, so that the choice does not
flatter the score; folds are scored on the rows they left out, and their final model on all held-out rows.

    delivered/            the chosen model, or the blend; trials.csv, trials.png
    delivered/trials/NN/  each delivered training, where there are several
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from cloudlinkup.sdk.delivered import TRIALS, write_blend, write_delivery
from cloudlinkup.sdk.plot import Line, line_plot
from cloudlinkup.search import Folds
from cloudlinkup.training.evaluate import all_of_outputs, all_scores
from cloudlinkup.training.evaluate import outputs as network_outputs
from cloudlinkup.training.headline import better
from tasks.context import Run
from tasks.trials import choosing_rows, reporting_rows, stored_search

TABLE, PLOT = "trials.csv", "trials.png"


def write_results(run: Run, facts: dict[str, Any]) -> None:
    """`facts`: of the job, as `deliver` tells them. Sets the job's score to what is delivered."""
    folder, search = run.folder / "delivered", run.job.search
    assert search is not None
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ranked = ranking(run)
    best = ranked[0]
    facts = facts | {"metric": run.state.metric, "trials": len(run.trials), "chosen": _chosen(run, ranked)}
    if isinstance(search, Folds):
        facts |= _fold_scores(run)
    rows = reporting_rows(run)
    facts["rows"] = facts["rows"] | {"held_out": len(rows[1])}
    members = ranked if search.deliver in ("all", "blend") else []
    for number in members:
        _write_one(run, folder / TRIALS / f"{number:02}", number, facts, rows)
    if search.deliver == "blend":
        run.state.metrics = blended = _blend_scores(run, members, rows)
        names = [f"{TRIALS}/{number:02}" for number in sorted(members)]
        spec = run.trials[best].spec
        told = facts | {"score": blended[run.state.metric], "metrics": blended}
        write_blend(folder, names, spec, run.data.preprocessing, told)
    else:
        run.state.metrics = _write_one(run, folder, best, facts, rows)
    run.state.score = run.state.metrics[run.state.metric]
    (folder / TABLE).write_text(table(run))
    (folder / PLOT).write_bytes(plot(run, best))


def ranking(run: Run) -> list[int]:
    """The trainings to deliver from, best first: those that ran to their end, else those that came furthest."""
    states = run.state.trials
    if isinstance(run.job.search, Folds):
        folds = [k for k, of in enumerate(run.trials) if of.fold is not None]
        return folds if run.job.search.deliver == "blend" else [len(run.trials) - 1]
    pool = [k for k, state in enumerate(states) if state.state == "done"]
    if not pool:
        furthest = max(state.done for state in states)
        pool = [k for k, state in enumerate(states) if state.done == furthest]
    return sorted(pool, key=lambda k: (-_last(run, k), k))


def _last(run: Run, number: int) -> float:
    scores = run.state.trials[number].scores
    return better(run.state.metric, scores[-1][1]) if scores else -float("inf")


Rows = tuple[np.ndarray, np.ndarray]


def _write_one(run: Run, folder: Path, number: int, facts: dict[str, Any], rows: Rows) -> dict[str, float]:
    of, state = run.trials[number], run.state.trials[number]
    metrics = all_scores(of.spec, of.published.published, *rows, of.frozen)
    own = {"score": metrics[run.state.metric], "metrics": metrics, "steps": state.done, "curve": state.scores}
    write_delivery(folder, of.spec, of.published.published, run.data.preprocessing, facts | own)
    return metrics


def _blend_scores(run: Run, members: list[int], rows: Rows) -> dict[str, float]:
    features, targets = rows
    answers = []
    for number in members:
        of = run.trials[number]
        out = network_outputs(of.spec, of.published.published, features, of.frozen).astype(np.float64)
        if of.spec.task == "classification":
            out = np.exp(out - out.max(axis=1, keepdims=True))
            out /= out.sum(axis=1, keepdims=True)
        answers.append(out)
    mean = np.mean(answers, axis=0)
    spec = run.trials[members[0]].spec
    if spec.task == "classification":
        mean = np.log(np.maximum(mean, 1e-300))
    return all_of_outputs(spec, mean, targets)


def _chosen(run: Run, ranked: list[int]) -> str:
    search = run.job.search
    count = len(run.trials)
    if isinstance(search, Folds):
        if search.deliver == "blend":
            return f"the mean of the {len(ranked)} folds' models"
        return f"trained once more on all rows that the {search.folds} folds were made of"
    if search is not None and search.deliver == "blend":
        return f"the mean of {len(ranked)} of {count} trainings, those that ran to their end"
    told = json.dumps(stored_search(run).trials[ranked[0]].settings)
    _, held = choosing_rows(run, ranked[0])
    return f"training {ranked[0]} of {count} ({told}), chosen by {len(held)} other held-out rows"


def _fold_scores(run: Run) -> dict[str, Any]:
    values = [
        state.scores[-1][1]
        for of, state in zip(run.trials, run.state.trials, strict=True)
        if of.fold is not None and state.state == "done"
    ]
    if len(values) < 2:
        return {}
    return {"folds": {"count": len(values), "mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}}


def table(run: Run) -> str:
    """CSV: one line a training, with its settings, how far it came and its score there."""
    plan = stored_search(run)
    names = list(dict.fromkeys(name for trial in plan.trials for name in trial.settings))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", *names, "steps", "of", "state", run.state.metric])
    for number, (trial, state) in enumerate(zip(plan.trials, run.state.trials, strict=True)):
        shown = [value if isinstance(value := trial.settings.get(n), str) else json.dumps(value) for n in names]
        last = f"{state.scores[-1][1]:.6f}" if state.scores else ""
        writer.writerow([number, *shown, state.done, plan.work.steps[number], state.state, last])
    return out.getvalue()


def plot(run: Run, best: int) -> bytes:
    """Every training's score by its own steps; the best stands out."""
    lines = [Line(state.scores, strong=number == best) for number, state in enumerate(run.state.trials)]
    return line_plot(lines, title="all trainings", x="verified steps of each", y=run.state.metric)
