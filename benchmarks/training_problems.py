"""The problems that the benchmark of quality against bytes trains: rows, a network, how long, what one seed changes.

A seed draws other held-out rows, another start, another order of rows and, where rows are generated, other rows.
`steps` are those of data parallel training with four workers of `batch` rows each; other numbers of contributors take
as many samples. The text is the help text that ships with Python (pydoc's topics), byte by byte.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, make_classification

from cloudlinkup.training.frozen import file_hash, open_frozen
from cloudlinkup.training.networks.huggingface import base_tensors, extra
from cloudlinkup.training.networks.huggingface_config import canonical, usual_targets
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.schedule import choose_rounds
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.hashes import digest

Rows = tuple[np.ndarray, np.ndarray]
WORKERS = 4  # of the data parallel run that `steps` are counted in


@dataclass(frozen=True, eq=False)
class Problem:
    """One seed of a problem. Its spec has the rounds that "auto" chooses."""

    name: str
    spec: TrainingSpec
    train: Rows
    held: Rows
    steps: int
    frozen: FrozenWeights | None = None  # the base that adapters stand on

    @property
    def samples(self) -> int:
        return self.steps * WORKERS * self.spec.batch


def _problem(name: str, model: dict[str, Any], rows: Rows, seed: int, steps: int, **spec: Any) -> Problem:
    x, y = rows
    order = np.random.default_rng([7, seed]).permutation(len(x))
    held = int(len(x) * spec.pop("held", 0.2))
    out, inside = order[:held], order[held:]
    sizes = {"task": "classification", "inputs": 64, "outputs": 10, "batch": 32} | spec
    samples = steps * WORKERS * sizes["batch"]
    rounds = choose_rounds(sizes["task"], samples, len(inside))
    made = TrainingSpec(model=model, lr=0.01, seed=seed, rounds=rounds, **sizes)
    return Problem(name, made, (x[inside], y[inside]), (x[out], y[out]), steps)


def _mlp(*hidden: int) -> dict[str, Any]:
    return {"kind": "mlp", "hidden": list(hidden), "activation": "relu"}


def _digits() -> Rows:
    x, y = load_digits(return_X_y=True)
    return (np.asarray(x) / 16).astype(np.float32), np.asarray(y).astype(np.int64)


def digits(seed: int) -> Problem:
    """1,797 images of digits seen 89 times, 7k parameters."""
    return _problem("digits", _mlp(64, 32), _digits(), seed, 1_000)


def cnn(seed: int) -> Problem:
    """The same images, a small convolutional network."""
    model = {"kind": "cnn", "input": [1, 8, 8], "channels": [8, 16], "kernel": 3, "hidden": [], "activation": "relu"}
    return _problem("cnn", model, _digits(), seed, 400)


def _made(seed: int, separation: float, informative: int, clusters: int) -> Rows:
    x, y = map(
        np.asarray,
        make_classification(
            n_samples=60_000,
            n_features=64,
            n_informative=informative,
            n_redundant=8,
            n_classes=10,
            n_clusters_per_class=clusters,
            class_sep=separation,
            flip_y=0.0,
            random_state=1_000 + seed,
        ),
    )
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y.astype(np.int64)


def mc(seed: int) -> Problem:
    """A table of 48,000 rows seen 2.7 times, 85k parameters: too short a job to be easy."""
    return _problem("mc", _mlp(256, 256), _made(seed, 1.5, 32, 2), seed, 1_000)


def mc_hard(seed: int) -> Problem:
    """As mc, with three clusters a class: twice the errors."""
    return _problem("mc hard", _mlp(256, 256), _made(seed, 1.5, 24, 3), seed, 1_000)


def mcs(seed: int) -> Problem:
    """The table of mc hard seen 10.7 times, 10k parameters."""
    return _problem("mcs", _mlp(96, 32), _made(seed, 1.5, 24, 3), seed, 4_000)


def large(seed: int) -> Problem:
    """The table of mc, 1.1 million parameters."""
    return _problem("large", _mlp(1_024, 1_024), _made(seed, 1.5, 32, 2), seed, 500)


def lm(seed: int) -> Problem:
    """A decoder of 36k parameters on 470 kB of text, in 800 steps: far from done, so seeds differ widely."""
    model = {"kind": "transformer", "width": 32, "depth": 2, "heads": 4, "context": LENGTH}
    model |= {"positions": "learned", "tied": True}
    return _problem("lm", model, _topics(), seed, 800, **_TEXT)


LENGTH = 64  # tokens of a window
_TEXT = {"task": "next_token", "inputs": LENGTH, "outputs": 256, "batch": 4, "held": 0.05}


def _topics() -> Rows:
    from pydoc_data.topics import topics

    tokens = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode(), np.uint8).astype(np.int32)
    count = (len(tokens) - 1) // LENGTH
    return tokens[: count * LENGTH].reshape(-1, LENGTH), tokens[1 : count * LENGTH + 1].reshape(-1, LENGTH)


def lora(seed: int) -> Problem:
    """LoRA adapters of rank 8 (6k numbers) on a Qwen2 of 0.36 million parameters that the benchmark trained before, on
    the sources of Python's standard library; the text is that of *lm*, which is prose for the most part."""
    from examples.lora.make_job import make_base

    config = canonical(BASE)
    folder = CACHE / f"base-{digest('base', json.dumps(config, sort_keys=True), BASE_STEPS, sys.version).hex()[:16]}"
    if not (folder / "config.json").exists():
        sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        make_base(folder, BASE_STEPS, 0, BASE, b"\n".join(path.read_bytes() for path in sources))
    path = folder / "model.safetensors"
    adapters = {"rank": 8, "alpha": 16, "targets": list(usual_targets(config))}
    model = {"kind": "huggingface", "config": config, "lora": adapters}
    made = _problem("lora", model, _topics(), seed, 800, **_TEXT, frozen=file_hash(path))
    return replace(made, frozen=open_frozen(path, base_tensors(config)))


BASE: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 256,
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
}
BASE_STEPS = 3_000  # of 16 windows
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cloudlinkup" / "benchmarks"


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "digits": digits,
    "cnn": cnn,
    "mc": mc,
    "mc hard": mc_hard,
    "mcs": mcs,
    "large": large,
    "lm": lm,
    "lora": lora,
}


def missing(name: str) -> str:
    """Why a problem cannot be run here; empty where it can."""
    lacks = name == "lora" and extra() is None
    return "transformers and peft are not installed: pip install 'cloudlinkup[huggingface]'" if lacks else ""
