"""Versions of the predictor, and which one plans: HOME/models.

    <version>/       metadata.json and seed-*.ubj, as `Predictor.save` writes them; never changed afterwards
    champion.json    {"version", "previous"}: written whole, then renamed into place

Version 0 is the one that ships with the code and needs no folder. Loading checks hashes and schema, so a file that was
cut short, swapped or made by a newer version is refused, and the rank-1 rule plans in its place with a notice.
Promotion is decided by the retraining flow, and can be taken back by one step.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import structlog

from cloudlinkup.errors import Unavailable
from models.predictor import SHIPPED, Predictor

log = structlog.get_logger()


@dataclass(frozen=True)
class Champion:
    """The version that plans, and the one that `rollback` goes back to."""

    version: str
    previous: str | None


class Registry:
    """The versions under one folder. Small synchronous file operations: call them in a thread where that matters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def pointer(self) -> Champion:
        """Who plans now. Raises Unavailable when the pointer cannot be read."""
        path = self.folder / "champion.json"
        if not path.exists():
            return Champion("0", None)
        try:
            raw = json.loads(path.read_text())
            champion = Champion(str(raw["version"]), None if raw["previous"] is None else str(raw["previous"]))
            for version in filter(None, (champion.version, champion.previous)):
                _check(version)
            return champion
        except (OSError, ValueError, KeyError, TypeError, Unavailable):
            raise Unavailable(f"{path} is not a champion pointer. Fix: delete it to go back to version 0") from None

    def versions(self) -> list[str]:
        """Every version there is, oldest first; 0 is always one."""
        found = (
            [p.name for p in self.folder.glob("*") if p.is_dir() and p.name.isdecimal()] if self.folder.exists() else []
        )
        return ["0", *sorted((v for v in found if v != "0"), key=int)]

    def load(self, version: str) -> Predictor:
        """Raises Unavailable when there is no such version or its files fail their checks."""
        _check(version)
        return Predictor.load(SHIPPED if version == "0" else self.folder / version)

    def champion(self) -> Predictor:
        """The predictor that plans. Never raises: where pointer or files cannot be used, the rank-1 rule with a notice.

        The notice stands in every quote until the registry is mended, by a roll back or by deleting what is broken.
        """
        try:
            return self.load(self.pointer.version)
        except (Unavailable, OSError) as error:
            log.warning("the predictor cannot be used; the rank-1 rule plans", why=str(error))
            return Predictor.rank1(f"planned by the rank-1 rule alone, since {error}")

    def next_version(self) -> str:
        """A number that no version has."""
        return str(max(int(v) for v in self.versions()) + 1)

    def add(self, predictor: Predictor) -> None:
        """Stores a new version, whole or not at all. Raises FileExistsError when it is there already."""
        _check(predictor.version)
        target, parts = self.folder / predictor.version, self.folder / f".{predictor.version}.part"
        if target.exists() or predictor.version == "0":
            raise FileExistsError(f"version {predictor.version} is there already")
        predictor.save(parts)
        parts.rename(target)

    def promote(self, version: str) -> Champion:
        """Makes a version plan, after loading it once. Raises Unavailable as `load`."""
        self.load(version)
        now = self.pointer
        if version == now.version:
            return now
        return self._point(Champion(version, now.version))

    def rollback(self) -> Champion:
        """One step back. Raises Unavailable when there is nothing to go back to."""
        previous = self.pointer.previous
        if previous is None:
            raise Unavailable("there is no earlier predictor to go back to")
        self.load(previous)
        return self._point(Champion(previous, None))

    def _point(self, champion: Champion) -> Champion:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.folder / f".champion.{os.getpid()}.part"
        part.write_text(json.dumps({"version": champion.version, "previous": champion.previous}))
        part.replace(self.folder / "champion.json")
        return champion


def _check(version: str) -> None:
    if not re.fullmatch(r"\d{1,9}", version, flags=re.ASCII):
        raise Unavailable(f"{version!r} is not a predictor version")
