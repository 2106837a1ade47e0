"""A signer whose key lives outside this process: a hardware wallet, a key service, a guarded machine.

A file in a key file's place, 0600, describes it:

    {"public": "BASE58", "command": ["program", "argument"], "timeout": 30}

Each signature is one run of the command (no shell): the bytes to sign on standard input, 64 raw bytes or their base58
on standard output. Every answer is verified against `public`, so a wrong or broken signer cannot be mistaken for a
refusal of the chain. `timeout` is in seconds; a transaction's block hash lives about a minute on a cluster.

Not covered: asking for several signatures at once; keeping the command running.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import IO

from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from cloudlinkup.crypto.identity import Signer, offchain_message
from cloudlinkup.errors import Unavailable

TIMEOUT = 30.0
LONGEST = 600.0
_MOST_BYTES = 4_096  # of a description; of an answer that can still be a signature with blanks around it


class CommandSigner(Signer):
    """Signs by running `command`. Raises Unavailable when it fails, takes too long, or gives anything but a signature
    of `public` over what was asked."""

    def __init__(self, public: Pubkey, command: tuple[str, ...], timeout: float = TIMEOUT) -> None:
        self._public, self._command, self._timeout = public, command, timeout

    @classmethod
    def from_file(cls, path: Path) -> CommandSigner:
        """Raises Unavailable when the description is missing, malformed, or open to others."""
        try:
            if path.stat().st_mode & 0o077:
                raise Unavailable(f"signer file {path} is open to others. Fix: chmod 600 {path}")
            raw = json.loads(path.read_text())
            command, timeout = raw["command"], float(raw.get("timeout", TIMEOUT))
            if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
                raise ValueError("command")
            if not 0 < timeout <= LONGEST:
                raise ValueError("timeout")
            return cls(Pubkey.from_string(raw["public"]), tuple(command), timeout)
        except FileNotFoundError:
            raise Unavailable(f"signer file {path} is missing") from None
        except (ValueError, TypeError, KeyError):
            raise Unavailable(
                f"signer file {path} is malformed. Fix: give it public (base58), command (a list of words) and, if "
                f"you like, timeout (seconds up to {LONGEST:g})"
            ) from None

    @property
    def public(self) -> Pubkey:
        return self._public

    @property
    def keypair(self) -> Keypair:
        raise Unavailable(f"the key of {self._public} is with an external signer and cannot be handed out")

    def sign_text(self, program: Pubkey, text: bytes) -> bytes:
        return bytes(self._sign(offchain_message(self._public, program, text)))

    def sign_transaction_message(self, message: bytes) -> Signature:
        return self._sign(message)

    def _sign(self, message: bytes) -> Signature:
        who = f"the external signer of {self._public}"
        try:
            done = subprocess.run(self._command, input=message, capture_output=True, timeout=self._timeout, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{who} took longer than {self._timeout:g} s. Fix: confirm sooner, and repeat") from None
        except OSError as error:
            raise Unavailable(f"{who} cannot be run ({error.strerror}). Fix: correct its command") from None
        if done.returncode != 0:
            raise Unavailable(f"{who} failed with exit code {done.returncode}. Fix: run it by hand, and look")
        signature = _signature(done.stdout)
        if signature is None or not signature.verify(self._public, message):
            raise Unavailable(f"{who} gave no signature of that key. Fix: correct its key or its command")
        return signature

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CommandSigner) and self._public == other._public

    def __hash__(self) -> int:
        return hash(self._public)

    def __repr__(self) -> str:
        return f"CommandSigner({self._public})"


def describes_command(path: Path) -> bool:
    """Whether a file in a key file's place is a description (a JSON object) and not a key (a list)."""
    try:
        with path.open("rb") as file:
            return _first(file) == b"{"
    except OSError:
        return False


def _first(file: IO[bytes]) -> bytes:
    return file.read(_MOST_BYTES).lstrip()[:1]


def _signature(answer: bytes) -> Signature | None:
    """64 raw bytes, or their base58 with blanks around it."""
    if len(answer) > _MOST_BYTES:
        return None
    try:
        return Signature.from_bytes(answer) if len(answer) == 64 else Signature.from_string(answer.decode().strip())
    except ValueError:
        return None
