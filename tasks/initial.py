"""`train.initial`: the weights that a job begins with, brought into its folder and checked before money is locked.

They are held to the SHA-256 in the job, so a file that changes between quote and run is refused. No Prefect in here.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.read import fetch
from cloudlinkup.tables.uri import printable
from cloudlinkup.training.frozen import file_hash
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.training.start import largest_start, start_from
from cloudlinkup.types import JobSpec
from tasks.context import Run
from tasks.pretrained import start_of

INITIAL = "initial.safetensors"


async def bring_initial(job: JobSpec, specs: Iterable[TrainingSpec], roots: tuple[Path, ...], folder: Path) -> None:
    """Puts the job's initial weights at `folder`/INITIAL, once they fit every spec; nothing where it names none.

    Raises BadInput(`train.initial...`) and Unavailable.
    """
    given, place = job.train.initial, folder / INITIAL
    if given is None or place.exists():
        return
    wanted = tuple(specs)
    part = place.with_suffix(".part")
    try:
        most = max(largest_start(spec) for spec in wanted)
        try:
            path = await fetch(given.uri, roots, part, most)
        except BadInput as error:
            raise BadInput("train.initial.uri", error.value, error.problem, error.fix) from None
        if path != part:
            await asyncio.to_thread(shutil.copyfile, path, part)
        if await asyncio.to_thread(file_hash, part) != given.sha256:
            problem = "is not the SHA-256 of what its URI holds"
            raise BadInput("train.initial.sha256", given.sha256, problem, "correct it, or restore the file")
        for spec in wanted:
            try:
                await asyncio.to_thread(start_from, part, spec)
            except ValueError as error:
                fix = "give weights of this very network, like those that a job of it delivered"
                raise BadInput("train.initial.uri", printable(given.uri), str(error), fix) from None
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)


def begin(run: Run, spec: TrainingSpec) -> np.ndarray:
    """The flat weights that a training of the job begins with: the given ones, its base's, or drawn."""
    kept = run.folder / INITIAL
    return start_from(kept, spec) if kept.exists() else start_of(spec, run.base)
