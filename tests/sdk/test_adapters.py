"""Delivered language models of the transformers library: ours, peft's and the library's own loading agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.delivered import load_model, predict, write_delivery
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.spec import TrainingSpec
from tests.training.tiny_language_models import LENGTH, lora_spec, spec, write_base

BYTES = "bytes"  # a qwen2 over bytes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", BYTES)


def deliver(folder: Path, of: TrainingSpec) -> np.ndarray:
    rng = np.random.default_rng(3)
    weights = initial_weights(of) + 0.1 * rng.standard_normal(initial_weights(of).shape).astype(np.float32)
    write_delivery(folder, of, weights, TextRecipe(context=LENGTH), {"metric": "perplexity", "score": 9.5})
    return weights


def tokens() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, LENGTH)))


def test_adapters_come_back_here_and_in_peft(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    of, folder = lora_spec(base, BYTES), tmp_path / "delivered"
    weights = deliver(folder, of)
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= names
    assert "weights.safetensors" not in names
    assert (folder / "adapter_model.safetensors").stat().st_size < base.stat().st_size
    ours = load_model(folder, base=base.parent)
    np.testing.assert_array_equal(ours.weights, weights)
    plain: Any = AutoModelForCausalLM.from_pretrained(base.parent, local_files_only=True, attn_implementation="eager")
    with torch.inference_mode():
        before = plain(input_ids=tokens()).logits
        with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # peft's own
            theirs: Any = PeftModel.from_pretrained(plain, str(folder)).eval()
        logits = theirs(input_ids=tokens()).logits
        torch.testing.assert_close(ours(tokens()), logits)
    assert (logits - before).abs().max() > 0.01
    card = (folder / "README.md").read_text()
    assert str(of.frozen) in card and "PeftModel" in card and "rank 3" in card
    text = ours.generate("abc", tokens=5, seed=1)
    assert text == load_model(folder, base=base).generate("abc", tokens=5, seed=1)
    np.testing.assert_allclose(predict(folder, "some text", base), ours.predict(["some text"]))


def test_adapters_stand_on_one_base_alone(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "delivered"
    deliver(folder, lora_spec(base, BYTES))
    with pytest.raises(BadInput, match="adapters alone"):
        load_model(folder)
    with pytest.raises(BadInput, match="another file"):
        load_model(folder, base=write_base(tmp_path / "other", BYTES, seed=1))
    with pytest.raises(BadInput, match=r"no model\.safetensors"):
        load_model(folder, base=tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(BadInput, match="hash"):
        load_model(folder, base=base)


def test_a_whole_network_comes_back_here_and_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    weights = deliver(tmp_path, spec(BYTES))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen2"
    ours = load_model(tmp_path)
    np.testing.assert_array_equal(ours.weights, weights)
    theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True, attn_implementation="eager")
    with torch.inference_mode():
        torch.testing.assert_close(ours(tokens()), theirs(input_ids=tokens()).logits)
