"""Device classes that this machine's audit can judge: its own bit for bit, others within a stored calibration.

Read anew at every use: a calibration that is taken away refuses its class from the next choice on, and one that is made
while a job runs admits it. What a job started with stays comparable, since a stored pair only ever gets measured again.
"""

from __future__ import annotations

import numpy as np

from cloudlinkup.home import Home
from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.types import JobSpec
from cloudlinkup.verify.calibration import PILOT_SHARE, Calibration, pilot, stored
from tasks.context import Run
from tasks.segment import stored_facts
from tasks.state import Seat

PILOT_ROWS = 16_384  # of the job's, for its pilot replay


def replay_classes(job: JobSpec, data: Prepared, home: Home, own: str) -> tuple[str, ...]:
    """`own` and every class with a calibration that this job's own pilot replay respects: its first segments must not
    deviate by more than a tenth of the tolerance when only their rounding changes. A job of several trainings has
    several architectures: `own` alone.

    Blocks for a few training steps where there is such a calibration at all.
    """
    found = calibrations(data, home, own) if job.search is None else {}
    if not found:
        return (own,)
    rows = data.features[:PILOT_ROWS], data.targets[:PILOT_ROWS]
    off = pilot(data.spec, np.ascontiguousarray(rows[0]), np.ascontiguousarray(rows[1]))
    return (own, *(kind for kind, one in found.items() if off <= PILOT_SHARE * one.tolerance))


def calibrations(data: Prepared, home: Home, own: str) -> dict[str, Calibration]:
    """By contributor's class, for this machine's class and this job's architecture and mode."""
    if data.spec.frozen is not None:
        return {}  # none is ever made of networks that stand on a base
    return stored(home.root / "calibrations", auditor=own, spec=data.spec)


def tolerance(run: Run, seat: Seat) -> float | None:
    """What the audit of this seat allows; None: nothing, its class is this machine's or no calibration admits it."""
    own = stored_facts(run).profile.device_class
    if not own or own == seat.device_class:
        return None
    one = calibrations(run.data, run.settings.home, own).get(seat.device_class)
    return one.tolerance if one else None
