"""Odd updates that their own replay proves honest: such a round need not wait for its audit (`tasks/ahead`).

What a gate finds odd is replayed whole before it may enter the weights. Where everything for that is here (the shard
began from published weights, with no state of its seat's or with one that an audit reached), nobody has to be asked:
training it again leads to the committed root and the uploaded bytes, or it does not. Honest updates stand out by
chance, above all short ones beside long ones. In a comparison of ours six rounds of twelve waited for nothing else.

The audit does not replay such a shard again: there is nothing left to find in it (`tasks/audit`).
A replay that differs decides nothing here: the round then waits, and is judged by the protocol's own draw, with
openings, a second look and evidence. So is whoever trains on another class of device, judged within a tolerance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from cloudlinkup.verify.replay import ReplayResult
from tasks.audit import case_of, keep_moments, kept_moments, replay_case
from tasks.calibrated import tolerance
from tasks.context import Run
from tasks.orders import read_order
from tasks.state import Entry, RoundState


async def still_odd(run: Run, round_: RoundState, odd: Mapping[int, str]) -> dict[int, str]:
    """What is left of `odd` (reasons by seat). What was found and what the replays took is noted in `round_`, saved by
    the caller: a run that dies before that replays anew."""
    proven = {entry.seat for entry in round_.entries if entry.cleared}
    suspects = [entry for entry in round_.entries if entry.seat in odd and entry.outcome == "committed"]
    suspects = [entry for entry in suspects if entry.seat not in proven]
    found = await asyncio.gather(*(_replayed(run, round_, entry) for entry in suspects))
    ran = [result for result in found if result is not None]
    round_.cleared_segments += sum(result.replayed for result in ran)
    round_.cleared_seconds += sum(result.seconds for result in ran)
    for entry, result in zip(suspects, found, strict=True):
        if result is not None and result.accepted:
            entry.cleared = entry.segments
            keep_moments(run, round_, entry, result.moments)
            proven.add(entry.seat)
    proven &= odd.keys()
    if proven:
        run.log.info("odd_updates_replayed", round=round_.round, seats={str(s): odd[s] for s in sorted(proven)})
    return {seat: why for seat, why in odd.items() if seat not in proven}


async def _replayed(run: Run, round_: RoundState, entry: Entry) -> ReplayResult | None:
    """The shard trained again from its start; None where something for that is not here."""
    order, seat = read_order(run, entry), run.state.seat(entry.seat)
    moments = kept_moments(run, order)
    if entry.void or tolerance(run, seat) is not None or (order.moments and moments is None):
        return None
    every = frozenset(range(1, entry.segments + 1))
    case = await asyncio.to_thread(case_of, run, round_, entry, seat, order, every, None, {})
    return await replay_case(run, replace(case, moments=moments), None)
