"""What crosses a boundary: ids, money, the job a client submits, the receipt it gets.

Money is an integer of base units (u64) everywhere; `parse_tokens` and `format_tokens` are the only two places where
token units appear. Models are frozen pydantic models that refuse unknown keys.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NewType

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import PydanticCustomError

from cloudlinkup.errors import BadInput
from cloudlinkup.frozen import Frozen
from cloudlinkup.model_spec import ModelSpec, refused_model
from cloudlinkup.search import MOST_TRIALS, Search
from cloudlinkup.training import caps
from cloudlinkup.training.headline import headline

RequestId = NewType("RequestId", str)  # the client's UUID: the idempotency key of the whole job
JobId = NewType("JobId", str)  # UUIDv7 as 32 hex digits, minted at escrow-lock from the chain's clock
Wallet = NewType("Wallet", str)  # base58 Ed25519 key that is paid
AgentKey = NewType("AgentKey", str)  # base58 Ed25519 key on the contributor's machine; also its Dask worker name
Sha256 = NewType("Sha256", str)  # 64 hex digits
BaseUnits = NewType("BaseUnits", int)  # u64

U64_MAX = 2**64 - 1
CAPS = {"samples": 10**9, "batch": caps.BATCH, "contributors": 64, "trials": MOST_TRIALS}


# ---------------------------------------------------------------- money


def parse_tokens(text: str, decimals: int, field: str = "budget") -> BaseUnits:
    """Token units as text ("12.5") to base units, exactly.

    Raises BadInput for anything but a plain non-negative decimal that fits u64 and the mint's decimals.
    """
    if not re.fullmatch(r"\d{1,20}(\.\d{1,18})?", text, flags=re.ASCII):
        raise BadInput(field, text, "not a plain decimal number of tokens", 'write it as text, like "12.5"')
    whole, _, part = text.partition(".")
    if len(part.rstrip("0")) > decimals:
        raise BadInput(field, text, f"finer than this mint's {decimals} decimals", "round it")
    units = int(whole) * 10**decimals + int((part.rstrip("0")).ljust(decimals, "0") or "0")
    if units > U64_MAX:
        raise BadInput(field, text, "larger than any token account can hold", "lower it")
    return BaseUnits(units)


def format_tokens(units: int, decimals: int) -> str:
    """Base units to token units as text, without floats: ``format_tokens(1500000, 6) == "1.5"``."""
    sign, units = ("-", -units) if units < 0 else ("", units)
    whole, part = divmod(units, 10**decimals)
    tail = str(part).rjust(decimals, "0").rstrip("0") if decimals else ""
    return f"{sign}{whole}.{tail}" if tail else f"{sign}{whole}"


# ---------------------------------------------------------------- the job a client submits


class TokenizerSpec(Frozen):
    """A Hugging Face tokenizer.json; it is used only if its SHA-256 is this."""

    uri: Annotated[str, Field(min_length=1, max_length=2_000)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class DataSpec(Frozen):
    """Where the rows are: a table with a `label` column, or plain text, which has none.

    `holdout`: the share of rows, or of the text, that is kept back for the score. Of text: `tokenizer`, by default its
    bytes are the tokens; `context`, tokens of a window, where the model does not say it.
    """

    uri: Annotated[str, Field(min_length=1, max_length=2_000)]
    format: Literal["parquet", "csv", "text"]
    label: Annotated[str | None, Field(min_length=1, max_length=256, validate_default=True)] = None
    holdout: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    tokenizer: TokenizerSpec | None = None
    context: Annotated[int, Field(ge=1, le=4_096)] | None = None

    @field_validator("label")
    @classmethod
    def _of_a_table(cls, value: str | None, info: ValidationInfo) -> str | None:
        text = info.data.get("format") == "text"
        if value is None and not text:
            raise PydanticCustomError("missing", "a table needs the name of the column to predict")
        if value is not None and text:
            raise ValueError("plain text has no label: what is predicted is the next token; leave it out")
        return value

    @field_validator("tokenizer", "context")
    @classmethod
    def _of_text(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("format", "text") != "text":
            raise ValueError('is for format "text" alone: leave it out')
        return value

    @property
    def column(self) -> str:
        """The label of a table."""
        assert self.label is not None, "text has no label"
        return self.label


class InitialSpec(Frozen):
    """A safetensors file with weights of the job's network; it is used only if its SHA-256 is this."""

    uri: Annotated[str, Field(min_length=1, max_length=2_000)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


Weights = Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...], Field(min_length=2, max_length=1_000)]


