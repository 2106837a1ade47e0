"""Jobs, contributors and telemetry for the planner's tests: invented devices whose true speeds are known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.messages import Probe
from models.facts import Candidate, JobFacts, Limits, ReferenceProfile, TrackRecord
from models.features import graph_features
from models.telemetry import Attempt, attempt_row

REFERENCE = {"matmul": 4e-4, "elementwise": 9e-4, "mlp_step": 2.5e-3}
SKEW = 1.6  # of the probes of every second agent of `make_telemetry`: what a law by agent can be learned from
CLASS = "cpu|a cpu|AVX2|torch 2.13.0|threads 1"


def probes(scale: float = 1.0, skew: float = 1.0) -> tuple[Probe, ...]:
    """`skew`: one probe takes so much longer and another so much shorter; their geometric mean stays."""
    factors = {"matmul": 1 / skew, "mlp_step": skew}
    return tuple(
        Probe(name=n, precision="fp32", seconds=s * scale * factors.get(n, 1.0), spread=0.05)
        for n, s in REFERENCE.items()
    )


def spec(hidden: tuple[int, ...] = (64, 32), batch: int = 32) -> TrainingSpec:
    model = {"kind": "mlp", "hidden": list(hidden), "activation": "relu"}
    return TrainingSpec(task="classification", model=model, inputs=64, outputs=10, batch=batch, lr=0.01, seed=0)


@pytest.fixture(scope="session")
def job() -> JobFacts:
    profile = ReferenceProfile(overhead=1e-3, per_sample=1e-5, device_class=CLASS, probes=probes())
    return JobFacts(features=graph_features(spec()), samples=64_000, batch=32, profile=profile)


@pytest.fixture(scope="session")
def make_candidate() -> Callable[..., Candidate]:
    def make(number: int, scale: float = 1.0, share: float = 1.0, ask: int = 3_600_000, **rest: object) -> Candidate:
        fields = {"device_class": CLASS, "record": TrackRecord(), **rest}
        return Candidate.model_validate(
            {
                "agent": f"agent-{number}",
                "wallet": f"wallet-{number}",
                "probes": probes(scale),
                "share": share,
                "ask": ask,
            }
            | fields
        )

    return make


@pytest.fixture(scope="session")
def limits() -> Limits:
    return Limits(budget=10**12, deadline_seconds=10_000.0, fee_bps=250)


@pytest.fixture(scope="session")
def make_telemetry() -> Callable[..., list[dict[str, object]]]:
    """Attempts of several jobs by four agents. `law(width of the hidden layer, agent)` is a factor over rank-1."""

    def make(
        law: Callable[[int, int], float], *, jobs: int = 24, agents: int = 4, rounds: int = 2, noise: float = 0.03
    ) -> list[dict[str, object]]:
        rng = np.random.default_rng(7)
        rows: list[dict[str, object]] = []
        facts: dict[int, dict[str, float]] = {w: graph_features(spec((w,))) for w in (16, 64, 256)}
        for number in range(jobs):
            width = (16, 64, 256)[number % 3]
            step = 2e-4 + width * 1e-6
            profile = ReferenceProfile(overhead=step / 2, per_sample=step / 64, device_class=CLASS, probes=probes())
            this = JobFacts(features=facts[width], samples=32_000, batch=32, profile=profile)
            for agent in range(agents):
                scale, share = 1.0 + 0.5 * agent, 1.0 if agent % 2 else 0.5
                for round_ in range(1, rounds + 1):
                    each = step * scale / share * law(width, agent) * math.exp(rng.normal(0, noise))
                    attempt = Attempt(
                        request_id=f"request-{number}",
                        job_id=f"job-{number:03d}",
                        round=round_,
                        seat=agent,
                        attempt=1,
                        wallet=f"wallet-{agent}",
                        agent=f"agent-{agent}",
                        device_class=CLASS,
                        predictor="rank1-roofline-xgboost",
                        version="0",
                        predicted=step * scale / share,
                        job=this,
                        probes=probes(scale, SKEW if agent % 2 else 1.0),
                        share=share,
                        steps=100,
                        segments=10,
                        seconds=100 * each,
                        bytes_up=1_000,
                        bytes_down=1_000,
                        outcome="accepted",
                        price=3,
                        at=1_900_000_000.0 + 1_000 * number + round_,
                    )
                    rows.append(attempt_row(attempt))
        return rows

    return make
