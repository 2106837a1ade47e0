"""`predict`: a delivered model on raw rows, or on a text."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput

if TYPE_CHECKING:
    from cloudlinkup.sdk.language import LanguageModel

MAX_TEXT = 64 * 2**20  # bytes


def predict(
    folder: Path, data: Path, /, *, generate: int | None = None, seed: int = 0, base: Path | None = None
) -> None:
    """Predict on the rows of a CSV or Parquet file, or score a text, with a folder that `download` made.

    Parameters
    ----------
    folder
        The delivered model.
    data
        Raw rows with the columns of the training data; the label may be left out. For a language model: a text.
    generate
        Write so many tokens that follow the text, instead of scoring it.
    seed
        What they are drawn by.
    base
        For adapters: the model.safetensors that they stand on, or its folder.
    """
    if not folder.is_dir():
        raise BadInput("folder", str(folder), "there is no such folder", "`cloudlinkup download REQUEST` makes one")

    import pandas as pd

    from cloudlinkup.sdk.delivered import load_model
    from cloudlinkup.sdk.language import LanguageModel

    model = load_model(folder, base)
    if isinstance(model, LanguageModel):
        _text(model, data, generate, seed)
        return
    if generate is not None:
        raise BadInput("--generate", generate, "this model takes the rows of a table", "leave it out")
    try:
        frame = pd.read_parquet(data) if data.suffix in (".parquet", ".pq") else pd.read_csv(data)
    except (OSError, ValueError) as error:
        raise BadInput("data", str(data), f"cannot be read ({type(error).__name__})", "give CSV or Parquet") from None
    table = pd.DataFrame({"prediction": model.predict(frame)})
    terminal.result(table["prediction"].tolist(), lambda _: table.to_csv(sys.stdout, index=False))


def _text(model: LanguageModel, data: Path, generate: int | None, seed: int) -> None:
    try:
        with data.open("rb") as file:
            raw = file.read(MAX_TEXT + 1)
    except OSError as error:
        raise BadInput("data", str(data), f"cannot be read ({type(error).__name__})", "give a text file") from None
    if len(raw) > MAX_TEXT:
        raise BadInput("data", str(data), f"is larger than {MAX_TEXT // 2**20} MiB", "give a part of it")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput("data", str(data), f"is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    if generate is not None:
        written = model.generate(text, generate, seed)
        terminal.result(
            {"text": written}, lambda console: console.print(written, markup=False, highlight=False, soft_wrap=True)
        )
        return
    loss, tokens = model.loss(text)
    found = {"perplexity": math.exp(min(loss, 700.0)), "loss": loss, "tokens": tokens}
    told = f"perplexity {found['perplexity']:.3f} of {tokens:,} tokens"
    terminal.result(found, lambda console: console.print(told, soft_wrap=True))
