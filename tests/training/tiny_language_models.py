"""Tiny language models of each allowed type with random weights, as their config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from cloudlinkup.training.frozen import file_hash
from cloudlinkup.training.networks.huggingface import base_tensors
from cloudlinkup.training.networks.huggingface_config import canonical
from cloudlinkup.training.spec import TrainingSpec

VOCABULARY, LENGTH = 64, 12
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2": {**_LLAMA, "tie_word_embeddings": True},
    "qwen2 wide": {**_LLAMA, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3},
    "llama": {**_LLAMA, "attention_bias": True, "mlp_bias": True},
    "llama scaled": {
        **_LLAMA,
        "rope_theta": 500_000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": {**_LLAMA, "sliding_window": 4, "head_dim": 8},
    "qwen3": {**_LLAMA, "head_dim": 8, "attention_bias": False},
    "smollm3": {**_LLAMA, "num_hidden_layers": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gpt2": {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.1},
}
TARGETS = {"gpt2": ["c_attn", "c_fc"]}


CONFIGS["bytes"] = {"model_type": "qwen2", **CONFIGS["qwen2 wide"], "vocab_size": 256}


def config(name: str) -> dict[str, Any]:
    """Canonical."""
    return canonical(document(name))


def document(name: str) -> dict[str, Any]:
    """As in config.json."""
    return {"model_type": name.partition(" ")[0], **CONFIGS[name]}


def write_base(folder: Path, name: str = "qwen2", *, seed: int = 0, scale: float = 0.3, half: bool = False) -> Path:
    """model.safetensors with config.json beside it. `half`: in fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for key, shape in base_tensors(config(name)).items():
        start = 1.0 if "norm" in key or ".ln_" in key else 0.0
        tensors[key] = (start + scale * rng.standard_normal(shape)).astype(np.float16 if half else np.float32)
    path = folder / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(document(name)))
    return path


def lora_spec(base: Path, name: str = "qwen2", **changes: Any) -> TrainingSpec:
    """Next token by adapters of rank 3 on `base`."""
    kind = name.partition(" ")[0]
    lora = {"rank": 3, "alpha": 6, "targets": TARGETS.get(kind, ["q_proj", "v_proj", "down_proj"])}
    return spec(
        name,
        **{"model": {"kind": "huggingface", "config": config(name), "lora": lora}} | changes,
        frozen=file_hash(base),
    )


def spec(name: str = "qwen2", **changes: Any) -> TrainingSpec:
    """Next token, all of it trained."""
    facts: dict[str, Any] = {
        "task": "next_token",
        "model": {"kind": "huggingface", "config": config(name), "lora": None},
        "inputs": LENGTH,
        "outputs": config(name)["vocab_size"],
        "batch": 4,
        "lr": 0.01,
        "seed": 5,
    }
    return TrainingSpec(**(facts | changes))


def windows(rows: int = 40, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, the token after each), int32 (rows, LENGTH), of a text with some order in it."""
    rng = np.random.default_rng(seed)
    text = np.cumsum(rng.integers(1, 4, rows * LENGTH + 1)) % VOCABULARY
    x = text[:-1].reshape(rows, LENGTH).astype(np.int32)
    return x, text[1:].reshape(rows, LENGTH).astype(np.int32)
