"""Grants as a state machine: whatever happens in whatever order, no token is worth more than its call."""

from __future__ import annotations

import time

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloudlinkup.wire.calls import CallRequest
from services.cell.grants import TRIES, Grant, Grants
from tests.services.cell.contributor import JOB

NAMES = ["aa" * 32, "bb" * 32, "cc" * 32]
NAME = st.sampled_from(NAMES)


class Machine(RuleBasedStateMachine):
    """Keeps a plain account of its own and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.grants, self.now = Grants(), 0.0
        self.sessions: list[str] = []
        self.live: list[tuple[str, Grant]] = []
        self.tickets: dict[str, tuple[Grant, str]] = {}
        self.issued: dict[int, list[str]] = {}

    @rule()
    def connect(self) -> None:
        self.sessions.append(self.grants.open_session())

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), reads=st.sets(NAME), most=st.integers(0, 2), size=st.integers(0, 10))
    def call(self, data: st.DataObject, reads: set[str], most: int, size: int) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        request = CallRequest(
            kind="train", body=b"", deadline=5, job_id=JOB, reads=tuple(reads), max_upload=size, max_uploads=most
        )
        self.live.append((session, self.grants.grant(session, request, self.now + 5)))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), name=NAME, size=st.integers(0, 12))
    def ask(self, data: st.DataObject, name: str, size: int) -> None:
        _, grant = data.draw(st.sampled_from(self.live))
        issued = self.issued.setdefault(id(grant), [])
        token = self.grants.issue(grant, name, size)
        may = size <= grant.max_upload and len({*issued, name}) <= grant.max_uploads
        assert (token is not None) == (may and len(issued) < grant.max_uploads * TRIES)
        if token is not None:
            issued.append(name)
            self.tickets[token] = (grant, name)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), name=NAME)
    def put(self, data: st.DataObject, name: str) -> None:
        token = data.draw(st.sampled_from(sorted(self.tickets)))
        grant, promised = self.tickets[token]
        taken = self.grants.take(token, name, self.now)
        alive = any(other is grant for _, other in self.live) and grant.until > self.now
        assert (taken is not None) == (alive and name == promised)
        if taken is not None:
            assert taken.grant is grant
            assert self.grants.take(token, name, self.now) is None  # once
            del self.tickets[token]

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.live))
        self.grants.revoke(pair[1])
        self.grants.revoke(pair[1])
        self.live.remove(pair)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(self.sessions))
        self.grants.close_session(session)
        self.sessions.remove(session)
        self.live = [(other, grant) for other, grant in self.live if other != session]
        assert not self.grants.known(session)

    @rule(seconds=st.floats(0, 4))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def reads_are_those_of_running_calls(self) -> None:
        for session in self.sessions:
            for name in NAMES:
                allowed = any(s == session and name in g.reads and g.until > self.now for s, g in self.live)
                assert (self.grants.readable(session, name, self.now) is not None) == allowed


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestGrants = Machine.TestCase


def test_tokens_are_long_and_unlike() -> None:
    grants = Grants()
    tokens = {grants.open_session() for _ in range(100)}
    assert len(tokens) == 100 and min(map(len, tokens)) >= 43
    assert not any(grants.readable(token, NAMES[0], time.monotonic()) for token in tokens)
    for junk in ("", "x", "\ud800", "é" * 50):
        assert not grants.known(junk)
