"""What a contributor keeps of running jobs, so that a restart neither loses a finished result nor trains it twice.

    jobs/<job id>/                       0700, every file 0600; deleted as a whole when the job is over
      partition-<hash>, weights-<hash>   inputs, by the hashes in the order; the two latest weights, and partitions
                                         within a limit for all jobs together
      frozen-<hash>                      tensors that are not trained, by the hash in the spec
      moments-<n>-<hash>                 optimizer state that seat n's last two results ended with, where it is kept
      seat-<n>.json                      rounds delivered, for credit and inclusion
      spares/                            states that nobody can ask for any more, to be written over
      orders/<order hash>/
        order.json  ack.json             the signed order and our signed acknowledgement
        state-<k>                        weights and optimizer after k segments: what an opening shows
        leaves  reply  upload            once finished: the tree, the packed reply, the sealed update

Files appear whole or not at all. Not covered: encryption at rest (use an encrypted disk; rows lie here in the clear
while their job runs, and the folder is for this user alone).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import psutil
from pydantic import ValidationError

from cloudlinkup.errors import ProtocolError
from cloudlinkup.types import Frozen
from cloudlinkup.wire.calls import MAX_BODY, TrainReply
from cloudlinkup.wire.messages import Order, Signed

CACHE = 8 * 2**30  # bytes of partitions that are kept, of all jobs together, unless the contributor says otherwise
KEEP_AFTER_DEADLINE = 86_400  # seconds: a client that never says "finish" does not fill the disk


class Delivered(Frozen):
    """One attempt's result. `pay` in base units if all of it verifies. `included`: None until a path came."""

    round: int
    attempt: int
    order: str
    root: str
    segments: int
    pay: int
    seconds: float
    delivered: bool = False
    included: bool | None = None


class SeatRecord(Frozen):
    """One seat's history. `baseline`: what the chain had awarded to the seat before our first order."""

    job: str
    job_id: str
    seat: int
    deadline: int
    baseline: int
    done: tuple[Delivered, ...] = ()

    def with_done(self, new: Delivered) -> SeatRecord:
        kept = tuple(d for d in self.done if d.order != new.order)
        return self.model_copy(update={"done": (*kept, new)})

    def find(self, order: str) -> Delivered | None:
        return next((d for d in self.done if d.order == order), None)

    def noted(self, order: str, **facts: bool) -> SeatRecord:
        """With these facts of a result that is in here."""
        found = self.find(order)
        return self if found is None else self.with_done(found.model_copy(update=facts))


