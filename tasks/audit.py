"""The audit of one shard: draw, hand over the inclusion path, replay, and judge. No Prefect in here.

Replaying costs this machine's time and (where a state is opened) bytes; both are counted. A shard whose contributor
fell silent after it committed is still judged where no opening is needed: the update and the root are here.

A shard that began with the optimizer state of its seat's last round is replayed from the published weights with that
state. It is here where the last round's audit reached its end, else it is opened: 1.6 bytes a parameter, once a round.
A replay goes on to the shard's end where that takes no longer than such an opening.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from solders.pubkey import Pubkey

from cloudlinkup.errors import ClusterError, ClusterLost, ProtocolError
from cloudlinkup.training.moments import moments_size
from cloudlinkup.training.spec import ShardWork
from cloudlinkup.training.states import start_state, state_size
from cloudlinkup.verify import merkle
from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.evidence import end_hash, make_evidence, write_evidence
from cloudlinkup.verify.rates import Rate, Risk, rate
from cloudlinkup.verify.replay import (
    Case,
    Claim,
    ReplayCosts,
    ReplayResult,
    goes_on,
    plan_openings,
    replay,
    second_replay,
)
from cloudlinkup.verify.tolerance import replay_within
from cloudlinkup.wire.calls import CallRequest, ChallengeCall, ChallengeReply, FinishCall, PathStep
from cloudlinkup.wire.hashes import challenge_seed, seal_context, seat_leaf, sha256
from cloudlinkup.wire.messages import Commit, Order
from models.auditing import OPENING_BYTES_A_SECOND, OPENING_LATENCY
from tasks.calibrated import tolerance
from tasks.context import Run
from tasks.newcomer import rows_of
from tasks.orders import open_blob, read_order, update_name
from tasks.rounds import partition_rows
from tasks.segment import stored_facts
from tasks.state import Entry, RoundState, Seat
from tasks.subject import Subject, as_begun, subject, trial_rows

CALL_DEADLINE = 30.0
OPEN_AT_ONCE = 8  # segments of one challenge, by the protocol

Finish = Literal["done", "rejected", "released"]
Verdict = Literal["accepted", "rejected", "timeout"]


@dataclass(frozen=True)
class Audit:
    """A shard's verdict. `bytes_up`, `bytes_down`: what challenge and openings moved; `seconds`: of this machine, in
    replays, as are `replayed` segments. `risk`: what raised the rate. `evidence`: JSON, on a rejection."""

    drawn: frozenset[int]
    accepted: bool
    verdict: Verdict
    reason: str = ""
    replayed: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    risk: tuple[str, ...] = ()
    evidence: bytes | None = None
    unheard: bool = False  # the challenge, and the path with it, did not get to its contributor


async def audit_shard(
    run: Run,
    round_: RoundState,
    entry: Entry,
    leaves: list[bytes],
    block_hash: bytes,
    *,
    whole: bool,
    misses: float = 0.0,
) -> Audit:
    """`leaves`: the round's tree. `whole`: replay every segment, because a gate found the update odd. A draw would not
    do: one forged state leads to any update, and every segment after it is honestly trained. `misses`: failed audits
    of this contributor on record.

    Raises ClusterLost; the contributor's faults are verdicts.
    """
    seat = run.state.seat(entry.seat)
    order, root = read_order(run, entry), bytes.fromhex(entry.root)
    talk = _Talk(run, round_, entry, order, leaves)
    if entry.void:
        await _only_path(talk)
        return talk.audit(frozenset(), "timeout", entry.void, risk=())
    seed = challenge_seed(bytes.fromhex(round_.secret), block_hash, root)
    at = rate(risk_of(run, round_, entry, misses))
    drawn = draw(seed, entry.segments, newcomer=at.newcomer, small_job=at.small_job, extra=at.extra)
    if whole:
        drawn = frozenset(range(1, entry.segments + 1))
    if entry.cleared:
        await _only_path(talk)
        return talk.audit(drawn, "accepted", risk=at.why)
    within = tolerance(run, seat)
    moments = kept_moments(run, order)
    costs = _costs(run, entry.trial, order, moments)
    wanted = drawn if within is not None else plan_openings(drawn, costs)
    # segment 1's before-state is, of a shard that began with an earlier round's moments, these alone
    start = {1} if order.moments and moments is None and min(drawn) not in wanted else set()
    reply, before, after, problem = None, {}, {}, ""
    try:
        reply, before, after = await talk.open(wanted | start, after=within is not None)
        if order.moments and not reply.leaves and 1 not in before and moments is None:
            before |= (await talk.open(frozenset({1}), after=False))[1]  # replayed whole
    except ClusterLost:
        raise
    except (ClusterError, ProtocolError) as error:
        problem = str(error)[:200]
        talk.unheard = True
    if wanted - before.keys() or (within is not None and (wanted - after.keys() or not reply or not reply.leaves)):
        return talk.audit(drawn, "timeout", f"no opening came: {problem or 'states are missing'}", risk=at.why)
    if order.moments and 1 in before:
        moments = before.pop(1)
        if within is not None and 1 in wanted:
            before[1] = await asyncio.to_thread(_start, as_begun(run, round_, entry.trial), moments)
    case = await asyncio.to_thread(case_of, run, round_, entry, seat, order, drawn, reply, before)
    case = replace(case, after_states=after, moments=moments, to_end=goes_on(drawn, entry.segments, costs))
    if case.lacks_start:
        return talk.audit(drawn, "timeout", f"no opening came: {problem or 'moments are missing'}", risk=at.why)
    result = talk.ran(await replay_case(run, case, within))
    if not result.accepted:
        result, case = await _second_look(run, talk, case, result, within)
    if result.accepted:
        keep_moments(run, round_, entry, result.moments)
        return talk.audit(drawn, "accepted", risk=at.why)
    told = None if whole else _draw_document(round_, block_hash, at)  # of a whole replay nothing was drawn
    return await asyncio.to_thread(_reject, talk, case, result, told, at.why, within)


async def _only_path(talk: _Talk) -> None:
    """Of a shard that cannot count, or that was replayed whole before: its contributor gets the path without which it
    would take no further order."""
    try:
        await talk.open(frozenset(), after=False)
    except ClusterLost:
        raise
    except (ClusterError, ProtocolError) as error:
        talk.unheard = True
        talk.run.log.info("path_not_taken", round=talk.round.round, seat=talk.entry.seat, why=str(error)[:120])


def kept_moments(run: Run, order: Order) -> bytes | None:
    """The moments that the order names, where an earlier round's audit reached them."""
    if order.moments is None:
        return None
    for path in _moments_files(run, order.seat):
        data = path.read_bytes()
        if sha256(data) == order.moments:
            return data
    return None


