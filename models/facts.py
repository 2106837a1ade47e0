"""What the planner is told and what it says, as frozen values with a JSON form.

Seconds are wall seconds, money is integer base units. A plan is reproducible because everything it was made from is
one of these values. A device's name never enters a prediction; `device_class` is used only to ask whether the auditor
can replay a contributor's work.
"""

from __future__ import annotations

import time
from typing import Annotated, Literal

from pydantic import Field

from cloudlinkup.offer import AskPer, open_seconds
from cloudlinkup.types import Frozen
from cloudlinkup.wire.messages import Hello, Probe
from models.overheads import ROUND, SETUP, SPREAD

Positive = Annotated[float, Field(gt=0)]


class ReferenceProfile(Frozen):
    """This job, timed on the flow's machine: seconds(batch) = overhead + per_sample * batch, fp32.

    `spread` is (p90 - p10) / median of the timed steps; `probes` are the same machine's own onboarding probes.
    """

    overhead: Annotated[float, Field(ge=0)]
    per_sample: Positive
    spread: Annotated[float, Field(ge=0)] = 0.0
    steps: Annotated[int, Field(ge=1)] = 1
    kind: Literal["cpu", "cuda"] = "cpu"
    device_class: str = ""
    probes: tuple[Probe, ...] = ()

    def step_seconds(self, batch: int) -> float:
        """Seconds of one optimizer step at full duty on the reference."""
        return self.overhead + self.per_sample * batch


class JobFacts(Frozen):
    """One job, as far as planning goes. `features`: see `features.graph_features`, of one step at `batch`."""

    features: dict[str, float]
    samples: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    profile: ReferenceProfile
    memory: Annotated[int, Field(ge=0)] = 0  # bytes a contributor needs: weights, gradients, state, its rows
    kept: bool = False  # each seat keeps its optimizer state across rounds
    text: bool = False  # a next-token model that is trained whole
    extra: str = ""  # what it needs beside torch, with the auditor's versions
    rates: dict[str, float] = Field(default_factory=dict)  # losses of a pilot, by learning rate

    @property
    def steps(self) -> int:
        """Optimizer steps that the whole job takes over all contributors: ceil(samples / batch)."""
        return -(-self.samples // self.batch)


class TrackRecord(Frozen):
    """What a contributor did before. On time: it delivered within the round's time. Valid: the audit passed.

    Weights rather than counts: what other clients saw is capped (`reputation`). `earned`: verified pay, base units.
    `slower`: by how much its latest shards took longer than its probes promise (`seen.slower`; 1 where they agree).
    """

    on_time: Annotated[float, Field(ge=0)] = 0
    late: Annotated[float, Field(ge=0)] = 0
    valid: Annotated[float, Field(ge=0)] = 0
    rejected: Annotated[float, Field(ge=0)] = 0
    earned: Annotated[int, Field(ge=0)] = 0
    slower: Annotated[float, Field(gt=0)] = 1.0


class Candidate(Frozen):
    """A connected contributor, in its own signed words, with its record.

    `ask`: base units an hour at full duty, or as `ask_per` says; `reserve`: the least it takes, in the same unit.
    `open_seconds`: how long it stays available from now on by its own hours; None: always.
    """

    agent: str
    wallet: str
    device_class: str
    kind: Literal["cpu", "cuda"] = "cpu"
    memory: Annotated[int, Field(ge=0)] = 0  # bytes
    probes: tuple[Probe, ...] = ()
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # part of one device's time that is offered
    ask: Annotated[int, Field(ge=0)] = 0
    ask_per: AskPer = "hour"
    reserve: Annotated[int, Field(ge=0)] | None = None
    open_seconds: Annotated[float, Field(ge=0)] | None = None
    extras: tuple[str, ...] = ()
    record: TrackRecord = TrackRecord()

    @classmethod
    def from_hello(
        cls, hello: Hello, wallet: str, record: TrackRecord | None = None, now: float | None = None
    ) -> Candidate:
        """From a verified hello; `wallet` from the verified delegation. `now`: unix seconds, by default this moment."""
        hardware = hello.hardware
        return cls(
            agent=hello.agent,
            wallet=wallet,
            device_class=hardware.device_class,
            kind=hardware.kind,
            memory=hardware.memory,
            probes=hello.probes,
            share=hello.share,
            ask=hello.ask,
            ask_per=hello.ask_per,
            reserve=hello.reserve,
            open_seconds=open_seconds(hello.windows, time.time() if now is None else now),
            extras=hello.extras,
            record=record or TrackRecord(),
        )


Source = Literal["rank-1", "base", "xgboost", "record", "observed", "unknown"]


class Prediction(Frozen):
    """Wall seconds per step of one contributor at its offered share: P50, and an interval P10 to P90.

    The interval is conformal per job: it holds for the worst of the job's contributors together, not for each alone.
    `base` is the rank-1 rule's figure. `source` says where `seconds` comes from; "record": from past shards, as the
    probes disagree with them threefold; "unknown" means that the contributor
    has no probe in common with the reference and must not be planned with.
    """

    agent: str
    seconds: Positive
    low: Positive
    high: Positive
    base: Positive
    source: Source


class Limits(Frozen):
    """What binds one job's plan. Money in base units, times in seconds from now.

    `replay_classes`: device classes whose work the auditor can replay; None means any. `round_seconds`: what a round
    takes beside training and replays (transfers, chain), `setup_seconds` what the job takes once, the spreads
    their sigmas in log space, from `measured_jobs` past ones (`overheads`).
    """

    budget: Annotated[int, Field(ge=0)]
    deadline_seconds: float
    fee_bps: Annotated[int, Field(ge=0, le=1_000)] = 0
    decimals: Annotated[int, Field(ge=0, le=18)] = 6
    max_contributors: Annotated[int, Field(ge=1)] = 4
    allow: tuple[str, ...] = ()  # wallets; empty: anybody
    replay_classes: tuple[str, ...] | None = None
    by_goodput: bool = True  # they train one network together, and the client did not name each of them
    by_wallet: bool = True  # they train one network together: a wallet takes a third of the places (`wallets`)
    at_reserve: bool = False  # clear at what contributors take at the least, not at what they ask
    own_hourly: Annotated[int, Field(ge=0)] | None = None  # what an hour of the client's own machine costs it
    setup_seconds: Annotated[float, Field(ge=0)] = SETUP
    round_seconds: Annotated[float, Field(ge=0)] = ROUND
    setup_spread: Annotated[float, Field(ge=0)] = SPREAD
    round_spread: Annotated[float, Field(ge=0)] = SPREAD
    measured_jobs: Annotated[int, Field(ge=0)] = 0
