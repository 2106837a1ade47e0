"""A running job's progress: one bar where there is a terminal or a notebook, one line a round elsewhere.

It goes to standard error, so that a script's output stays its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cloudlinkup.jobs import JobEvent

Show = Callable[[JobEvent], None]
STAGES = {  # an event to what happens after it
    "segmented": "looking for contributors",
    "allocated": "locking the budget",
    "locked": "training",
    "delivered": "paying and settling",
    "settled": "done",
}


def sentence(event: JobEvent) -> str:
    """What an event means to whoever waits; empty for one that changes nothing for them."""
    if event.kind == "round":
        score = f"{event.data['metric']} {event.data['score']:.4f}"
        return f"round {event.data['round']}: {event.data['steps']} of {event.data['of']} steps, {score}"
    return STAGES.get(event.kind, "")


class Bar:
    """``with Bar(request_id) as show: show(event)``."""

    def __init__(self, request_id: str, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr, highlight=False)
        self._request_id = request_id
        self._progress: Progress | None = None

    def __enter__(self) -> Show:
        self._console.print(f"Request {self._request_id}", markup=False)
        if not (self._console.is_terminal or self._console.is_jupyter):
            return self._plain
        columns = (
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[now]}"),
        )
        self._progress = Progress(*columns, console=self._console)
        self._task = self._progress.add_task("", total=None, now="reading the rows")
        self._progress.start()
        return self._drawn

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _plain(self, event: JobEvent) -> None:
        if text := sentence(event):
            self._console.print(text, markup=False, soft_wrap=True)

    def _drawn(self, event: JobEvent) -> None:
        assert self._progress is not None
        if event.kind == "round":
            self._progress.update(self._task, total=event.data["of"], completed=event.data["steps"])
        if text := sentence(event):
            self._progress.update(self._task, now=text)


@contextmanager
def quiet() -> Iterator[Show]:
    """Shows nothing."""
    yield lambda _: None
