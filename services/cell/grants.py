"""Which sealed blobs a contributor may GET and PUT, and for how long: exactly those of its running calls.

Pure bookkeeping: no clock, no I/O. Tokens are random and kept as hashes, so that no lookup compares secrets.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

from cloudlinkup.wire.calls import CallRequest

TRIES = 4  # tickets for each blob that may be stored: an upload can break off, but not for ever


@dataclass(eq=False)
class Grant:
    """One call's rights. `until` on the gateway's monotonic clock; the counters are bytes of blobs really moved."""

    session: bytes
    job_id: str
    reads: frozenset[str]
    max_upload: int
    max_uploads: int
    tickets_left: int
    until: float
    names: set[str] = field(default_factory=set)  # blobs that it was given a ticket for
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True)
class Ticket:
    """The right to store one blob, once."""

    grant: Grant
    sha256: str
    size: int


@dataclass
class Grants:
    """All grants of a gateway."""

    _sessions: dict[bytes, list[Grant]] = field(default_factory=dict)
    _tickets: dict[bytes, Ticket] = field(default_factory=dict)

    def open_session(self) -> str:
        """A connection's token for GET."""
        token = secrets.token_urlsafe(32)
        self._sessions[_hash(token)] = []
        return token

    def close_session(self, token: str) -> None:
        for grant in list(self._sessions.get(_hash(token), ())):
            self.revoke(grant)
        self._sessions.pop(_hash(token), None)

    def grant(self, token: str, request: CallRequest, until: float) -> Grant:
        """Registers what a call may read and store. The session must be open."""
        grant = Grant(
            session=_hash(token),
            job_id=request.job_id,
            reads=frozenset(request.reads),
            max_upload=request.max_upload,
            max_uploads=request.max_uploads,
            tickets_left=request.max_uploads * TRIES,
            until=until,
        )
        self._sessions[grant.session].append(grant)
        return grant

    def revoke(self, grant: Grant) -> None:
        """Ends a call's rights, its unused tickets included."""
        if grant in self._sessions.get(grant.session, ()):
            self._sessions[grant.session].remove(grant)
        for token in [token for token, ticket in self._tickets.items() if ticket.grant is grant]:
            del self._tickets[token]

    def issue(self, grant: Grant, sha256: str, size: int) -> str | None:
        """A one-use token for storing one blob of `size` bytes; None when the call may not (any more).

        An upload that broke off is tried again with another ticket for the same blob.
        """
        if size > grant.max_upload or grant.tickets_left < 1 or len(grant.names | {sha256}) > grant.max_uploads:
            return None
        grant.names.add(sha256)
        grant.tickets_left -= 1
        token = secrets.token_urlsafe(32)
        self._tickets[_hash(token)] = Ticket(grant, sha256, size)
        return token

    def take(self, token: str, sha256: str, now: float) -> Ticket | None:
        """Uses up a ticket; None when there is none such for this blob."""
        ticket = self._tickets.get(_hash(token))
        if ticket is None or ticket.sha256 != sha256 or ticket.grant.until <= now:
            return None
        return self._tickets.pop(_hash(token))

    def readable(self, token: str, sha256: str, now: float) -> Grant | None:
        """The running call that lets this session read this blob."""
        grants = self._sessions.get(_hash(token), ())
        return next((g for g in grants if sha256 in g.reads and g.until > now), None)

    def known(self, token: str) -> bool:
        return _hash(token) in self._sessions


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