def keep_moments(run: Run, round_: RoundState, entry: Entry, moments: bytes | None) -> None:
    """For the seat's next round. Two are kept: what this round began with is asked for again if it is judged again."""
    if moments is None:
        return
    run.write(f"moments/{entry.seat}-{round_.round}.bin", moments)
    for path in _moments_files(run, entry.seat)[2:]:
        path.unlink(missing_ok=True)


def _moments_files(run: Run, seat: int) -> list[Path]:
    """Of one seat, latest round first."""
    return sorted((run.folder / "moments").glob(f"{seat}-*.bin"), key=lambda p: -int(p.stem.partition("-")[2]))


def _start(of: Subject, moments: bytes) -> bytes:
    """The state that they begin; empty where they are none, which the replay then says."""
    try:
        return start_state(of.published.published, moments)
    except ValueError:
        return b""


def risk_of(run: Run, round_: RoundState, entry: Entry, misses: float) -> Risk:
    """What is known of a shard before its draw."""
    seat, steps = run.state.seat(entry.seat), entry.segments * int(run.state.plan["segment_steps"])
    budget = run.state.terms.budget if run.state.terms else 0
    done = {e.seat: e.segments for e in round_.entries}
    mine = sum(segments for number, segments in done.items() if run.state.seat(number).wallet == seat.wallet)
    return Risk(
        rounds=seat.rounds_done,
        contributors=len({run.state.seat(e.seat).wallet for e in round_.entries}),
        value=min(1.0, steps * run.state.price / budget) if budget else 0.0,
        misses=misses + seat.unopened,
        pace=entry.pace,
        share=0.0 if entry.trial is not None else mine / max(1, sum(done.values())),
    )


def _draw_document(round_: RoundState, block_hash: bytes, at: Rate) -> dict[str, str | bool | int]:
    """What a third person needs to draw again."""
    return {
        "secret": round_.secret,
        "block_hash": block_hash.hex(),
        "newcomer": at.newcomer,
        "small_job": at.small_job,
        "extra": at.extra,
    }


