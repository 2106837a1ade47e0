"""How far honest work of one device class lies from its replay on another: measured here, kept as JSON, asked by pair.

`measure` trains shards in the contributor's setting, one after the other as a job would, and replays each segment in
the auditor's from the same before-state. It also replays with the batch's rows in reverse order, which rounds
differently on any device, and lets the contributor's setting skip one step in ten, the smallest cheat that saves work.
The tolerance is `FACTOR` times the worst honest deviation; it holds only while it stays below `CHEAT_SHARE` of what
the smallest cheat deviates by, else there is none and the pair stays refused.

A calibration holds for exactly one pair of classes (who audits, who works), one architecture and batch, one numeric
mode. Learning rate and rows may differ: `pilot` shows on a job's own rows whether they amplify rounding more than here.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import ShardWork, TrainingSpec
from cloudlinkup.verify.tolerance import deviation
from cloudlinkup.wire.hashes import digest

VERSION = 1
FACTOR = 20.0  # tolerance over worst honest deviation: a pilot may then deviate twice the worst that was seen
PILOT_SHARE = 0.1  # of the tolerance: what a job's own pilot may deviate by
CHEAT_SHARE = 0.2  # of the smallest cheat's deviation: what a tolerance may be
LEAST = 1e-6  # tolerance where not even the reversed rows rounded differently
SHARD = 10  # segments of one shard
SEGMENT_STEPS = 10
MOST_FILE = 65_536


@dataclass(frozen=True)
class Setting:
    """How one side computes on the measuring machine."""

    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Measured:
    """`segments` compared; worst and median deviation of the pair, worst with reversed rows, least of the cheats."""

    segments: int
    worst: float
    median: float
    reordered: float
    cheat: float

    @property
    def tolerance(self) -> float:
        return max(LEAST, FACTOR * max(self.worst, self.reordered))

    @property
    def holds(self) -> bool:
        """Whether the tolerance tells honest work from the smallest cheat."""
        return self.tolerance <= CHEAT_SHARE * self.cheat


@dataclass(frozen=True)
class Calibration:
    """What is stored. `auditor`, `contributor`: device classes. `architecture`: `architecture_hash`."""

    auditor: str
    contributor: str
    architecture: str
    mode: str
    measured: Measured
    tolerance: float
    version: int = VERSION

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Calibration:
        """Raises ValueError for anything that is not exactly one of this version, or does not hold."""
        try:
            raw = json.loads(data)
            made = cls(**{**raw, "measured": Measured(**raw["measured"])})
            if made.version != VERSION or not made.measured.holds or not 0 < made.tolerance <= made.measured.tolerance:
                raise ValueError("the tolerance does not follow from what was measured")
            return made
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a calibration: {error}") from None


def architecture_hash(spec: TrainingSpec) -> str:
    """Of what decides how a step rounds: network, sizes, batch, its pieces, task, optimizer; not seed, learning rate or
    rows."""
    facts = [spec.task, spec.model, spec.inputs, spec.outputs, spec.batch, spec.micro_batch, spec.frozen]
    facts += [spec.optimizer] if spec.optimizer != "adamw" else []  # so that what was measured before stays valid
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Reversed(SegmentRunner):
    """The same batches with their rows the other way round: the same mathematics, other rounding."""

    def rows(self, index: int) -> np.ndarray:
        return super().rows(index)[::-1].copy()


class _SkipsOne(SegmentRunner):
    """Leaves one step of ten out, and counts it."""

    skipped = 0

    def step(self, index: int) -> None:
        if index % 10 == self.skipped:
            self._steps += 1
        else:
            super().step(index)


def measure(
    spec: TrainingSpec,
    features: np.ndarray,
    targets: np.ndarray,
    *,
    auditor: Setting = Setting(),
    contributor: Setting,
    segments: int = 100,
    seed: int = 0,
) -> Measured:
    """At least `segments` segments over one whole learning-rate schedule. Blocks. Raises ValueError when spec and rows
    do not fit, or training diverges."""
    shards = max(1, -(-segments // SHARD))
    weights, found, reordered, cheats = initial_weights(spec), [], [], []
    for number in range(shards):
        span = (round(number * 1e6 / shards), round((number + 1) * 1e6 / shards))
        work = ShardWork(digest("calibration", seed, number), SEGMENT_STEPS, SHARD, *span)

        def runner(kind: type[SegmentRunner], side: Setting, work=work, weights=weights) -> SegmentRunner:
            return kind(spec, work, weights, features, targets, device=side.device, threads=side.threads)

        works, audits = runner(SegmentRunner, contributor), runner(SegmentRunner, auditor)
        turned, skips = runner(_Reversed, auditor), runner(_SkipsOne, contributor)
        assert isinstance(skips, _SkipsOne)
        for k in range(SHARD):
            before = works.state_bytes()
            works.run_segment()
            theirs = works.state_bytes()
            skips.skipped = (number + k) % SEGMENT_STEPS
            ours, other, cheat = (_from(one, before) for one in (audits, turned, skips))
            found.append(deviation(before, ours, theirs, len(weights)))
            reordered.append(deviation(before, ours, other, len(weights)))
            cheats.append(deviation(before, ours, cheat, len(weights)))
        weights = works.weights()
    if not np.isfinite([*found, *reordered, *cheats]).all():
        raise ValueError("training diverged, so there is nothing to compare")
    return Measured(len(found), max(found), float(np.median(found)), max(reordered), min(cheats))


def _from(runner: SegmentRunner, before: bytes) -> bytes:
    runner.load_state(before)
    runner.run_segment()
    return runner.state_bytes()


def pilot(spec: TrainingSpec, features: np.ndarray, targets: np.ndarray, *, segments: int = 3) -> float:
    """How far this job's first segments move when only their rounding changes (rows reversed, 2 threads): the worst.

    Infinity where training diverges. It holds the job's own rows and learning rate against the calibration's.
    """
    weights = initial_weights(spec)
    work = ShardWork(digest("pilot", spec.seed), SEGMENT_STEPS, segments, 0, 1_000_000)
    mine = SegmentRunner(spec, work, weights, features, targets)
    others = [
        _Reversed(spec, work, weights, features, targets),
        SegmentRunner(spec, work, weights, features, targets, threads=2),
    ]
    worst = 0.0
    for _ in range(segments):
        before = mine.state_bytes()
        mine.run_segment()
        ours = mine.state_bytes()
        worst = max(worst, *(deviation(before, ours, _from(other, before), len(weights)) for other in others))
    return worst


# ---------------------------------------------------------------- where they are kept


def store(folder: Path, calibration: Calibration) -> Path:
    """Writes it as the pair's only one, whole or not at all. Raises ValueError for one that does not hold."""
    data = calibration.to_bytes()
    Calibration.from_bytes(data)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = (calibration.auditor, calibration.contributor, calibration.architecture, calibration.mode)
    path = folder / f"{digest('calibration', *facts).hex()[:32]}.json"
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
    return path


def stored(folder: Path, *, auditor: str, spec: TrainingSpec) -> dict[str, Calibration]:
    """By contributor's class: what was measured for this auditor, architecture and mode. A file that is not a
    calibration counts for nothing."""
    found: dict[str, Calibration] = {}
    wanted = (auditor, architecture_hash(spec), spec.precision)
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            with path.open("rb") as file:
                one = Calibration.from_bytes(file.read(MOST_FILE))
        except (OSError, ValueError):
            continue
        if (one.auditor, one.architecture, one.mode) == wanted:
            found[one.contributor] = one
    return found
