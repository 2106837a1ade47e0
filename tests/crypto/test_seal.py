"""Sealing: round trips, and every manipulation of a blob or a sealed key that must not open."""

from __future__ import annotations

import stat
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.crypto import seal
from cloudlinkup.crypto.seal import (
    CHUNK,
    SealingKey,
    decrypt_blob,
    encrypt_blob,
    open_key,
    seal_key,
    sealed_size,
)
from cloudlinkup.errors import SealError, Unavailable
from cloudlinkup.wire.hashes import seal_context

HEADER = 11
SEALED_CHUNK = CHUNK + 16
KEY = SealingKey.generate()
CONTEXT = seal_context("data", "0" * 32, KEY.public, b"\x01" * 32)


def pattern(size: int) -> bytes:
    return (bytes(range(256)) * (size // 256 + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
def test_round_trip_at_chunk_borders(size: int) -> None:
    plaintext = pattern(size)
    blob, key = encrypt_blob(plaintext)
    assert len(blob) == sealed_size(size)
    assert decrypt_blob(blob, key, size) == plaintext


@given(st.binary(max_size=300))
def test_round_trip(plaintext: bytes) -> None:
    blob, key = encrypt_blob(plaintext)
    assert decrypt_blob(blob, key, 300) == plaintext
    assert plaintext not in blob or len(plaintext) <= 4  # short ones may stand there by chance, or be the magic


def test_never_twice_the_same() -> None:
    assert len({encrypt_blob(b"same")[0] for _ in range(20)}) == 20


@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    blob, key = encrypt_blob(b"forty-two bytes of something to be sealed.")
    at = data.draw(st.integers(0, len(blob) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :]
    with pytest.raises(SealError):
        decrypt_blob(changed, key, 1_000)


@given(cut=st.integers(0, 52))
def test_any_truncation_is_refused(cut: int) -> None:
    blob, key = encrypt_blob(b"forty-two bytes of something to be sealed.")
    with pytest.raises(SealError):
        decrypt_blob(blob[:cut], key, 1_000)


@given(st.binary(min_size=1, max_size=40))
def test_any_extension_is_refused(extra: bytes) -> None:
    blob, key = encrypt_blob(b"short")
    with pytest.raises(SealError):
        decrypt_blob(blob + extra, key, 1_000)


def chunks_of(blob: bytes) -> list[bytes]:
    return [blob[at : at + SEALED_CHUNK] for at in range(HEADER, len(blob), SEALED_CHUNK)]


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([0, 1], id="cut off at a chunk's border"),
        pytest.param([0], id="only the first chunk"),
        pytest.param([1, 0, 2], id="two swapped"),
        pytest.param([0, 1, 1, 2], id="one twice"),
        pytest.param([0, 2], id="one left out"),
        pytest.param([0, 1, 2, 2], id="the last twice"),
        pytest.param([0, 1, 2, 0], id="extended by another chunk"),
        pytest.param([2], id="only the last"),
    ],
)
def test_chunks_in_another_order_are_refused(order: list[int]) -> None:
    blob, key = encrypt_blob(pattern(3 * CHUNK))
    chunks = chunks_of(blob)
    assert len(chunks) == 3
    with pytest.raises(SealError):
        decrypt_blob(blob[:HEADER] + b"".join(chunks[i] for i in order), key, 10 * CHUNK)


def test_chunks_of_another_blob_under_the_same_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefix keeps two blobs apart even if a key were ever used twice."""
    import os

    real, fixed = os.urandom, os.urandom(32)
    monkeypatch.setattr(seal.os, "urandom", lambda size: fixed if size == 32 else real(size))
    first, key = encrypt_blob(pattern(2 * CHUNK))
    second, same = encrypt_blob(pattern(2 * CHUNK))
    assert key == same
    mixed = first[:HEADER] + chunks_of(first)[0] + chunks_of(second)[1]
    with pytest.raises(SealError):
        decrypt_blob(mixed, key, 2 * CHUNK)


def test_size_is_checked_before_anything_is_allocated() -> None:
    blob, key = encrypt_blob(pattern(4 * CHUNK))
    tracemalloc.start()
    with pytest.raises(SealError, match="at most 100"):
        decrypt_blob(blob, key, 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000


def test_decrypting_needs_little_more_than_the_plaintext() -> None:
    blob, key = encrypt_blob(pattern(16 * CHUNK))
    tracemalloc.start()
    decrypt_blob(blob, key, 16 * CHUNK)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 21 * CHUNK


def test_wrong_key_is_refused() -> None:
    blob, _ = encrypt_blob(b"text")
    for key in (bytes(32), b"", b"short"):
        with pytest.raises(SealError):
            decrypt_blob(blob, key, 100)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(SealError):
        decrypt_blob(junk, bytes(32), 10_000)
    with pytest.raises(SealError):
        open_key(junk, KEY, CONTEXT)


# ---------------------------------------------------------------- the content key


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_key_round_trip(content_key: bytes, context: bytes) -> None:
    assert open_key(seal_key(content_key, bytes.fromhex(KEY.public), context), KEY, context) == content_key


def test_key_opens_only_for_its_recipient() -> None:
    sealed = seal_key(bytes(32), bytes.fromhex(KEY.public), CONTEXT)
    with pytest.raises(SealError):
        open_key(sealed, SealingKey.generate(), CONTEXT)


@pytest.mark.parametrize(
    "context",
    [
        seal_context("weights", "0" * 32, KEY.public, b"\x01" * 32),
        seal_context("data", "1" * 32, KEY.public, b"\x01" * 32),
        seal_context("data", "0" * 32, "ab" * 32, b"\x01" * 32),
        seal_context("data", "0" * 32, KEY.public, b"\x02" * 32),
        seal_context("data", "0" * 32, KEY.public, b"\x01" * 32, 0),
        b"",
    ],
    ids=["direction", "job", "recipient", "partition", "one more field", "none"],
)
def test_key_opens_only_in_its_place(context: bytes) -> None:
    sealed = seal_key(bytes(32), bytes.fromhex(KEY.public), CONTEXT)
    with pytest.raises(SealError):
        open_key(sealed, KEY, context)


@given(at=st.integers(0, 79), flip=st.integers(1, 255))
def test_changed_sealed_key_is_refused(at: int, flip: int) -> None:
    sealed = seal_key(bytes(32), bytes.fromhex(KEY.public), CONTEXT)
    changed = sealed[:at] + bytes([sealed[at] ^ flip]) + sealed[at + 1 :]
    with pytest.raises(SealError):
        open_key(changed, KEY, CONTEXT)


def test_top_bit_of_the_ephemeral_key_is_bound() -> None:
    """X25519 itself ignores that bit; HPKE's key schedule does not."""
    sealed = seal_key(bytes(32), bytes.fromhex(KEY.public), CONTEXT)
    with pytest.raises(SealError):
        open_key(sealed[:31] + bytes([sealed[31] ^ 128]) + sealed[32:], KEY, CONTEXT)


@pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), b"\x01" + bytes(31)], ids=["empty", "short", "0", "1"])
def test_unusable_recipient_is_refused(public: bytes) -> None:
    with pytest.raises(SealError):
        seal_key(bytes(32), public, CONTEXT)


def test_only_content_keys_are_sealed() -> None:
    with pytest.raises(SealError):
        seal_key(b"secret", bytes.fromhex(KEY.public), CONTEXT)


# ---------------------------------------------------------------- key files


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "sealing.key"
    KEY.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SealingKey.from_file(path).public == KEY.public
    with pytest.raises(FileExistsError):
        KEY.write(path)


def test_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(Unavailable, match="missing"):
        SealingKey.from_file(path)
    KEY.write(path)
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        SealingKey.from_file(path)
    path.chmod(0o600)
    path.write_text("zz")
    with pytest.raises(Unavailable, match="64 hex"):
        SealingKey.from_file(path)


def test_repr_shows_no_secret() -> None:
    secret = KEY.private.private_bytes_raw().hex()
    assert secret not in repr(KEY) and secret not in str(KEY)
