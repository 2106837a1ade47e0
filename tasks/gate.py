"""The gates before aggregation: a net for what no honest training sends.

A gate alone convicts nobody: late in training, or on a small partition, honest work can look odd. What it does is to
have the whole shard replayed, which holds every state and the upload against the training step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from cloudlinkup.training.evaluate import evaluate
from cloudlinkup.training.quantize import dequantise
from cloudlinkup.verify.gates import Offer, gates
from cloudlinkup.wire.hashes import digest
from tasks.context import Run
from tasks.orders import update_name
from tasks.state import Entry, RoundState
from tasks.subject import subject

JUDGED_VALUES = 65_536  # of features that updates are judged on: a forward pass costs less than the audit's replays
JUDGED_ROWS = 32, 512  # at least, at most


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
    loss = None if apart else _loss(run, round_)
    odd = {seat: why for group in groups for seat, why in gates(group, _size(group), loss).items()}
    return found | {seat: ", ".join(reasons) for seat, reasons in odd.items() if reasons}


def _loss(run: Run, round_: RoundState) -> Callable[[np.ndarray], float]:
    """Of an update, on training rows drawn by the round's secret: nobody can fit an update to them."""
    data, base = run.data, run.weights.published
    fewest, most = JUDGED_ROWS
    count = min(len(data.features), max(fewest, min(most, JUDGED_VALUES // data.features.shape[1])))
    key = np.frombuffer(digest("judged rows", bytes.fromhex(round_.secret))[:16], "<u8")
    words = np.random.Philox(key=key).random_raw(len(data.features))
    rows = np.argpartition(words, count - 1)[:count]
    features, targets = data.features[rows], data.targets[rows]

    def loss(update: np.ndarray) -> float:
        with np.errstate(all="ignore"):  # an update may be absurd: its loss is then not finite, and that is odd
            return evaluate(data.spec, base + update, features, targets, frozen=run.frozen).loss

    return loss


def _size(offers: dict[int, Offer]) -> int:
    return next((len(offer.update) for offer in offers.values()), 0)
