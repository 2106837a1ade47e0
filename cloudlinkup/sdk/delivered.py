"""The delivered model: a folder that a person uses without us, and that loads without trusting anybody's pickle.

weights.safetensors   the network's tensors by layer (0.weight, 0.bias, 2.weight, ...)
spec.json             the training spec; its hash stood in every order
preprocessing.json    the recipe from raw rows to features, and back to the label's own words
metrics.json          score on the held-out rows and how it was reached, with the weights' SHA-256
receipt.json          what was done, verified and paid; once the job is settled
README.md             how to use it

model = load_model("delivered")
model.predict(frame)  # raw rows in, labels in their own words out
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.recipe import Preprocessing
from cloudlinkup.training.architectures import build_with, parameter_count
from cloudlinkup.training.evaluate import outputs
from cloudlinkup.training.spec import TrainingSpec

if TYPE_CHECKING:
    import pandas as pd
    import torch

WEIGHTS, SPEC, RECIPE, METRICS, RECEIPT, README = (
    "weights.safetensors",
    "spec.json",
    "preprocessing.json",
    "metrics.json",
    "receipt.json",
    "README.md",
)
MAX_WEIGHTS = 4 * 50_000_000 + 2**20
MAX_JSON = 16 * 2**20


class DeliveredModel:
    """A delivered model. `module` is the torch network on prepared features; `predict` works on raw rows."""

    def __init__(
        self, spec: TrainingSpec, weights: np.ndarray, preprocessing: Preprocessing, metrics: dict[str, Any]
    ) -> None:
        self.spec, self.weights, self.preprocessing, self.metrics = spec, weights, preprocessing, metrics

    @property
    def module(self) -> torch.nn.Module:
        """(rows, inputs) prepared features to (rows, outputs) logits or standardised targets."""
        return build_with(self.spec, self.weights)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Labels in their own words, or numbers in the label's own unit, for raw rows (rows,).

        Columns are found by name; others, the label among them, are left aside. Raises BadInput for a missing column.
        """
        return self.preprocessing.predictions(outputs(self.spec, self.weights, self.preprocessing.features(frame)))

    def predict_proba(self, frame: pd.DataFrame) -> np.ndarray:
        """Probabilities (rows, classes), columns in the order of `preprocessing.classes`. Raises BadInput."""
        if self.preprocessing.classes is None:
            raise BadInput("task", self.spec.task, "a regression has no class probabilities", "use predict")
        logits = outputs(self.spec, self.weights, self.preprocessing.features(frame)).astype(np.float64)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)


def _tensors(spec: TrainingSpec, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in build_with(spec, weights).state_dict().items()}


def write_delivery(
    folder: Path,
    spec: TrainingSpec,
    weights: np.ndarray,
    preprocessing: Preprocessing,
    metrics: Mapping[str, Any],
    receipt: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder (made if needed). `weights`: flat fp32. Without a receipt, none is written or removed.

    Raises ValueError when the parts do not fit each other.
    """
    if spec.inputs != preprocessing.inputs:
        raise ValueError("the recipe makes another number of features than the network takes")
    packed = save(_tensors(spec, weights), metadata={"spec": spec.hash})
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(packed)
    (folder / SPEC).write_bytes(spec.to_bytes() + b"\n")
    (folder / RECIPE).write_text(preprocessing.model_dump_json(indent=1) + "\n")
    told = {**metrics, "weights_sha256": hashlib.sha256(packed).hexdigest()}
    (folder / METRICS).write_text(json.dumps(told, indent=2, allow_nan=False) + "\n")
    if receipt is not None:
        (folder / RECEIPT).write_text(json.dumps(receipt, indent=2, allow_nan=False) + "\n")
    (folder / README).write_text(_readme(spec, preprocessing, metrics))


def load_model(folder: str | Path) -> DeliveredModel:
    """The model in a delivered folder. Raises BadInput when a file is missing, altered or does not fit the others."""
    where = Path(folder)
    try:
        metrics = json.loads(_read(where / METRICS, MAX_JSON))
        packed = _read(where / WEIGHTS, MAX_WEIGHTS)
        if not isinstance(metrics, dict) or hashlib.sha256(packed).hexdigest() != metrics.get("weights_sha256"):
            raise ValueError(f"{WEIGHTS} is not the file whose hash stands in {METRICS}")
        spec = TrainingSpec.from_bytes(_read(where / SPEC, MAX_JSON).removesuffix(b"\n"))
        recipe = Preprocessing.model_validate_json(_read(where / RECIPE, MAX_JSON))
        if recipe.inputs != spec.inputs or recipe.task != spec.task:
            raise ValueError(f"{RECIPE} does not fit {SPEC}")
        if recipe.classes is not None and len(recipe.classes) != spec.outputs:
            raise ValueError(f"{RECIPE} has another number of classes than {SPEC}")
        return DeliveredModel(spec, _flat(spec, load(packed)), recipe, metrics)
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise BadInput("folder", str(where), f"{name} is missing", "give a delivered job's folder") from None
    except ValidationError:
        raise BadInput("folder", str(where), f"{RECIPE} is not a recipe", "download the model again") from None
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise BadInput("folder", str(where), str(error), "download the model again") from None


def predict(folder: str | Path, frame: pd.DataFrame) -> np.ndarray:
    """`load_model(folder).predict(frame)`."""
    return load_model(folder).predict(frame)


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
        raise ValueError(f"the tensors in {WEIGHTS} are not those of {SPEC}")
    flat = np.concatenate([tensors[name].reshape(-1) for name in expected])
    if not np.isfinite(flat).all():
        raise ValueError(f"{WEIGHTS} holds values that are not finite")
    return flat


def _readme(spec: TrainingSpec, recipe: Preprocessing, metrics: Mapping[str, Any]) -> str:
    score = metrics.get("score")
    told = f"{metrics.get('metric', 'score')} {score:.4f} on the held-out rows" if isinstance(score, float) else ""
    back = "its own words" if recipe.classes is not None else "its own unit"
    hidden = ", ".join(str(width) for width in spec.model["hidden"]) or "none"
    return f"""# A {spec.task} model for `{recipe.label}`

{parameter_count(spec):,} parameters (hidden layers: {hidden}; {spec.model["activation"]}). {told}

```python
import pandas as pd
from cloudlinkup import load_model

model = load_model(".")
model.predict(pd.read_csv("rows.csv"))  # raw rows in, `{recipe.label}` in {back} out
model.module  # the torch network, on prepared features
```

Needed columns: {len(recipe.columns)}, by the names in `preprocessing.json`. No file here is code or a pickle.
"""
