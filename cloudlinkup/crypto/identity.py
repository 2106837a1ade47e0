"""Keys and signatures.

A key file is Solana's own form (a JSON list of 64 numbers), 0600. What is signed off chain is always a Solana
off-chain message, version 0, so that a hardware wallet can show it and no transaction can ever be mistaken for it;
its application domain is our program id and its text is canonical JSON whose first-class fields are `purpose`,
`genesis` and `program`. Nobody signs bytes that it did not compose.
Format: https://docs.anza.xyz/proposals/off-chain-message-signing
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from cloudlinkup.errors import ProtocolError, Unavailable

_DOMAIN = b"\xffsolana offchain\x00"  # signing domain, then header version 0
_ASCII, _EXTENDED = 0, 2
_LEDGER_LIMIT = 1_232 - 85  # a hardware wallet's packet, less the header with one signer
MAX_TEXT = 65_535


def offchain_message(signer: Pubkey, program: Pubkey, text: bytes) -> bytes:
    """The exact bytes that are signed for `text` (printable ASCII up to 65,535 bytes)."""
    if not text or len(text) > MAX_TEXT:
        raise ProtocolError(f"a signed text has 1 to {MAX_TEXT} bytes, not {len(text)}")
    kind = _ASCII if len(text) <= _LEDGER_LIMIT else _EXTENDED
    header = _DOMAIN + bytes(program) + bytes([kind, 1]) + bytes(signer)
    return header + len(text).to_bytes(2, "little") + text


def sign_text(key: Keypair, program: Pubkey, text: bytes) -> bytes:
    """64-byte Ed25519 signature of an off-chain message."""
    return bytes(key.sign_message(offchain_message(key.pubkey(), program, text)))


def check_text(signer: Pubkey, program: Pubkey, text: bytes, signature: bytes) -> None:
    """Raises ProtocolError unless `signature` is `signer`'s over `text`."""
    if len(signature) != 64 or not Signature.from_bytes(signature).verify(
        signer, offchain_message(signer, program, text)
    ):
        raise ProtocolError(f"bad signature of {signer}")


def read_key(path: Path) -> Keypair:
    """A key file. Raises Unavailable (never with its content) when missing, malformed or readable by others."""
    try:
        if path.stat().st_mode & 0o077:
            raise Unavailable(f"key file {path} is readable by others. Fix: chmod 600 {path}")
        return Keypair.from_bytes(bytes(json.loads(path.read_text())))
    except FileNotFoundError:
        raise Unavailable(f"key file {path} is missing") from None
    except (ValueError, TypeError):
        raise Unavailable(f"key file {path} is not a list of 64 numbers") from None


def write_new_key(path: Path) -> Keypair:
    """Makes a key and its file (0600). Raises FileExistsError rather than overwrite."""
    key = Keypair()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(list(bytes(key)), file)
    return key


def read_or_make_key(path: Path) -> Keypair:
    """The key in `path`, made on first use."""
    return read_key(path) if path.exists() else write_new_key(path)


@dataclass(frozen=True)
class Signer:
    """The seam between code that needs signatures and where a key lives (here: a file, held in memory).

    `external.CommandSigner` is one whose key lives elsewhere. `repr` shows the public key only.
    """

    _key: Keypair

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """The key in a key file, or the external signer that the file describes. Raises Unavailable."""
        from cloudlinkup.crypto.external import CommandSigner, describes_command

        return CommandSigner.from_file(path) if describes_command(path) else cls(read_key(path))

    @property
    def public(self) -> Pubkey:
        return self._key.pubkey()

    def sign_text(self, program: Pubkey, text: bytes) -> bytes:
        return sign_text(self._key, program, text)

    def sign_transaction_message(self, message: bytes) -> Signature:
        """Signs a serialised transaction message that our own ledger client composed."""
        return self._key.sign_message(message)

    @property
    def keypair(self) -> Keypair:
        """For libraries that take a keypair (solana-py); never logged, never serialised."""
        return self._key

    def __repr__(self) -> str:
        return f"Signer({self.public})"
