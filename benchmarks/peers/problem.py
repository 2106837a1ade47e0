"""The problem that all systems share: rows, network, start, batch; and what one machine makes of it.

64 features, 10 classes, 24,000 rows of scikit-learn's make_classification; an MLP of 85,002 parameters, batch 32. The
rows are prepared once by our own `tables/prepare` (split, standardised), and every system trains on those arrays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.setup import SPEEDS, STEP, TOTAL_STEPS
from cloudlinkup.training.spec import TrainingSpec

ROWS, FEATURES, CLASSES, BATCH, RATE = 24_000, 64, 10, 32, 0.01
HIDDEN, HOLDOUT, LABEL = (256, 256), 1 / 6, "label"
TARGET = 0.95  # of the single machine's score


@dataclass(frozen=True, eq=False)
class Problem:
    """features fp32 (rows, inputs), targets int64 (rows,), the holdout's alike; `start`: flat fp32 weights."""

    spec: TrainingSpec
    features: np.ndarray
    targets: np.ndarray
    holdout_features: np.ndarray
    holdout_targets: np.ndarray
    start: np.ndarray

    def part(self, number: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
        """An equal share of the training rows, which are in random order."""
        return self.features[number::parts], self.targets[number::parts]

    def score(self, weights: np.ndarray) -> float:
        """Accuracy on the held-out rows."""
        import torch

        from cloudlinkup.training.architectures import build_with

        with torch.inference_mode():
            answers = build_with(self.spec, weights)(torch.from_numpy(self.holdout_features)).argmax(1).numpy()
        return float((answers == self.holdout_targets).mean())


def load(folder: Path) -> Problem:
    """The problem that `make` wrote there."""
    with np.load(folder / "problem.npz", allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files}
    return Problem(spec=TrainingSpec.from_bytes((folder / "spec.json").read_bytes()), **arrays)


def job(rows: Path, seed: int) -> dict[str, Any]:
    """The job as a client of ours submits it."""
    return {
        "version": 1,
        "data": {"uri": rows.as_uri(), "format": "parquet", "label": LABEL, "holdout": HOLDOUT},
        "task": "classification",
        "model": {"kind": "mlp", "hidden": list(HIDDEN), "activation": "relu"},
        "train": {"samples": TOTAL_STEPS * BATCH, "batch": BATCH, "lr": RATE, "seed": seed, "rounds": "stateless"},
        "contributors": {"max": 4},
        "budget": "50",
        "deadline": "2035-12-31T00:00:00Z",
    }


def make(folder: Path, seed: int) -> dict[str, float]:
    """Writes the rows, and returns the single machine's facts (score, target); what is there already is kept."""
    facts = folder / "single.json"
    if facts.exists():
        return json.loads(facts.read_text())
    import pandas as pd
    from sklearn.datasets import make_classification

    from cloudlinkup.tables.prepare import prepare
    from cloudlinkup.training.architectures import initial_weights
    from cloudlinkup.training.baseline import train_alone
    from cloudlinkup.types import parse_job

    folder.mkdir(parents=True, exist_ok=True)
    made: Any = make_classification(
        n_samples=ROWS,
        n_features=FEATURES,
        n_informative=20,
        n_redundant=8,
        n_classes=CLASSES,
        n_clusters_per_class=2,
        class_sep=1.6,
        flip_y=0.01,
        random_state=seed,
    )
    x, y = made
    frame = pd.DataFrame(x.astype(np.float32), columns=[f"f{i}" for i in range(FEATURES)])
    frame[LABEL] = y
    frame.to_parquet(folder / "rows.parquet")
    document = job(folder / "rows.parquet", seed)
    (folder / "job.json").write_text(json.dumps(document))
    data = prepare(frame, parse_job(document))
    (folder / "spec.json").write_bytes(data.spec.to_bytes())
    np.savez(
        folder / "problem.npz",
        features=data.features,
        targets=data.targets,
        holdout_features=data.holdout_features,
        holdout_targets=data.holdout_targets,
        start=initial_weights(data.spec),
    )
    alone = train_alone(data.spec, data.features, data.targets, TOTAL_STEPS * BATCH, seed=seed)
    score = load(folder).score(alone.weights)
    found = {"score": score, "target": TARGET * score}
    facts.write_text(json.dumps(found))
    return found


def shares(folder: Path, step: float = STEP, steps: int = 200, repeats: int = 5) -> tuple[float, ...]:
    """The share of a core that each machine offers to ours: what a step costs here, of what it takes there."""
    kept = folder / "shares.json"
    if not kept.exists():
        import time

        from cloudlinkup.training.segments import SegmentRunner
        from cloudlinkup.training.spec import ShardWork

        problem, took = load(folder), []
        for _ in range(repeats):
            work = ShardWork(bytes(32), steps, 1, 0, 1_000_000)
            runner = SegmentRunner(problem.spec, work, problem.start, problem.features, problem.targets)
            began = time.thread_time()
            runner.run_segment()
            took.append((time.thread_time() - began) / steps)
        kept.write_text(json.dumps(min(took)))
    seconds = json.loads(kept.read_text())
    return tuple(round(seconds / (step / speed), 5) for speed in SPEEDS)
