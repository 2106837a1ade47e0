"""A delivered language model against probabilities that are worked out by hand."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from cloudlinkup import load_model, predict
from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.delivered import write_delivery
from cloudlinkup.sdk.language import LanguageModel
from cloudlinkup.tables.windows import prepare_text
from cloudlinkup.training.evaluate import all_scores
from tests.bigram import bigram, text_job
from tests.cli.conftest import cli

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

__all__ = ["bigram", "cli"]
CONTEXT = 8
TEXT = "abcabdabc" * 200


@pytest.fixture
def folder(bigram, tmp_path):
    """Counts of pairs, as logits: what training would come to."""
    (tmp_path / "notes.txt").write_text(TEXT)
    data = prepare_text(tmp_path / "notes.txt", text_job(context=CONTEXT))
    counts = np.full((256, 256), 1e-3)
    for one, two in itertools.pairwise(TEXT):
        counts[ord(one), ord(two)] += 1
    logs = np.log(counts / counts.sum(axis=1, keepdims=True))
    weights = logs.astype(np.float32).reshape(-1)
    scores = all_scores(data.spec, weights, data.holdout_features, data.holdout_targets)
    rows = {"trained": len(data.features), "held_out": len(data.holdout_features)}
    metrics = {"metric": "perplexity", "score": scores["perplexity"], "metrics": scores, "rows": rows}
    write_delivery(tmp_path / "model", data.spec, weights, data.preprocessing, metrics)
    return tmp_path / "model", logs


def by_hand(logs: np.ndarray, text: str) -> float:
    tokens = list(text.encode())
    return float(np.exp(-np.mean([logs[a, b] for a, b in itertools.pairwise(tokens)])))


@pytest.mark.parametrize("length", [2, CONTEXT, CONTEXT + 1, CONTEXT + 2, 2 * CONTEXT + 1, 1_000])
def test_perplexity_is_that_of_every_token_but_the_first(folder, length):
    place, logs = folder
    model = load_model(place)
    assert isinstance(model, LanguageModel) and not model.training
    text = TEXT[:length]
    np.testing.assert_allclose(model.predict([text, "abc"]), [by_hand(logs, text), by_hand(logs, "abc")], rtol=1e-5)
    np.testing.assert_allclose(predict(place, text), model(text))
    assert model.loss(text)[1] == length - 1


def test_next_token_and_writing_on(folder):
    place, logs = folder
    model = load_model(place)
    odds = model.predict_proba(["xyzab", "a"])
    np.testing.assert_allclose(odds, np.exp(logs[[ord("b"), ord("a")]]), atol=1e-6)
    one = model.generate("a", tokens=60, seed=3)
    assert one == model.generate("a", tokens=60, seed=3) != model.generate("a", tokens=60, seed=4)
    assert len(one) == 60 and all(b in TEXT for b in one)
    assert model.generate("a", 5, temperature=0) == model.generate("a", 5, seed=9, temperature=0) == "bcabc"
    pairs = {one[k : k + 2] for k in range(59)}
    assert pairs <= {TEXT[k : k + 2] for k in range(9)} | {"da", "ca"}
    logits = model(torch.zeros((2, CONTEXT), dtype=torch.int64))
    assert logits.shape == (2, CONTEXT, 256)


@pytest.mark.parametrize(
    ("act", "field"),
    [
        (lambda model: model.predict("a"), "text"),
        (lambda model: model.predict_proba([""]), "text"),
        (lambda model: model.generate("", 5), "text"),
        (lambda model: model.generate("a", 0), "tokens"),
        (lambda model: model.generate("a", 5, temperature=-1), "temperature"),
    ],
)
def test_what_cannot_be_answered_is_refused(folder, act, field):
    with pytest.raises(BadInput) as caught:
        act(load_model(folder[0]))
    assert caught.value.field == field


def test_the_card_says_what_it_is(folder):
    place, _ = folder
    card = (place / "README.md").read_text()
    assert card.startswith("# A language model\n")
    assert "model.generate(" in card and "windows of 8 tokens" in card and "tokens are bytes" in card
    assert "perplexity **" in card and "word for word" in card


def test_a_recipe_of_another_model_is_refused(folder):
    place, _ = folder
    recipe = json.loads((place / "preprocessing.json").read_text())
    (place / "preprocessing.json").write_text(json.dumps(recipe | {"context": 9}))
    with pytest.raises(BadInput, match="does not fit"):
        load_model(place)


def test_on_the_command_line(folder, cli: Cli, tmp_path):
    place, logs = folder
    (tmp_path / "new.txt").write_text(TEXT[:50])
    found = cli("predict", str(place), "new.txt", "--json").document
    assert found["perplexity"] == pytest.approx(by_hand(logs, TEXT[:50]), rel=1e-5) and found["tokens"] == 49
    assert "perplexity" in cli("predict", str(place), "new.txt").out
    written = cli("predict", str(place), "new.txt", "--generate", "12", "--json").document["text"]
    assert len(written) == 12 and written == load_model(place).generate(TEXT[:50], 12, 0)
    (tmp_path / "new.txt").write_bytes(b"abc\xff")
    answer = cli("predict", str(place), "new.txt", "--json")
    assert answer.code == 2 and "byte 3" in answer.document["error"]["message"]
    assert cli("predict", str(place), "none.txt").code == 2
