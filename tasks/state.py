"""What a run must remember to continue after `kill -9`: documents kept in the job store, saved before each effect.

`JobState` is the whole job, `RoundState` one round. Both are plain JSON; big arrays (rows, weights) are files in the
job's folder beside them. They hold the job's sealing key and the rounds' secrets, so they never leave the store.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cloudlinkup.wire.hashes import sha256
from cloudlinkup.wire.messages import Probe, Signed

Stage = Literal["segment", "allocate", "lock", "rounds", "deliver", "settle", "done"]
STAGES: tuple[Stage, ...] = ("segment", "allocate", "lock", "rounds", "deliver", "settle", "done")


class Kept(BaseModel):
    """Base of the stored documents: mutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Partition(Kept):
    """The rows one seat holds, as the sealed blob in the store. Keys and salt are hex."""

    hash: str  # salted, as in the orders
    salt: str
    blob: str
    size: int
    content_key: str
    rows: int
    which: str  # SHA-256 of the row numbers


class Sealed(Kept):
    """A file as a sealed blob in the store, for whoever the key is sealed to. The key is hex."""

    blob: str
    size: int
    content_key: str


class Seat(Kept):
    """One contributor's place in the job. `seat` is its index on chain; None until the seats are written there."""

    seat: int
    wallet: str
    agent: str
    device_class: str
    share: float
    probes: list[Probe]
    state: Literal["active", "rejected", "lost", "idle"] = "idle"
    partition: Partition | None = None
    former: list[Partition] = []  # what it held before, latest first
    predicted: float  # seconds a step, before anything was observed
    belief: dict[str, Any]  # models.correction.Correction of this job, as JSON
    rounds_done: int = 0
    attempts: int = 0  # orders ever signed for this seat
    dropped: bool = False  # it took part in the pilot and was not kept, or is the job's newcomer: it has no place
    transfer: float = 0.0  # seconds from its last order to the Ack
    waited: int = 0  # rounds in a row that had no work for it
    tries: int = 0  # times that it was measured again since then, for nothing (models/again)
    faults: int = 0  # rounds in a row that it failed without cheating: refused, silent
    gap: bool = False  # it refused an order as a round of it stayed without an award
    unopened: int = 0  # rounds that it committed to and then did not open
    has_weights: int = -1  # published generation that its cache holds
    moments: str = ""  # where optimizer state is kept: SHA-256 of what its last accepted shard ended with
    moments_steps: int = 0  # optimizer steps in it
    rows_before: int = 0  # rows that it has trained on, each time counted; a training of a search counts its own
    steps: int = 0  # verified
    samples_seconds: float = 0.0  # seconds that the gateway saw it work on them
    segments: int = 0  # claimed in commits
    accepted: int = 0
    replayed: int = 0
    rejected: int = 0


class Terms(Kept):
    """What open_job fixed on chain. Amounts in base units, times in chain seconds."""

    job_id: str
    account: str
    budget: int
    deadline: int
    dispute_window: int
    arbiter_window: int
    fee_bps: int
    bond: int = 0  # that each seat asks for


class Award(Kept):
    """One seat's award that the chain may not have yet, in base units: cumulative, as the program takes it."""

    base: int  # what the chain had of this seat when this was fixed
    target: int
    cap: int  # the seat's cap then; a lower one is a ruling's
    sent: bool = False  # it may have landed

    @property
    def amount(self) -> int:
        return self.target - self.base


class TrialState(Kept):
    """One of a search's independent trainings: how far it is, and how good it was there."""

    done: int = 0  # verified steps
    generation: int = 0  # of its weights
    state: Literal["open", "stopped", "done"] = "open"
    scores: list[tuple[int, float]] = []  # steps done, score on the rows to choose by
    holder: int = -1  # the seat whose cache has the weights before the present ones