class _Talk:
    """What is said to one contributor during its audit, and what the audit took."""

    def __init__(self, run: Run, round_: RoundState, entry: Entry, order: Order, leaves: list[bytes]) -> None:
        self.run, self.round, self.entry, self.order = run, round_, entry, order
        self.bytes_up = self.bytes_down = self.segments = 0
        self.seconds = 0.0
        self.unheard = False
        position = leaves.index(seat_leaf(entry.seat, bytes.fromhex(entry.root)))
        self._path = tuple(PathStep(left=left, hash=sibling) for left, sibling in merkle.path(leaves, position))
        self._root = merkle.root(leaves)

    def ran(self, result: ReplayResult) -> ReplayResult:
        """Counts a replay."""
        self.segments, self.seconds = self.segments + result.replayed, self.seconds + result.seconds
        return result

    def audit(
        self, drawn: frozenset[int], verdict: Verdict, reason: str = "", *, risk: tuple[str, ...], **rest: Any
    ) -> Audit:
        """The verdict, with what it took."""
        took = {"replayed": self.segments, "seconds": self.seconds, "bytes_up": self.bytes_up, "unheard": self.unheard}
        return Audit(
            drawn, verdict == "accepted", verdict, reason, bytes_down=self.bytes_down, risk=risk, **took, **rest
        )

    async def open(
        self, segments: frozenset[int], *, after: bool
    ) -> tuple[ChallengeReply, dict[int, bytes], dict[int, bytes]]:
        """The reply, and by segment the state that it begins with, and (`after`) the one that it ends with.

        Raises ClusterError and ProtocolError.
        """
        order = sorted(segments)
        reply, states = await self.challenge(frozenset(order[:OPEN_AT_ONCE]), after)
        for i in range(OPEN_AT_ONCE, len(order), OPEN_AT_ONCE):
            states |= (await self.challenge(frozenset(order[i : i + OPEN_AT_ONCE]), after))[1]
        ends = {k: states[k] for k in order if after and k in states}
        return reply, {k: states[k - 1] for k in order if k - 1 in states}, ends

    async def challenge(self, segments: frozenset[int], after: bool = False) -> tuple[ChallengeReply, dict[int, bytes]]:
        """The reply, and the opened states by segments done. Raises ClusterError and ProtocolError."""
        call = ChallengeCall(
            order=self.entry.order.hash.hex(),
            round=self.round.round,
            seat=self.entry.seat,
            root=self._root,
            path=self._path,
            open=tuple(sorted(segments)),
            after=after,
        )
        limit = state_size(subject(self.run, self.entry.trial).published.weights.size) + 65_536
        request = CallRequest(
            kind="challenge",
            body=call.pack(),
            deadline=CALL_DEADLINE,
            job_id=self.order.job_id,
            max_upload=limit,
            max_uploads=2 * len(segments),
        )
        key = f"challenge-{self.run.request_id}-{self.round.round}-{self.entry.seat}"
        result = await self.run.cluster.call(self.entry.agent, request, key)
        self.bytes_up += result.bytes_up
        self.bytes_down += result.bytes_down
        reply = ChallengeReply.unpack(result.body, limit=len(result.body))
        asked = {at for k in segments for at in ((k - 1, k) if after else (k - 1,))}
        states: dict[int, bytes] = {}
        for opening in reply.openings:
            if opening.at not in asked or opening.at in states:
                raise ProtocolError("a state was opened that was not asked for, or twice")
            place = (self.order.round, self.order.seat, self.order.attempt, opening.at)
            context = seal_context("opening", self.order.job_id, self.order.result_key, *place)
            state = await open_blob(self.run, opening.state, context, limit)
            if opening.at == 0 and self.order.moments not in (None, sha256(state)):
                raise ProtocolError("the opened moments are not those that the order names")
            states[opening.at] = state
        return reply, states


def _costs(run: Run, trial: int | None, order: Order, moments: bytes | None) -> ReplayCosts:
    of = subject(run, trial)
    step = (of.facts or stored_facts(run)).profile.step_seconds(of.spec.batch)
    count = of.published.weights.size
    to_open = bool(order.moments) and moments is None
    opening = OPENING_LATENCY + moments_size(count) / OPENING_BYTES_A_SECOND
    return ReplayCosts(
        segment_seconds=step * int(run.state.plan["segment_steps"]),
        opening_seconds=OPENING_LATENCY + state_size(count) / OPENING_BYTES_A_SECOND,
        start_seconds=opening if to_open else 0.0,
        moments_seconds=opening if of.spec.rounds == "kept" else 0.0,
    )


