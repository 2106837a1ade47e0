"""Where the command line writes: one document to standard output, everything else to standard error.

With --json a command prints exactly one JSON document on standard output, also when it fails (`{"error": {...}}`),
and its progress goes to standard error. Not covered: colours beyond what rich decides for the terminal at hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console

from cloudlinkup.errors import BadInput, ProgramError

PLAIN_WIDTH = 120  # characters, where the output goes to a file or a pipe


def _console(file: TextIO) -> Console:
    return Console(file=file, highlight=False, width=None if file.isatty() else PLAIN_WIDTH)


class Terminal:
    """The one terminal of this process; `json` is set before a command runs."""

    def __init__(self) -> None:
        self.json = False

    @property
    def out(self) -> Console:
        return _console(sys.stdout)

    @property
    def err(self) -> Console:
        return _console(sys.stderr)

    def note(self, text: str) -> None:
        """Progress for a person."""
        self.err.print(text, markup=False, soft_wrap=True)

    def result(self, document: Any, show: Callable[[Console], None] | None = None) -> None:
        """What the command is for: as JSON, or by `show`."""
        if self.json:
            print(json.dumps(document, indent=2), flush=True)
        elif show is not None:
            show(self.out)

    def error(self, error: BaseException, exit_code: int) -> None:
        """One line for a person, one document for a program."""
        if self.json:
            print(json.dumps({"error": describe(error, exit_code)}, indent=2), flush=True)
        else:
            self.err.print(f"Error: {error}", markup=False, soft_wrap=True)


def describe(error: BaseException, exit_code: int) -> dict[str, Any]:
    """An error as a document. What a job's own run stored of its error is shown as it is."""
    known: dict[str, Any] = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code}
    if isinstance(error, BadInput):
        known |= {"field": error.field, "value": repr(error.value), "problem": error.problem, "fix": error.fix}
    if isinstance(error, ProgramError):
        known |= {"code": error.code, "name": error.name, "problem": error.message, "fix": error.fix}
    return known | getattr(error, "stored", {})


terminal = Terminal()