class JobState(Kept):
    stage: Stage = "segment"
    flow_run_id: str = ""
    started: float
    result_key: str  # X25519 private key of this job, hex
    plan: dict[str, Any] = {}  # models.plan.JobPlan as JSON
    quote: dict[str, Any] = {}
    predictor: str = ""
    terms: Terms | None = None
    seats: list[Seat] = []
    round: int = 0  # last finished
    counted: str = ""  # mark of the last round whose shards this state counts, finished or not
    judging: float = 0.0  # seconds of the last round's audit, the chain's finality included
    judged: str = ""  # mark of the last round whose audit it counts
    worked: float = 0.0  # seconds spent on rounds: `Run.worked`
    unpublished: bool = False  # the weights lost a late miss that was never published
    round_seconds: float = 0.0  # of work on that one, all stages (`Run.worked`)
    round_training: float = 0.0  # of which its longest shard
    round_began: float = 0.0  # what was worked before the round under way
    raced: Literal["", "kept", "ended"] = ""  # what followed from the pilot
    empty_rounds: int = 0  # in a row
    generation: int = 0  # of the published weights
    steps_done: int = 0  # verified and aggregated
    total_steps: int = 0
    price: int = 0  # base units a verified step
    bytes_up: int = 0
    bytes_down: int = 0
    audit_bytes: int = 0
    audit_seconds: float = 0.0  # of this machine's time, in replays
    audit_segments: int = 0  # replayed
    metric: str = ""
    score: float = 0.0
    curve: list[tuple[int, float]] = []  # steps done, score
    metrics: dict[str, float] = {}  # every metric of the task, of what is delivered
    best_score: float | None = None  # with `train.patience`: of the best round so far
    best_generation: int = 0
    best_round: int = 0  # the curve's, counted from 1
    worse_rounds: int = 0  # that taught something, since then
    rolled_back: list[int] = []  # rounds that were taken back, as the held-out score fell
    trials: list[TrialState] = []  # of a job with `search`, by number
    rung: int = 0  # of its successive halving, that is next
    frozen: Sealed | None = None  # what of the network is not trained
    shared: dict[str, Partition] = {}  # of such a job, by the fold that is left out: every seat trains on the same
    stage_seconds: dict[str, float] = {}
    awards: dict[int, Award] = {}  # by seat, what the chain has not taken yet
    awards_round: int = 0  # the last round whose pay is in there
    ended_early: str = ""
    last_seen: dict[str, Any] = {}  # the Job account's amounts, kept in case that somebody closes and erases it

    def seat(self, number: int) -> Seat:
        """The seat with this index on chain."""
        return next(seat for seat in self.seats if seat.seat == number)

    def rejected_wallets(self) -> set[str]:
        """Of contributors that cheated with one of their devices: none of them gets a further order."""
        return {seat.wallet for seat in self.seats if seat.state == "rejected"}

    def active(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.state == "active"]


Outcome = Literal["ordered", "committed", "empty", "refused", "lost", "timeout", "accepted", "rejected"]


class Start(Kept):
    """The published weights that a shard begins with: their sealed blobs, and the keys in hex."""

    weights_hash: str = ""
    snapshot_blob: str = ""
    snapshot_key: str = ""
    snapshot_size: int = 0
    delta_blob: str = ""
    delta_key: str = ""
    delta_size: int = 0
    base_hash: str = ""


class Entry(Kept):
    """One seat's shard in one round."""

    seat: int
    agent: str
    attempt: int
    trial: int | None = None  # of a job with `search`
    start: Start | None = None  # then, the trial's; else the round's
    twin: int | None = None  # of a newcomer's shard: the seat whose rows it is of (tasks/newcomer)
    order: Signed
    snapshot: bool
    again: bool = False  # the round had no work for it: it is measured again (models/again)
    max_segments: int
    planned_seconds: float
    salt: str = ""  # of the rows that the order names
    outcome: Outcome = "ordered"
    reason: str = ""
    commit: Signed | None = None
    root: str = ""
    end_moments: str = ""  # where optimizer state is kept: of the shard's end, as the commit states it
    upload: str = ""  # SHA-256 of the plaintext update; its bytes are in the job's folder
    segments: int = 0
    pace: float = 0.0  # seconds that so many steps should take at the least, over those that they took
    cleared: int = 0  # segments, all of them: replayed whole before the draw, and honest (`tasks/cleared`)
    void: str = ""  # why it cannot count, whatever its audit would say
    unheard: bool = False  # its challenge did not reach its contributor, who lacks the path to the round's root
    drawn: list[int] = []
    risk: list[str] = []  # what raised its audit above the default rate
    replayed: int = 0
    seconds: float = 0.0  # from the Ack to the reply, as the gateway saw it
    ack_seconds: float = 0.0  # from the order to the Ack: transfer, opening and checks, no training
    bytes_up: int = 0
    bytes_down: int = 0


class RoundState(Start):
    round: int
    stage: Literal["ordered", "trained", "committed", "verified", "awarded", "finished"] = "ordered"
    secret: str
    generation: int = 0  # of the weights that its shards begin with
    steps_before: int = 0  # of the job
    led_to: int = 0  # the generation that its updates made; 0: none, or they were taken back
    best_before: tuple[float | None, int, int, int] | None = None  # the job's best score, its generation and round, and
    # the rounds since then, before this round
    root: str = ""
    commit_slot: int = 0
    ahead: bool = False  # its updates are in the weights before its audit ends, which runs beside the next round
    audit_bytes: int = 0
    audit_seconds: float = 0.0
    audit_segments: int = 0
    cleared_seconds: float = 0.0  # of these, before the draw: odd updates replayed whole (`tasks/cleared`)
    cleared_segments: int = 0
    entries: list[Entry] = []

    @property
    def mark(self) -> str:
        """What tells this round from another of the same number, which was lost: by that a state says it counts it."""
        return sha256(bytes.fromhex(self.secret))[:16]
