"""From a training spec to a network, and between a network and one flat fp32 vector.

A spec names an architecture and its sizes; nothing of it is code, and its caps are checked before anything is built.
The flat order is that of the kind's layout (`networks/`), tensor by tensor, each row by row.
Initial weights come from raw Philox words and exact arithmetic alone, so every machine computes the same bytes.
Standardising the inputs is not a layer: it happens before training (`tables/`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Literal

import numpy as np

from cloudlinkup.training import caps
from cloudlinkup.training.networks import KINDS
from cloudlinkup.training.networks.kind import FrozenWeights, Kind, Pretrained, TensorLayout, whole
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.hashes import digest

if TYPE_CHECKING:
    import torch

TASKS = ("classification", "regression", "next_token")
PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("adamw", "muon")
MAX_OUTPUTS = caps.OUTPUTS
MAX_INPUTS = caps.INPUTS
MAX_PARAMETERS = caps.PARAMETERS  # that are trained
MAX_BATCH = caps.BATCH


def _check_class_weights(spec: TrainingSpec) -> None:
    given = spec.class_weights
    fit = isinstance(given, tuple) and spec.task == "classification" and len(given) == spec.outputs
    if not fit or not all(isinstance(w, float) and isfinite(w) and 1e-6 <= w <= 1e6 for w in given or ()):
        raise ValueError("class_weights must be one number from 1e-6 to 1e6 for each class of a classification")


def kind_of(spec: TrainingSpec) -> Kind:
    """The spec's kind of network. Raises ValueError for one that is not on the allow-list."""
    found = KINDS.get(str(spec.model.get("kind"))) if isinstance(spec.model, dict) else None
    if found is None:
        raise ValueError(f"model.kind must be one of {', '.join(KINDS)}")
    return found


def check_spec(spec: TrainingSpec) -> None:
    """Raises ValueError for a spec outside the allowed architectures, types or caps. Builds nothing."""
    if spec.task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}")
    if spec.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}")
    if spec.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}")
    kind = kind_of(spec)
    if spec.task not in kind.tasks:
        raise ValueError(f"model.kind {spec.model['kind']} does not do {spec.task}, but {', '.join(kind.tasks)}")
    whole("inputs", spec.inputs, 1, MAX_INPUTS)
    most = caps.VOCABULARY if spec.task == "next_token" else MAX_OUTPUTS
    whole("outputs", spec.outputs, 1 if spec.task == "regression" else 2, most)
    whole("batch", spec.batch, 1, MAX_BATCH)
    whole("seed", spec.seed, 0, 2**63 - 1)
    if spec.micro_batch is not None:
        whole("micro_batch", spec.micro_batch, 1, spec.batch)
    if spec.class_weights is not None:
        _check_class_weights(spec)
    lr = spec.lr
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not isfinite(lr) or not 0 < lr <= 1:
        raise ValueError("lr must be above 0 and at most 1")
    kind.check(spec)
    if (spec.frozen is not None) != bool(frozen_tensors(spec)):
        raise ValueError("frozen must be the SHA-256 of the weights that are not trained, where the model has such")
    if spec.frozen is not None and not re.fullmatch(r"[0-9a-f]{64}", str(spec.frozen), flags=re.ASCII):
        raise ValueError("frozen must be 64 hex digits")
    count = sum(tensor.size for tensor in kind.layout(spec))
    if count > MAX_PARAMETERS:
        raise ValueError(f"{count} parameters are more than {MAX_PARAMETERS}")


