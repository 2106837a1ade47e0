"""The same job on one machine: torch's own AdamW (and Muon) and autograd in a plain loop over all training rows.

As many samples, the same network, start, batch, peak rate and schedule, so that `--compare` and the benchmark have
something honest beside them. It takes every step in sequence, which a job split over contributors cannot, and keeps
its optimizer's state: at equal samples it is the harder one to beat.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch

from cloudlinkup.training.architectures import build_with, flat_weights, initial_weights
from cloudlinkup.training.muon import matrices
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.schedule import factor
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.training.threads import torch_threads


@dataclass(frozen=True)
class Baseline:
    """Flat fp32 `weights` after `steps` steps that took `seconds`."""

    weights: np.ndarray
    steps: int
    seconds: float


def train_alone(
    spec: TrainingSpec,
    features: np.ndarray,
    targets: np.ndarray,
    samples: int,
    *,
    seed: int = 0,
    threads: int = 1,
    start: np.ndarray | None = None,
    frozen: FrozenWeights | None = None,
) -> Baseline:
    """Trains on `samples` samples (rounded up to whole batches), drawn by epochs. `seed` shuffles the rows.

    Features, targets, frozen: as `SegmentRunner` takes them. start: flat weights, by default the spec's initial ones.
    """
    module = build_with(spec, initial_weights(spec) if start is None else start, frozen)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizers = _optimizers(spec, trained)
    x, y = torch.from_numpy(np.array(features)), torch.from_numpy(np.array(targets))
    generator = torch.Generator().manual_seed(seed)
    steps = -(-samples // spec.batch)
    order = torch.empty(0, dtype=torch.int64)
    with torch_threads(threads):
        started = perf_counter()
        for index in range(steps):
            while len(order) < spec.batch:
                order = torch.cat([order, torch.randperm(len(x), generator=generator)])
            rows, order = order[: spec.batch], order[spec.batch :]
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = spec.lr * factor((index + 0.5) / steps)
                optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec.precision == "bf16"):
                out = module(x[rows])
            _loss(spec, out.float(), y[rows]).backward()
            for optimizer in optimizers:
                optimizer.step()
        seconds = perf_counter() - started
    return Baseline(flat_weights(module), steps, seconds)


def _optimizers(spec: TrainingSpec, trained: list[torch.nn.Parameter]) -> list[torch.optim.Optimizer]:
    """torch's Muon takes matrices alone, so a convolution's kernel stays AdamW's here."""
    moved = [matrix.start for matrix in matrices(spec)]
    start, hidden, rest = 0, [], []
    for parameter in trained:
        (hidden if start in moved and parameter.dim() == 2 else rest).append(parameter)
        start += parameter.numel()
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=spec.lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    ]
    if hidden:
        how: dict[str, Any] = {"momentum": 0.9, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
        found.append(torch.optim.Muon(hidden, lr=spec.lr, **how))
    return found


def _loss(spec: TrainingSpec, out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if spec.task == "regression":
        return torch.nn.functional.mse_loss(out, y)
    weight = None if spec.class_weights is None else torch.tensor(spec.class_weights)
    return torch.nn.functional.cross_entropy(out.reshape(-1, spec.outputs), y.reshape(-1).long(), weight)
