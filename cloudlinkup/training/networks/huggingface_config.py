"""A language model's config.json as a job may give it: which model types and fields, in which bounds, in one form.

`canonical` takes what the transformers library writes and leaves the fields that the arithmetic depends on, all of them
explicit, so that a later default of the library changes nothing. Fields that only matter elsewhere (token numbers,
dropout, which is always off here, dtype) are dropped; anything else is refused, code above all. `tensors` says which
tensors such a network has, by their names in its safetensors file and in its own order, without building it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

from cloudlinkup.training import caps
from cloudlinkup.training.networks.kind import whole

MODEL_TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
MAX_BASE = 2_000_000_000  # parameters of the whole network
MAX_LENGTH = 2**20  # max_position_embeddings

_SIZES = {
    "vocab_size": (2, caps.VOCABULARY),
    "hidden_size": (8, 8_192),
    "intermediate_size": (8, 32_768),
    "num_hidden_layers": (1, 64),
    "num_attention_heads": (1, 128),
    "max_position_embeddings": (8, MAX_LENGTH),
}
_GPT2_SIZES = {
    "vocab_size": (2, caps.VOCABULARY),
    "n_positions": (8, MAX_LENGTH),
    "n_embd": (8, 8_192),
    "n_layer": (1, 64),
    "n_head": (1, 128),
}
_ACTS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
_LLAMA3 = ("factor", "high_freq_factor", "low_freq_factor")
_TIED = {"llama": False, "mistral": False, "qwen2": False, "qwen3": False, "smollm3": True, "gpt2": True}
_THETA = {"smollm3": 2_000_000.0}  # the library's default where a config names none, else 10,000
_BIASED = ("llama", "qwen3", "smollm3")  # whose attention may have biases; qwen2's always has, but on its output
_HEAD_DIM = {"llama": None, "mistral": None, "qwen3": 128}  # may say head_dim; else and by default hidden / heads
_IGNORED = {
    "_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype", "use_cache", "bos_token_id",
    "eos_token_id", "pad_token_id", "initializer_range", "pretraining_tp", "attention_dropout", "resid_pdrop",
    "embd_pdrop", "attn_pdrop", "max_window_layers", "output_attentions", "output_hidden_states", "return_dict",
    "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type", "summary_type",
    "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
    "task_specific_params", "n_ctx", "no_rope_layer_interval", "rope_theta", "rope_scaling",
}  # fmt: skip
_ONLY = {  # what these may say, and nothing else
    "use_sliding_window": (False,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
}


def canonical(given: object) -> dict[str, Any]:
    """The fields that count, explicit and in plain JSON. Applied to its own result, it changes nothing.

    Raises ValueError that names the field.
    """
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ValueError("model.config must be an object, as in the model's config.json")
    kind = given.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise ValueError(f"model.config.model_type must be one of {', '.join(MODEL_TYPES)}")
    for name in ("auto_map", "custom_pipelines"):
        if given.get(name):
            raise ValueError(f"model.config.{name} names code: only the library's own {kind} is ever built; remove it")
    for name, allowed in _ONLY.items():
        if name in given and (given[name] not in allowed or not isinstance(given[name], bool)):
            raise ValueError(f"model.config.{name} must be {str(allowed[0]).lower()}")
    made = _gpt2(given) if kind == "gpt2" else _llama_like(kind, given)
    known = {*made, *_IGNORED, *_ONLY, "layer_types", "rope_parameters", "sliding_window"}
    if unknown := sorted(set(given) - known):
        raise ValueError(f"model.config.{unknown[0]} is not understood for {kind}: remove it if it changes nothing")
    if (count := parameters(made)) > MAX_BASE:
        raise ValueError(f"model.config makes {count:,} parameters, more than {MAX_BASE:,}")
    return made


def _gpt2(given: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"model_type": "gpt2"}
    made |= {name: whole(f"model.config.{name}", given.get(name), *bounds) for name, bounds in _GPT2_SIZES.items()}
    inner = given.get("n_inner")
    made["n_inner"] = whole("model.config.n_inner", 4 * made["n_embd"] if inner is None else inner, 8, 32_768)
    made["activation_function"] = _choice(given, "activation_function", "gelu_new")
    made["layer_norm_epsilon"] = _number(given, "layer_norm_epsilon", 1e-5, 1e-12, 1e-2)
    made["tie_word_embeddings"] = _flag(given, "tie_word_embeddings", default=_TIED["gpt2"])
    if made["n_embd"] % made["n_head"]:
        raise ValueError("model.config.n_embd must be a multiple of n_head")
    return made


def _llama_like(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"model_type": kind}
    made |= {name: whole(f"model.config.{name}", given.get(name), *bounds) for name, bounds in _SIZES.items()}
    hidden, heads = made["hidden_size"], made["num_attention_heads"]
    shared = given.get("num_key_value_heads")
    made["num_key_value_heads"] = whole("model.config.num_key_value_heads", heads if shared is None else shared, 1, 128)
    if heads % made["num_key_value_heads"]:
        raise ValueError("model.config.num_attention_heads must be a multiple of num_key_value_heads")
    if kind in _HEAD_DIM:
        size = given.get("head_dim") or _HEAD_DIM[kind] or hidden // heads
        made["head_dim"] = whole("model.config.head_dim", size, 2, 512)
    elif hidden % heads:
        raise ValueError("model.config.hidden_size must be a multiple of num_attention_heads")
    elif "head_dim" in given and given["head_dim"] not in (None, hidden // heads):
        raise ValueError(f"model.config.head_dim must be {hidden // heads} for {kind}")
    if head_dim(made) % 2:
        raise ValueError("model.config: a head's size must be even, for rotary positions")
    made["hidden_act"] = _choice(given, "hidden_act", "silu")
    made["rms_norm_eps"] = _number(given, "rms_norm_eps", 1e-6, 1e-12, 1e-2)
    made["tie_word_embeddings"] = _flag(given, "tie_word_embeddings", default=_TIED[kind])
    if kind in _BIASED:
        made["attention_bias"] = _flag(given, "attention_bias", default=False)
    if kind in ("llama", "smollm3"):
        made["mlp_bias"] = _flag(given, "mlp_bias", default=False)
    made["rope_parameters"] = _rope(kind, given)
    layers = made["num_hidden_layers"]
    if kind == "mistral":
        window = given.get("sliding_window", 4_096)  # absent: the library's default; null: none
        made["sliding_window"] = None if window is None else whole("model.config.sliding_window", window, 1, MAX_LENGTH)
    elif (kinds := given.get("layer_types")) is not None and list(kinds) != ["full_attention"] * layers:
        raise ValueError("model.config.layer_types must be full_attention for every layer")
    if kind == "smollm3":
        every = whole("model.config.no_rope_layer_interval", given.get("no_rope_layer_interval", 4), 1, 1_000)
        turning = given.get("no_rope_layers")
        turning = [int((i + 1) % every != 0) for i in range(layers)] if turning is None else turning
        if not isinstance(turning, list) or len(turning) != layers or any(one not in (0, 1) for one in turning):
            raise ValueError(f"model.config.no_rope_layers must be {layers} numbers, 0 or 1")
        made["no_rope_layers"] = [int(one) for one in turning]
    return made


def _rope(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary positions, in the library's newer form; its older one has rope_theta and rope_scaling apart."""
    told = given.get("rope_parameters")
    if told is not None and given.get("rope_scaling"):
        raise ValueError("model.config: give rope_parameters or rope_scaling, not both")
    if told is None:
        told = dict(given.get("rope_scaling") or {})
        told["rope_theta"] = given.get("rope_theta", _THETA.get(kind, 10_000.0))
    if not isinstance(told, Mapping):
        raise ValueError("model.config.rope_parameters must be an object")
    form = told.get("rope_type", told.get("type", "default"))
    told = {"rope_theta": _THETA.get(kind, 10_000.0), **told}
    made: dict[str, Any] = {"rope_type": form, "rope_theta": _number(told, "rope_theta", 10_000.0, 1.0, 1e9)}
    allowed = {"rope_type", "type", "rope_theta"}
    if form == "llama3":
        allowed |= {*_LLAMA3, "original_max_position_embeddings"}
        made |= {name: _number(told, name, None, 1e-3, 1e4) for name in _LLAMA3}
        name = "original_max_position_embeddings"
        made[name] = whole(f"model.config.rope_parameters.{name}", told.get(name), 8, MAX_LENGTH)
        if not made["low_freq_factor"] < made["high_freq_factor"]:
            raise ValueError("model.config.rope_parameters.low_freq_factor must be below high_freq_factor")
    elif form != "default":
        raise ValueError("model.config.rope_parameters.rope_type must be default or llama3")
    if unknown := sorted(set(told) - allowed):
        raise ValueError(f"model.config.rope_parameters.{unknown[0]} is not understood: remove it")
    return made


