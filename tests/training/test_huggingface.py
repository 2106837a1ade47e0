"""Language models of the transformers library: layout against the built network, the base as stored, exact replay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cloudlinkup.training.architectures import (
    build,
    check_spec,
    empty,
    flat_weights,
    initial_weights,
    layout,
    load_flat,
    parameter_count,
    skeleton,
)
from cloudlinkup.training.frozen import check_finite, file_hash, open_frozen
from cloudlinkup.training.networks.huggingface import base_tensors
from cloudlinkup.training.networks.huggingface_config import MODEL_TYPES, canonical, parameters
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from tests.training.tiny_language_models import (
    CONFIGS,
    LENGTH,
    config,
    lora_spec,
    spec,
    windows,
    write_base,
)

WORK = ShardWork(seed=b"s" * 32, segment_steps=3, max_segments=2, progress_from=0, progress_to=1_000_000)


def opened(path: Path, of: TrainingSpec):
    return open_frozen(path, base_tensors(of.model["config"]))


def own_names(module: torch.nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Trained parameters by the names in peft's and the library's own files."""
    found = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            own = name.removeprefix("network.")
            own = "base_model.model." + own.replace(".default.", ".") if "lora_" in own else own
            found.append((own, tuple(parameter.shape)))
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_layout_is_that_of_the_built_network(tmp_path: Path, name: str) -> None:
    base = write_base(tmp_path, name)
    adapted, full = lora_spec(base, name), spec(name)
    drawn = torch.get_rng_state()
    for one, frozen in ((adapted, opened(base, adapted)), (full, None)):
        module = build(one, frozen)
        assert own_names(module) == [(t.name, t.shape) for t in layout(one)]
        assert own_names(empty(one)) == own_names(module)
        np.testing.assert_array_equal(flat_weights(module), initial_weights(one))
        logits = module(torch.from_numpy(windows()[0][:2]))
        assert logits.shape == (2, LENGTH, config(name)["vocab_size"]) and logits.dtype == torch.float32
    assert torch.equal(drawn, torch.get_rng_state())
    assert parameters(config(name)) == parameter_count(full) > 5 * parameter_count(adapted)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_computes_what_the_library_computes(tmp_path: Path, name: str) -> None:
    """The library's own loading of the same folder, and the adapters' start at the base."""
    from transformers import AutoModelForCausalLM

    base = write_base(tmp_path, name)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", local_files_only=True).eval()
    ours = lora_spec(base, name)
    module = build(ours, opened(base, ours))
    x = torch.from_numpy(windows()[0][:3]).long()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), theirs(input_ids=x).logits)


def train(of: TrainingSpec, frozen: Any, threads: int = 1) -> SegmentRunner:
    x, y = windows()
    runner = SegmentRunner(of, WORK, initial_weights(of), x, y, threads=threads, frozen=frozen)
    while runner.run_segment():
        pass
    return runner


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
@pytest.mark.parametrize("threads", [1, 2])
def test_training_repeats_bit_for_bit(tmp_path: Path, name: str, threads: int) -> None:
    base = write_base(tmp_path, name)
    of = lora_spec(base, name)
    first = train(of, opened(base, of), threads)
    torch.manual_seed(12345)  # nothing depends on, or moves, the process's generator
    before = torch.get_rng_state()
    assert train(of, opened(base, of), threads).state_hash() == first.state_hash()
    assert torch.equal(before, torch.get_rng_state())
    assert np.abs(first.update()).max() > 1e-3


def test_only_adapters_learn_and_they_do(tmp_path: Path) -> None:
    base = write_base(tmp_path)
    of = replace(lora_spec(base), lr=0.05)
    frozen = opened(base, of)
    x, y = windows()
    runner = SegmentRunner(of, replace(WORK, max_segments=20), initial_weights(of), x, y, frozen=frozen)
    module = skeleton(of, frozen)
    kept = {n: p.clone() for n, p in module.named_parameters() if not p.requires_grad}

    def loss() -> float:
        load_flat(module, runner.weights())
        with torch.inference_mode():
            out = module(torch.from_numpy(x)).flatten(0, 1)
            return float(torch.nn.functional.cross_entropy(out, torch.from_numpy(y).long().flatten()))

    before = loss()
    while runner.run_segment():
        pass
    assert loss() < 0.8 * before
    assert all(torch.equal(p, dict(module.named_parameters())[n]) for n, p in kept.items())


