"""Small specs of every kind of network by name, and rows that fit them. Needs numpy alone, as a GPU machine has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cloudlinkup.training.spec import TrainingSpec


def make_spec(model: dict, inputs: int, outputs: int = 3, task: str = "classification", **changes) -> TrainingSpec:
    return replace(TrainingSpec(task, model, inputs, outputs, 8, 0.01, 5), **changes)  # type: ignore[arg-type]


def transformer(**changes) -> dict:
    model = {"kind": "transformer", "width": 16, "depth": 2, "heads": 2, "context": 12}
    return model | {"positions": "learned", "tied": True} | changes


def conv(kind: str, out: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> dict:
    return {"type": kind, "out": out, "kernel": kernel, "stride": stride, "padding": padding}


IMAGE = [
    conv("conv2d", 6),
    {"type": "groupnorm", "groups": 2},
    {"type": "relu"},
    {
        "type": "residual",
        "layers": [conv("conv2d", 6), {"type": "silu"}, {"type": "residual", "layers": [{"type": "tanh"}]}],
    },
    {"type": "max_pool", "size": 2},
    conv("conv2d", 8, stride=2),
    {"type": "gelu"},
    {"type": "adaptive_pool", "out": [1, 2]},
    {"type": "flatten"},
    {"type": "linear", "out": 7},
    {"type": "layernorm"},
]
SEQUENCE = [
    {"type": "embedding", "words": 11, "width": 8},
    {"type": "positions"},
    {"type": "residual", "layers": [{"type": "layernorm"}, {"type": "attention", "heads": 2, "causal": False}]},
    {"type": "residual", "layers": [{"type": "attention", "heads": 4, "causal": True}]},
    conv("conv1d", 6, 5, 2, 2),
    {"type": "groupnorm", "groups": 3},
    {"type": "avg_pool", "size": 2},
    {"type": "linear", "out": 5},
    {"type": "global_pool"},
]
CNN = {"kind": "cnn", "input": [1, 8, 8], "channels": [4, 6], "kernel": 3, "hidden": [9], "activation": "relu"}
SPECS = {
    "mlp": make_spec({"kind": "mlp", "hidden": [9, 5], "activation": "gelu"}, 64),
    "cnn": make_spec(CNN, 64),
    "image": make_spec({"kind": "sequential", "input": [1, 8, 8], "layers": IMAGE}, 64),
    "sequence": make_spec({"kind": "sequential", "input": [12], "layers": SEQUENCE}, 12),
    "regression": make_spec({"kind": "sequential", "input": None, "layers": [{"type": "silu"}]}, 6, 2, "regression"),
    "learned": make_spec(transformer(), 12, 19, "next_token"),
    "rotary": make_spec(transformer(positions="rotary", tied=False), 12, 19, "next_token"),
}


LARGER = {  # large enough for the kernels that real work gets
    "mlp": make_spec({"kind": "mlp", "hidden": [512, 256], "activation": "relu"}, 300, 10, batch=256),
    "cnn": make_spec(CNN | {"input": [3, 32, 32], "channels": [32, 64, 64], "hidden": [128]}, 3_072, 10, batch=64),
    "learned": make_spec(transformer(width=128, depth=3, heads=4, context=128), 128, 700, "next_token", batch=32),
    "rotary": make_spec(
        transformer(width=128, depth=2, heads=2, context=96, positions="rotary", tied=False), 96, 300, "next_token"
    ),
}


def rows_for(spec: TrainingSpec, rows: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(features, targets) of the kinds that the spec's task takes."""
    rng = np.random.default_rng(seed)
    if spec.task == "next_token":
        text = rng.integers(0, spec.outputs, (rows, spec.inputs + 1), dtype=np.int32)
        return text[:, :-1].copy(), text[:, 1:].copy()
    x = (3 * rng.standard_normal((rows, spec.inputs))).astype(np.float32)
    if spec.task == "regression":
        return x, rng.standard_normal((rows, spec.outputs)).astype(np.float32)
    return x, rng.integers(0, spec.outputs, rows)
