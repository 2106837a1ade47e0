"""What a contributor says of itself cannot stop other people's jobs from being planned."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from solders.keypair import Keypair

from cloudlinkup.training.data import shard_rows
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.messages import LEAST_SHARE, Hello, Probe
from models.correction import Correction
from models.facts import Candidate, JobFacts, Limits, ReferenceProfile
from models.features import graph_features
from models.plan import plan_round
from models.quote import QuoteInputs, quote_job
from models.registry import Registry
from tests.agent.chain_server import GENESIS
from tests.tasks.conftest import Rig

CLASS = "one class"
PROBE = Probe(name="matmul", precision="fp32", seconds=1e-3, spread=0.1)


def candidate(**changes) -> Candidate:
    keys = {"agent": str(Keypair().pubkey()), "wallet": str(Keypair().pubkey())}
    return Candidate(**{**keys, "device_class": CLASS, "memory": 2**33, "probes": (PROBE,), **changes})


@pytest.mark.parametrize(
    "changes", [{"seconds": 5e-324}, {"seconds": 1e300}, {"seconds": 0.0}, {"spread": 1e300}, {"spread": -1.0}]
)
def test_impossible_probes_are_refused(changes):
    with pytest.raises(ValidationError):
        Probe.model_validate({**PROBE.model_dump(), **changes})


@pytest.mark.parametrize("share", [5e-324, 0.0, 1.5])
async def test_an_impossible_share_is_no_hello(rig: Rig, share):
    described = await rig.cluster.contributors()
    hello = Hello.model_validate_json(described[0].hello.text)
    assert hello.genesis == GENESIS
    with pytest.raises(ValidationError):
        Hello.model_validate({**hello.model_dump(), "share": share})


@pytest.mark.parametrize(
    "changes",
    [
        {"probes": (PROBE.model_copy(update={"seconds": 1e-8}),)},
        {"probes": (PROBE.model_copy(update={"seconds": 1e4, "spread": 1e6}),)},
        {"probes": (PROBE.model_copy(update={"seconds": 1e4}),), "share": LEAST_SHARE},
        {"probes": ()},
        {"probes": (PROBE,) * 16},
        {"share": LEAST_SHARE, "ask": 2**64 - 1},
        {"ask": 2**64 - 1},
        {"memory": 2**64 - 1},
        {"memory": 0},
    ],
)
def test_the_worst_hello_leaves_the_others_a_plan(tmp_path: Path, changes):
    spec = TrainingSpec("classification", {"kind": "mlp", "hidden": [16], "activation": "relu"}, 8, 3, 16, 0.01, 5)
    reference = ReferenceProfile(overhead=5e-4, per_sample=1e-6, device_class=CLASS, probes=(PROBE,))
    job = JobFacts(features=graph_features(spec), samples=16_000, batch=16, profile=reference)
    limits = Limits(budget=10**9, deadline_seconds=1e5, max_contributors=4, replay_classes=(CLASS,))
    candidates = (candidate(ask=1_000), candidate(ask=1_200), candidate(**changes))
    quote = quote_job(QuoteInputs(job=job, candidates=candidates, limits=limits), Registry(tmp_path).champion())
    beliefs = {seat.seat: Correction.start(seat.prediction).prediction for seat in quote.plan.seats}
    planned = plan_round(quote.plan, 1, quote.plan.total_steps, beliefs)
    assert planned.steps > 0
    parts = shard_rows(300, [1 / belief.seconds for belief in beliefs.values()], 1, minimum=16)
    assert sum(map(len, parts)) == 300
    assert quote.model_dump_json()