def stored_as(path: Path, dtype: torch.dtype) -> Path:
    from safetensors.torch import load_file

    out = path.with_name(f"{dtype}".removeprefix("torch.") + ".safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, out)
    return out


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_in_16_bits_stays_so_and_computes_what_its_widened_one_does(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    narrow = stored_as(write_base(tmp_path, name), dtype)
    wide = tmp_path / "wide.safetensors"
    from safetensors.torch import load_file

    save_file({key: tensor.float() for key, tensor in load_file(narrow).items()}, wide)
    of = lora_spec(narrow, name)
    module = build(of, opened(narrow, of))
    matrices = [p for p in module.parameters() if not p.requires_grad and p.dim() == 2]
    assert matrices and all(p.dtype == dtype for p in matrices)
    x = torch.from_numpy(windows()[0][:3])
    with torch.inference_mode():
        torch.testing.assert_close(module(x), build(of, opened(wide, of))(x))
    theirs, ours = train(of, opened(wide, of)), train(of, opened(narrow, of))
    np.testing.assert_allclose(ours.update(), theirs.update(), rtol=1e-3, atol=1e-5)
    assert ours.state_hash() == train(of, opened(narrow, of)).state_hash()
    mixed = replace(of, precision="bf16", micro_batch=2)
    assert train(mixed, opened(narrow, of)).state_hash() == train(mixed, opened(narrow, of)).state_hash()


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_what_a_config_leaves_out_is_what_the_library_takes_for_it(kind: str) -> None:
    """And what the library writes of itself is understood."""
    from transformers import CONFIG_MAPPING

    sizes = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 24, "num_hidden_layers": 5}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 32}
    if kind == "gpt2":
        sizes = {"vocab_size": 64, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    shared = {} if kind in ("gpt2", "llama") else {"num_key_value_heads": 4}
    theirs = CONFIG_MAPPING[kind](**sizes, **shared, **ids).to_dict()
    ours = canonical({"model_type": kind, **sizes, **shared})
    assert canonical(theirs) == ours == canonical(ours)


def bad(change: Any) -> TrainingSpec:
    of = spec("llama")
    model = {**of.model, "config": dict(of.model["config"])}
    change(model)
    return replace(of, model=model)


BAD = {
    "a type off the list": (lambda m: m["config"].update(model_type="bloom"), "model_type"),
    "code": (lambda m: m["config"].update(auto_map={"AutoModel": "evil.Model"}), "names code"),
    "a field that is not known": (lambda m: m["config"].update(surprise=1), "surprise"),
    "too deep": (lambda m: m["config"].update(num_hidden_layers=65), "num_hidden_layers"),
    "too wide": (lambda m: m["config"].update(hidden_size=10**6), "hidden_size"),
    "a float for a size": (lambda m: m["config"].update(hidden_size=16.0), "hidden_size"),
    "heads that do not divide": (lambda m: m["config"].update(num_key_value_heads=3), "num_key_value_heads"),
    "an activation off the list": (lambda m: m["config"].update(hidden_act="os.system"), "hidden_act"),
    "positions of another kind": (lambda m: m["config"]["rope_parameters"].update(rope_type="yarn"), "rope_type"),
    "not canonical": (lambda m: m["config"].pop("mlp_bias"), "canonical"),
    "too short": (lambda m: m["config"].update(max_position_embeddings=8), "inputs"),
    "another vocabulary": (lambda m: m["config"].update(vocab_size=65), "vocab_size"),
    "adapters without a rank": (lambda m: m.update(lora={"alpha": 1, "targets": ["q_proj"]}), "rank"),
    "a rank too high": (lambda m: m.update(lora={"rank": 257, "alpha": 1, "targets": ["q_proj"]}), "rank"),
    "unknown targets": (lambda m: m.update(lora={"rank": 1, "alpha": 1, "targets": ["all-linear"]}), "targets"),
    "targets out of order": (
        lambda m: m.update(lora={"rank": 1, "alpha": 1, "targets": ["v_proj", "q_proj"]}),
        "targets",
    ),
    "adapters without a base": (lambda m: m.update(lora={"rank": 1, "alpha": 1, "targets": ["q_proj"]}), "frozen"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_refused_before_anything_is_built(name: str) -> None:
    change, named = BAD[name]
    with pytest.raises(ValueError, match=named):
        check_spec(bad(change))


def test_a_base_too_large_is_refused_by_arithmetic_alone() -> None:
    with pytest.raises(ValueError, match="parameters"):
        check_spec(bad(lambda m: m["config"].update(hidden_size=8_192, intermediate_size=32_768, num_hidden_layers=64)))


def test_a_base_file_is_held_against_the_config(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = write_base(tmp_path)
    of, good = lora_spec(path), load_file(path)
    first = next(iter(base_tensors(of.model["config"])))

    def change(**tensors: Any) -> Path:
        other = tmp_path / "other.safetensors"
        save_file({k: v for k, v in {**good, **tensors}.items() if v is not None}, other)
        return other

    for tensors, problem in (
        ({first: None}, f"no tensor {first}"),
        ({"evil.weight": torch.zeros(1)}, "evil.weight"),
        ({first: torch.zeros(3, 3)}, "shape"),
        ({first: good[first].to(torch.int32)}, "I32"),
    ):
        with pytest.raises(ValueError, match=problem):
            opened(change(**tensors), of)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="no valid safetensors"):
        opened(torn, of)
    torn.write_bytes((2**62).to_bytes(8, "little"))
    with pytest.raises(ValueError, match="header"):
        opened(torn, of)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        poisoned = good[first].to(dtype).clone()
        poisoned[0, 0] = float("nan")
        with pytest.raises(ValueError, match="finite"):
            check_finite(opened(change(**{first: poisoned}), of))
    check_finite(opened(path, of))


def test_older_files_without_the_networks_prefix_are_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = write_base(tmp_path, "gpt2")
    of = lora_spec(path, "gpt2")
    old = tmp_path / "old.safetensors"
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    save_file({**renamed, "h.0.attn.bias": torch.ones(1, 1, 32, 32), "lm_head.weight": torch.zeros(64, 16)}, old)
    assert file_hash(old) != of.frozen
    for name, tensor in opened(old, of).items():
        np.testing.assert_array_equal(tensor, opened(path, of)[name])