def _choice(given: Mapping[str, Any], name: str, default: str) -> str:
    value = given.get(name, default)
    if value not in _ACTS:
        raise ValueError(f"model.config.{name} must be one of {', '.join(_ACTS)}")
    return value


def _number(given: Mapping[str, Any], name: str, default: float | None, least: float, most: float) -> float:
    value = given.get(name, default)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not isfinite(value)
        or not least <= value <= most
    ):
        raise ValueError(f"model.config.{name} must be a number from {least:g} to {most:g}")
    return float(value)


def _flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"model.config.{name} must be true or false")
    return value


# ---------------------------------------------------------------- what such a network consists of


@dataclass(frozen=True)
class Tensor:
    """One tensor of the network. `target`: the name by which LoRA may adapt it, with its sizes (in, out)."""

    name: str
    shape: tuple[int, ...]
    start: float | None = None  # what it is filled with; None: drawn
    target: str = ""
    sizes: tuple[int, int] = (0, 0)


def head_dim(config: Mapping[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def length(config: Mapping[str, Any]) -> int:
    """The longest window of tokens that it takes."""
    return config["n_positions"] if config["model_type"] == "gpt2" else config["max_position_embeddings"]


def targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What LoRA may adapt, in the order in which the network has it."""
    if config["model_type"] == "gpt2":
        return ("c_attn", "c_proj", "c_fc")
    return ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def usual_targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What LoRA adapts where a job does not say: queries and values, as in its authors' experiments."""
    return ("c_attn",) if config["model_type"] == "gpt2" else ("q_proj", "v_proj")


def parameters(config: Mapping[str, Any]) -> int:
    """Of the whole network, without listing its tensors twice where they are tied."""
    return sum(prod(tensor.shape) for tensor in tensors(config))


def tensors(config: Mapping[str, Any]) -> list[Tensor]:
    """All of them, in the order of the network's parameters. `config`: canonical."""
    return _gpt2_tensors(config) if config["model_type"] == "gpt2" else _llama_tensors(config)


def _linear(place: str, fan_in: int, fan_out: int, bias: bool) -> list[Tensor]:
    target = place.rpartition(".")[2]
    weight = Tensor(f"{place}.weight", (fan_out, fan_in), target=target, sizes=(fan_in, fan_out))
    return [weight, Tensor(f"{place}.bias", (fan_out,), 0.0)] if bias else [weight]


def _llama_tensors(config: Mapping[str, Any]) -> list[Tensor]:
    kind, hidden, inner = config["model_type"], config["hidden_size"], config["intermediate_size"]
    wide = config["num_attention_heads"] * head_dim(config)
    narrow = config["num_key_value_heads"] * head_dim(config)
    biased, mlp = kind == "qwen2" or config.get("attention_bias", False), config.get("mlp_bias", False)
    found = [Tensor("model.embed_tokens.weight", (config["vocab_size"], hidden))]
    for i in range(config["num_hidden_layers"]):
        at, mine = f"model.layers.{i}.self_attn", f"model.layers.{i}"
        found += _linear(f"{at}.q_proj", hidden, wide, biased)
        found += _linear(f"{at}.k_proj", hidden, narrow, biased)
        found += _linear(f"{at}.v_proj", hidden, narrow, biased)
        found += _linear(f"{at}.o_proj", wide, hidden, biased and kind != "qwen2")
        if kind == "qwen3":
            found += [Tensor(f"{at}.{name}.weight", (head_dim(config),), 1.0) for name in ("q_norm", "k_norm")]
        found += _linear(f"{mine}.mlp.gate_proj", hidden, inner, mlp)
        found += _linear(f"{mine}.mlp.up_proj", hidden, inner, mlp)
        found += _linear(f"{mine}.mlp.down_proj", inner, hidden, mlp)
        found += [
            Tensor(f"{mine}.{name}.weight", (hidden,), 1.0) for name in ("input_layernorm", "post_attention_layernorm")
        ]
    found.append(Tensor("model.norm.weight", (hidden,), 1.0))
    if not config["tie_word_embeddings"]:
        found.append(Tensor("lm_head.weight", (config["vocab_size"], hidden)))
    return found


def _gpt2_tensors(config: Mapping[str, Any]) -> list[Tensor]:
    hidden, inner = config["n_embd"], config["n_inner"]

    def conv(place: str, fan_in: int, fan_out: int) -> list[Tensor]:  # its matrices are stored (in, out)
        target = place.rpartition(".")[2]
        weight = Tensor(f"{place}.weight", (fan_in, fan_out), target=target, sizes=(fan_in, fan_out))
        return [weight, Tensor(f"{place}.bias", (fan_out,), 0.0)]

    def norm(place: str) -> list[Tensor]:
        return [Tensor(f"{place}.weight", (hidden,), 1.0), Tensor(f"{place}.bias", (hidden,), 0.0)]

    found = [Tensor("transformer.wte.weight", (config["vocab_size"], hidden))]
    found.append(Tensor("transformer.wpe.weight", (config["n_positions"], hidden)))
    for i in range(config["n_layer"]):
        at = f"transformer.h.{i}"
        found += norm(f"{at}.ln_1") + conv(f"{at}.attn.c_attn", hidden, 3 * hidden)
        found += conv(f"{at}.attn.c_proj", hidden, hidden) + norm(f"{at}.ln_2")
        found += conv(f"{at}.mlp.c_fc", hidden, inner) + conv(f"{at}.mlp.c_proj", inner, hidden)
    found += norm("transformer.ln_f")
    if not config["tie_word_embeddings"]:
        found.append(Tensor("lm_head.weight", (config["vocab_size"], hidden)))
    return found
