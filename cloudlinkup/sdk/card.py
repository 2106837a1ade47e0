"""The model card of a delivered folder, README.md, from the folder's own documents; nothing in it is guessed.

It is written when the model is delivered, and again once the receipt is there. A line whose fact is not in the folder
is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from cloudlinkup.tables.recipe import Preprocessing
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import format_tokens

Facts = Mapping[str, Any]
Recipe = Preprocessing | TextRecipe


def model_card(
    spec: TrainingSpec, parameters: int, recipe: Recipe, metrics: Facts, receipt: Facts | None = None
) -> str:
    """Markdown. `metrics`, `receipt`: the documents beside it. `parameters`: of one network."""
    title = "A language model" if isinstance(recipe, TextRecipe) else f"A {spec.task} model for `{recipe.label}`"
    sections = (
        f"# {title}\n\n{_network(spec, parameters)}{_blend(metrics)}",
        _use(spec, recipe),
        _part("Result", _result(metrics)),
        _part("Data", _data(spec, recipe, metrics)),
        _part("Training", _training(spec, metrics, receipt)),
        _part("Verification and pay", _verified(receipt) if receipt else _unsettled(metrics)),
        _part("Limits", _limits(recipe, metrics, receipt)),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _part(title: str, lines: Iterable[str]) -> str:
    kept = [line for line in lines if line]
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in kept) if kept else ""


def _network(spec: TrainingSpec, parameters: int) -> str:
    if spec.model.get("kind") == "huggingface":
        return _language_model(spec, parameters)
    sizes = "; ".join(f"{key} {json.dumps(value)}" for key, value in spec.model.items() if key != "kind")
    return f"`{spec.model.get('kind')}` ({sizes}), {parameters:,} parameters."


def _language_model(spec: TrainingSpec, parameters: int) -> str:
    kind, lora = spec.model["config"]["model_type"], spec.model["lora"]
    if lora is None:
        return f"`{kind}` of the transformers library (`config.json`), {parameters:,} parameters, all of them trained."
    return (
        f"LoRA adapters for a `{kind}` of the transformers library: rank {lora['rank']}, alpha {lora['alpha']}, on"
        f" {', '.join(lora['targets'])}; {parameters:,} trained parameters. They work on one base alone: the"
        f" `model.safetensors` with SHA-256 `{spec.frozen}`, which is not in this folder."
    )


def _blend(metrics: Facts) -> str:
    count = len(metrics.get("blend", {}))
    return f" {count} of them, trained apart; the answer is the mean of theirs." if count else ""


def _use(spec: TrainingSpec, recipe: Recipe) -> str:
    if isinstance(recipe, TextRecipe):
        return _use_on_text(adapters=spec.frozen is not None)
    back = "its own words" if recipe.classes is not None else "its own unit"
    return f"""```python
import pandas as pd
from cloudlinkup import load_model

model = load_model(".")  # a torch module
model.predict(pd.read_csv("rows.csv"))  # raw rows in, `{recipe.label}` in {back} out
```

On the command line: `cloudlinkup predict . rows.csv`. No file here is code or a pickle."""


def _use_on_text(*, adapters: bool) -> str:
    base, option = (', base="BASE"', " --base BASE") if adapters else ("", "")
    peft = (
        ""
        if not adapters
        else """

`BASE` is the base's folder, or its file. With peft alone:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), ".")
```"""
    )
    return f"""```python
from cloudlinkup import load_model

