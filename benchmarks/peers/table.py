"""Results to the printed table: medians over the seeds, their range, and where we lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from benchmarks.peers.measure import Result
from benchmarks.peers.setup import SCENARIOS

OURS = "ours"
COLUMNS = ("to 95%", "bytes to it", "score", "bytes in all", "idle", "wasted", "false")


def _middle(values: Iterable[float | None]) -> tuple[float | None, float | None, float | None]:
    """(median, least, most); a run that did not get there counts as infinitely long, and an infinite median is None."""
    found = sorted(float("inf") if value is None else value for value in values)
    if not found:
        return None, None, None
    middle, low, high = median(found), found[0], found[-1]
    return tuple(None if value == float("inf") else value for value in (middle, low, high))  # type: ignore[return-value]


FIGURES: dict[str, Callable[[Result], float | None]] = {
    "to_target": lambda r: r.to_target,
    "training_to_target": lambda r: r.training_to_target,
    "bytes_to_target": lambda r: r.bytes_to_target,
    "score": lambda r: r.score,
    "bytes": lambda r: r.bytes,
    "idle": lambda r: r.idle,
    "wasted": lambda r: r.wasted,
    "false": lambda r: r.false,
    "seconds": lambda r: r.seconds,
}


def summary(results: list[Result]) -> dict[str, Any]:
    """By scenario and system: runs, how many reached the target, and each figure as (median, least, most)."""
    scenarios: dict[str, dict[str, Any]] = {}
    for scenario in SCENARIOS:
        names = list(dict.fromkeys(r.system for r in results if r.scenario == scenario))
        rows: dict[str, Any] = {}
        for name in sorted(names, key=lambda n: (n != OURS, n)):
            runs = [r for r in results if (r.scenario, r.system) == (scenario, name)]
            rows[name] = {
                "runs": len(runs),
                "reached": sum(r.to_target is not None for r in runs),
                "errors": [r.error for r in runs if r.error],
                **{figure: _middle(map(take, runs)) for figure, take in FIGURES.items()},
            }
        if rows:
            scenarios[scenario] = rows
    return {"scenarios": scenarios, "lost": losses(results)}


def losses(results: list[Result]) -> list[str]:
    """Where a peer is ahead of ours, in medians over the seeds that both ran: one sentence each."""
    found: list[str] = []
    for scenario in SCENARIOS:
        here = [r for r in results if r.scenario == scenario]
        for peer in sorted({r.system for r in here} - {OURS}):
            seeds = {r.seed for r in here if r.system == OURS} & {r.seed for r in here if r.system == peer}
            pairs = [[r for r in here if r.system == name and r.seed in seeds] for name in (OURS, peer)]
            if not seeds:
                continue
            for figure, what in (("to_target", "time to 95%"), ("bytes_to_target", "bytes to 95%"), ("score", "score")):
                mine, theirs = (_middle(map(FIGURES[figure], runs))[0] for runs in pairs)
                if figure == "score":
                    lost = mine is not None and theirs is not None and theirs > mine + 0.01
                else:
                    lost = theirs is not None and (mine is None or theirs < mine)
                if lost:
                    figures = f"{_text(figure, theirs)}, ours {_text(figure, mine)}"
                    found.append(f"{scenario}: {peer} is ahead in {what} ({figures})")
    return found


def _text(figure: str, value: float | None) -> str:
    if value is None:
        return "never"
    if figure in ("to_target", "training_to_target", "seconds"):
        return f"{value:.1f} s"
    if figure.startswith("bytes"):
        return f"{value / 1e6:.1f} MB"
    if figure in ("score", "idle"):
        return f"{100 * value:.1f}%"
    return f"{value:,.0f}"


def _cell(figure: str, triple: tuple[float | None, float | None, float | None]) -> str:
    middle, low, high = triple
    if middle is None:
        return "never" if figure.endswith("target") else "-"
    text = _text(figure, middle)
    return text if low == high else f"{text} [{_text(figure, low).split()[0]}, {_text(figure, high).split()[0]}]"


def show(results: list[Result]) -> str:
    """The table as text."""
    if not results:
        return "nothing was run yet"
    shown = ("to_target", "training_to_target", "bytes_to_target", "score", "bytes", "idle", "wasted", "false")
    heads = ("time to 95%", "of it training", "bytes to 95%", "score", "bytes", "idle", "wasted", "false")
    lines: list[str] = []
    found = summary(results)
    for scenario, rows in found["scenarios"].items():
        lines += ["", scenario, "".join([f"{'system':10}{'runs':>5}", *(f"{head:>26}" for head in heads)])]
        for name, row in rows.items():
            cells = "".join(f"{_cell(figure, row[figure]):>26}" for figure in shown)
            lines.append(f"{name:10}{row['reached']:>3}/{row['runs']}{cells}")
            lines += [f"  {error}" for error in row["errors"]]
    lines += ["", "Medians over the seeds, with least and most; runs: reached 95% of the single machine's score / all."]
    lines += ["Where we lose:", *(f"  {one}" for one in found["lost"] or ["nowhere"])]
    return "\n".join(lines).lstrip("\n")
