"""The delivered model: a folder that a person uses without us, and that loads without trusting anybody's pickle.

weights.safetensors   the network's tensors by layer (0.weight, 0.bias, 2.weight, ...); of a huggingface model
                      model.safetensors, or adapter_model.safetensors, with their config (adapters.py)
spec.json             the training spec; its hash stood in every order
preprocessing.json    the recipe from raw rows to features, and back to the label's own words
metrics.json          score on the held-out rows and how it was reached, with the weights' SHA-256
curve.png             the score by verified steps
receipt.json          what was done, verified and paid; once the job is settled
README.md             the model card: what it is, how good, how it was trained, verified and paid, its limits
trials/00, ...        several models of one job: each a folder of this form, without a receipt of its own

A blend has no weights of its own: `blend` in its metrics.json names the folders of its members and their hashes.

model = load_model("delivered")  # a torch module
model.predict(frame)             # raw rows in, labels in their own words out; so does model(frame)

A language model is a `LanguageModel` instead (language.py), which takes texts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.adapters import WEIGHTS, open_base, weights_name, write_config
from cloudlinkup.sdk.card import model_card
from cloudlinkup.sdk.language import LanguageModel
from cloudlinkup.sdk.module import Model
from cloudlinkup.sdk.plot import Line, line_plot
from cloudlinkup.tables.prepared import read_recipe
from cloudlinkup.tables.recipe import Preprocessing
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.training.architectures import build_with, layout, parameter_count
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import pandas as pd

SPEC, RECIPE, METRICS, CURVE, RECEIPT, README = (
    "spec.json",
    "preprocessing.json",
    "metrics.json",
    "curve.png",
    "receipt.json",
    "README.md",
)
TRIALS = "trials"
MAX_WEIGHTS = 4 * 50_000_000 + 2**20
MAX_JSON = 32 * 2**20  # a recipe may hold a tokenizer
MAX_MEMBERS = 256
BATCH = 8_192  # rows a forward pass


class DeliveredModel(Model[Preprocessing]):
    """A torch module on raw rows. `network`: (rows, inputs) prepared features to (rows, outputs) logits or standardised
    targets; where several networks blend, `spec` is of one."""

    def forward(self, rows: pd.DataFrame | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Raw rows to predictions, as `predict`; a tensor of prepared features (rows, inputs) to the network's outputs.

        Raises BadInput for a missing column.
        """
        return self.network(rows) if isinstance(rows, torch.Tensor) else self.predict(rows)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Labels in their own words, or numbers in the label's own unit, for raw rows (rows,).

        Columns are found by name; others, the label among them, are left aside. Raises BadInput for a missing column.
        """
        return self.preprocessing.predictions(self._outputs(frame))

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities (rows, classes), columns in the order of `preprocessing.classes`. Raises BadInput."""
        if self.preprocessing.classes is None:
            raise BadInput("task", self.spec.task, "a regression has no class probabilities", "use predict")
        logits = self._outputs(frame).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def _outputs(self, frame: pd.DataFrame) -> np.ndarray:
        features = self.preprocessing.features(frame)
        device = next(self.network.parameters()).device
        pieces = [np.empty((0, self.spec.outputs), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(features), BATCH):
                piece = torch.from_numpy(np.array(features[start : start + BATCH], np.float32)).to(device)
                pieces.append(self.network(piece).cpu().numpy())
        return np.concatenate(pieces)


class Blend(torch.nn.Module):
    """Networks of one shape of outputs as one: the logarithm of their mean probability, or their mean target."""

    def __init__(self, members: Sequence[torch.nn.Module], *, classes: bool) -> None:
        super().__init__()
        self.members, self.classes = torch.nn.ModuleList(members), classes

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) to (rows, outputs). The softmax of the result is the mean of the members' probabilities."""
        answers = torch.stack([member(features) for member in self.members])
        if not self.classes:
            return answers.mean(dim=0)
        return torch.logsumexp(torch.log_softmax(answers, dim=-1), dim=0) - float(np.log(len(self.members)))


