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
from tasks.subject import subject


def suspicious(run: Run, round_: RoundState, entries: Iterable[Entry]) -> dict[int, str]:
    """Seats whose update does not decode, or stands out from the others', with the reason."""
    step = int(run.state.plan["segment_steps"])
    offers: dict[int, Offer] = {}
    found: dict[int, str] = {}
    apart = run.job.search is not None  # independent trainings are not compared with each other
    for entry in entries:
        size = subject(run, entry.trial).published.weights.size
        data = (run.folder / update_name(round_.round, entry.seat)).read_bytes()
        try:
            offers[entry.seat] = Offer(dequantise(data, size), entry.segments * step)
        except ValueError as error:
            found[entry.seat] = f"it does not decode: {error}"
    groups = [{seat: offer} for seat, offer in offers.items()] if apart else [offers]
    odd = {seat: why for group in groups for seat, why in gates(group, _size(group)).items()}
    return found | {seat: ", ".join(reasons) for seat, reasons in odd.items() if reasons}


def _size(offers: dict[int, Offer]) -> int:
    return next((len(offer.update) for offer in offers.values()), 0)
