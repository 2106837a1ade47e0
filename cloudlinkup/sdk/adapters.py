"""Delivered weights of language models in the form of the libraries that people use them with.

Adapters: adapter_model.safetensors and adapter_config.json, as peft writes them, to be loaded on the base:

    base = transformers.AutoModelForCausalLM.from_pretrained("base-folder")
    model = peft.PeftModel.from_pretrained(base, "delivered")

All of a network: model.safetensors and config.json, as `AutoModelForCausalLM.from_pretrained("delivered")` takes them.
"""

from __future__ import annotations

import json
from pathlib import Path

from cloudlinkup.errors import BadInput
from cloudlinkup.training.architectures import frozen_tensors
from cloudlinkup.training.frozen import file_hash, open_frozen
from cloudlinkup.training.networks.huggingface import NAME, adapter_config
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec

WEIGHTS, ADAPTERS, MODEL = "weights.safetensors", "adapter_model.safetensors", "model.safetensors"


def weights_name(spec: TrainingSpec) -> str:
    """The file of a delivered folder that holds what was trained."""
    if spec.model["kind"] != NAME:
        return WEIGHTS
    return MODEL if spec.frozen is None else ADAPTERS


def write_config(folder: Path, spec: TrainingSpec) -> None:
    """adapter_config.json or config.json beside the weights; nothing for other kinds of network."""
    if spec.model["kind"] != NAME:
        return
    if spec.frozen is None:
        name, document = "config.json", dict(spec.model["config"])
    else:
        name, document = "adapter_config.json", adapter_config(spec)
    (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n")


def open_base(spec: TrainingSpec, base: str | Path | None) -> FrozenWeights | None:
    """What the adapters of `spec` stand on, from its file or the folder with its model.safetensors; None where the
    network stands on nothing.

    Raises BadInput without it, or for another file than the one that the spec names.
    """
    if spec.frozen is None:
        return None
    fix = f"give the base that they were trained on: base=, the file with SHA-256 {spec.frozen}"
    if base is None:
        raise BadInput("base", "(absent)", "the folder holds adapters alone", fix)
    path = Path(base) / MODEL if Path(base).is_dir() else Path(base)
    if not path.is_file():
        raise BadInput("base", str(base), f"there is no {path.name}", fix)
    if file_hash(path) != spec.frozen:
        raise BadInput("base", str(base), "another file than the adapters were trained on", fix)
    try:
        return open_frozen(path, frozen_tensors(spec))
    except ValueError as error:
        raise BadInput("base", str(base), str(error), fix) from None
