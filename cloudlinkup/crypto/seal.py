"""Sealing: what leaves the flow or an agent is ciphertext that opens for one recipient in one place of the protocol.

A blob is AES-256-GCM in chunks of 1 MiB under a fresh random key (the STREAM construction): chunk i's nonce is
``prefix (7) || i (4, big-endian) || last flag (1)`` and its associated data is the header, so that cutting off, adding,
swapping or repeating chunks does not open. The content key is sealed by HPKE (X25519, HKDF-SHA256, AES-256-GCM, RFC
9180 base mode) to the recipient, with the place it belongs to (`wire.hashes.seal_context`) as HPKE's ``info``.

    blob:        "CLS1" (4) || prefix (7) || chunk 0 || ... ; a chunk is up to 1 MiB of ciphertext and a 16-byte tag
    sealed key:  X25519 public key (32) || content key and tag (48)

Not covered: who sealed it. HPKE's base mode authenticates no sender; the signed order and the hashes in it do.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from cloudlinkup.errors import SealError, Unavailable

CHUNK = 2**20  # bytes of plaintext a chunk
KEY_BYTES = 32
SEALED_KEY_BYTES = 32 + KEY_BYTES + 16

_MAGIC = b"CLS1"
_PREFIX = 7
_HEADER = len(_MAGIC) + _PREFIX
_TAG = 16
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def sealed_size(plaintext_bytes: int) -> int:
    """Bytes of the blob that `encrypt_blob` makes of so many bytes."""
    return _HEADER + plaintext_bytes + _TAG * max(1, -(-plaintext_bytes // CHUNK))


def encrypt_blob(plaintext: bytes) -> tuple[bytes, bytes]:
    """The blob and its fresh 32-byte content key."""
    key = os.urandom(KEY_BYTES)
    header = _MAGIC + os.urandom(_PREFIX)
    cipher, view, out = AESGCM(key), memoryview(plaintext), io.BytesIO()
    out.write(header)
    chunks = max(1, -(-len(view) // CHUNK))
    for i in range(chunks):
        out.write(cipher.encrypt(_nonce(header, i, i == chunks - 1), view[i * CHUNK : (i + 1) * CHUNK], header))
    return out.getvalue(), key


def decrypt_blob(ciphertext: bytes, content_key: bytes, max_bytes: int) -> bytes:
    """The plaintext, of at most `max_bytes`; the size is checked before anything is decrypted or allocated.

    Raises SealError for a wrong key and for every change of the blob.
    """
    body = len(ciphertext) - _HEADER
    chunks = -(-body // (CHUNK + _TAG))
    size = body - _TAG * chunks
    if chunks < 1 or size < 0 or ciphertext[: len(_MAGIC)] != _MAGIC:
        raise SealError("not a sealed blob")
    if size > max_bytes:
        raise SealError(f"a sealed blob of {size} bytes where at most {max_bytes} are allowed")
    if len(content_key) != KEY_BYTES:
        raise SealError(f"a content key has {KEY_BYTES} bytes, not {len(content_key)}")
    cipher, view, header, out = AESGCM(content_key), memoryview(ciphertext), ciphertext[:_HEADER], io.BytesIO()
    try:
        for i in range(chunks):
            start = _HEADER + i * (CHUNK + _TAG)
            out.write(cipher.decrypt(_nonce(header, i, i == chunks - 1), view[start : start + CHUNK + _TAG], header))
    except InvalidTag:
        raise SealError("a sealed blob does not open: wrong key, or it was changed, cut or reordered") from None
    return out.getvalue()


def seal_key(content_key: bytes, recipient_public: bytes, context: bytes) -> bytes:
    """The content key for one X25519 recipient and one context, 80 bytes. Raises SealError for an unusable key."""
    if len(content_key) != KEY_BYTES:
        raise SealError(f"a content key has {KEY_BYTES} bytes, not {len(content_key)}")
    try:
        return _SUITE.encrypt(content_key, X25519PublicKey.from_public_bytes(recipient_public), context)
    except ValueError:  # wrong length, or a point of low order
        raise SealError("not a usable X25519 public key") from None


def open_key(sealed: bytes, private: SealingKey, context: bytes) -> bytes:
    """The content key. Raises SealError for another recipient's key, another context or a changed one."""
    if len(sealed) != SEALED_KEY_BYTES:
        raise SealError(f"a sealed key has {SEALED_KEY_BYTES} bytes, not {len(sealed)}")
    try:
        return _SUITE.decrypt(sealed, private.private, context)
    except (InvalidTag, ValueError):
        raise SealError("a sealed key does not open: another recipient or context, or it was changed") from None


@dataclass(frozen=True)
class SealingKey:
    """A short-lived X25519 pair. `public` is what a signed hello or order names; `repr` shows nothing else."""

    private: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> SealingKey:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_file(cls, path: Path) -> SealingKey:
        """32 raw bytes as hex. Raises Unavailable when missing, malformed or readable by others."""
        try:
            if path.stat().st_mode & 0o077:
                raise Unavailable(f"sealing key {path} is readable by others. Fix: chmod 600 {path}")
            return cls(X25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text())))
        except FileNotFoundError:
            raise Unavailable(f"sealing key {path} is missing") from None
        except ValueError:
            raise Unavailable(f"sealing key {path} is not 64 hex digits") from None

    def write(self, path: Path) -> None:
        """Writes the key, 0600. Raises FileExistsError rather than overwrite."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.private.private_bytes_raw().hex())

    @property
    def public(self) -> str:
        """Hex, 64 digits."""
        return self.private.public_key().public_bytes_raw().hex()


def _nonce(header: bytes, counter: int, last: bool) -> bytes:
    return header[len(_MAGIC) :] + counter.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
