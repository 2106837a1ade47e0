"""A delivered language model on plain text: how likely a text is, what comes next, and writing on.

    model = load_model("delivered")
    model.predict(["Some text."])             # perplexity of each text: lower is likelier
    model.predict_proba(["Some te"])          # of every token, to be the next one
    model.generate("Some te", tokens=100, seed=0)

A window shorter than the context is filled up behind: a model that looks only back never sees that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cloudlinkup.errors import BadInput
from cloudlinkup.sdk.module import Model
from cloudlinkup.tables.text import TextRecipe
from cloudlinkup.training.metrics import log_softmax
from cloudlinkup.wire.hashes import digest

BATCH_TOKENS = 4_096  # of a forward pass
MOST_TOKENS = 1_000_000  # that one call writes


class LanguageModel(Model[TextRecipe]):
    """A torch module on text. `network`: int (rows, context) tokens to (rows, context, vocabulary) logits."""

    def forward(self, texts: str | Sequence[str] | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Texts to perplexities, as `predict`; a tensor of tokens (rows, context) to the network's logits."""
        return self.network(texts) if isinstance(texts, torch.Tensor) else self.predict(texts)

    def predict(self, texts: str | Sequence[str]) -> np.ndarray:
        """The perplexity of each text (texts,): e to the mean loss a token. The first token has none to be told from.

        Raises BadInput for a text of fewer than two tokens.
        """
        return np.array([np.exp(min(self.loss(text)[0], 700.0)) for text in _several(texts)])

    def loss(self, text: str) -> tuple[float, int]:
        """(mean loss in nats, tokens that it is of). Raises BadInput for a text of fewer than two tokens."""
        tokens, length = self.preprocessing.encode(text), self.spec.inputs
        wanted = len(tokens) - 1
        if wanted < 1:
            raise BadInput("text", f"{len(tokens)} tokens", "too short to be scored", "give at least two")
        rows = -(-wanted // length)
        padded = np.zeros(rows * length + 1, np.int32)
        padded[: len(tokens)] = tokens
        windows, total = padded[:-1].reshape(rows, length), 0.0
        size = max(1, BATCH_TOKENS // length)
        for start in range(0, rows, size):
            part = windows[start : start + size]
            first = start * length
            count = min(part.size, wanted - first)
            logs = log_softmax(self._logits(part).reshape(-1, self.spec.outputs)[:count])
            total -= float(logs[np.arange(count), tokens[first + 1 : first + 1 + count]].sum())
        return total / wanted, wanted

    def predict_proba(self, texts: str | Sequence[str]) -> np.ndarray:
        """Each token's probability to come next (texts, vocabulary). Raises BadInput for an empty text."""
        return np.stack([np.exp(self._next(self.preprocessing.encode(text))) for text in _several(texts)])

    def generate(self, prompt: str, tokens: int = 100, seed: int = 0, *, temperature: float = 1.0) -> str:
        """What follows `prompt`, `tokens` of it, drawn by `seed`. Same machine, model and seed, same text.

        `temperature`: below 1 keeps to what is likely; 0 always takes the likeliest. Raises BadInput.
        """
        if not 1 <= tokens <= MOST_TOKENS:
            raise BadInput("tokens", tokens, "not a number of tokens", f"use 1 to {MOST_TOKENS}")
        if not 0 <= temperature <= 100:
            raise BadInput("temperature", temperature, "out of bounds", "use 0 to 100")
        draws = np.random.Generator(np.random.Philox(key=np.frombuffer(digest("generate", seed)[:16], "<u8")))
        known = list(self.preprocessing.encode(prompt))
        start = len(known)
        for _ in range(tokens):
            logs = self._next(np.array(known[-self.spec.inputs :], np.int32))[: self.preprocessing.vocabulary]
            if temperature == 0:
                known.append(int(logs.argmax()))
                continue
            odds = np.exp(log_softmax(logs[None] / temperature)[0]).cumsum()
            known.append(min(int(np.searchsorted(odds, draws.random() * odds[-1], side="right")), len(odds) - 1))
        return self.preprocessing.decode(np.array(known[start:], np.int64))

    def _next(self, tokens: np.ndarray) -> np.ndarray:
        """Log probabilities (vocabulary,) of what follows the last of `tokens`."""
        if not len(tokens):
            raise BadInput("text", "0 tokens", "there is nothing to go on from", "give at least one token")
        kept = tokens[-self.spec.inputs :]
        window = np.zeros((1, self.spec.inputs), np.int32)
        window[0, : len(kept)] = kept
        return log_softmax(self._logits(window)[0, len(kept) - 1][None])[0]

    def _logits(self, windows: np.ndarray) -> np.ndarray:
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            return self.network(torch.from_numpy(windows.copy()).to(device)).float().cpu().numpy()


def _several(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts
