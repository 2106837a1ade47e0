"""`huggingface`: a language model of the transformers library, by its config; all of it trained, or LoRA adapters only.

The architecture is the library's own, from a list of model types (`huggingface_config`): no code of anybody else's is
ever loaded, nothing is downloaded, nothing unpickled. With LoRA (Hu et al. 2021, by the peft library) the base is
frozen: its safetensors file is named by hash in the spec, and only the adapters are trained and travel. Base matrices
stay in memory as their file has them (bf16, fp16) and are widened, exactly, each time they are used.

It needs the optional extra: `pip install cloudlinkup[huggingface]`. Checks and layout do not.

Attention is the library's "eager" one, whose kernels are deterministic, and dropout is off. Which bits come out depends
on the libraries' versions too: `extra` names them, and only contributors that have the auditor's are given such work.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from cloudlinkup.training import caps
from cloudlinkup.training.frozen import widened
from cloudlinkup.training.networks import huggingface_config as hub
from cloudlinkup.training.networks.kind import FrozenWeights, TensorLayout, fields, whole
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import torch

NAME = "huggingface"
STANDARD_DEVIATION = 0.02  # of drawn matrices, as the library's configs have it
_PEFT = "base_model.model."  # before each name in peft's own files


class MissingExtra(ValueError):
    """The optional extra is not installed here."""

    def __init__(self) -> None:
        super().__init__("this kind of model needs transformers and peft. Fix: pip install 'cloudlinkup[huggingface]'")


@cache
def extra() -> str | None:
    """What is installed of the optional extra, as contributors say it in their hello; None where it is not."""
    try:
        return " ".join([NAME, *(f"{package} {version(package)}" for package in ("transformers", "peft"))])
    except PackageNotFoundError:
        return None


def _libraries() -> tuple[Any, Any]:
    try:
        import peft
        import transformers
    except ImportError:
        raise MissingExtra from None
    return transformers, peft


class HuggingFace:
    """model: `config` (canonical, see `huggingface_config`) and `lora`: rank, alpha and targets, or null."""

    tasks = ("next_token",)

    def check(self, spec: TrainingSpec) -> None:
        fields(spec.model, NAME, "config", "lora")
        config = spec.model["config"]
        if hub.canonical(config) != config or not isinstance(config, dict):
            raise ValueError("model.config must be in canonical form")
        if config["vocab_size"] != spec.outputs:
            raise ValueError(f"outputs must be model.config.vocab_size, {config['vocab_size']}")
        if spec.model["lora"] is not None:
            check_lora(spec.model["lora"], config)
        whole("inputs", spec.inputs, 1, min(hub.length(config), caps.CONTEXT))
        if (kept := self.activations(spec)) > caps.ACTIVATIONS:
            raise ValueError(
                f"inputs: a window takes {kept} numbers of activations, over {caps.ACTIVATIONS}: shorten it"
            )

    def layout(self, spec: TrainingSpec) -> tuple[TensorLayout, ...]:
        lora = spec.model["lora"]
        if lora is None:
            drawn = STANDARD_DEVIATION * sqrt(3.0)  # uniform, of the same deviation
            return tuple(
                TensorLayout(t.name, t.shape, drawn, edge=not t.target)
                if t.start is None
                else TensorLayout(t.name, t.shape, 0.0, t.start)
                for t in hub.tensors(spec.model["config"])
            )
        parts: list[TensorLayout] = []
        for tensor in hub.tensors(spec.model["config"]):
            if tensor.target in lora["targets"]:
                (fan_in, fan_out), place = tensor.sizes, _PEFT + tensor.name.removesuffix(".weight")
                # as peft has it: A as a linear layer starts, B at zero, so that training begins at the base
                parts.append(TensorLayout(f"{place}.lora_A.weight", (lora["rank"], fan_in), 1.0 / sqrt(fan_in)))
                parts.append(TensorLayout(f"{place}.lora_B.weight", (fan_out, lora["rank"])))
        return tuple(parts)

    def activations(self, spec: TrainingSpec) -> int:
        config, tokens = spec.model["config"], spec.inputs
        heads = config.get("num_attention_heads") or config["n_head"]
        hidden = config.get("hidden_size") or config["n_embd"]
        inner = config.get("intermediate_size") or config["n_inner"]
        layers = config.get("num_hidden_layers") or config["n_layer"]
        rank = spec.model["lora"]["rank"] if spec.model["lora"] else 0
        each = 16 * hidden + 5 * inner + 7 * rank + 4 * heads * tokens  # eager attention keeps its scores
        return tokens * (layers * each + 4 * config["vocab_size"])

    def frozen(self, spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors that are not trained; none without LoRA."""
        return {} if spec.model["lora"] is None else base_tensors(spec.model["config"])

    def base(self, spec: TrainingSpec) -> dict[str, tuple[int, ...]]:
        return base_tensors(spec.model["config"])

    def flat(self, spec: TrainingSpec, base: FrozenWeights) -> np.ndarray:
        return np.concatenate([widened(base[t.name]).reshape(-1) for t in hub.tensors(spec.model["config"])])

    def module(self, spec: TrainingSpec, frozen: FrozenWeights | None) -> torch.nn.Module:
        lora = spec.model["lora"]
        if lora is not None and frozen is None:
            raise ValueError("LoRA needs the base's weights")
        return _assemble(spec.model["config"], lora, frozen or {})

    def extra(self) -> str:
        """What of the optional extra is installed here. Raises MissingExtra."""
        if (found := extra()) is None:
            raise MissingExtra
        return found

    def load(self) -> None:
        _libraries()

    def empty(self, spec: TrainingSpec) -> torch.nn.Module:
        return _wrap(_on_meta(spec.model["config"], spec.model["lora"], {})[0])


