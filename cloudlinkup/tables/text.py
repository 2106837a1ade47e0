"""Plain text as tokens and back: the recipe of a language model, and reading a text piece by piece.

By default a token is a byte, so the vocabulary is 256 and any text has tokens. A job may name a Hugging Face
tokenizer.json instead; reading one takes the `tokenizers` package, an optional extra. The document itself is kept in
the recipe, so that the delivered model needs no other file.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.uri import refuse
from cloudlinkup.types import Frozen

BYTES = 256
PIECE = 2**20  # bytes read, and characters given to a tokenizer, at a time
MARK = codecs.BOM_UTF8


class TextRecipe(Frozen):
    """`context`: tokens of a window. `tokenizer`: the document of a tokenizer.json; None: a token is a byte."""

    version: Literal[1] = 1
    task: Literal["next_token"] = "next_token"
    context: Annotated[int, Field(ge=1)]
    tokenizer: str | None = None

    @property
    def inputs(self) -> int:
        return self.context

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are. Raises BadInput as `encode`."""
        return BYTES if self.tokenizer is None else _vocabulary(self.tokenizer)

    def encode(self, text: str) -> np.ndarray:
        """int32 (tokens,). Raises BadInput("data.tokenizer") where the tokenizer cannot be read here."""
        if self.tokenizer is None:
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32)
        return np.array(_tokenizer(self.tokenizer).encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of tokens (tokens,); bytes that are no character become U+FFFD."""
        if self.tokenizer is None:
            return bytes(tokens.astype(np.uint8)).decode(errors="replace")
        return _tokenizer(self.tokenizer).decode(tokens.tolist(), skip_special_tokens=False)


@lru_cache(maxsize=4)
def _tokenizer(document: str) -> Any:
    field = "data.tokenizer"
    try:
        from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports] (an optional extra)
    except ImportError:
        fix = "pip install tokenizers, or leave it out: then bytes are the tokens"
        raise BadInput(field, "tokenizer.json", "reading it takes the tokenizers package", fix) from None
    try:
        found = Tokenizer.from_str(document)
    except Exception as error:  # the library raises plain Exception; its message may quote the document
        problem = f"is not a tokenizer.json ({type(error).__name__})"
        raise BadInput(field, "tokenizer.json", problem, "give the file that `Tokenizer.save` wrote") from None
    found.no_padding()
    found.no_truncation()
    return found


@lru_cache(maxsize=4)
def _vocabulary(document: str) -> int:
    return 1 + max(_tokenizer(document).get_vocab(with_added_tokens=True).values(), default=0)


def read_text(path: Path, uri: str, piece: int = PIECE) -> Iterator[str]:
    """The text in pieces that end with a line, as long as lines are shorter than `piece` bytes. Without a byte order
    mark. Raises BadInput that names the byte and the line where it is not UTF-8, never what stands there."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    kept, done, line = "", 0, 1
    with path.open("rb") as file:
        while data := file.read(piece):
            pending = len(decoder.getstate()[0])
            whole = data.removeprefix(MARK) if done == 0 else data
            try:
                kept += decoder.decode(whole)
            except UnicodeDecodeError as error:
                raise _not_utf8(uri, done + len(data) - len(whole) - pending + error.start, line, error) from None
            done, line = done + len(data), line + data.count(b"\n")
            head, newline, rest = kept.rpartition("\n")
            if newline or len(kept) > piece:
                yield head + newline if newline else kept
                kept = rest if newline else ""
        try:
            kept += decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise _not_utf8(uri, done - len(error.object) + error.start, line, error) from None
    if kept:
        yield kept


def _not_utf8(uri: str, byte: int, line: int, error: UnicodeDecodeError) -> BadInput:
    at = line + error.object[: error.start].count(b"\n")
    return refuse(uri, f"is not UTF-8 text (byte {byte}, line {at})", "save it as UTF-8")
