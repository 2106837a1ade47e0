"""What the flow asks of a contributor, and what comes back. Small: blobs travel by reference.

The flow hands a `CallRequest` to the Dask task `cluster.shard.call`; the gateway registers its grants, sends kind and
body over the contributor's channel, and answers with a `CallResult` that holds what it saw itself (times, bytes).
The kinds, their bodies and replies:

    describe   (empty)         -> Description      answered by the gateway (or by a direct worker itself)
    train      TrainCall       -> TrainReply       an Ack or BadShard comes first (CallResult.ack)
    challenge  ChallengeCall   -> ChallengeReply   inclusion path for every shard; openings where asked
    finish     FinishCall      -> (empty)          the job is over for this contributor: delete its data
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from cloudlinkup.wire.messages import U16, U32, Hex32, Signed
from cloudlinkup.wire.packed import Packed

MAX_BODY = 512 * 1024  # bytes of one call body or reply; blobs are not in it

ACK_SECONDS = 30.0  # to fetch and check an order's inputs
FROZEN_SPEED = 1e6  # bytes a second at which weights that are not trained must arrive at least

CallKind = Literal["describe", "train", "challenge", "finish"]


class BlobRef(Packed):
    """A sealed blob in the store. `sealed_key`: its content key, sealed by HPKE to the recipient."""

    sha256: Hex32  # of the ciphertext
    size: Annotated[int, Field(ge=0)]  # bytes of ciphertext
    sealed_key: Annotated[bytes, Field(max_length=256)]


class WeightsRef(Packed):
    """The published weights: a whole snapshot, or what to add to those of the round before.

    Exactly one of `snapshot` (flat fp32 bytes) and `delta` (quantised, on top of weights whose hash is `base`).
    """

    snapshot: BlobRef | None = None
    delta: BlobRef | None = None
    base: Hex32 | None = None


class TrainCall(Packed):
    """An order and what it refers to. `spec` is the TrainingSpec's canonical JSON; `salt` belongs to partition_hash.

    `frozen`: the safetensors file of what is not trained, whose hash the spec names; sent to each contributor once.
    """

    order: Signed
    spec: Annotated[bytes, Field(max_length=64 * 1024)]
    partition: BlobRef
    salt: Annotated[bytes, Field(min_length=16, max_length=16)]
    weights: WeightsRef
    frozen: BlobRef | None = None  # left out where there is none, so that the other side may be of an earlier version

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = handler(self)
        if self.frozen is None:
            document.pop("frozen", None)
        return document

    @property
    def ack_seconds(self) -> float:
        """From the order to Ack or BadShard, at most: longer where a large file has to be fetched and looked at, or an
        optional library imported."""
        more = 2 * ACK_SECONDS if self.frozen is not None or _imports_much(self.spec) else 0.0
        return ACK_SECONDS + more + (0 if self.frozen is None else self.frozen.size / FROZEN_SPEED)


def _imports_much(spec: bytes) -> bool:
    """Whether the network is built by the optional extra, whose first import took 60 s on a loaded machine. Both sides
    see the same bytes; whether they are a spec is found out later."""
    try:
        return json.loads(spec)["model"]["kind"] == "huggingface"
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


class TrainReply(Packed):
    """`upload` is None only when no segment was finished in time."""

    commit: Signed
    upload: BlobRef | None


class PathStep(Packed):
    """One sibling on the way up. `left`: the sibling is the left child."""

    left: bool
    hash: Annotated[bytes, Field(min_length=32, max_length=32)]


class ChallengeCall(Packed):
    """After commit_round: the round's root and this seat's path to it; segments whose before-state is to be opened.

    `more`: the path alone, ahead of the next order; the audit of this one is still to come.
    """

    order: Hex32
    round: U32
    seat: U16
    root: Annotated[bytes, Field(min_length=32, max_length=32)]
    path: Annotated[tuple[PathStep, ...], Field(max_length=16)]
    open: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=8)]  # before-state of these segments
    after: bool = False  # after-states too: only once a replay has missed
    more: bool = False


class Opening(Packed):
    """A state (weights, m, v) sealed to the order's result key. `at`: the state after that many segments."""

    at: Annotated[int, Field(ge=0)]
    state: BlobRef
    path: Annotated[tuple[PathStep, ...], Field(max_length=16)]  # of its leaf in the contributor's tree


class ChallengeReply(Packed):
    """`leaves`: all leaves of the contributor's tree, from the order's to the upload's, once the round is committed.

    They are hashes alone, 32 bytes a segment; with them the audit places any segment that it replays. Without them it
    replays the whole shard and compares the root.
    """

    openings: Annotated[tuple[Opening, ...], Field(max_length=16)]
    leaves: Annotated[tuple[Annotated[bytes, Field(min_length=32, max_length=32)], ...], Field(max_length=10_002)] = ()


class FinishCall(Packed):
    """`evidence` (JSON) only after a rejection: what a third person needs to run the replay again."""

    job_id: str
    reason: Literal["done", "rejected", "released"]
    evidence: Annotated[bytes, Field(max_length=256 * 1024)] | None = None


class Description(Packed):
    """Who a worker is, in its own signed words; the flow verifies both. `via`: how it is connected."""

    delegation: Signed
    hello: Signed
    via: Literal["gateway", "direct"]


class CallRequest(Packed):
    """The Dask task's argument. `reads`: blobs of `job_id` that the contributor may GET for this call."""

    kind: CallKind
    body: Annotated[bytes, Field(max_length=MAX_BODY)]
    deadline: Annotated[float, Field(gt=0)]  # seconds
    ack_within: Annotated[float, Field(gt=0)] | None = None  # seconds; None: no Ack is expected
    job_id: str = ""
    reads: tuple[Hex32, ...] = ()
    max_upload: int = 0  # bytes of each blob it may PUT
    max_uploads: int = 0  # how many


class CallResult(Packed):
    """The Dask task's result. Times in seconds by the gateway's monotonic clock; bytes are frames and blobs."""

    body: Annotated[bytes, Field(max_length=MAX_BODY)]
    ack: Signed | None = None  # an Ack or a BadShard; after a BadShard `body` is empty
    seconds_to_ack: float = 0.0
    seconds: float
    bytes_up: int
    bytes_down: int


RESULT_LIMIT = MAX_BODY + 256 * 1024  # of a packed CallRequest or CallResult
