"""`ops calibrate`: measures how far another setting's honest work lies from this machine's replay, and stores it.

Without a stored pair the audit takes work of its own device class alone. One machine forms the pairs that it has: other
thread counts, and its GPU against its CPU.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from cloudlinkup.cli.jobs import read_job
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Settings

MOST_SEGMENTS = 10_000


def calibrate(job: Path, /, *, threads: int = 2, device: str = "cpu", segments: int = 100, seed: int = 0) -> None:
    """Measure honest work of another setting against this machine's replay, for one job's architecture.

    Parameters
    ----------
    job
        The job.json whose network, batch and rows are measured.
    threads
        CPU threads of the contributors to admit.
    device
        Their device: cpu, or cuda where this machine has one.
    segments
        How many segments to compare, ten steps each.
    seed
        Which rows each step takes.
    """
    from cloudlinkup.agent.hardware import choose_device, describe
    from cloudlinkup.tables.prepare import prepare
    from cloudlinkup.tables.read import read_table
    from cloudlinkup.verify.calibration import CHEAT_SHARE, Calibration, Setting, architecture_hash, measure, store

    if not 1 <= threads <= 1_024:
        raise BadInput("threads", threads, "not a number of threads", "use 2, or as many as contributors have")
    if not 10 <= segments <= MOST_SEGMENTS:
        raise BadInput("segments", segments, "out of bounds", f"use 10 to {MOST_SEGMENTS}")
    settings, spec_job = Settings.load(), read_job(job)
    own, other = describe("cpu", 1).device_class, describe(choose_device(device), threads).device_class
    if own == other:
        raise BadInput("threads", threads, "this machine's own class needs no calibration", "name another setting")
    data = prepare(asyncio.run(read_table(spec_job.data, settings.file_roots)), spec_job)
    side = Setting(choose_device(device), threads)
    try:
        found = measure(data.spec, data.features, data.targets, contributor=side, segments=segments, seed=seed)
    except ValueError as error:
        raise BadInput("job", str(job), str(error), "calibrate with a job that trains") from None
    if not found.holds:
        raise BadInput(
            "job",
            str(job),
            f"honest work is off by up to {max(found.worst, found.reordered):.3g}, so the tolerance of "
            f"{found.tolerance:.3g} is over {CHEAT_SHARE:.0%} of the smallest cheat's {found.cheat:.3g}",
            "keep to contributors of this machine's class, or lower the learning rate",
        )
    made = Calibration(own, other, architecture_hash(data.spec), data.spec.precision, found, found.tolerance)
    path = store(settings.home.root / "calibrations", made)

    def text(console: Console) -> None:
        console.print(f"auditor      {own}", soft_wrap=True)
        console.print(f"contributor  {other}", soft_wrap=True)
        console.print(
            f"{found.segments} segments: honest work off by at most {found.worst:.3g} of a segment's movement (median "
            f"{found.median:.3g}; rows reversed {found.reordered:.3g}), one step in ten skipped by {found.cheat:.3g} "
            f"or more. Tolerance {found.tolerance:.3g}.",
            soft_wrap=True,
        )
        console.print(f"Stored in {path}", soft_wrap=True)

    measured = {key: getattr(found, key) for key in ("segments", "worst", "median", "reordered", "cheat")}
    document = {"file": str(path), "auditor": own, "contributor": other, "architecture": made.architecture}
    terminal.result({**document, "mode": made.mode, "tolerance": made.tolerance, "measured": measured}, text)
