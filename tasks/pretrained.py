"""Weights that somebody trained before: kept with the job, sealed once.

A network begins with them, or (with LoRA) stands on them: then they are not trained, their file's hash is in the spec,
and each contributor gets them once. Sealing takes the file and its ciphertext in memory. No Prefect in here.
"""

from __future__ import annotations

import asyncio

import numpy as np

from cloudlinkup.crypto.seal import encrypt_blob
from cloudlinkup.training.architectures import flat_base, initial_weights
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.spec import TrainingSpec
from tasks.context import Run
from tasks.state import Sealed

BASE = "base.safetensors"


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