def _tensors(spec: TrainingSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
    found, start = {}, 0
    for tensor in layout(spec):
        found[tensor.name] = weights[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    if start != len(weights):
        raise ValueError(f"{len(weights)} weights where the network trains {start}")
    return found


def write_delivery(
    folder: Path,
    spec: TrainingSpec,
    weights: np.ndarray,
    preprocessing: Preprocessing | TextRecipe,
    metrics: Mapping[str, Any],
    receipt: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder (made if needed). `weights`: flat fp32. Without a receipt, none is written or removed.

    `metrics`: `metric`, `score`, and what else `card.model_card` tells of it; `curve` as (steps, score) pairs.
    Raises ValueError when the parts do not fit each other.
    """
    if spec.inputs != preprocessing.inputs:
        raise ValueError("the recipe makes another number of features than the network takes")
    packed = save(_tensors(spec, np.ascontiguousarray(weights)), metadata={"spec": spec.hash, "format": "pt"})
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / weights_name(spec)).write_bytes(packed)
    write_config(folder, spec)
    _write_documents(folder, spec, preprocessing, {**metrics, "weights_sha256": hashlib.sha256(packed).hexdigest()})
    if receipt is not None:
        (folder / RECEIPT).write_text(json.dumps(receipt, indent=2, allow_nan=False) + "\n")
    write_card(folder)


def write_blend(
    folder: Path,
    members: Sequence[str],
    spec: TrainingSpec,
    preprocessing: Preprocessing | TextRecipe,
    metrics: Mapping[str, Any],
) -> None:
    """Writes a folder whose model is the mean of delivered ones in it: `members`, like ``trials/03``."""
    hashes = {name: json.loads(_read(folder / name / METRICS, MAX_JSON))["weights_sha256"] for name in members}
    (folder / WEIGHTS).unlink(missing_ok=True)
    _write_documents(folder, spec, preprocessing, {**metrics, "blend": hashes})
    write_card(folder)


def _write_documents(
    folder: Path, spec: TrainingSpec, recipe: Preprocessing | TextRecipe, metrics: Mapping[str, Any]
) -> None:
    (folder / SPEC).write_bytes(spec.to_bytes() + b"\n")
    (folder / RECIPE).write_text(recipe.model_dump_json(indent=1) + "\n")
    (folder / METRICS).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    if curve := metrics.get("curve"):
        name = str(metrics.get("metric", "score"))
        drawn = line_plot([Line(curve)], title="score on held-out rows", x="verified steps", y=name)
        (folder / CURVE).write_bytes(drawn)


def write_card(folder: Path) -> None:
    """README.md from the documents beside it, the receipt's facts with it once it is there. Nothing without a model."""
    if not (folder / METRICS).exists():
        return
    metrics = json.loads(_read(folder / METRICS, MAX_JSON))
    spec = TrainingSpec.from_bytes(_read(folder / SPEC, MAX_JSON).removesuffix(b"\n"))
    recipe = read_recipe(_read(folder / RECIPE, MAX_JSON))
    receipt = json.loads(_read(folder / RECEIPT, MAX_JSON)) if (folder / RECEIPT).exists() else None
    told = receipt if receipt and "contributors" in receipt else None
    (folder / README).write_text(model_card(spec, parameter_count(spec), recipe, metrics, told))


def load_model(folder: str | Path, base: str | Path | None = None) -> Any:
    """The model in a delivered folder: a DeliveredModel, or a LanguageModel where it was trained on text.

    `base`: for adapters, the model.safetensors that they stand on, or its folder.

    Raises BadInput when a file is missing, altered or does not fit the others.
    """
    where = Path(folder)
    try:
        metrics = json.loads(_read(where / METRICS, MAX_JSON))
        if not isinstance(metrics, dict):
            raise ValueError(f"{METRICS} is not an object")
        spec = TrainingSpec.from_bytes(_read(where / SPEC, MAX_JSON).removesuffix(b"\n"))
        recipe = read_recipe(_read(where / RECIPE, MAX_JSON))
        if recipe.inputs != spec.inputs or recipe.task != spec.task:
            raise ValueError(f"{RECIPE} does not fit {SPEC}")
        if isinstance(recipe, TextRecipe):
            if recipe.vocabulary > spec.outputs:
                raise ValueError(f"{RECIPE} has more tokens than {SPEC}")
            return LanguageModel(spec, _single(where, metrics, spec, open_base(spec, base)), recipe, metrics).eval()
        if recipe.classes is not None and len(recipe.classes) != spec.outputs:
            raise ValueError(f"{RECIPE} has another number of classes than {SPEC}")
        network = _blended(where, metrics, spec) if "blend" in metrics else _single(where, metrics, spec)
        return DeliveredModel(spec, network, recipe, metrics).eval()
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise BadInput("folder", str(where), f"{name} is missing", "give a delivered job's folder") from None
    except ValidationError:
        raise BadInput("folder", str(where), f"{RECIPE} is not a recipe", "download the model again") from None
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise BadInput("folder", str(where), str(error), "download the model again") from None


def _single(
    where: Path, metrics: Mapping[str, Any], spec: TrainingSpec, frozen: FrozenWeights | None = None
) -> torch.nn.Module:
    name = weights_name(spec)
    packed = _read(where / name, MAX_WEIGHTS)
    if hashlib.sha256(packed).hexdigest() != metrics.get("weights_sha256"):
        raise ValueError(f"{name} is not the file whose hash stands in {METRICS}")
    return build_with(spec, _flat(spec, load(packed)), frozen)


def _blended(where: Path, metrics: Mapping[str, Any], spec: TrainingSpec) -> torch.nn.Module:
    members = metrics["blend"]
    if not isinstance(members, dict) or not 1 <= len(members) <= MAX_MEMBERS:
        raise ValueError(f"{METRICS} names no members of the blend")
    networks = []
    for name, digest in members.items():
        if not re.fullmatch(rf"{TRIALS}/\d{{2,3}}", name, flags=re.ASCII):
            raise ValueError("a member of the blend is not a folder of its trials")
        one = TrainingSpec.from_bytes(_read(where / name / SPEC, MAX_JSON).removesuffix(b"\n"))
        if (one.task, one.inputs, one.outputs) != (spec.task, spec.inputs, spec.outputs):
            raise ValueError("a member of the blend answers another question than the others")
        networks.append(_single(where / name, {"weights_sha256": digest}, one))
    return Blend(networks, classes=spec.task == "classification")


def predict(folder: str | Path, rows: pd.DataFrame | str | Sequence[str], base: str | Path | None = None) -> np.ndarray:
    """`load_model(folder).predict(rows)`: rows of a table, or texts for a language model. Raises BadInput for the
    other of the two."""
    model = load_model(folder, base)
    if isinstance(model, LanguageModel):
        if not isinstance(rows, str | list | tuple):
            raise BadInput("data", type(rows).__name__, "this model takes text", "give a text, or a list of texts")
        return model.predict(rows)
    if isinstance(rows, str | list | tuple):
        raise BadInput("data", type(rows).__name__, "this model takes the rows of a table", "give a DataFrame")
    return model.predict(rows)


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return data


def _flat(spec: TrainingSpec, tensors: dict[str, np.ndarray]) -> np.ndarray:
    expected = _tensors(spec, np.zeros(parameter_count(spec), np.float32))
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != shapes:
        raise ValueError(f"the tensors in {weights_name(spec)} are not those of {SPEC}")
    flat = np.concatenate([tensors[name].reshape(-1) for name in expected])
    if not np.isfinite(flat).all():
        raise ValueError(f"{weights_name(spec)} holds values that are not finite")
    return flat