def base_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the base's safetensors file. `config`: canonical."""
    return {tensor.name: tensor.shape for tensor in hub.tensors(config)}


def check_lora(lora: object, config: Mapping[str, Any]) -> None:
    """Raises ValueError for what are not rank, alpha and targets of this network, targets in its order."""
    if not isinstance(lora, dict) or set(lora) != {"rank", "alpha", "targets"}:
        raise ValueError("model.lora must have exactly rank, alpha, targets, or be null")
    whole("model.lora.rank", lora["rank"], 1, caps.RANK)
    whole("model.lora.alpha", lora["alpha"], 1, 1_024)
    allowed, named = hub.targets(config), lora["targets"]
    if not isinstance(named, list) or not named or named != [name for name in allowed if name in named]:
        raise ValueError(f"model.lora.targets must be a list of some of {', '.join(allowed)}, in this order")


def adapter_config(spec: TrainingSpec, base: str = "") -> dict[str, Any]:
    """peft's own adapter_config.json of a spec with LoRA. Raises MissingExtra. `base`: what the base is called."""
    made = _lora_config(spec.model["config"], spec.model["lora"]).to_dict()
    made |= {"task_type": "CAUSAL_LM", "inference_mode": True, "base_model_name_or_path": base}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in made.items()}


# ---------------------------------------------------------------- building


def _lora_config(config: Mapping[str, Any], lora: Mapping[str, Any]) -> Any:
    _, peft = _libraries()
    return peft.LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        target_modules=list(lora["targets"]),
        lora_dropout=0.0,
        bias="none",
        fan_in_fan_out=config["model_type"] == "gpt2",
    )


def _on_meta(
    config: Mapping[str, Any], lora: Mapping[str, Any] | None, frozen: FrozenWeights
) -> tuple[torch.nn.Module, dict[str, torch.nn.Parameter]]:
    """(the network without storage, its base's parameters by their names in the file).

    On the meta device nothing is drawn, so torch's global generator stays where it is.
    """
    import torch

    transformers, peft = _libraries()
    settings = {name: value for name, value in config.items() if name != "model_type"}
    none = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    off = {"attention_dropout": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    kept = {k: v for k, v in off.items() if (k == "attention_dropout") == (config["model_type"] != "gpt2")}
    described = transformers.CONFIG_MAPPING[config["model_type"]](**settings, **none, **kept, use_cache=True)
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(
            described, attn_implementation="eager", trust_remote_code=False
        )
        named = dict(network.named_parameters())
        if lora is not None:
            network.requires_grad_(False)
            _keep_narrow(network, frozen)
            peft.inject_adapter_in_model(_lora_config(config, lora), network)
    return network, named


def _keep_narrow(network: torch.nn.Module, frozen: FrozenWeights) -> None:
    """Matrices that their file has in 16 bits become layers that hold them so."""
    import torch

    from cloudlinkup.training.networks.narrow import NARROW

    for name, module in network.named_modules():
        stored = frozen.get(f"{name}.weight")
        if name == "lm_head" and stored is None:  # tied
            stored = next(
                (frozen[n] for n in ("model.embed_tokens.weight", "transformer.wte.weight") if n in frozen), None
            )
        if stored is not None and stored.dtype != np.float32 and type(module) in NARROW():
            assert isinstance(module, torch.nn.Module)
            module.__class__ = NARROW()[type(module)]  # the same layer, with another forward pass


def _assemble(config: Mapping[str, Any], lora: Mapping[str, Any] | None, frozen: FrozenWeights) -> torch.nn.Module:
    from cloudlinkup.training.networks.narrow import NARROW

    network, named = _on_meta(config, lora, frozen)
    names = {id(parameter): name for name, parameter in named.items()}
    made: dict[int, torch.nn.Parameter] = {}  # tied parameters stay one
    for module in network.modules():
        for own, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                narrow = type(module) in NARROW().values() and own == "weight"
                made[id(parameter)] = _real(parameter, names.get(id(parameter), ""), frozen, narrow=narrow)
            module._parameters[own] = made[id(parameter)]
        for own, child in list(module.named_children()):
            if own == "rotary_emb":  # its frequencies are computed, not stored
                setattr(module, own, type(child)(config=network.config))
    if left := [name for name, buffer in network.named_buffers() if buffer.is_meta]:
        raise ValueError(f"the library's {config['model_type']} has a buffer {left[0]} that is not known here")
    return _wrap(network)


def _real(parameter: torch.nn.Parameter, name: str, frozen: FrozenWeights, *, narrow: bool) -> torch.nn.Parameter:
    """Storage for a parameter: the base's values where it is frozen, any where it is trained."""
    import torch

    if parameter.requires_grad:
        return torch.nn.Parameter(torch.empty(parameter.shape, dtype=torch.float32))
    stored = frozen.get(name)
    if stored is None or stored.shape != tuple(parameter.shape):
        raise ValueError(f"the base's weights have no {name} of shape {tuple(parameter.shape)}")
    # a copy in torch's own memory, whose alignment is always the same
    own = torch.from_numpy(np.array(stored)).clone()
    own = own.view(torch.bfloat16) if stored.dtype == np.uint16 else own
    return torch.nn.Parameter(own if narrow else own.float(), requires_grad=False)


def _wrap(network: torch.nn.Module) -> torch.nn.Module:
    from cloudlinkup.training.networks.narrow import LanguageModel

    return LanguageModel(network).eval()
