"""What the onboarding probes of CUDA devices are made of, by the same trace as jobs.

The networks are those of `cloudlinkup.agent.probes`, version 1; a probe that is not listed has no known work, and the
base then uses its ratio alone. CPU probes are single kernels and are compared by ratio only.
"""

from __future__ import annotations

from functools import cache

import torch

from models.base import Work
from models.features import trace

CUDA_PROBES = ("mlp", "cnn", "attention")


@cache
def probe_work(name: str) -> Work:
    """One step's work of a CUDA probe. Raises KeyError for an unknown one."""
    nn = torch.nn
    with torch.device("meta"):
        module, rows = {
            "mlp": lambda: (
                nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1024)),
                torch.empty(256, 1024),
            ),
            "cnn": lambda: (
                nn.Sequential(
                    nn.Conv2d(3, 64, 3, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(64, 128, 3, stride=2, padding=1),
                    nn.ReLU(),
                    nn.Conv2d(128, 128, 3, stride=2, padding=1),
                ),
                torch.empty(64, 3, 64, 64),
            ),
            "attention": lambda: (
                nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True),
                torch.empty(32, 128, 256),
            ),
        }[name]()
    return Work.of(trace(module, rows, lambda out: out.float().pow(2).mean()))
