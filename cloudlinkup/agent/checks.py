"""What a contributor checks before it works: an order against its own keys, the chain, and its earlier rounds.

Pure: the order, what the chain said and what was kept come in; a `Refusal` with the reason for the signed BadShard
comes out. Inputs (rows, weights) are checked where they are opened, in handler.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from pydantic import ValidationError

from cloudlinkup.agent.chain import JobFacts
from cloudlinkup.agent.files import Delivered, SeatRecord
from cloudlinkup.crypto.seal import sealed_size
from cloudlinkup.errors import ProtocolError
from cloudlinkup.training.architectures import frozen_tensors, memory_of_step, needed_extra, parameter_count
from cloudlinkup.training.data import MAX_PARTITION, unpacked_size
from cloudlinkup.training.frozen import MAX_FILE, largest_file
from cloudlinkup.training.quantize import encoded_size
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.training.states import state_size
from cloudlinkup.wire.calls import TrainCall
from cloudlinkup.wire.hashes import rows_seed, sha256
from cloudlinkup.wire.messages import BadReason, Hardware, Order, Signed, verify

CREDIT_ROUNDS = 1  # an unknown client may owe us this many rounds
CREDIT_SECONDS = 600.0  # or this much work
_TIGHT = 5  # seconds before the job's deadline by which training ends: the award still has to be sent


class Refusal(Exception):
    """The order is refused before any work. Becomes a signed BadShard; `detail` never holds a value of the rows."""

    def __init__(self, reason: BadReason, detail: str) -> None:
        self.reason: BadReason = reason
        self.detail = detail[:200]
        super().__init__(f"{reason}: {self.detail}")


def unverified(signed: Signed) -> Order:
    """The order's fields before its signature was checked: only to learn which job to ask the chain about."""
    try:
        return Order.model_validate_json(signed.text)
    except ValidationError:
        raise Refusal("terms", "not an order") from None


def check_terms(
    signed: Signed, job: JobFacts | None, *, genesis: str, program: str, wallet: str, agent: str, ask: int, now: float
) -> Order:
    """The order, once signature, chain, keys and seat stand. Raises Refusal with `seat` or `terms`."""
    claimed = unverified(signed)
    if (claimed.genesis, claimed.program) != (genesis, program):
        raise Refusal("terms", "the order is for another chain or program")
    if job is None:
        raise Refusal("seat", "the chain has no such job")
    try:
        order = verify(Order, signed, signer=job.verifier, genesis=genesis, program=program)
    except ProtocolError as error:
        raise Refusal("seat", f"not signed by the job's verifier: {error}") from None
    if order.job_id != job.job_id.hex():
        raise Refusal("seat", "the job's account has another job id")
    if (order.wallet, order.agent) != (wallet, agent):
        raise Refusal("terms", "the order is for another wallet or agent key")
    _check_seat(order, job, now)
    if order.round <= job.round:
        raise Refusal("terms", f"round {order.round} is already committed")
    if order.pay_per_step == 0 and ask > 0:
        raise Refusal("terms", "the order pays nothing")
    if order.progress_from > order.progress_to:
        raise Refusal("terms", "the schedule runs backwards")
    return order


def _check_seat(order: Order, job: JobFacts, now: float) -> None:
    if order.seat >= len(job.seats):
        raise Refusal("seat", f"the job has no seat {order.seat}")
    seat = job.seats[order.seat]
    if seat.wallet != order.wallet:
        raise Refusal("seat", "the seat belongs to another wallet")
    if now + _TIGHT >= job.deadline:
        raise Refusal("seat", "the job's deadline has passed")
    most = order.max_segments * order.segment_steps * order.pay_per_step
    if seat.cap - seat.awarded < most:
        raise Refusal("seat", f"the seat's cap leaves {seat.cap - seat.awarded} where this order may earn {most}")


def time_box(order: Order, job: JobFacts, now: float) -> float:
    """Seconds of training: the order's, or less where the job's deadline comes first."""
    return min(order.time_box, job.deadline - _TIGHT - now)


