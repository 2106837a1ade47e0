"""The gates before aggregation: a coarse net for what no honest training sends.

A gate alone convicts nobody: late in training, or on a small partition, honest work can look odd. What it does is to
have the whole shard replayed, which holds every state and the upload against the training step by step.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloudlinkup.training.quantize import dequantise
from cloudlinkup.verify.gates import Offer, gates
from tasks.context import Run
from tasks.orders import update_name
from tasks.state import Entry, RoundState


def suspicious(run: Run, round_: RoundState, entries: Iterable[Entry]) -> dict[int, str]:
    """Seats whose update does not decode, or stands out from the others', with the reason."""
    size, step = run.weights.weights.size, int(run.state.plan["segment_steps"])
    offers: dict[int, Offer] = {}
    found: dict[int, str] = {}
    for entry in entries:
        data = (run.folder / update_name(round_.round, entry.seat)).read_bytes()
        try:
            offers[entry.seat] = Offer(dequantise(data, size), entry.segments * step)
        except ValueError as error:
            found[entry.seat] = f"it does not decode: {error}"
    return found | {seat: ", ".join(reasons) for seat, reasons in gates(offers, size).items() if reasons}
