"""What a contributor's past is worth: Beta posteriors that no single client can move far, and a capped standing.

A record counts shards delivered on time or late, and shards that passed or failed the audit. Whoever plans a job counts
what its own auditor saw in full. What others saw is theirs to invent (a client may hire itself), so each other client
counts for at most a tenth of the whole weight, prior included: ten invented clients are needed to outweigh everything
else, and every one of them pays the fee on what it invents. A rejection counts only with the evidence that a third
person can run again, by the hash of its folder.

`standing` is the explicit reward of those who did much verified work: at most 10% off the cost they are ranked by,
nothing for anybody with a proven rejection. It never touches what anybody is paid.

Not here: who is refused outright (`selection`), where the records are kept (`telemetry`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.facts import TrackRecord

MOST_WEIGHT = 0.10  # of the whole, that one other client can have
PRIOR = 2.0  # observations that Beta(1, 1) is worth
MOST_STANDING = 0.10  # off the ranking cost
HALF_STANDING = 50_000_000  # base units of verified pay at which half of it is reached: 50 tokens of six decimals


@dataclass(frozen=True)
class Seen:
    """What one client's jobs saw of one contributor. `earned`: base units of pay that verified."""

    client: str
    on_time: int = 0
    late: int = 0
    valid: int = 0
    rejected: int = 0  # with evidence only
    earned: int = 0


def capped(own: float, others: Sequence[float]) -> list[float]:
    """What each of `others` (observations by client) counts: at most a tenth of prior + own + all that counts.

    Exact: with the k largest capped at c, the whole is T = (prior + own + the rest) / (1 - k/10) and c = T/10. Nine
    capped ones leave a tenth for all the rest, so k is at most 9.
    """
    order = sorted(range(len(others)), key=lambda i: -others[i])
    rest, cap = PRIOR + own + sum(others), float("inf")
    for k in range(min(len(order), 9) + 1):
        cap = MOST_WEIGHT * rest / (1 - MOST_WEIGHT * k)
        if k == len(order) or others[order[k]] <= cap:
            break
        rest -= others[order[k]]
    return [min(n, cap) for n in others]


def combine(seen: Iterable[Seen], *, own: str | None = None) -> TrackRecord:
    """One record from what all clients saw. `own`: the client that plans; what it saw itself counts in full.

    Counts become weights, so they need not be whole. Nothing seen is an empty record: a newcomer's.
    """
    mine = [s for s in seen if s.client == own]
    theirs = [s for s in seen if s.client != own]
    delivery = _pair([(s.on_time, s.late) for s in mine], [(s.on_time, s.late) for s in theirs])
    audit = _pair([(s.valid, s.rejected) for s in mine], [(s.valid, s.rejected) for s in theirs])
    # standing is money, so nobody's word adds more than a tenth of it either; the prior is worth nothing here
    earned = sum(s.earned for s in mine)
    if theirs:
        most = max(earned, sum(s.earned for s in theirs)) // 10
        earned += sum(min(s.earned, most) for s in theirs)
    return TrackRecord(on_time=delivery[0], late=delivery[1], valid=audit[0], rejected=audit[1], earned=earned)


def _pair(own: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> tuple[float, float]:
    good, bad = float(sum(g for g, _ in own)), float(sum(b for _, b in own))
    counts = [float(g + b) for g, b in others]
    for (g, b), total, weight in zip(others, counts, capped(good + bad, counts), strict=True):
        if total:
            good, bad = good + g * weight / total, bad + b * weight / total
    return good, bad


def standing(record: TrackRecord) -> float:
    """0 to 0.10: the part of its ranking cost that a contributor's verified work takes off. 0 after a rejection."""
    if record.rejected > 0:
        return 0.0
    return MOST_STANDING * record.earned / (record.earned + HALF_STANDING)


def evidence_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of an evidence folder's files, hex; "" where there is no evidence."""
    if not (folder / "result.json").is_file():
        return ""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        whole.update(len(path.name).to_bytes(2, "big") + path.name.encode() + digest)
    return whole.hexdigest()