def case_of(
    run: Run,
    round_: RoundState,
    entry: Entry,
    seat: Seat,
    order: Order,
    drawn: frozenset[int],
    reply: ChallengeReply | None,
    before: Mapping[int, bytes],
) -> Case:
    of = as_begun(run, round_, entry.trial)
    assert entry.commit is not None
    commit = Commit.model_validate_json(entry.commit.text)  # verified when it came
    if entry.trial is None:
        features, targets = partition_rows(run, rows_of(entry), round_.round)
    else:
        features, targets = trial_rows(run, entry.trial)
    return Case(
        spec=of.spec,
        work=ShardWork.of(order),
        published=np.ascontiguousarray(of.published.published),
        features=features,
        targets=targets,
        claim=Claim(
            order_hash=entry.order.hash,
            wallet=bytes(Pubkey.from_string(order.wallet)),
            root=bytes.fromhex(entry.root),
            segments=entry.segments,
            upload_hash=bytes.fromhex(entry.upload),
            leaves=reply.leaves if reply else (),
            end=end_hash(commit),
        ),
        drawn=drawn,
        upload=(run.folder / update_name(round_.round, entry.seat)).read_bytes(),
        before_states=before,
        frozen=of.frozen,
    )


async def replay_case(run: Run, case: Case, within: float | None, threads: int = 1) -> ReplayResult:
    async with run.replays:
        if within is None:
            return await asyncio.to_thread(replay, case, threads=threads)
        return await asyncio.to_thread(replay_within, case, within, threads=threads)


async def _second_look(
    run: Run, talk: _Talk, case: Case, first: ReplayResult, within: float | None
) -> tuple[ReplayResult, Case]:
    """Once more with another thread setting; and the committed after-state, which says how far off it is."""
    if within is not None:  # both states are here already
        other = talk.ran(await replay_case(run, case, within, threads=2))
        return (other if other.accepted else first), case
    missed = first.miss.segment if first.miss else 0
    if missed and case.claim.leaves:
        try:
            _, states = await talk.challenge(frozenset({missed}), after=True)
            if missed in states:
                case = replace(case, after_states={missed: states[missed]})
        except (ClusterError, ProtocolError) as error:
            run.log.info("no_after_state", seat=talk.entry.seat, why=str(error)[:120])
    async with run.replays:
        return talk.ran(await asyncio.to_thread(second_replay, case, first)), case


def _reject(
    talk: _Talk,
    case: Case,
    result: ReplayResult,
    drawn_from: dict[str, str | bool | int] | None,
    risk: tuple[str, ...],
    within: float | None,
) -> Audit:
    """Writes the evidence folder, which a third person can run again, and says in words what differed."""
    entry, miss = talk.entry, result.miss
    assert miss is not None
    assert entry.commit is not None
    evidence = make_evidence(
        order=entry.order,
        commit=entry.commit,
        result=result,
        drawn=case.drawn,
        salt=entry.salt,
        challenge=drawn_from,
        tolerance=within,
        to_end=case.to_end,
    )
    write_evidence(talk.run.folder / "evidence" / f"{talk.round.round}-{entry.seat}", evidence, case)
    off = "" if miss.deviation is None else f", off by {miss.deviation:.3g} of the segment's movement"
    reason = f"replay differs at segment {miss.segment}: {miss.what}{off}"
    return talk.audit(case.drawn, "rejected", reason, risk=risk, evidence=json.dumps(evidence).encode())


async def tell_finished(run: Run, seat: Seat, reason: Finish, evidence: bytes | None = None) -> None:
    """Best effort: a contributor that does not hear it deletes the job's data by its deadline."""
    assert run.state.terms is not None
    call = FinishCall(job_id=run.state.terms.job_id, reason=reason, evidence=evidence)
    request = CallRequest(kind="finish", body=call.pack(), deadline=10.0, job_id=run.state.terms.job_id)
    try:
        await run.cluster.call(seat.agent, request, f"finish-{run.request_id}-{seat.seat}-{reason}")
    except (ClusterError, ProtocolError) as error:
        run.log.info("finish_not_heard", seat=seat.seat, why=str(error)[:120])
