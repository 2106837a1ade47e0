"""A contributor's folder: its keys, its delegation, and the lock that keeps a second agent out.

    contributors/<name>/
      lock               held while an agent runs
      wallet.json        only where this machine made the wallet itself (fine on a local chain)
      agent.json         the key that signs hellos, acknowledgements and commits
      sealing/<t>.key    X25519 keys by the unix second they expire; the newest one is announced
      delegation.json    signed by the wallet
      probes.json        see probes.py
      jobs/              see files.py
      devices/<n>/       where several devices work under these keys: what each has of its own (lock, sealing keys,
                         probes, jobs)

The payout wallet belongs on another machine: give its address and a delegation that it signed there.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import Signer, offchain_message, read_or_make_key
from cloudlinkup.crypto.seal import SealingKey
from cloudlinkup.errors import BadInput, ProtocolError, Unavailable
from cloudlinkup.types import canonical_json
from cloudlinkup.wire.messages import Delegation, Signed, agent_name, sign, verify

DELEGATION_SECONDS = 30 * 86_400
SEALING_SECONDS = 7 * 86_400
_RENEW = 86_400  # seconds before its end at which a key or our own delegation is made anew


@dataclass(frozen=True)
class Identity:
    """Who this contributor is. `own_wallet` is None where the wallet's key is kept elsewhere.

    `device`: which of several that work under one agent key, None for the only one; `folder` is then that device's.
    """

    folder: Path
    wallet: str
    own_wallet: Signer | None
    agent: Signer
    device: int | None = None

    @property
    def name(self) -> str:
        """What this device is called: the agent key, or one device of several as key/0, key/1."""
        return agent_name(str(self.agent.public), self.device)

    @property
    def kept_delegations(self) -> tuple[Path, ...]:
        """Where a delegation may lie: here, or beside the keys that several devices share."""
        shared = () if self.device is None else (self.folder.parent.parent / "delegation.json",)
        return (self.folder / "delegation.json", *shared)

    @property
    def sealing_keys(self) -> list[tuple[int, SealingKey]]:
        """(expiry in unix seconds, key), newest first; makes one when none lasts another day, forgets expired ones."""
        folder, now = self.folder / "sealing", int(time.time())
        folder.mkdir(mode=0o700, exist_ok=True)
        keys = []
        for path in folder.glob("*.key"):
            if not path.stem.isdigit() or int(path.stem) <= now:
                path.unlink(missing_ok=True)
            else:
                keys.append((int(path.stem), SealingKey.from_file(path)))
        if not keys or max(expiry for expiry, _ in keys) < now + _RENEW:
            expiry, key = now + SEALING_SECONDS, SealingKey.generate()
            key.write(folder / f"{expiry}.key")
            keys.append((expiry, key))
        return sorted(keys, key=lambda pair: pair[0], reverse=True)


def contributor_name(name: str) -> str:
    """Raises BadInput for a name that is not a plain folder name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
        raise BadInput("--name", name, "not a plain name", "use lower-case letters, digits, - and _ (at most 32)")
    return name


def open_identity(folder: Path, wallet: str | None) -> Identity:
    """The identity in `folder`, made on first use. `wallet`: an address whose key is kept elsewhere.

    Raises BadInput for an address that is none, Unavailable for unreadable key files.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    agent = Signer(read_or_make_key(folder / "agent.json"))
    if wallet is None:
        own = Signer(read_or_make_key(folder / "wallet.json"))
        return Identity(folder, str(own.public), own, agent)
    try:
        address = str(Pubkey.from_string(wallet))
    except ValueError:
        raise BadInput("--wallet", wallet, "not a base58 address", "give the wallet's public address") from None
    return Identity(folder, address, None, agent)


def of_device(identity: Identity, device: int) -> Identity:
    """The same wallet and agent key for one device of several, with a folder of its own."""
    folder = identity.folder / "devices" / str(device)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return replace(identity, folder=folder, device=device)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder for this process. Raises Unavailable when another agent runs from it."""
    descriptor = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise Unavailable(f"{folder.name} already runs here. Fix: stop it, or use another --name") from None
    try:
        yield
    finally:
        os.close(descriptor)


def delegation_text(identity: Identity, *, gateway: str, genesis: str, program: str, expires: int) -> Delegation:
    """What the wallet signs, once."""
    return Delegation(
        genesis=genesis,
        program=program,
        wallet=identity.wallet,
        agent=str(identity.agent.public),
        gateway=gateway,
        expires=expires,
    )


def printable_delegation(document: Delegation) -> dict[str, str]:
    """For signing on another machine: the text, and the exact bytes of the Solana off-chain message around it."""
    text = canonical_json(document)
    message = offchain_message(Pubkey.from_string(document.wallet), Pubkey.from_string(document.program), text)
    return {"text": text.decode("ascii"), "signer": document.wallet, "message_hex": message.hex()}


def delegation_for(identity: Identity, given: Path | None, *, gateway: str, genesis: str, program: str) -> Signed:
    """A valid delegation to this agent at this gateway: the file given, the one kept, or one our own wallet signs.

    Raises BadInput when there is none and the wallet's key is not here, or when the one given does not fit.
    """
    kept, *shared = identity.kept_delegations
    facts = {"gateway": gateway, "genesis": genesis, "program": program}
    if given is not None:
        try:
            signed = Signed.from_bytes(given.read_bytes())
            check_delegation(identity, signed, now=int(time.time()), **facts)
        except OSError:
            raise BadInput(
                "--delegation", str(given), "cannot be read", "name the file that the wallet signed"
            ) from None
        except ProtocolError as error:
            fix = "sign the text that --print-delegation shows"
            raise BadInput("--delegation", str(given), str(error), fix) from None
        _write_private(kept, signed.to_bytes())
        return signed
    margin = _RENEW if identity.own_wallet else 0
    for place in (kept, *shared):
        try:
            signed = Signed.from_bytes(place.read_bytes())
            check_delegation(identity, signed, now=int(time.time()) + margin, **facts)
            return signed
        except (OSError, ProtocolError):
            continue
    if identity.own_wallet is None:
        raise BadInput(
            "--delegation", None, f"{identity.wallet} has not delegated to this agent at {gateway}",
            "sign the text that --print-delegation shows and name the file with --delegation",
        )  # fmt: skip
    expires = int(time.time()) + DELEGATION_SECONDS
    signed = sign(identity.own_wallet, delegation_text(identity, expires=expires, **facts))
    _write_private(kept, signed.to_bytes())
    return signed


def check_delegation(
    identity: Identity, signed: Signed, *, now: int, gateway: str, genesis: str, program: str
) -> Delegation:
    """Raises ProtocolError unless the wallet delegated to this agent, there, until after `now`."""
    document = verify(Delegation, signed, signer=identity.wallet, genesis=genesis, program=program)
    if (document.wallet, document.agent) != (identity.wallet, str(identity.agent.public)):
        raise ProtocolError("the delegation is of another wallet or to another agent key")
    if document.gateway != gateway:
        raise ProtocolError(f"the delegation is for the gateway {document.gateway}, not for {gateway}")
    if document.expires <= now:
        raise ProtocolError("the delegation has expired")
    return document


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)
