"""The audit's core: run a drawn segment again and compare.

A segment is replayed from the published weights (through all segments before it) or from an opened before-state,
whichever is cheaper (`plan_openings`); a shard that began with moments of an earlier round is replayed from the
published weights once those are shown, since the order names their hash. The hash of its end state must be the
committed leaf, bit for bit, which is what honest work in the same device class gives. For the last segment the upload
must also be exactly the quantised difference between its end and the published weights. Without the leaves the whole
shard is replayed and the root compared: more work, no bytes.

`replay` takes and returns plain values, so it runs as well in a worker process. It replays on this machine: whether
that is the contributor's device class is the caller's question, as is drawing the segments (`verify/challenge.py`).
Within one class a miss that `second_replay` confirms is no rounding; its deviation says how much was left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import numpy as np

from cloudlinkup.training.moments import unpack_moments
from cloudlinkup.training.networks.kind import FrozenWeights
from cloudlinkup.training.quantize import quantise
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.training.states import hash_state, moments_of, read_state
from cloudlinkup.verify import merkle
from cloudlinkup.wire.hashes import order_leaf, segment_leaf, upload_leaf

Start = Literal["published", "opening"]
# what is not a number stays so under every step: such states commit to segments that nobody has to train, and no
# honest shard has one, as there is no upload of it
NOT_FINITE = "the state is not finite"


@dataclass(frozen=True)
class ReplayCosts:
    """What the auditor's choice depends on: seconds to replay a segment, to fetch and open one state, and to fetch and
    open the moments that the shard began with (0: they are here, or were fresh). `moments_seconds`: the same for those
    that it ended with, which the seat's next round begins with (0: it begins afresh)."""

    segment_seconds: float
    opening_seconds: float
    start_seconds: float = 0.0
    moments_seconds: float = 0.0


def plan_replay(segment: int, costs: ReplayCosts, replayed: int = 0) -> Start:
    """From where to replay `segment` (1-based) when the replay already stands at the end of segment `replayed`."""
    if not 0 <= replayed < segment:
        raise ValueError("segments are replayed in ascending order, from 1")
    through = (segment - replayed - 1) * costs.segment_seconds + (0.0 if replayed else costs.start_seconds)
    return "published" if through <= costs.opening_seconds else "opening"


def plan_openings(drawn: Iterable[int], costs: ReplayCosts) -> frozenset[int]:
    """The drawn segments whose before-states are worth asking for."""
    wanted, replayed = set(), 0
    for segment in sorted(set(drawn)):
        if plan_replay(segment, costs, replayed) == "opening":
            wanted.add(segment)
        replayed = segment
    return frozenset(wanted)


def goes_on(drawn: Iterable[int], segments: int, costs: ReplayCosts) -> bool:
    """Whether a replay of the drawn segments goes on to the shard's end, because that takes no longer than to fetch, in
    the next round, the moments that it ends with. What it passes, the upload and the promised moments are checked."""
    return (segments - max(drawn)) * costs.segment_seconds <= costs.moments_seconds


def shard_leaves(
    order_hash: bytes, wallet: bytes, segment_steps: int, state_hashes: Sequence[bytes], upload_hash: bytes
) -> list[bytes]:
    """All leaves of a shard's tree: the order's, one for each finished segment's state hash, the upload's.

    `upload_hash` is SHA-256 of the quantised update (of empty bytes when no segment was finished).
    """
    segments = [segment_leaf(wallet, k, segment_steps, h) for k, h in enumerate(state_hashes, 1)]
    return [order_leaf(order_hash), *segments, upload_leaf(upload_hash, len(state_hashes))]


@dataclass(frozen=True)
class Claim:
    """What a contributor committed to. `wallet`: 32 bytes. `leaves`: all of its tree's, or none if it kept them.

    `end`: SHA-256 of the last state's packed moments, as the commit states it where optimizer state is kept.
    """

    order_hash: bytes
    wallet: bytes
    root: bytes
    segments: int
    upload_hash: bytes
    leaves: tuple[bytes, ...] = ()
    end: bytes | None = None

    def problem(self) -> str:
        """Why the leaves are not those of the commitment, or an empty string. No leaves are no problem."""
        if not self.leaves:
            return ""
        if len(self.leaves) != self.segments + 2 or any(len(leaf) != 32 for leaf in self.leaves):
            return f"not one leaf of 32 bytes for the order, each of {self.segments} segments and the upload"
        if merkle.root(self.leaves) != self.root:
            return "the leaves do not lead to the committed root"
        if self.leaves[0] != order_leaf(self.order_hash):
            return "the first leaf is not the order's"
        if self.leaves[-1] != upload_leaf(self.upload_hash, self.segments):
            return "the last leaf is not the upload's"
        return ""


