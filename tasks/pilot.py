"""The learning rate that `train.lr: "auto"` stands for: chosen before the job is timed, kept in the job's folder.

Quoting chooses it too, from the same rows, so a quote shows what its job will train with. No Prefect in here.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from math import inf
from pathlib import Path

from cloudlinkup.errors import BadInput
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.training.pilot import choose_rate, pilot_losses
from cloudlinkup.training.start import begin_with
from cloudlinkup.types import JobSpec


async def settle_rate(
    job: JobSpec, data: Prepared, kept: Path | None = None, initial: Path | None = None
) -> tuple[Prepared, dict[str, float]]:
    """(the rows, with the chosen rate in their spec; what the pilot found by rate). Nothing is done, and nothing found,
    where the job names a rate. `kept`: the file that the choice is stored in, and read from. `initial`: the file of
    the weights to begin with, if it is there. Raises BadInput."""
    if job.train.lr != "auto":
        return data, {}
    if getattr(job.model, "weights", None) is not None:
        problem = "the pilot begins with drawn weights, and this network with those of a base"
        raise BadInput("train.lr", "auto", problem, "give a number: 0.001 is usual for LoRA")
    losses = await asyncio.to_thread(_losses, data, kept, initial)
    chosen = replace(data, spec=replace(data.spec, lr=choose_rate(losses)))
    return chosen, {f"{rate:g}": round(loss, 6) for rate, loss in losses.items() if loss < inf}


def _losses(data: Prepared, kept: Path | None, initial: Path | None) -> dict[float, float]:
    if kept is not None and kept.exists():
        return {float(rate): float(loss) for rate, loss in json.loads(kept.read_text()).items()}
    start = None if initial is None else begin_with(data.spec, initial)
    losses = pilot_losses(data.spec, data.features, data.targets, start)
    if min(losses.values()) == inf:
        problem = "training diverges at every rate that the pilot tries"
        raise BadInput("train.lr", "auto", problem, "give a smaller number, or look for extreme values in the rows")
    if kept is not None:
        part = kept.with_suffix(".part")
        part.write_text(json.dumps({str(rate): str(loss) for rate, loss in losses.items()}))
        part.replace(kept)
    return losses
