"""Measures what shards cost on this machine's CPU: `python -m models.data.measure_cpu` writes cpu_shards.csv.

The published GPU measurements know convolutional networks alone; what this project trains first is small networks on
CPUs, under a duty limit, with a state hashed and written after every segment. So the contributor's own loop
(`agent.shard.train_shard`) is run on a seeded grid of jobs and duty shares, and each run is kept in the form of
telemetry: job facts with the reference profile, probes, share, steps, seconds. About two minutes, one core; run it
while the machine is quiet. Rows are random numbers: their values do not matter for time.

Not covered: transfers and sealing (the flow takes them out of what it learns), other machines, GPUs.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from solders.keypair import Keypair

from cloudlinkup.agent.duty import Duty
from cloudlinkup.agent.files import OrderFolder
from cloudlinkup.agent.hardware import describe
from cloudlinkup.agent.probes import measure
from cloudlinkup.agent.shard import Stop, Work, train_shard
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.training.spec import Task, TrainingSpec
from cloudlinkup.wire.hashes import sha256
from cloudlinkup.wire.messages import Hardware, Order, Probe
from models.facts import JobFacts
from models.features import graph_features
from models.profile import profile_reference
from models.telemetry import Attempt, attempt_row

CPU_SHARDS = Path(__file__).resolve().parent / "cpu_shards.csv"
JOBS, SEED = 28, 7
ROWS = 2_000
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
SEGMENT, SEGMENTS = 10, 10  # steps, and segments of a shard: about a common round's
KEY = str(Keypair.from_seed(b"\0" * 32).pubkey())  # stands for every key: nothing here is signed


def jobs() -> list[TrainingSpec]:
    """The grid, the same each time."""
    draw = random.Random(SEED)  # noqa: S311 (no secret)
    found: list[TrainingSpec] = []
    kinds: list[tuple[Task, int]] = [("classification", 2), ("classification", 10), ("regression", 1)]
    for number in range(JOBS):
        task, outputs = draw.choice(kinds)
        hidden = draw.choice([[32], [64, 32], [128], [128, 64], [256, 128], [512, 256], [64, 64, 64]])
        found.append(
            TrainingSpec(
                task=task,
                model={"kind": "mlp", "hidden": hidden, "activation": draw.choice(["relu", "tanh", "gelu", "silu"])},
                inputs=draw.choice([8, 16, 30, 64, 128, 256]),
                outputs=outputs,
                batch=draw.choice([16, 32, 64, 128, 256]),
                lr=0.01,
                seed=number,
            )
        )
    return found


def rows(spec: TrainingSpec) -> tuple[np.ndarray, np.ndarray]:
    """Random rows that fit the spec."""
    rng = np.random.default_rng(spec.seed)
    features = rng.standard_normal((ROWS, spec.inputs)).astype(np.float32)
    if spec.task == "classification":
        return features, rng.integers(0, spec.outputs, ROWS).astype(np.int64)
    return features, rng.standard_normal((ROWS, spec.outputs)).astype(np.float32)


def shard_seconds(spec: TrainingSpec, share: float, folder: Path) -> tuple[int, float]:
    """(steps, wall seconds) of one shard by the contributor's own loop at this duty share."""
    order = Order(
        genesis=KEY,
        program=PROGRAM_ID,
        job=KEY,
        job_id="0" * 32,
        round=1,
        seat=0,
        attempt=0,
        wallet=KEY,
        agent=KEY,
        spec_hash=spec.hash,
        partition_hash="0" * 64,
        weights_hash="0" * 64,
        seed=sha256(spec.to_bytes()),
        segment_steps=SEGMENT,
        max_segments=SEGMENTS,
        progress_from=0,
        progress_to=100_000,
        pay_per_step=1,
        time_box=60.0,
        max_bytes=2**30,
        numeric_mode="fp32",
        result_key="0" * 64,
    )
    features, targets = rows(spec)
    work = Work(
        order=order,
        order_hash=b"\0" * 32,
        wallet=b"\0" * 32,
        spec=spec,
        weights=initial_weights(spec),
        features=features,
        targets=targets,
        time_box=60.0,
    )
    folder.mkdir(mode=0o700)
    done = train_shard(
        work,
        OrderFolder(folder),
        factory=SegmentRunner,
        device="cpu",
        threads=1,
        duty=Duty(share),
        stop=Stop(),
        on_segment=lambda _: None,
    )
    return done.segments * SEGMENT, done.seconds


def facts_of(spec: TrainingSpec, hardware: Hardware, probes: tuple[Probe, ...]) -> JobFacts:
    """What planning knows of the job: its trace, and its time on this machine."""
    features, targets = rows(spec)
    profile = profile_reference(spec, features, targets, probes=probes, hardware=hardware, seconds=0.5)
    return JobFacts(features=graph_features(spec), samples=100_000, batch=spec.batch, profile=profile)


def main() -> None:
    hardware = describe("cpu", threads=1)
    reference = measure(hardware)
    own = {share: measure(hardware) for share in SHARES}  # each pretended contributor measures for itself
    kept: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, spec in enumerate(jobs()):
            facts = facts_of(spec, hardware, reference)
            step = facts.profile.step_seconds(spec.batch)
            shard_seconds(spec, 1.0, Path(folder) / f"{number}-warm")  # a contributor's process is warm too
            for seat, share in random.Random(number).sample(list(enumerate(SHARES)), len(SHARES)):  # noqa: S311
                steps, seconds = shard_seconds(spec, share, Path(folder) / f"{number}-{seat}")
                attempt = Attempt(
                    request_id=f"grid-{number}",
                    job_id=f"grid-{number}",
                    round=1,
                    seat=seat,
                    attempt=0,
                    wallet=f"share-{share:g}",
                    agent=f"share-{share:g}",
                    device_class=hardware.device_class,
                    predictor="none",
                    version="0",
                    predicted=step / share,
                    job=facts,
                    probes=own[share],
                    share=share,
                    steps=steps,
                    segments=steps // SEGMENT,
                    seconds=seconds,
                    bytes_up=0,
                    bytes_down=0,
                    outcome="accepted",
                    at=float(1 + number),  # order alone matters; no date goes into the file
                )
                kept.append(attempt_row(attempt))
                ratio = seconds * share / steps / step
                print(
                    f"job {number:2d}  share {share:6.4f}  {steps:6d} steps  {seconds:5.2f} s  {ratio:5.2f} x the step"
                )
    pd.DataFrame(kept).to_csv(CPU_SHARDS, index=False)
    print(f"{len(kept)} rows in {CPU_SHARDS.name}")


if __name__ == "__main__":
    main()
