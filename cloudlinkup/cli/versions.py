"""`ops model list|show|promote|rollback`: which version of the predictor plans. The planner is named, not imported."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from cloudlinkup.cli.stack import require_checkout
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home


def list_() -> None:
    """Every version of the predictor, oldest first; version 0 came with the code."""
    registry = _registry()
    now, versions = registry.pointer, registry.versions()
    rows = [{"version": one, "plans": one == now.version, "previous": one == now.previous} for one in versions]

    def text(console: Console) -> None:
        table = Table("version", "")
        for row in rows:
            table.add_row(row["version"], "plans" if row["plans"] else "before" if row["previous"] else "")
        console.print(table)

    terminal.result({"versions": rows, **asdict(now)}, text)


def show(version: str | None = None, /) -> None:
    """Where a version comes from: its data, its commit, its own figures, and how wide its intervals are.

    Parameters
    ----------
    version
        Its number; by default the one that plans.
    """
    registry = _registry()
    chosen = _known(registry, version or registry.pointer.version)
    found = registry.load(chosen)
    calibration = found.calibration()
    document = {
        "version": found.version,
        "name": found.name,
        "metadata": found.metadata,
        "calibration": calibration,
    }

    def text(console: Console) -> None:
        console.print(f"{found.name} {found.version}", markup=False)
        console.print(json.dumps(found.metadata, indent=2, sort_keys=True), markup=False, soft_wrap=True)
        widths = calibration["fold width by contributors"]
        counts = list(next(iter(widths.values())))
        level, who = f"{calibration['level']:.0%}", calibration["holds for"]
        table = Table("contributors of a job", *counts, title=f"P90 over P50, for {who} in {level} of jobs")
        for source, row in widths.items():
            table.add_row(source, *(f"{row[count]:.2f}x" for count in counts))
        console.print(table)

    terminal.result(document, text)


def promote(version: str, /) -> None:
    """Let a version plan from the next job on.

    Parameters
    ----------
    version
        Its number, as `ops model list` prints it.
    """
    registry = _registry()
    _pointer(registry.promote(_known(registry, version)))


def rollback() -> None:
    """Let the version before plan again: one step back."""
    _pointer(_registry().rollback())


def _registry() -> Any:
    require_checkout()
    return importlib.import_module("models.registry").Registry(Home.find().root / "models")


def _known(registry: Any, version: str) -> str:
    if version not in (versions := registry.versions()):
        raise BadInput("version", version, "there is no such version", f"use one of: {', '.join(versions)}")
    return version


def _pointer(champion: Any) -> None:
    before = f" (before: {champion.previous})" if champion.previous is not None else ""
    terminal.result(asdict(champion), lambda console: console.print(f"Version {champion.version} plans now{before}."))
