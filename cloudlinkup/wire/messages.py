"""The signed documents of the protocol. Binary fields are lower-case hex, keys base58, amounts base units.

A document travels as `Signed`: the canonical JSON text exactly as signed, the signer, the signature. `verify` checks
the signature over that text first, then parses it strictly, then checks purpose, genesis hash and program. A
document's hash is SHA-256 of its text.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import MAX_TEXT, Signer, check_text
from cloudlinkup.errors import ProtocolError
from cloudlinkup.offer import DAY, MOST_WINDOWS, AskPer
from cloudlinkup.types import Frozen, canonical_json

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Key = Annotated[str, Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{32,44}$")]
# an agent key, or one device of several that work under it: key/0, key/1 (each a worker and a seat of its own)
AgentName = Annotated[str, Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{32,44}(/(0|[1-9][0-9]?))?$")]
U16 = Annotated[int, Field(ge=0, le=2**16 - 1)]
U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
Short = Annotated[str, Field(max_length=200)]
Minute = Annotated[int, Field(ge=0, le=DAY)]

LEAST_SHARE = 0.001  # of one device's time


def agent_name(key: str, device: int | None) -> str:
    """The name of an agent key's one device, or of its device number `device`."""
    return key if device is None else f"{key}/{device}"


def agent_key(name: str) -> str:
    """The key that signs for the agent of this name."""
    return name.partition("/")[0]


class Document(Frozen):
    """Base of what is signed. `genesis` and `program` bind it to one chain and one program."""

    purpose: str
    genesis: Key
    program: Key

    # later fields: left out of the signed text at their defaults, so that both sides may be of an earlier version
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = handler(self)
        for name in self.later:
            if getattr(self, name) == type(self).model_fields[name].default:
                document.pop(name, None)
        return document


class Delegation(Document):
    """Signed once by the cold wallet: this agent key works, and is paid, for me at this gateway until then (unix s)."""

    purpose: Literal["cloudlinkup delegation 1"] = "cloudlinkup delegation 1"
    wallet: Key
    agent: Key
    gateway: Short
    expires: U64


class Hardware(Frozen):
    """What a device class is made of. `device_class` holds every fact that bit-exact replay depends on."""

    kind: Literal["cpu", "cuda"]
    name: Short
    memory: U64  # bytes that training may use
    threads: U16
    torch: Short
    capability: Short  # CPU instruction set torch uses, or CUDA compute capability

    @property
    def device_class(self) -> str:
        return "|".join([self.kind, self.name, self.capability, f"torch {self.torch}", f"threads {self.threads}"])

    @property
    def bf16(self) -> bool:
        """Whether it multiplies in bf16: every CPU that torch runs on, and GPUs from CUDA capability 8.0 on."""
        major = self.capability.partition(".")[0]
        return self.kind == "cpu" or (major.isdigit() and int(major) >= 8)


class Probe(Frozen):
    """Seconds a step of one short standard kernel or network; median, and (p90 - p10) / median as spread.

    The bounds are wider than any device; what is beyond them would only overflow in somebody's plan.
    """

    name: Short
    precision: Literal["fp32", "fp16"]
    seconds: Annotated[float, Field(ge=1e-8, le=1e4)]
    spread: Annotated[float, Field(ge=0, le=1e6)]


class Hello(Document):
    """Signed by the agent key in answer to the gateway's nonce, and shown to the flow as it is."""

    purpose: Literal["cloudlinkup hello 1"] = "cloudlinkup hello 1"
    nonce: Hex32
    gateway: Short
    agent: AgentName
    sealing_key: Hex32  # X25519, short-lived
    sealing_expires: U64
    hardware: Hardware
    probes: Annotated[tuple[Probe, ...], Field(max_length=16)]
    share: Annotated[float, Field(ge=LEAST_SHARE, le=1)]  # duty limit: part of one device's time that is offered
    ask: U64  # base units for one hour of the device at full duty, or per `ask_per`
    version: Short
    ask_per: AskPer = "hour"
    reserve: U64 | None = None  # in the ask's unit: taken where a budget does not reach the asks
    windows: Annotated[tuple[tuple[Minute, Minute], ...], Field(max_length=MOST_WINDOWS)] = ()  # of a day, UTC
    extras: Annotated[tuple[Short, ...], Field(max_length=8)] = ()  # optional parts that are installed, with versions

    later: ClassVar[tuple[str, ...]] = ("ask_per", "reserve", "windows", "extras")