@dataclass(frozen=True)
class Miss:
    """One disagreement. Hashes are hex. `what`: "claim" (leaves and root), "before" (an opening that is not the
    committed state or, where `replayed` is empty, a committed state that no training leads to), "leaf" (a segment's
    end), "upload", "end" (the moments for the seat's next round), or "root" (whole replay without leaves).

    `deviation`: distance of the committed end weights from the replayed ones, over how far the segment moved; None
    without an after-state that is the committed one.
    """

    what: Literal["claim", "end", "before", "leaf", "upload", "root"]
    segment: int
    committed: str
    replayed: str
    detail: str = ""
    deviation: float | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One shard to audit: the job's spec, the order's work, and what both sides started from and committed to.

    published: flat fp32 weights whose hash stands in the order. features, targets: the contributor's partition.
    drawn: 1-based segments. before_states, after_states: opened states by drawn segment; without a before-state the
    replay goes on from where it stands. upload: the plaintext quantised update, needed where the last is drawn.
    to_end: replay on, past the last drawn segment, to the shard's end (`goes_on`).
    moments: those whose hash `work` names, needed where the replay begins at the shard's start. frozen: the tensors
    that are not trained, where the spec names a file of them.
    """

    spec: TrainingSpec
    work: ShardWork
    published: np.ndarray
    features: np.ndarray
    targets: np.ndarray
    claim: Claim
    drawn: frozenset[int]
    upload: bytes | None = None
    before_states: Mapping[int, bytes] = field(default_factory=dict)
    after_states: Mapping[int, bytes] = field(default_factory=dict)
    moments: bytes | None = None
    to_end: bool = False
    frozen: FrozenWeights | None = None

    @property
    def lacks_start(self) -> bool:
        """Whether the replay would begin with moments that are not here."""
        if not (self.drawn and self.work.moments) or self.moments is not None or self.claim.problem():
            return False
        first = min(self.drawn)
        return not self.claim.leaves or first == 1 or first not in self.before_states

    def runner(self, threads: int, device: str) -> SegmentRunner:
        """The shard as its contributor had it, at its start where the moments are here. Raises ValueError."""
        return SegmentRunner(
            self.spec,
            self.work,
            self.published,
            self.features,
            self.targets,
            threads=threads,
            device=device,
            frozen=self.frozen,
            moments=self.moments,
        )

    def start_miss(self) -> Miss | None:
        """Where the moments that the order names, its contributor's own, are none that training begins with."""
        if self.moments is None or hashlib.sha256(self.moments).digest() != self.work.moments:
            return None
        try:
            *_, steps = unpack_moments(self.moments, len(self.published))
            problem = "" if steps == self.work.steps_before else "the moments are of other steps than the order says"
        except ValueError as error:
            problem = str(error)
        return Miss("before", 1, self.work.moments.hex(), "", problem) if problem else None


@dataclass(frozen=True)
class ReplayResult:
    """`checked`: segments compared with their leaves: the drawn ones, and those passed through on the way. `replayed`:
    segments run. Accepted when nothing was missed. `moments`: packed, of the shard's end, where that was reached."""

    checked: tuple[int, ...]
    replayed: int
    threads: int
    seconds: float
    miss: Miss | None = None
    moments: bytes | None = None

    @property
    def accepted(self) -> bool:
        return self.miss is None


def replay(case: Case, *, threads: int = 1, device: str = "cpu") -> ReplayResult:
    """Replays a shard's drawn segments and compares them, and any it passes through, with the commitment.

    `threads` is the contributor's class's. Stops at the first miss, as what follows stands on it. Raises ValueError for
    a case of our own making that does not fit the spec.
    """
    started = perf_counter()
    claim, drawn = case.claim, sorted(case.drawn)
    if drawn and not 1 <= drawn[0] <= drawn[-1] <= claim.segments <= case.work.max_segments:
        raise ValueError("a drawn segment is outside the shard")
    if case.lacks_start:
        raise ValueError("the moments that the order names are needed")
    if case.to_end and drawn and drawn[-1] < claim.segments:
        drawn.append(claim.segments)
    checked: list[int] = []
    replayed, miss, end = 0, None, None
    if problem := claim.problem():
        miss = Miss("claim", 0, claim.root.hex(), "", problem)
    elif (miss := case.start_miss()) is None and drawn:
        runner = case.runner(threads, device)
        compare = _compare_leaves if claim.leaves else _compare_root
        miss = compare(runner, case, drawn, checked)
        replayed = len(checked)
        if miss is None and drawn[-1] == claim.segments:
            miss = _upload_miss(runner, claim, case.upload)
        if miss is None and runner.segment == claim.segments and claim.end is not None:
            end, miss = end_moments(claim, runner.state_bytes())
    return ReplayResult(tuple(checked), replayed, threads, perf_counter() - started, miss, end)