def write(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Writes a private file, whole or not at all. `durable`: also through a power cut (5 ms more on a common disk)."""
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir(mode=0o700, exist_ok=True)  # one by one: `parents=True` would leave them open to others
    temporary = path.with_name(path.name + ".part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@dataclass(frozen=True)
class OrderFolder:
    """One order's work."""

    path: Path

    def begin(self, order: Signed, ack: Signed) -> None:
        write(self.path / "order.json", order.to_bytes())
        write(self.path / "ack.json", ack.to_bytes())

    def order(self) -> Order:
        """As it was accepted, so already checked."""
        return Order.model_validate_json(Signed.from_bytes((self.path / "order.json").read_bytes()).text)

    def ack(self) -> Signed:
        return Signed.from_bytes((self.path / "ack.json").read_bytes())

    def save_state(self, at: int, state: bytes) -> None:
        # a state per segment: what a power cut takes is trained again, so nothing waits for the disk
        place = self.path / f"state-{at}"
        spare = next(self._spares.glob("*"), None)
        if spare is None:
            write(place, state, durable=False)
            return
        # written over an old state it needs no fresh pages, which cost up to ten times the writing
        part = spare.replace(self.path / f"{place.name}.part")
        with part.open("r+b") as file:
            file.write(state)
            file.truncate()
        part.replace(place)

    def state(self, at: int) -> bytes | None:
        return read(self.path / f"state-{at}")

    def finish(self, leaves: Sequence[bytes], reply: TrainReply, upload: bytes | None) -> None:
        """The reply comes last: where it is, the rest is."""
        write(self.path / "leaves", b"".join(leaves))
        if upload is not None:
            write(self.path / "upload", upload)
        write(self.path / "reply", reply.pack())

    def leaves(self) -> list[bytes]:
        data = read(self.path / "leaves") or b""
        return [data[i : i + 32] for i in range(0, len(data), 32)]

    def reply(self) -> TrainReply | None:
        data = read(self.path / "reply")
        return None if data is None else TrainReply.unpack(data, MAX_BODY)

    def upload(self) -> bytes | None:
        return read(self.path / "upload")

    @property
    def same_boot(self) -> bool:
        """False where the machine was started again since the order came: a power cut may have torn its states."""
        order = self.path / "order.json"
        return order.exists() and order.stat().st_mtime > psutil.boot_time()

    @property
    def _spares(self) -> Path:
        return self.path.parent.parent / "spares"

    def forget_states(self) -> None:
        self._spares.mkdir(mode=0o700, exist_ok=True)
        for path in self.path.glob("state-*"):
            path.replace(self._spares / f"{self.path.name}-{path.name}")
        (self.path / "upload").unlink(missing_ok=True)


@dataclass(frozen=True)
class JobFiles:
    """`root` is the contributor's ``jobs`` folder. Job ids and hashes come from checked documents only."""

    root: Path
    _changing: Lock = field(default_factory=Lock, repr=False, compare=False)

    def job(self, job_id: str) -> Path:
        return self.root / job_id

    def order(self, job_id: str, order: str) -> OrderFolder:
        return OrderFolder(self.job(job_id) / "orders" / order)

    def find_order(self, order: str) -> OrderFolder | None:
        """An accepted order by its hash, whichever job it belongs to."""
        found = next(self.root.glob(f"*/orders/{order}"), None)
        return OrderFolder(found) if found is not None and (found / "ack.json").exists() else None

    def outdated_orders(self, order: Order) -> list[OrderFolder]:
        """The same seat's orders of earlier rounds, but for the last of these: its audit may run beside this one."""
        folders = [OrderFolder(p) for p in (self.job(order.job_id) / "orders").glob("*") if (p / "ack.json").exists()]
        earlier = [(o.round, f) for f in folders if (o := f.order()).seat == order.seat and o.round < order.round]
        last = max((number for number, _ in earlier), default=0)
        return [folder for number, folder in earlier if number < last]

    def record(self, job_id: str, seat: int) -> SeatRecord | None:
        """Raises ProtocolError when our own file is damaged: better no work than unpaid work."""
        data = read(self._record(job_id, seat))
        if data is None:
            return None
        try:
            return SeatRecord.model_validate_json(data)
        except ValidationError:
            raise ProtocolError(f"{self._record(job_id, seat)} is damaged") from None

    def records(self, job_id: str) -> list[SeatRecord]:
        """Of all our seats in a job; damaged ones are left out."""
        seats = [int(p.stem[5:]) for p in self.job(job_id).glob("seat-*.json") if p.stem[5:].isdigit()]
        found = []
        for seat in seats:
            with contextlib.suppress(ProtocolError):
                if (record := self.record(job_id, seat)) is not None:
                    found.append(record)
        return found

    def save_record(self, record: SeatRecord) -> None:
        write(self._record(record.job_id, record.seat), record.model_dump_json().encode())

    def change_record(self, job_id: str, seat: int, change: Callable[[SeatRecord], SeatRecord]) -> None:
        """Changes what is kept of a seat; a shard that ends and a challenge may both want to, at the same moment."""
        with self._changing:
            record = self.record(job_id, seat)
            assert record is not None, "it is kept since the seat's first order"
            self.save_record(change(record))

    def _record(self, job_id: str, seat: int) -> Path:
        return self.job(job_id) / f"seat-{seat}.json"

    def input(self, job_id: str, kind: str, hash_: str) -> Path:
        """kind: partition, weights, frozen, or moments-<seat>."""
        return self.job(job_id) / f"{kind}-{hash_}"

    def used(self, place: Path) -> None:
        """Notes that a cached partition was used just now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(place)

    def make_room(self, size: int, limit: int) -> None:
        """Deletes partitions, of whichever job, least recently used first, until `size` more bytes fit into `limit`.

        A shard that is running has its rows in memory; an order that names what is gone brings it again.
        """
        found = []
        for path in self.root.glob("*/partition-*"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        kept = sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if kept + size <= limit:
                return
            path.unlink(missing_ok=True)
            kept -= each

    def keep_latest(self, job_id: str, kind: str, keep: int) -> None:
        paths = sorted(self.job(job_id).glob(f"{kind}-*"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
        for path in paths[keep:]:
            path.unlink(missing_ok=True)

    def keep_documents(self, job_id: str, place: Path) -> None:
        """Copies what is signed of every finished order, and its tree, without rows, weights or states."""
        for reply in (self.job(job_id) / "orders").glob("*/reply"):
            for name in ("order.json", "ack.json", "leaves", "reply"):
                if (data := read(reply.with_name(name))) is not None:
                    write(place / reply.parent.name / name, data)

    def delete(self, job_id: str) -> None:
        shutil.rmtree(self.job(job_id), ignore_errors=True)

    def delete_expired(self, now: float) -> list[str]:
        """Deletes jobs a day past their deadline on chain, with the rows in them. Returns their ids."""
        gone = []
        for folder in self.root.glob("*"):
            deadlines = [self._deadline(path) for path in folder.glob("seat-*.json")]
            if deadlines and max(deadlines) + KEEP_AFTER_DEADLINE < now:
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(folder.name)
        return gone

    @staticmethod
    def _deadline(path: Path) -> int:
        try:
            return SeatRecord.model_validate_json(path.read_bytes()).deadline
        except (OSError, ValidationError):
            return 0