class Order(Document):
    """One shard's work, signed by the verifier key."""

    purpose: Literal["cloudlinkup order 1"] = "cloudlinkup order 1"
    job: Key  # the job's account on chain
    job_id: Hex16
    round: Annotated[int, Field(ge=1, le=2**32 - 1)]
    seat: U16
    attempt: U16
    wallet: Key
    agent: AgentName
    spec_hash: Hex32
    partition_hash: Hex32  # salted, see hashes.partition_hash
    weights_hash: Hex32  # SHA-256 of the published weights' flat fp32 bytes
    seed: Hex32  # of the order of its rows, see hashes.rows_seed
    segment_steps: Annotated[int, Field(ge=1, le=10)]
    max_segments: Annotated[int, Field(ge=1, le=10_000)]
    progress_from: U32  # millionths of the whole job's samples before the round: positions the schedule
    progress_to: U32  # and after max_segments
    pay_per_step: U64
    time_box: Annotated[float, Field(gt=0, le=86_400)]  # seconds of training
    max_bytes: U64  # of one uploaded blob
    numeric_mode: Literal["fp32", "bf16"]
    result_key: Hex32  # X25519 of the flow, for this job
    moments: Hex32 | None = None  # SHA-256 of the optimizer state that the seat begins with; None: fresh
    steps_before: U64 = 0  # optimizer steps that are in it
    rows_before: U64 = 0  # rows of the partition's order, epoch after epoch, that come before this shard's first

    later: ClassVar[tuple[str, ...]] = ("moments", "steps_before", "rows_before")


class Ack(Document):
    """The input is what the order says; from here on it is undisputed."""

    purpose: Literal["cloudlinkup ack 1"] = "cloudlinkup ack 1"
    order: Hex32


BadReason = Literal[
    "seat", "terms", "hash", "seal", "spec", "weights", "data", "memory", "credit", "inclusion", "moments"
]


class BadShard(Document):
    """The order is refused before any work. Costs no reputation. `weights`: send the whole snapshot; `moments`: let it
    begin afresh."""

    purpose: Literal["cloudlinkup bad shard 1"] = "cloudlinkup bad shard 1"
    order: Hex32
    reason: BadReason
    detail: Short


class Commit(Document):
    """What was done, fixed before anybody knows which segments will be opened."""

    purpose: Literal["cloudlinkup commit 1"] = "cloudlinkup commit 1"
    order: Hex32
    root: Hex32
    segments: Annotated[int, Field(ge=0, le=10_000)]
    upload: Hex32  # SHA-256 of the plaintext quantised update
    end_moments: Hex32 | None = None  # where optimizer state is kept: SHA-256 of the last state's packed moments

    later: ClassVar[tuple[str, ...]] = ("end_moments",)


D = TypeVar("D", bound=Document)


class Signed(Frozen):
    """A document as it travels. `text` is the canonical JSON that was signed."""

    text: Annotated[str, Field(min_length=2, max_length=MAX_TEXT)]
    signer: Key
    signature: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]  # base64 of 64 bytes

    limit: ClassVar[int] = MAX_TEXT + 400

    @property
    def hash(self) -> bytes:
        return hashlib.sha256(self.text.encode("ascii")).digest()

    def to_bytes(self) -> bytes:
        return canonical_json(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Signed:
        """Raises ProtocolError for anything too long or not of this form."""
        if len(data) > 2 * MAX_TEXT:
            raise ProtocolError(f"a signed document of {len(data)} bytes is too long")
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            raise ProtocolError("not a signed document") from None


def sign(signer: Signer, document: Document) -> Signed:
    """Signs a document that we composed."""
    text = canonical_json(document)
    signature = signer.sign_text(Pubkey.from_string(document.program), text)
    return Signed(text=text.decode("ascii"), signer=str(signer.public), signature=base64.b64encode(signature).decode())


def verify(kind: type[D], signed: Signed, *, signer: str, genesis: str, program: str) -> D:
    """The document, once `signer`'s signature, its purpose, chain and program have been checked.

    Raises ProtocolError.
    """
    if signed.signer != signer:
        raise ProtocolError(f"signed by {signed.signer}, not by {signer}")
    try:
        text = signed.text.encode("ascii")
        check_text(Pubkey.from_string(signer), Pubkey.from_string(program), text, base64.b64decode(signed.signature))
        document: Any = kind.model_validate_json(text)
    except (ValidationError, UnicodeEncodeError, ValueError):
        raise ProtocolError(f"not a valid {kind.__name__}") from None
    if (document.genesis, document.program) != (genesis, program):
        raise ProtocolError(f"{kind.__name__} is for another chain or program")
    if canonical_json(document) != text:
        raise ProtocolError(f"{kind.__name__} is not in canonical form")
    return document
