"""What travels: one byte form, strict parsing, limits before anything is decoded, signatures over exact text."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import MAX_TEXT, Signer, check_text, offchain_message
from cloudlinkup.errors import ProtocolError
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.wire import frames, hashes
from cloudlinkup.wire.calls import (
    ACK_SECONDS,
    MAX_BODY,
    RESULT_LIMIT,
    BlobRef,
    CallRequest,
    CallResult,
    TrainCall,
    WeightsRef,
)
from cloudlinkup.wire.messages import Ack, AgentName, BadShard, Commit, Signed, agent_key, agent_name, sign, verify
from cloudlinkup.wire.packed import Packed, decode

GENESIS = "9" * 44
SIGNER, OTHER = (Signer(Keypair.from_seed(bytes([i] * 32))) for i in (1, 2))
ACK = Ack(genesis=GENESIS, program=PROGRAM_ID, order="ab" * 32)
NAMES = {"signer": str(SIGNER.public), "genesis": GENESIS, "program": PROGRAM_ID}
SIGNED = sign(SIGNER, ACK)

TO_AGENT = [
    frames.Challenge(nonce="0" * 64, gateway="g", genesis=GENESIS, program=PROGRAM_ID),
    frames.Welcome(session="s" * 43),
    frames.Refused(code="c", message="m", id=3),
    frames.Call(id=1, kind="train", body=b"\x00\xff", deadline=1.5),
    frames.Cancel(id=2**53),
    frames.Ticket(id=1, sha256="ab" * 32, token="t" * 43),
]
TO_GATEWAY = [
    frames.HelloFrame(delegation=SIGNED, hello=SIGNED),
    frames.AckFrame(id=1, signed=SIGNED),
    frames.AskTicket(id=1, sha256="ab" * 32, size=0),
    frames.Reply(id=1, body=bytes(MAX_BODY)),
    frames.Failed(id=1, code="c", message="m"),
    frames.Drain(),
]


@pytest.mark.parametrize("frame", TO_AGENT, ids=lambda f: f.t)
def test_frames_for_the_agent(frame: Any) -> None:
    assert frames.read_for_agent(frame.pack()) == frame
    with pytest.raises(ProtocolError):
        frames.read_for_gateway(frame.pack())


@pytest.mark.parametrize("frame", TO_GATEWAY, ids=lambda f: f.t)
def test_frames_for_the_gateway(frame: Any) -> None:
    assert len(frame.pack()) <= frames.MAX_FRAME
    assert frames.read_for_gateway(frame.pack()) == frame
    with pytest.raises(ProtocolError):
        frames.read_for_agent(frame.pack())


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSONISH.map(lambda value: bytes(msgpack.packb(value) or b"")))
def test_junk_is_refused(data: bytes) -> None:
    for read in (frames.read_for_agent, frames.read_for_gateway):
        with pytest.raises(ProtocolError):
            read(data)


@given(st.sampled_from([*TO_AGENT, *TO_GATEWAY[:3], *TO_GATEWAY[4:]]), st.data())
def test_changed_frames_are_refused_or_valid(frame: Packed, data: st.DataObject) -> None:
    """Whatever a byte becomes: a frame of the protocol or ProtocolError, and never another exception."""
    packed = frame.pack()
    at = data.draw(st.integers(0, len(packed) - 1))
    changed = packed[:at] + bytes([data.draw(st.integers(0, 255))]) + packed[at + 1 :]
    for read in (frames.read_for_agent, frames.read_for_gateway):
        with contextlib.suppress(ProtocolError):
            assert read(changed).pack()


@pytest.mark.parametrize(
    "document",
    [
        {"t": "reply", "id": 1, "body": b"", "more": 1},
        {"t": "reply", "id": -1, "body": b""},
        {"t": "reply", "id": 2**53 + 1, "body": b""},
        {"t": "reply", "id": 1},
        {"t": "ask_ticket", "id": 1, "sha256": "AB" * 32, "size": 1},
        {"t": "ask_ticket", "id": 1, "sha256": "ab" * 32 + "\n", "size": 1},
        {"t": "ask_ticket", "id": 1, "sha256": "ab" * 32, "size": -1},
        {"t": "failed", "id": 1, "code": "x" * 201, "message": ""},
        {"t": "nothing"},
        {"id": 1},
        [],
    ],
    ids=str,
)
def test_wrong_fields_are_refused(document: Any) -> None:
    with pytest.raises(ProtocolError):
        frames.read_for_gateway(bytes(msgpack.packb(document) or b""))


def test_limit_comes_before_decoding() -> None:
    with pytest.raises(ProtocolError, match="at most"):
        frames.read_for_gateway(bytes(frames.MAX_FRAME + 1))
    with pytest.raises(ProtocolError, match="at most 3"):
        decode(b"\x93\x01\x02\x03", 3)


def test_a_pickle_is_just_no_msgpack() -> None:
    with pytest.raises(ProtocolError):
        frames.read_for_gateway(pickle.dumps({"t": "drain"}))


@given(
    body=st.binary(max_size=100),
    deadline=st.floats(min_value=0.001, max_value=1e6),
    reads=st.lists(st.binary(min_size=32, max_size=32), max_size=3),
)
def test_requests_and_results(body: bytes, deadline: float, reads: list[bytes]) -> None:
    request = CallRequest(kind="train", body=body, deadline=deadline, reads=tuple(r.hex() for r in reads))
    assert CallRequest.unpack(request.pack(), RESULT_LIMIT) == request
    result = CallResult(body=body, ack=SIGNED, seconds=deadline, bytes_up=1, bytes_down=2)
    assert CallResult.unpack(result.pack(), RESULT_LIMIT) == result


def test_largest_request_fits() -> None:
    request = CallRequest(kind="finish", body=bytes(MAX_BODY), deadline=1, reads=("ab" * 32,) * 100)
    assert CallRequest.unpack(request.pack(), RESULT_LIMIT) == request
    with pytest.raises(ValidationError):
        CallRequest(kind="finish", body=bytes(MAX_BODY + 1), deadline=1)
    for deadline in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            CallRequest(kind="finish", body=b"", deadline=deadline)


# ---------------------------------------------------------------- signed documents


def test_sign_and_verify() -> None:
    assert verify(Ack, SIGNED, **NAMES) == ACK
    assert verify(Ack, Signed.from_bytes(SIGNED.to_bytes()), **NAMES) == ACK


@pytest.mark.parametrize(
    "change", [{"signer": str(OTHER.public)}, {"genesis": "8" * 44}, {"program": "1" * 32}], ids=lambda c: next(iter(c))
)
def test_document_holds_for_one_signer_chain_and_program(change: dict[str, str]) -> None:
    with pytest.raises(ProtocolError):
        verify(Ack, SIGNED, **{**NAMES, **change})


def test_later_fields_leave_earlier_documents_as_they_were() -> None:
    """Both sides may be of an earlier version: at its default a field is not in the text that is signed."""
    zero = "0" * 64
    commit = Commit(genesis=GENESIS, program=PROGRAM_ID, order=zero, root=zero, segments=1, upload=zero)
    assert "end_" not in sign(SIGNER, commit).text
    later = commit.model_copy(update={"end_moments": "2" * 64})
    signed = sign(SIGNER, later)
    assert verify(Commit, signed, **NAMES) == later and "end_moments" in signed.text
    spelled = {**json.loads(sign(SIGNER, commit).text), "end_moments": None}
    text = json.dumps(spelled, sort_keys=True, separators=(",", ":"))
    signature = base64.b64encode(SIGNER.sign_text(Pubkey.from_string(ACK.program), text.encode())).decode()
    with pytest.raises(ProtocolError, match="canonical"):
        verify(Commit, Signed(text=text, signer=str(SIGNER.public), signature=signature), **NAMES)


@pytest.mark.parametrize("kind", [BadShard, Commit])
def test_document_is_not_another_kind(kind: Any) -> None:
    with pytest.raises(ProtocolError):
        verify(kind, SIGNED, **NAMES)


def test_signature_of_another_is_refused() -> None:
    stolen = SIGNED.model_copy(update={"signature": sign(OTHER, ACK).signature})
    with pytest.raises(ProtocolError):
        verify(Ack, stolen, **NAMES)


@given(st.integers(0, 85), st.sampled_from("ABab01+/"))
def test_changed_signature_is_refused(at: int, to: str) -> None:
    changed = SIGNED.signature[:at] + to + SIGNED.signature[at + 1 :]
    if changed != SIGNED.signature:
        with pytest.raises(ProtocolError):
            verify(Ack, SIGNED.model_copy(update={"signature": changed}), **NAMES)


@given(st.text(max_size=60))
def test_text_that_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        verify(Ack, SIGNED.model_copy(update={"text": text}), **NAMES)


def test_offchain_message_is_bound_to_its_program() -> None:
    program, text = Pubkey.from_string(PROGRAM_ID), b"text"
    signature = SIGNER.sign_text(program, text)
    check_text(SIGNER.public, program, text, signature)
    for signer, prog, words in (
        (OTHER.public, program, text),
        (SIGNER.public, OTHER.public, text),
        (SIGNER.public, program, b"other"),
    ):
        with pytest.raises(ProtocolError):
            check_text(signer, prog, words, signature)
    assert offchain_message(SIGNER.public, program, text).startswith(b"\xffsolana offchain\x00")
    for size in (0, MAX_TEXT + 1):
        with pytest.raises(ProtocolError):
            offchain_message(SIGNER.public, program, bytes(size))


# ---------------------------------------------------------------- hashes

FIELDS = st.lists(st.binary(max_size=8) | st.text(max_size=8) | st.integers(0, 2**64 - 1), max_size=5)


@given(FIELDS, FIELDS)
def test_different_fields_never_collide(one: list[Any], other: list[Any]) -> None:
    same = [type(f) for f in one] == [type(f) for f in other] and one == other
    assert (hashes.digest(*one) == hashes.digest(*other)) == same


def test_fields_keep_their_borders_and_types() -> None:
    digests = {
        hashes.digest("ab", "c"),
        hashes.digest("a", "bc"),
        hashes.digest("abc"),
        hashes.digest(b"abc"),
        hashes.digest("abc", ""),
        hashes.digest(1),
        hashes.digest(b"\x01" + bytes(7)),
        hashes.digest(),
    }
    assert len(digests) == 8
    for number in (-1, 2**64):
        with pytest.raises(OverflowError):
            hashes.digest(number)


def test_purposes_are_apart() -> None:
    one = bytes(32)
    values = [
        hashes.order_leaf(one),
        hashes.segment_leaf(one, 1, 1, one),
        hashes.upload_leaf(one, 1),
        hashes.node(one, one),
        hashes.seat_leaf(1, one),
        hashes.secret_leaf(one),
        hashes.rows_seed(one, one, 1),
        hashes.partition_hash(one, one),
        hashes.challenge_seed(one, one, one),
        *(hashes.seal_context(d, "j", "r", 1) for d in ("data", "weights", "update", "opening")),
    ]
    assert len(set(values)) == len(values)


def test_an_order_whose_network_needs_a_large_import_has_longer_to_its_ack() -> None:
    blob = BlobRef(sha256="0" * 64, size=10**6, sealed_key=b"")
    signed = sign(SIGNER, Ack(genesis=GENESIS, program=PROGRAM_ID, order="0" * 64))

    def seconds(spec: bytes, **more: Any) -> float:
        weights = WeightsRef(snapshot=blob)
        return TrainCall(order=signed, spec=spec, partition=blob, salt=b"s" * 16, weights=weights, **more).ack_seconds

    whole = seconds(b'{"model":{"kind":"huggingface"}}')
    assert whole >= 90 and seconds(b'{"model":{"kind":"mlp"}}') == ACK_SECONDS
    assert seconds(b'{"model":{"kind":"huggingface"}}', frozen=blob) == whole + 1
    for junk in (b"", b"[]", b'{"model":3}', b"{", b"[" * 60_000, b"\xff"):
        assert seconds(junk) == ACK_SECONDS


def test_names_of_devices() -> None:
    key, names = str(Keypair().pubkey()), TypeAdapter(AgentName)
    for device in (None, 0, 1, 99):
        assert agent_key(names.validate_python(agent_name(key, device))) == key
    for bad in (
        f"{key}/",
        f"{key}/00",
        f"{key}/-1",
        f"{key}/100",
        f"{key}/a",
        f"{key}/0/1",
        f"{key}/0\n",
        "/0",
        f"{key} /0",
    ):
        with pytest.raises(ValidationError):
            names.validate_python(bad)