def frozen_tensors(spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what is not trained, of a spec that its kind let through; empty for most kinds."""
    kind = kind_of(spec)
    return kind.frozen(spec) if isinstance(kind, Pretrained) else {}


def base_tensors(spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that the network may begin with or stand on. Raises ValueError for a kind that
    takes none."""
    kind = kind_of(spec)
    if not isinstance(kind, Pretrained):
        raise ValueError(f"model.kind {spec.model['kind']} takes no weights of a base")
    return kind.base(spec)


def flat_base(spec: TrainingSpec, base: FrozenWeights) -> np.ndarray:
    """A base as the flat fp32 start of a training of all of it. Raises ValueError as `base_tensors`."""
    kind = kind_of(spec)
    if not isinstance(kind, Pretrained):
        raise ValueError(f"model.kind {spec.model['kind']} takes no weights of a base")
    return kind.flat(spec, base)


def needed_extra(spec: TrainingSpec) -> str:
    """What the spec needs beside torch, with the versions installed here; empty for nothing.

    Raises ValueError, with the fix, where that is not installed.
    """
    kind = kind_of(spec)
    return kind.extra() if isinstance(kind, Pretrained) else ""


def load_extra(spec: TrainingSpec) -> None:
    """Imports what `needed_extra` names, so that nobody's clock pays for it later. Raises ValueError as that."""
    kind = kind_of(spec)
    if isinstance(kind, Pretrained):
        kind.load()


def empty(spec: TrainingSpec) -> torch.nn.Module:
    """The network on torch's meta device, to be traced. Raises ValueError as `check_spec`."""
    check_spec(spec)
    kind = kind_of(spec)
    return kind.empty(spec) if isinstance(kind, Pretrained) else kind.module(spec, None).to("meta")


def memory_of_step(spec: TrainingSpec) -> int:
    """Bytes that one pass takes for its rows, at most about: kept, their gradients, and in between. Builds nothing."""
    return 3 * 4 * (spec.micro_batch or spec.batch) * kind_of(spec).activations(spec)


def with_micro_batch(spec: TrainingSpec, wanted: int | Literal["auto"]) -> TrainingSpec:
    """The spec with its batch in pieces of this size; "auto": in as few equal ones as keep a pass below `caps.PASS`
    bytes, as far as rows can be divided. Raises ValueError as `check_spec`."""
    size = wanted
    if size == "auto":
        fit = max(1, caps.PASS // memory_of_step(replace(spec, micro_batch=1)))  # rows
        size = -(-spec.batch // -(-spec.batch // fit))
        size = None if size == spec.batch else size  # whole: a perceptron's own gradient knows no pieces
    found = replace(spec, micro_batch=size)
    check_spec(found)
    return found


def layout(spec: TrainingSpec) -> tuple[TensorLayout, ...]:
    """The trained tensors in flat order. Raises ValueError as `check_spec`."""
    check_spec(spec)
    return kind_of(spec).layout(spec)


def parameter_count(spec: TrainingSpec) -> int:
    """Number of trained parameters, without building anything. Raises ValueError as `check_spec`."""
    return sum(tensor.size for tensor in layout(spec))


def initial_weights(spec: TrainingSpec) -> np.ndarray:
    """The flat fp32 start: uniform in +-bound, or constant, by the layout. Raises ValueError as `check_spec`."""
    tensors = layout(spec)
    count = sum(tensor.size for tensor in tensors)
    key = np.frombuffer(digest("initial weights", spec.seed)[:16], "<u8")
    words = np.random.Philox(key=key).random_raw(count)
    unit = (words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0  # 24 bits, exact
    flat = np.empty(count, np.float32)
    start = 0
    for tensor in tensors:
        end = start + tensor.size
        flat[start:end] = unit[start:end] * tensor.bound if tensor.bound else tensor.constant
        start = end
    return flat


def build(spec: TrainingSpec, frozen: FrozenWeights | None = None) -> torch.nn.Module:
    """The network, a batch of rows to outputs, with its initial weights. Raises ValueError as `check_spec`."""
    return build_with(spec, initial_weights(spec), frozen)


def build_with(spec: TrainingSpec, weights: np.ndarray, frozen: FrozenWeights | None = None) -> torch.nn.Module:
    """The network with these flat weights. Raises ValueError as `check_spec`, or for a wrong length."""
    module = skeleton(spec, frozen)
    load_flat(module, weights)
    return module


def skeleton(spec: TrainingSpec, frozen: FrozenWeights | None = None) -> torch.nn.Module:
    """The network with parameters of any value. Raises ValueError as `check_spec`, and where `frozen` does not fit."""
    check_spec(spec)
    return kind_of(spec).module(spec, frozen)


def _trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def load_flat(module: torch.nn.Module, flat: np.ndarray) -> None:
    """Copies a flat vector into the module's trained parameters. Raises ValueError when its length differs."""
    import torch

    parameters = _trained(module)
    if flat.ndim != 1 or flat.shape[0] != sum(p.numel() for p in parameters):
        raise ValueError(f"{flat.shape} is not this network's flat shape")
    start = 0
    with torch.no_grad():
        for parameter in parameters:
            end = start + parameter.numel()
            piece = np.array(flat[start:end], np.float32)
            parameter.copy_(torch.from_numpy(piece).view_as(parameter))
            start = end


def flat_weights(module: torch.nn.Module) -> np.ndarray:
    """The module's trained parameters as one new flat fp32 vector."""
    return np.concatenate([p.detach().cpu().numpy().reshape(-1) for p in _trained(module)])
