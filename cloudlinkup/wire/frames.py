"""Frames on the WebSocket between a contributor's agent and the gateway: one msgpack map a binary message.

    gateway                                    agent
    challenge(nonce, gateway, genesis, program) ->
                                            <- hello(delegation, hello)
    welcome(session, drain_seconds)  ->                  or refused(code, message) and close
    call(id, kind, body, deadline)   ->
                                            <- ack(id, signed)          only for `train`
                                            <- ask_ticket(id, sha256, size)      before each PUT
    ticket(id, sha256, token)        ->                  or refused(code, message, id)
                                            <- reply(id, body)          or failed(id, code, message)
    cancel(id)                       ->
                                            <- drain()                  no new calls; running ones finish

Liveness is WebSocket ping and pong. A blob is `GET /blobs/{sha256}` with `Authorization: Bearer <session>`, or
`PUT /blobs/{sha256}` with `Authorization: Bearer <token>` (one use) on the same TLS port.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from cloudlinkup.errors import ProtocolError
from cloudlinkup.wire.calls import MAX_BODY, CallKind
from cloudlinkup.wire.messages import Hex32, Key, Short, Signed
from cloudlinkup.wire.packed import Packed, decode

MAX_FRAME = MAX_BODY + 64 * 1024
PROTOCOL = 1
T = TypeVar("T")

CallId = Annotated[int, Field(ge=0, le=2**53)]
Token = Annotated[str, Field(min_length=16, max_length=128)]


class Challenge(Packed):
    t: Literal["challenge"] = "challenge"
    protocol: int = PROTOCOL
    nonce: Hex32
    gateway: Short
    genesis: Key
    program: Key


class HelloFrame(Packed):
    t: Literal["hello"] = "hello"
    delegation: Signed
    hello: Signed


class Welcome(Packed):
    t: Literal["welcome"] = "welcome"
    session: Token


class Refused(Packed):
    """`id` where it answers a request for a ticket; None where it ends the connection."""

    t: Literal["refused"] = "refused"
    code: Short
    message: Short
    id: CallId | None = None


class Call(Packed):
    t: Literal["call"] = "call"
    id: CallId
    kind: CallKind
    body: bytes
    deadline: float


class Cancel(Packed):
    t: Literal["cancel"] = "cancel"
    id: CallId


class AckFrame(Packed):
    t: Literal["ack"] = "ack"
    id: CallId
    signed: Signed


class AskTicket(Packed):
    t: Literal["ask_ticket"] = "ask_ticket"
    id: CallId
    sha256: Hex32
    size: Annotated[int, Field(ge=0)]


class Ticket(Packed):
    t: Literal["ticket"] = "ticket"
    id: CallId
    sha256: Hex32
    token: Token


class Reply(Packed):
    t: Literal["reply"] = "reply"
    id: CallId
    body: bytes


class Failed(Packed):
    t: Literal["failed"] = "failed"
    id: CallId
    code: Short
    message: Short


class Drain(Packed):
    t: Literal["drain"] = "drain"


ToAgent = Challenge | Welcome | Refused | Call | Cancel | Ticket
ToGateway = HelloFrame | AckFrame | AskTicket | Reply | Failed | Drain

_to_agent: TypeAdapter[ToAgent] = TypeAdapter(Annotated[ToAgent, Field(discriminator="t")])
_to_gateway: TypeAdapter[ToGateway] = TypeAdapter(Annotated[ToGateway, Field(discriminator="t")])


def read_for_agent(data: bytes) -> ToAgent:
    """A frame from the gateway. Raises ProtocolError."""
    return _read(_to_agent, data)


def read_for_gateway(data: bytes) -> ToGateway:
    """A frame from an agent. Raises ProtocolError."""
    return _read(_to_gateway, data)


def _read(adapter: TypeAdapter[T], data: bytes) -> T:
    try:
        return adapter.validate_python(decode(data, MAX_FRAME))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ProtocolError(f"bad frame: {first['msg']}") from None