def check_spec(
    call: TrainCall, order: Order, *, memory: int, disk: int, extras: tuple[str, ...] = ()
) -> tuple[TrainingSpec, int]:
    """(spec, parameters), before anything of that size is built. Raises Refusal: hash, spec, terms, memory, weights."""
    if sha256(call.spec) != order.spec_hash:
        raise Refusal("hash", "the spec is not the one in the order")
    try:
        spec = TrainingSpec.from_bytes(call.spec)
        count = parameter_count(spec)
        extra = needed_extra(spec)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refusal("spec", str(error) or type(error).__name__) from None
    if extra and extra not in extras:
        raise Refusal("spec", f"{extra} is needed, which is not offered here")
    frozen = _check_frozen_ref(call, spec)
    seed = rows_seed(bytes.fromhex(order.job_id), bytes.fromhex(order.partition_hash), spec.seed)
    if order.seed != seed.hex():
        raise Refusal("terms", "the seed does not follow from the job")
    if sealed_size(encoded_size(count)) > order.max_bytes:
        raise Refusal("terms", "the update would be larger than the order's most bytes")
    if order.numeric_mode != spec.precision:
        raise Refusal("terms", f"the order is for {order.numeric_mode}, the spec for {spec.precision}")
    needed = memory_needed(spec, count, unpacked_size(call.partition.size, spec), frozen)
    if needed > memory or call.partition.size > sealed_size(MAX_PARTITION):
        raise Refusal("memory", f"{needed} bytes are needed, {memory} are offered")
    kept = 4 * state_size(count) if spec.rounds == "kept" else 0
    most = 2 * state_size(count) * (order.max_segments + 1) + kept  # the last round's states too: see `outdated_orders`
    if (on_disk := most + call.partition.size + 8 * count + frozen) > disk:
        raise Refusal("memory", f"{on_disk} bytes of disk are needed, {disk} are free")
    _check_weights_ref(call, count)
    return spec, count


def _check_frozen_ref(call: TrainCall, spec: TrainingSpec) -> int:
    """Bytes of what is not trained, 0 for nothing."""
    if (call.frozen is None) != (spec.frozen is None):
        raise Refusal("weights", "the spec names weights that are not trained, or the order refers to them: not both")
    if call.frozen is None:
        return 0
    if call.frozen.size > sealed_size(min(MAX_FILE, largest_file(frozen_tensors(spec)))):
        raise Refusal("weights", f"{call.frozen.size} bytes of weights are more than the model has")
    return call.frozen.size


def check_mode(order: Order, hardware: Hardware) -> None:
    """Raises Refusal(`spec`) where this device does not compute in the order's numeric mode."""
    if order.numeric_mode == "bf16" and not hardware.bf16:
        raise Refusal("spec", f"bf16 needs CUDA capability 8.0 or more; this device has {hardware.capability}")


def _check_weights_ref(call: TrainCall, count: int) -> None:
    ref = call.weights
    if (ref.snapshot is None) == (ref.delta is None) or (ref.delta is None) != (ref.base is None):
        raise Refusal("weights", "either a snapshot, or a delta and its base")
    blob, size = (ref.snapshot, 4 * count) if ref.snapshot else (ref.delta, encoded_size(count))
    if blob is not None and blob.size != sealed_size(size):
        raise Refusal("weights", f"{blob.size} sealed bytes where {sealed_size(size)} are expected")


def memory_needed(spec: TrainingSpec, count: int, partition_bytes: int, frozen_bytes: int = 0) -> int:
    """An upper estimate in bytes: the runner's six vectors, two states, the rows three times, activations, and what is
    not trained as it is stored, with its largest tensor widened."""
    wide = 8 * max((prod(shape) for shape in frozen_tensors(spec).values()), default=0)
    vectors = 4 * count * 6 + 2 * state_size(count)
    return vectors + 3 * partition_bytes + memory_of_step(spec) + frozen_bytes + wide


def latest_delivered(done: Sequence[Delivered], before: int) -> list[Delivered]:
    """Of each round before `before`, the latest attempt that was delivered and has something to be paid for."""
    rounds: dict[int, Delivered] = {}
    for entry in sorted(done, key=lambda d: (d.round, d.attempt)):
        if entry.delivered and entry.segments > 0 and entry.round < before:
            rounds[entry.round] = entry
    return list(rounds.values())


def unawarded(record: SeatRecord, awarded: int, before: int) -> tuple[int, float]:
    """(rounds, seconds of work) that what the chain has not awarded comes to: the fewest that earn as much.

    Awards are totals, so which round one lacks is not to be seen: only that one round's pay is owed, say, or two's.
    """
    done = latest_delivered(record.done, before)
    owed = sum(entry.pay for entry in done) - (awarded - record.baseline)
    rounds, seconds = 0, 0.0
    for entry in sorted(done, key=lambda entry: (-entry.pay, entry.round)):
        if owed <= 0:
            break
        owed, rounds, seconds = owed - entry.pay, rounds + 1, seconds + entry.seconds
    return rounds, seconds


def check_history(record: SeatRecord | None, order: Order, job: JobFacts) -> None:
    """Raises Refusal(`inclusion`) or Refusal(`credit`).

    A path is missing once the chain has committed its round; a round that was never committed has none.
    """
    if record is None:
        return
    for entry in latest_delivered(record.done, order.round):
        if entry.included is False:
            raise Refusal("inclusion", f"round {entry.round}: our root was not in the round's")
        if entry.included is None and job.round >= entry.round:
            raise Refusal("inclusion", f"round {entry.round}: no inclusion path came")
    rounds, seconds = unawarded(record, job.seats[order.seat].awarded, order.round)
    if rounds > CREDIT_ROUNDS or seconds > CREDIT_SECONDS:
        raise Refusal("credit", f"{rounds} rounds ({seconds:.0f} s of work) are not awarded on chain")
