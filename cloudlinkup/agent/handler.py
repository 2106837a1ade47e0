"""The contributor's side of the protocol without a network: train, challenge, finish.

The WebSocket agent and the direct Dask worker both drive this class. An order is acknowledged only after every check
has passed (or refused with a signed reason); it is then trained in a thread of its own, apart from the call that asked
for it: when the connection breaks, training goes on, and the same order asked again gets the stored result.
Training takes the device alone, one shard at a time.

Not covered: connections (channel.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from cloudlinkup.agent import checks, inputs, openings
from cloudlinkup.agent.acceptance import Terms, check_order
from cloudlinkup.agent.bond import Post
from cloudlinkup.agent.chain import Chain
from cloudlinkup.agent.checks import Refusal
from cloudlinkup.agent.duty import Duty
from cloudlinkup.agent.files import Delivered, JobFiles, OrderFolder, SeatRecord, write
from cloudlinkup.agent.identity import Identity
from cloudlinkup.agent.ports import Io, Report
from cloudlinkup.agent.shard import RunnerFactory, Stop, Trained, Work, train_shard
from cloudlinkup.errors import CloudLinkUpError, ContributorRefused, ProtocolError, ShardTimeout
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.verify import merkle
from cloudlinkup.wire.calls import (
    MAX_BODY,
    CallKind,
    ChallengeCall,
    ChallengeReply,
    FinishCall,
    TrainCall,
    TrainReply,
)
from cloudlinkup.wire.hashes import seat_leaf, sha256
from cloudlinkup.wire.messages import Ack, BadShard, Commit, Order, Signed, sign


@dataclass
class _Running:
    order: Order
    ack: Signed
    stop: Stop = field(default_factory=Stop)
    task: asyncio.Task[TrainReply] | None = None


def _silent(event: str, facts: dict[str, object]) -> None:
    pass


class Handler:
    """One contributor's protocol state. Make it inside the running event loop."""

    def __init__(
        self,
        identity: Identity,
        chain: Chain,
        terms: Terms,
        *,
        runner_factory: RunnerFactory = SegmentRunner,
        report: Report = _silent,
        post: Post | None = None,
    ) -> None:
        """`post`: how a seat's bond is posted; None where the wallet's key is elsewhere."""
        self.identity, self.terms, self._post = identity, terms, post
        self._chain, self._factory, self._report = chain, runner_factory, report
        self._files = JobFiles(identity.folder / "jobs")
        self._files.root.mkdir(mode=0o700, exist_ok=True)
        self._running: dict[str, _Running] = {}
        self._unaudited: set[str] = set()
        self._accepting, self._device = asyncio.Lock(), asyncio.Lock()

    # ---------------------------------------------------------------- calls

    async def call(self, kind: CallKind, body: bytes, io: Io) -> bytes:
        """One call's packed body to its packed reply. Raises ContributorRefused and ProtocolError."""
        if kind == "train":
            reply = await self.train(TrainCall.unpack(body, MAX_BODY), io)
            return b"" if reply is None else reply.pack()
        if kind == "challenge":
            return (await self.challenge(ChallengeCall.unpack(body, MAX_BODY), io)).pack()
        if kind == "finish":
            await self.finish(FinishCall.unpack(body, MAX_BODY))
            return b""
        raise ContributorRefused("unknown_call", f"{kind} is not answered here")

    @property
    def busy(self) -> bool:
        """True while a shard is being trained."""
        return bool(self._running)

    @property
    def awaits_audit(self) -> bool:
        """True while something delivered since this start has had no challenge yet: without it, it is not paid."""
        return bool(self._unaudited)

    def finish_early(self) -> None:
        """Ends running shards after what is done: they commit the segments that are finished."""
        for running in self._running.values():
            running.stop.finish()

    async def close(self) -> None:
        """Stops training at once; states written so far stay for the next start."""
        tasks = [running.task for running in self._running.values() if running.task]
        for running in self._running.values():
            running.stop.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)

    def clean(self) -> None:
        """Deletes what jobs left behind that never said they were over."""
        for job_id in self._files.delete_expired(time.time()):
            self._report("expired", {"job": job_id})

    # ---------------------------------------------------------------- train

    async def train(self, call: TrainCall, io: Io) -> TrainReply | None:
        """Ack, train, commit. None after a BadShard. Cancelled, it leaves the shard running, unless `io.abandoned`."""
        name = call.order.hash.hex()
        async with self._accepting:
            running, folder = self._running.get(name), self._files.find_order(name)
            if running is None and folder is not None and (reply := folder.reply()) is not None:
                self._report("offered_again", {"order": name[:8]})
                await io.send_ack(folder.ack())
                return await self._deliver(folder, reply, io)
            if running is None:
                try:
                    running = await self._accept(call, io)
                except Refusal as refusal:
                    self._report("refused", {"reason": refusal.reason, "detail": refusal.detail})
                    await io.send_ack(self._bad_shard(name, refusal))
                    return None
        await io.send_ack(running.ack)
        assert running.task is not None
        try:
            reply = await asyncio.shield(running.task)
        except asyncio.CancelledError:
            if io.abandoned:
                running.stop.abandon()
            if running.stop.abandoned and running.task.cancelled():
                raise ContributorRefused("abandoned", "the shard was given up") from None
            raise
        folder = self._files.order(running.order.job_id, name)
        return await self._deliver(folder, reply, io)

    async def _accept(self, call: TrainCall, io: Io) -> _Running:
        """Every check, in the protocol's order; then the shard begins. Raises Refusal."""
        name = call.order.hash.hex()
        try:
            async with asyncio.timeout(call.ack_seconds - 2):
                work, job = await check_order(
                    call,
                    io,
                    identity=self.identity,
                    chain=self._chain,
                    terms=self.terms,
                    files=self._files,
                    post=self._post,
                )
        except TimeoutError:
            raise ShardTimeout("the order's inputs did not arrive in time to acknowledge it") from None
        order = work.order
        for other in list(self._running.values()):  # an earlier attempt at the same seat is no longer wanted
            if (other.order.job_id, other.order.seat) == (order.job_id, order.seat):
                other.stop.abandon()
        for older in self._files.outdated_orders(order):
            await asyncio.to_thread(older.forget_states)
        if self._files.record(order.job_id, order.seat) is None:
            first = SeatRecord(
                job=order.job,
                job_id=order.job_id,
                seat=order.seat,
                deadline=job.deadline,
                baseline=job.seats[order.seat].awarded,
            )
            self._files.save_record(first)
        ack = self._sign(Ack(genesis=order.genesis, program=order.program, order=name))
        folder = self._files.order(order.job_id, name)
        folder.begin(call.order, ack)
        running = _Running(order, ack)
        running.task = asyncio.create_task(self._shard(work, folder, running), name=f"shard {order.round}/{order.seat}")
        self._running[name] = running
        running.task.add_done_callback(lambda task: self._ended(name, task))
        self._report(
            "order",
            {
                "job": order.job,
                "round": order.round,
                "seat": order.seat,
                "segments": order.max_segments,
                "steps": order.segment_steps,
                "may_earn": order.max_segments * order.segment_steps * order.pay_per_step,
                "awarded": job.seats[order.seat].awarded,
            },
        )
        return running

    async def _shard(self, work: Work, folder: OrderFolder, running: _Running) -> TrainReply:
        """Trains, seals, signs and stores. Runs apart from the call."""
        async with self._device:
            trained = await asyncio.to_thread(
                train_shard,
                work,
                folder,
                factory=self._factory,
                device=self.terms.device,
                threads=self.terms.threads,
                duty=self._duty(),
                stop=running.stop,
                on_segment=lambda done: self._report(
                    "segment", {"round": work.order.round, "done": done, "of": work.order.max_segments}
                ),
            )
        if running.stop.abandoned:
            raise asyncio.CancelledError
        return await asyncio.to_thread(self._commit, work, folder, trained)

    def _duty(self) -> Duty:
        one_thread = self.terms.device == "cpu" and self.terms.threads == 1
        return Duty(self.terms.share, busy_clock=time.thread_time if one_thread else None)

    def _commit(self, work: Work, folder: OrderFolder, trained: Trained) -> TrainReply:
        order, name = work.order, work.order_hash.hex()
        root, end = merkle.root(trained.leaves), None
        if work.spec.rounds == "kept" and trained.segments:
            end = inputs.keep_end(order, folder.state(trained.segments) or b"", self._files)
        commit = Commit(
            genesis=order.genesis,
            program=order.program,
            order=name,
            root=root.hex(),
            segments=trained.segments,
            upload=sha256(trained.update),
            end_moments=end,
        )
        ref = sealed = None
        if trained.segments:
            sealed, ref = openings.seal_for_flow(trained.update, order, "update")
        reply = TrainReply(commit=self._sign(commit), upload=ref)
        folder.finish(trained.leaves, reply, sealed)
        done = Delivered(
            round=order.round,
            attempt=order.attempt,
            order=name,
            root=root.hex(),
            segments=trained.segments,
            pay=trained.segments * order.segment_steps * order.pay_per_step,
            seconds=trained.seconds,
        )
        self._files.change_record(order.job_id, order.seat, lambda record: record.with_done(done))
        facts = {"round": order.round, "segments": trained.segments, "pay": done.pay, "seconds": trained.seconds}
        self._report("trained", facts)
        return reply

    async def _deliver(self, folder: OrderFolder, reply: TrainReply, io: Io) -> TrainReply:
        """Uploads and marks the result as handed over: from here on it counts for credit and inclusion."""
        if reply.upload is not None:
            sealed = await asyncio.to_thread(folder.upload)
            if sealed is None:
                raise ContributorRefused("too_late", "the result of that order is no longer kept")
            await io.put_blob(sealed)
        order = folder.order()
        record = self._files.record(order.job_id, order.seat)
        done = record.find(folder.path.name) if record else None
        if record and done and not done.delivered:
            self._files.change_record(order.job_id, order.seat, lambda record: record.noted(done.order, delivered=True))
        if reply.upload is not None and done and done.included is None:
            self._unaudited.add(folder.path.name)
        return reply

    def _ended(self, name: str, task: asyncio.Task[TrainReply]) -> None:
        self._running.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._report("shard_failed", {"order": name[:8], "error": type(error).__name__})

    # ---------------------------------------------------------------- challenge, finish

    async def challenge(self, call: ChallengeCall, io: Io) -> ChallengeReply:
        """Checks and remembers the inclusion path; opens the states that are asked for.

        Raises ContributorRefused: `unknown_order`, `inclusion`, `no_state`.
        """
        folder = self._files.find_order(call.order)
        order = folder.order() if folder else None
        record = self._files.record(order.job_id, order.seat) if order else None
        done = record.find(call.order) if record else None
        if folder is None or order is None or record is None or done is None:
            raise ContributorRefused("unknown_order", "no result of that order is here")
        path = [(step.left, step.hash) for step in call.path]
        leaf = seat_leaf(order.seat, bytes.fromhex(done.root))
        included = (call.round, call.seat) == (order.round, order.seat) and merkle.check(leaf, path, call.root)
        if included:
            included = await openings.committed(self._chain, order, call.root)
        self._files.change_record(
            order.job_id, order.seat, lambda record: record.noted(done.order, delivered=True, included=included)
        )
        self._report("included" if included else "not_included", {"round": order.round})
        if not included:
            raise ContributorRefused("inclusion", "our root is not in the round that the chain shows")
        start = await asyncio.to_thread(inputs.start_moments, order, self._files)
        reply = await openings.open_states(folder, order, call, done.segments, io, start)
        if not call.more:
            self._unaudited.discard(call.order)
        return reply

    async def finish(self, call: FinishCall) -> None:
        """The job is over here: its rows, weights and states are deleted.

        Evidence of a rejection is kept, and, where the chain has not awarded all that was delivered, the signed
        documents of our work: without them there would be nothing to appeal with.
        """
        if len(call.job_id) != 32 or not set(call.job_id) <= set("0123456789abcdef"):
            raise ProtocolError("a job id is 32 hex digits")
        for running in list(self._running.values()):
            if running.order.job_id == call.job_id:
                running.stop.abandon()
                if running.task:
                    await asyncio.wait([running.task], timeout=10)
        place = self.identity.folder / "evidence"
        if call.evidence is not None and self._files.job(call.job_id).is_dir():
            await asyncio.to_thread(write, place / f"{call.job_id}.json", call.evidence)
        awarded, unpaid = await self._awarded(call.job_id)
        if unpaid:
            await asyncio.to_thread(self._files.keep_documents, call.job_id, place / call.job_id)
        await asyncio.to_thread(self._files.delete, call.job_id)
        self._unaudited = {order for order in self._unaudited if self._files.find_order(order)}
        self._report(
            "finished", {"job": call.job_id, "reason": call.reason, "awarded": awarded, "unpaid_rounds": unpaid}
        )

    async def _awarded(self, job_id: str) -> tuple[int, int]:
        """(base units that the chain has awarded for our work on this job, delivered rounds that it has not awarded).

        A chain that cannot be asked has awarded nothing.
        """
        total = unpaid = 0
        for record in self._files.records(job_id):
            awarded = record.baseline
            with contextlib.suppress(CloudLinkUpError, TimeoutError, ValueError):
                async with asyncio.timeout(3):
                    job = await self._chain.job(record.job)
                if job is not None:
                    awarded = job.seats[record.seat].awarded
            total += awarded - record.baseline
            unpaid += checks.unawarded(record, awarded, 2**32)[0]
        return total, unpaid

    # ---------------------------------------------------------------- signing

    def _bad_shard(self, order: str, refusal: Refusal) -> Signed:
        return self._sign(
            BadShard(
                genesis=self.terms.genesis,
                program=self.terms.program,
                order=order,
                reason=refusal.reason,
                detail=refusal.detail.encode("ascii", "replace").decode(),
            )
        )

    def _sign(self, document: Ack | BadShard | Commit) -> Signed:
        return sign(self.identity.agent, document)