class TrainSpec(Frozen):
    """`samples` is the total over all contributors; one optimizer step takes `batch` of them.

    `micro_batch`: rows of one pass, where a step's batch is taken in pieces to save memory; "auto": in pieces only
    where a pass would keep more than 2 GiB.
    `class_weights`: "balanced" (rows / (classes x rows of the class)), or one number a class, in the labels' order.
    `lr`: the peak learning rate; "auto" chooses one of three by a pilot (docs/rounds.md).
    `optimizer`: "adamw", or "muon", which moves hidden matrices by their orthogonalised momentum (docs/rounds.md).
    `rounds`: "stateless" or "kept" optimizer state between rounds (docs/rounds.md); "auto" chooses.
    `initial`: weights to begin with instead of drawn ones (docs/models.md).
    `patience`: rounds without the score improving by more than `min_improvement` after which the job ends.
    """

    samples: Annotated[int, Field(ge=1, le=CAPS["samples"])]
    batch: Annotated[int, Field(ge=1, le=CAPS["batch"])] = 32
    lr: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = 0.01
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: Annotated[int, Field(ge=1, le=CAPS["batch"])] | Literal["auto"] = "auto"
    class_weights: Literal["balanced"] | Weights | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    rounds: Literal["auto", "stateless", "kept"] = "auto"
    patience: Annotated[int, Field(ge=1, le=1_000)] | None = None
    min_improvement: Annotated[float, Field(ge=0, lt=1e6)] = 0.0
    initial: InitialSpec | None = None

    @field_validator("micro_batch")
    @classmethod
    def _part_of_a_batch(cls, value: int | str, info: ValidationInfo) -> int | str:
        if isinstance(value, int) and value > info.data.get("batch", value):
            raise ValueError(f"is more than train.batch, {info.data['batch']}")
        return value

    @field_validator("lr", mode="before")
    @classmethod
    def _a_rate(cls, value: object) -> object:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
        if value != "auto" and not number:
            raise ValueError('must be a number above 0 up to 1, or "auto"')
        return value

    @property
    def rate(self) -> float:
        """The learning rate; of "auto" the one that stands there until the pilot has chosen."""
        return 0.01 if self.lr == "auto" else self.lr


class ContributorsSpec(Frozen):
    """`allow`: wallets that may see the rows; empty means whoever this cell admits."""

    max: Annotated[int, Field(ge=1, le=CAPS["contributors"])] = 4
    allow: tuple[str, ...] = ()


JobGoal = Literal["deadline", "budget", "cheapest"]


class JobSpec(Frozen):
    """job.json. The only thing a client writes.

    With `search`, the job is several independent trainings, each of `train.samples` samples.
    `metric`: what it is judged by, by default the task's own (docs/data.md).
    `goal`: which of the plans that keep both budget and deadline is run: the cheapest ("deadline"), the fastest
    ("budget"), or the one of the least money ("cheapest"); by default the one with the most contributors.
    """

    version: Literal[1]
    data: DataSpec
    task: Literal["classification", "regression", "next_token"]
    model: ModelSpec
    train: TrainSpec
    contributors: ContributorsSpec = ContributorsSpec()
    search: Search | None = None
    metric: Literal["accuracy", "f1", "auc", "r2", "perplexity"] | None = None
    goal: JobGoal | None = None
    budget: str
    deadline: datetime

    @field_validator("task")
    @classmethod
    def _of_its_data(cls, value: str, info: ValidationInfo) -> str:
        data = info.data.get("data")
        if data is not None and (data.format == "text") != (value == "next_token"):
            has = "plain text has the task next_token" if data.format == "text" else "next_token needs plain text"
            raise ValueError(f"does not fit data.format {data.format}: {has}")
        return value

    @field_validator("model")
    @classmethod
    def _does(cls, value: ModelSpec, info: ValidationInfo) -> ModelSpec:
        from cloudlinkup.training.networks import KINDS  # numpy comes with it, and the command line must start fast

        task, does = info.data.get("task"), KINDS[value.kind].tasks
        if task is not None and task not in does:
            raise ValueError(f"model.kind does {' and '.join(does)}, not {task}")
        return value

    @field_validator("metric")
    @classmethod
    def _fits(cls, value: str | None, info: ValidationInfo) -> str | None:
        if "task" in info.data:
            headline(info.data["task"], value)
        return value

    @field_validator("search")
    @classmethod
    def _ends_by_itself(cls, value: Search | None, info: ValidationInfo) -> Search | None:
        train = info.data.get("train")
        if value is not None and train is not None and train.patience is not None:
            raise ValueError("a search stops hopeless trainings by halving, not by train.patience: leave one out")
        if value is not None and train is not None and train.rounds == "kept":
            raise ValueError('the trainings of a search change hands between rounds: leave train.rounds "auto"')
        if value is not None and value.deliver == "blend" and info.data.get("task") == "next_token":
            raise ValueError('language models are not blended: use deliver "best" or "all", or "final" for folds')
        return value

    @field_validator("budget")
    @classmethod
    def _budget(cls, value: str) -> str:
        if not re.fullmatch(r"\d{1,20}(\.\d{1,18})?", value, flags=re.ASCII):
            raise ValueError('not a plain decimal number of tokens, like "12.5"')
        return value

    @field_validator("deadline")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        if value.tzinfo is None or value.utcoffset() != UTC.utcoffset(None):
            raise ValueError("must be RFC 3339 in UTC, like 2030-01-31T12:00:00Z")
        return value.astimezone(UTC)

    @field_serializer("deadline")
    def _rfc3339(self, value: datetime) -> str:
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_job(document: object) -> JobSpec:
    """A job from parsed JSON. Raises BadInput that names the field, the value and one fix."""
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise as_bad_input(error, document) from None