model = load_model("."{base})  # a torch module
model.predict(["Some text."])  # the perplexity of each text
model.generate("Some te", tokens=100, seed=0)  # what follows
```

On the command line: `cloudlinkup predict . text.txt{option}`. No file here is code or a pickle.{peft}"""


def _result(metrics: Facts) -> Iterable[str]:
    rows = metrics.get("rows", {})
    if isinstance(score := metrics.get("score"), float):
        name = "windows" if metrics.get("metric") == "perplexity" else "rows"
        held = f" on {rows['held_out']:,} {name}" if "held_out" in rows else f" on {name}"
        yield f"{metrics.get('metric', 'score')} **{score:.4f}**{held} that were never trained on"
    if len(metrics.get("metrics", {})) > 1:
        shown = (f"{name} {value:.4f}" for name, value in metrics["metrics"].items() if name != metrics.get("metric"))
        yield "beside it: " + ", ".join(shown)
    if "folds" in metrics:
        folds = metrics["folds"]
        yield f"{folds['count']}-fold cross-validation: {folds['mean']:.4f} +- {folds['deviation']:.4f} (one deviation)"
    if "reference" in metrics:
        yield f"{metrics['reference']['name']} scores {metrics['reference']['score']:.4f} there"
    if "chosen" in metrics:
        yield str(metrics["chosen"])
    if metrics.get("curve"):
        yield "![score by verified steps](curve.png)"
    if metrics.get("trials"):
        yield "every training's settings and score: `trials.csv`, and drawn: ![all trainings](trials.png)"


def _data(spec: TrainingSpec, recipe: Recipe, metrics: Facts) -> Iterable[str]:
    if isinstance(recipe, TextRecipe):
        if "rows" in metrics:
            trained, held = metrics["rows"]["trained"], metrics["rows"]["held_out"]
            yield f"{trained:,} windows of {spec.inputs} tokens trained on, {held:,} held out, in their own stretches"
        kind = "bytes" if recipe.tokenizer is None else "those of the tokenizer in `preprocessing.json`"
        yield f"tokens are {kind}, {recipe.vocabulary:,} of them"
        return
    if "rows" in metrics:
        yield f"{metrics['rows']['trained']:,} rows trained on, {metrics['rows']['held_out']:,} held out"
    yield f"{len(recipe.columns)} columns become {spec.inputs} features; names and recipe: `preprocessing.json`"
    if recipe.classes is not None:
        yield f"{len(recipe.classes)} classes"


def _training(spec: TrainingSpec, metrics: Facts, receipt: Facts | None) -> Iterable[str]:
    if "steps" in metrics:
        yield f"{metrics['steps']:,} verified steps of {spec.batch} rows in {metrics.get('rounds', 0)} rounds"
    if back := metrics.get("rolled_back"):
        yield f"{len(back)} rounds were taken back and done again, as the score on held-out rows fell"
    kept = spec.rounds == "kept"
    state = "kept by each contributor across rounds, outer momentum" if kept else "fresh each round"
    name = "Muon for hidden matrices, AdamW for the rest" if spec.optimizer == "muon" else "AdamW"
    yield f"{name} ({state}), peak learning rate {spec.lr:g}, seed {spec.seed}, {spec.precision}" + (
        ", rows weighted by class" if spec.class_weights else ""
    )
    if receipt:
        worked = sum(line["accepted"] > 0 for line in receipt["contributors"])
        yield f"{worked} of {len(receipt['contributors'])} contributors did work that verified"
    elif "contributors" in metrics:
        yield f"{metrics['contributors']} contributors"
    if receipt:
        yield f"{receipt['seconds']:.0f} s, {receipt['bytes_up']:,} bytes up, {receipt['bytes_down']:,} bytes down"


def _unsettled(metrics: Facts) -> Iterable[str]:
    if "price_per_step" in metrics:
        yield f"{metrics['price_per_step']} base units a verified step; `receipt.json` follows when the job is settled"


def _verified(receipt: Facts) -> Iterable[str]:
    def tokens(key: str) -> str:
        return format_tokens(int(receipt[key]), receipt["decimals"])

    lines = receipt["contributors"]
    count = {key: sum(line[key] for line in lines) for key in ("segments", "accepted", "replayed", "rejected")}
    yield (
        f"contributors committed to {count['segments']} segments before they learnt which were drawn; "
        f"{count['replayed']} were trained again and compared; "
        f"{count['accepted']} accepted, {count['rejected']} rejected"
    )
    if price := receipt["quoted"].get("price_per_step"):
        yield f"{price} base units a verified step"
    yield (
        f"budget {tokens('budget')}: paid {tokens('paid')}, fee {tokens('fee')}, returned {tokens('refunded')}"
        + ("" if receipt["settled"] else f", pending {tokens('pending')}")
    )
    yield f"job {receipt['job_id']} on chain; every amount and transaction: `receipt.json`"


def _limits(recipe: Recipe, metrics: Facts, receipt: Facts | None) -> Iterable[str]:
    if metrics.get("ended_early"):
        yield f"it ended early: {metrics['ended_early']}"
    if isinstance(recipe, TextRecipe):
        yield "the score is of stretches of the same text: it says nothing about text of another origin"
        yield "what it writes may repeat the text that it was trained on, word for word"
    else:
        yield "the score is of rows of the same table: it says nothing about rows of another origin"
        if any(column.kind == "category" for column in recipe.columns):
            yield "a word that the training rows did not have counts as none of the known ones"
        if any(column.kind == "number" for column in recipe.columns):
            yield "a missing number counts as the training rows' median"
    if receipt is None or any(line["replayed"] < line["segments"] for line in receipt["contributors"]):
        yield "what was not drawn was not trained again: a cheat in it is unlikely, not impossible"
