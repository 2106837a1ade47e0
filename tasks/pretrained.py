"""Weights that somebody trained before: fetched and checked before money is locked, kept with the job, sealed once.

A network begins with them, or (with LoRA) stands on them: then they are not trained, their file's hash is in the spec,
and each contributor gets them once. Sealing takes the file and its ciphertext in memory. No Prefect in here.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np

from cloudlinkup.crypto.seal import encrypt_blob
from cloudlinkup.errors import BadInput
from cloudlinkup.tables.read import fetch
from cloudlinkup.tables.uri import printable
from cloudlinkup.training.architectures import base_tensors, flat_base, initial_weights, needed_extra
from cloudlinkup.training.frozen import MAX_FILE, check_finite, file_hash, open_frozen
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.types import JobSpec
from tasks.context import Run
from tasks.state import Sealed

BASE = "base.safetensors"
FETCH = 3_600.0  # seconds: gigabytes, over a common line
FIELD = "model.weights.uri"


async def fetch_base(job: JobSpec, spec: TrainingSpec, roots: tuple[Path, ...], place: Path) -> FrozenWeights | None:
    """The tensors of `model.weights`, mapped from `place`, where their file is copied to unless it is there; None for
    a network that begins with drawn weights.

    Raises BadInput for the extra that is not installed, a file of another hash, names, shapes, types or values.
    """
    try:
        needed_extra(spec)
    except ValueError as error:
        problem, _, fix = str(error).partition(" Fix: ")
        raise BadInput("model.kind", spec.model["kind"], problem, fix) from None
    weights = getattr(job.model, "weights", None)
    if weights is None:
        return None
    if not await asyncio.to_thread(place.exists):
        part = place.with_name(place.name + ".part")
        try:
            found = await fetch(weights.uri, roots, part, MAX_FILE, FETCH)
        except BadInput as error:
            raise BadInput(FIELD, error.value, error.problem, "give the model.safetensors of the base") from None
        await asyncio.to_thread(_keep, found, part, place, weights.sha256)
    try:
        tensors = await asyncio.to_thread(open_frozen, place, base_tensors(spec))
        await asyncio.to_thread(check_finite, tensors)
    except ValueError as error:
        fix = "give the model.safetensors and the config.json of one model"
        raise BadInput(FIELD, printable(weights.uri), str(error), fix) from None
    return tensors


def _keep(found: Path, part: Path, place: Path, wanted: str) -> None:
    """Moves what was fetched to its place, if it is what the job says. A file of the client's is copied."""
    if found != part:
        shutil.copyfile(found, part)
    if file_hash(part) != wanted:
        part.unlink()
        problem = "is not the SHA-256 of what its URI holds"
        raise BadInput("model.weights.sha256", wanted, problem, "correct it, or restore the file")
    part.chmod(0o600)
    part.replace(place)


async def load_base(run: Run) -> None:
    """The job's own, into `run.base`."""
    run.base = await fetch_base(run.job, run.data.spec, run.settings.file_roots, run.folder / BASE)


def start_of(spec: TrainingSpec, base: FrozenWeights | None) -> np.ndarray:
    """The flat fp32 weights that a training begins with: the base's where all of them are trained, else drawn."""
    flat = initial_weights(spec) if base is None or spec.frozen is not None else flat_base(spec, base)
    return np.ascontiguousarray(flat, dtype=np.float32)


async def seal_frozen(run: Run) -> None:
    """The file of what is not trained as one sealed blob, once a job."""
    assert run.state.terms is not None
    if run.data.spec.frozen is None or run.state.frozen is not None:
        return

    def sealed() -> tuple[bytes, bytes]:
        return encrypt_blob((run.folder / BASE).read_bytes())

    blob, key = await asyncio.to_thread(sealed)
    name = await run.blobs.put(run.state.terms.job_id, blob)
    run.state.frozen = Sealed(blob=name, size=len(blob), content_key=key.hex())
    run.save()