def second_replay(case: Case, first: ReplayResult, *, device: str = "cpu") -> ReplayResult:
    """Before a first miss is believed: with another thread setting (2 after 1, else 1). Where that misses too, the miss
    that counts is the first setting's, found once more: other threads round differently, and miss honest work sooner.
    """
    other = replay(case, threads=2 if first.threads == 1 else 1, device=device)
    return other if other.accepted else replay(case, threads=first.threads, device=device)


def _compare_leaves(runner: SegmentRunner, case: Case, drawn: Sequence[int], checked: list[int]) -> Miss | None:
    claim = case.claim
    for segment in drawn:
        opened = case.before_states.get(segment)
        if opened is not None and (found := _load_before(runner, case, segment, opened)):
            return found
        while runner.segment < segment:
            before = runner.weights()
            runner.run_segment()
            present = runner.segment
            checked.append(present)
            leaf = segment_leaf(claim.wallet, present, case.work.segment_steps, runner.state_hash())
            if leaf != claim.leaves[present]:
                after = case.after_states.get(present)
                off = None if after is None else _deviation(runner, claim, before, after)
                return Miss("leaf", present, claim.leaves[present].hex(), leaf.hex(), deviation=off)
            if not runner.finite():
                return Miss("before", present, leaf.hex(), "", NOT_FINITE)
    return None


def _compare_root(runner: SegmentRunner, case: Case, drawn: Sequence[int], checked: list[int]) -> Miss | None:
    claim, hashes = case.claim, []
    while runner.segment < claim.segments:
        runner.run_segment()
        hashes.append(runner.state_hash())
        checked.append(runner.segment)
    leaves = shard_leaves(claim.order_hash, claim.wallet, case.work.segment_steps, hashes, claim.upload_hash)
    top = merkle.root(leaves)
    return None if top == claim.root else Miss("root", claim.segments, claim.root.hex(), top.hex())


def _load_before(runner: SegmentRunner, case: Case, segment: int, opened: bytes) -> Miss | None:
    """Takes the runner to the opened state if it is the committed one of segment - 1."""
    claim = case.claim
    hashed = hash_state(opened)
    if segment == 1:  # nothing was trained yet: it is what the runner begins with
        same = hashed == runner.state_hash()
        return None if same else Miss("before", 1, "", hashed.hex(), "not what the order begins with")
    leaf = segment_leaf(claim.wallet, segment - 1, runner.work.segment_steps, hashed)
    if leaf != claim.leaves[segment - 1]:
        return Miss("before", segment, claim.leaves[segment - 1].hex(), leaf.hex(), "not the committed state")
    try:
        runner.load_state(opened)
        problem = "" if runner.finite() else NOT_FINITE
    except ValueError as error:
        problem = str(error)
    if not problem and runner.segment != segment - 1:
        problem = "the state is of another segment"
    return Miss("before", segment, leaf.hex(), "", problem) if problem else None


def _upload_miss(runner: SegmentRunner, claim: Claim, upload: bytes | None) -> Miss | None:
    try:
        expected = hashlib.sha256(quantise(runner.update())).hexdigest()
    except ValueError as error:  # training diverged: there is no honest upload of it
        return Miss("upload", claim.segments, claim.upload_hash.hex(), "", str(error))
    given = hashlib.sha256(upload).hexdigest() if upload is not None else ""
    if expected != claim.upload_hash.hex():
        return Miss("upload", claim.segments, claim.upload_hash.hex(), expected, "not the quantised difference")
    if given != expected:
        return Miss("upload", claim.segments, given, expected, "the upload is not the committed one")
    return None


def end_moments(claim: Claim, state: bytes) -> tuple[bytes | None, Miss | None]:
    """The packed moments of a shard's last state, and how they differ from those that the commit promises."""
    try:
        packed, problem = moments_of(state), "not the last state's moments"
        found = hashlib.sha256(packed).digest()
    except ValueError as error:
        packed, problem, found = None, str(error), b""
    if found == claim.end:
        return packed, None
    return None, Miss("end", claim.segments, (claim.end or b"").hex(), found.hex(), problem)


def _deviation(runner: SegmentRunner, claim: Claim, before: np.ndarray, after: bytes) -> float | None:
    segment = runner.segment
    leaf = segment_leaf(claim.wallet, segment, runner.work.segment_steps, hash_state(after))
    if leaf != claim.leaves[segment]:
        return None
    try:
        theirs, _, _, _ = read_state(after, len(before))
    except ValueError:
        return None
    ours = runner.weights().astype(np.float64)
    moved = float(np.linalg.norm(ours - before))
    off = float(np.linalg.norm(ours - theirs))
    return off / moved if moved > 0 and np.isfinite(off / moved) else None