def as_bad_input(error: ValidationError, document: object) -> BadInput:
    """The first problem pydantic found in `document`, in this project's form."""
    first = error.errors(include_url=False)[0]
    field, kind, context = _field(first["loc"], document) or "job", first["type"], first.get("ctx", {})
    fixes = {
        "extra_forbidden": "remove it, or correct its spelling",
        "missing": "add it",
        "literal_error": f"use {context.get('expected', 'an allowed value')}",
        "union_tag_invalid": f"use one of {context.get('expected_tags')}",
        "union_tag_not_found": "add it",
    }
    value = "(absent)" if kind == "missing" else first["input"]
    problem = first["msg"].removeprefix("Value error, ")
    if kind.startswith("union_tag"):
        field = f"{field}.{context['discriminator'].strip(chr(39))}"
        value, problem = context.get("tag", "(absent)"), "is not one of those that there are"
    if field == "model" and isinstance(value, dict) and kind == "value_error":
        return refused_model(ValueError(problem), value)
    return BadInput(field, value, problem, fixes.get(kind, "correct it; `cloudlinkup init` writes a job that is valid"))


def _field(location: tuple[int | str, ...], document: object) -> str:
    """pydantic's location as a path, ``model.layers[1].out``, without the names of a union's members in it."""
    path, place = "", document
    for part in location:
        if isinstance(part, int):
            path, place = f"{path}[{part}]", place[part] if isinstance(place, list | tuple) else None
            continue
        if isinstance(place, dict) and part not in place and part in (place.get("kind"), place.get("type")):
            continue
        path, place = f"{path}.{part}", place.get(part) if isinstance(place, dict) else None
    return path.removeprefix(".")


def canonical_json(document: Any) -> bytes:
    """The one byte form of a document: sorted keys, no spaces, ASCII. What is hashed and signed."""
    if isinstance(document, BaseModel):
        document = document.model_dump(mode="json")
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


# ---------------------------------------------------------------- the receipt


class ContributorLine(Frozen):
    """One contributor's line of the receipt. `speed` is samples a second as the gateway saw them."""

    wallet: str
    speed: float
    cap: str
    segments: int
    accepted: int
    replayed: int
    rejected: int
    paid: str
    pending: str
    state: Literal["active", "rejected", "lost", "idle"]


class SignatureLine(Frozen):
    """One transaction of the job: the stage that sent it and its base58 signature."""

    stage: str
    signature: str


class Receipt(Frozen):
    """What a job did and cost. Amounts are base units as decimal text; when settled budget = paid + fee + refunded."""

    request_id: str
    job_id: str
    flow_run_id: str
    mint: str
    decimals: int
    budget: str
    awarded: str
    paid: str
    pending: str
    fee: str
    refunded: str
    settled: bool
    rounds: int
    rolled_back: tuple[int, ...] = ()  # those of them that were paid and taken back, as the held-out score fell
    metric: str
    score: float
    metrics: Annotated[dict[str, float], Field(default_factory=dict)]  # every metric of the task, of what was delivered
    score_single_machine: float | None = None
    seconds: float
    bytes_up: int
    bytes_down: int
    audit_bytes: int
    audit_seconds: float = 0.0  # of the auditor's machine, in replays
    audit_segments: int = 0  # replayed
    audit_cost: str = "0"  # what contributors would have been paid for those
    predictor: str
    quoted: dict[str, Any]
    contributors: tuple[ContributorLine, ...]
    signatures: tuple[SignatureLine, ...]
