"""Replay across device classes: the same step rounds differently there, so states are compared by distance.

A drawn segment is replayed from its opened, committed before-state and held against its opened, committed after-state.
Their deviation is |ours - theirs| / |ours - before|, taken apart for weights, first and second moments, the largest of
the three: forged moments would else pay for skipped steps later. It is accepted up to a tolerance that was measured for
this pair of classes, this architecture and this mode (`verify/calibration.py`); what is not accepted says how far off
it is. The upload of the last segment is tied to *their* end state exactly: quantising rounds alike everywhere.

A cheat may move each drawn segment by the tolerance unseen; it saves no step by that. Every segment is opened before
and after, 24 bytes a parameter, which exact replay from the published weights is spared.
"""

from __future__ import annotations

import hashlib
from time import perf_counter

import numpy as np

from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.states import hash_state, read_state
from cloudlinkup.verify.replay import NOT_FINITE, Case, Miss, ReplayResult, _load_before, end_moments
from cloudlinkup.wire.hashes import segment_leaf


def deviation(before: bytes, ours: bytes, theirs: bytes, parameters: int) -> float:
    """The largest of the three relative distances of two end states of one segment; 0 where they agree, infinity where
    the steps differ, a value is not finite, or one of them moved and the other did not.

    Raises ValueError for bytes that are no states of this many parameters.
    """
    start, mine, yours = (read_state(state, parameters) for state in (before, ours, theirs))
    if mine[3] != yours[3]:
        return float("inf")
    worst = 0.0
    for origin, a, b in zip(start[:3], mine[:3], yours[:3], strict=True):
        off = float(np.linalg.norm(a.astype(np.float64) - b))
        moved = float(np.linalg.norm(a.astype(np.float64) - origin))
        if off:
            worst = max(worst, off / moved if moved and np.isfinite(off / moved) else float("inf"))
        elif not np.isfinite(off):
            return float("inf")
    return worst if np.isfinite(worst) else float("inf")


def replay_within(case: Case, tolerance: float, *, threads: int = 1, device: str = "cpu") -> ReplayResult:
    """As `replay.replay`, by distance. Every drawn segment needs both opened states and all leaves; one that lacks
    them raises ValueError, since a missing opening is the caller's to judge."""
    started = perf_counter()
    claim, drawn = case.claim, sorted(case.drawn)
    if drawn and not 1 <= drawn[0] <= drawn[-1] <= claim.segments <= case.work.max_segments:
        raise ValueError("a drawn segment is outside the shard")
    if not claim.leaves or not case.drawn <= case.before_states.keys() & case.after_states.keys():
        raise ValueError("across classes a replay needs the leaves, and both states of every drawn segment")
    checked: list[int] = []
    miss = None
    if problem := claim.problem():
        miss = Miss("claim", 0, claim.root.hex(), "", problem)
    elif (miss := case.start_miss()) is None:
        runner = case.runner(threads, device)
        for segment in drawn:
            miss = _segment_miss(runner, case, segment, tolerance, checked)
            if miss is None and segment == claim.segments:
                miss = _upload_miss(case, case.after_states[segment])
            if miss is not None:
                break
    end = None
    if miss is None and claim.end is not None and claim.segments in case.drawn:
        end, miss = end_moments(claim, case.after_states[claim.segments])  # theirs, as committed
    return ReplayResult(tuple(checked), len(checked), threads, perf_counter() - started, miss, end)


def _segment_miss(runner: SegmentRunner, case: Case, segment: int, tolerance: float, checked: list[int]) -> Miss | None:
    before, after = case.before_states[segment], case.after_states[segment]
    if found := _load_before(runner, case, segment, before):
        return found
    steps, committed = case.work.segment_steps, case.claim.leaves[segment]
    given = segment_leaf(case.claim.wallet, segment, steps, hash_state(after))
    if given != committed:
        return Miss("before", segment, committed.hex(), given.hex(), "the after-state is not the committed one")
    runner.run_segment()
    checked.append(segment)
    if not runner.finite():
        return Miss("before", segment, committed.hex(), "", NOT_FINITE)
    ours = runner.state_bytes()
    try:
        off = deviation(before, ours, after, len(case.published))
    except ValueError as error:
        return Miss("leaf", segment, committed.hex(), "", str(error))
    if off <= tolerance:
        return None
    leaf = segment_leaf(case.claim.wallet, segment, steps, hash_state(ours))
    why = f"further off than the tolerance of {tolerance:.3g}"
    return Miss("leaf", segment, committed.hex(), leaf.hex(), why, deviation=off if np.isfinite(off) else None)


def _upload_miss(case: Case, after: bytes) -> Miss | None:
    claim = case.claim
    theirs = read_state(after, len(case.published))[0]
    try:
        expected = hashlib.sha256(quantise(np.asarray(theirs - case.published, np.float32))).hexdigest()
    except ValueError as error:
        return Miss("upload", claim.segments, claim.upload_hash.hex(), "", str(error))
    if expected != claim.upload_hash.hex():
        return Miss("upload", claim.segments, claim.upload_hash.hex(), expected, "not the quantised difference")
    given = hashlib.sha256(case.upload).hexdigest() if case.upload is not None else ""
    if given != expected:
        return Miss("upload", claim.segments, given, expected, "the upload is not the committed one")
    return None
