"""Keys and the delegation: made once, private, checked for the right gateway, chain, agent and time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.agent.identity import (
    contributor_name,
    delegation_for,
    delegation_text,
    locked,
    open_identity,
    printable_delegation,
)
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput, Unavailable
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.wire.messages import Delegation, Signed, sign, verify
from tests.agent.chain_server import GENESIS

PLACE = {"gateway": "wss://gateway.test:1", "genesis": GENESIS, "program": PROGRAM_ID}


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    first, again = open_identity(tmp_path / "a", None), open_identity(tmp_path / "a", None)
    assert (first.wallet, first.agent.public) == (again.wallet, again.agent.public)
    assert first.sealing_keys[0][1].public == again.sealing_keys[0][1].public
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    for path in (tmp_path / "a").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_sealing_keys_are_renewed_and_expired_ones_forgotten(tmp_path: Path) -> None:
    identity = open_identity(tmp_path / "a", None)
    (expiry, key) = identity.sealing_keys[0]
    folder = tmp_path / "a" / "sealing"
    soon = int(time.time()) + 3_600
    (folder / f"{expiry}.key").rename(folder / f"{soon}.key")
    renewed = identity.sealing_keys
    assert [k.public for _, k in renewed][1:] == [key.public]  # still opens what is in flight
    assert renewed[0][0] > soon
    (folder / f"{soon}.key").rename(folder / "1000.key")
    assert [k.public for _, k in identity.sealing_keys] == [renewed[0][1].public]


def test_own_wallet_signs_a_delegation_and_keeps_it(tmp_path: Path) -> None:
    identity = open_identity(tmp_path / "a", None)
    signed = delegation_for(identity, None, **PLACE)
    document = verify(Delegation, signed, signer=identity.wallet, genesis=GENESIS, program=PROGRAM_ID)
    assert (document.agent, document.gateway) == (str(identity.agent.public), PLACE["gateway"])
    assert delegation_for(identity, None, **PLACE) == signed
    elsewhere = delegation_for(identity, None, **(PLACE | {"gateway": "wss://other.test"}))
    assert elsewhere != signed


def test_a_cold_wallet_signs_elsewhere(tmp_path: Path) -> None:
    wallet = Keypair()
    identity = open_identity(tmp_path / "a", str(wallet.pubkey()))
    with pytest.raises(BadInput, match="print-delegation"):
        delegation_for(identity, None, **PLACE)
    document = delegation_text(identity, expires=int(time.time()) + 100, **PLACE)
    printed = printable_delegation(document)
    # the wallet's machine signs exactly the printed bytes
    signature = wallet.sign_message(bytes.fromhex(printed["message_hex"]))
    signed = sign(Signer(wallet), document)
    assert signed.text == printed["text"]
    assert signature.verify(Pubkey.from_string(printed["signer"]), bytes.fromhex(printed["message_hex"]))
    file = tmp_path / "signed.json"
    file.write_bytes(signed.to_bytes())
    assert delegation_for(identity, file, **PLACE) == signed
    assert delegation_for(identity, None, **PLACE) == signed  # kept


@pytest.mark.parametrize(
    "changes", [{"gateway": "wss://other.test"}, {"expires": 1}, {"agent": str(Keypair().pubkey())}, {"genesis": None}]
)
def test_refuses_a_delegation_that_does_not_fit(tmp_path: Path, changes: dict[str, object]) -> None:
    wallet = Keypair()
    identity = open_identity(tmp_path / "a", str(wallet.pubkey()))
    document = delegation_text(identity, expires=int(time.time()) + 100, **PLACE)
    if "genesis" in changes:
        changes = {"genesis": str(Keypair().pubkey())}
    file = tmp_path / "signed.json"
    file.write_bytes(sign(Signer(wallet), document.model_copy(update=changes)).to_bytes())
    with pytest.raises(BadInput):
        delegation_for(identity, file, **PLACE)
    assert not (tmp_path / "a" / "delegation.json").exists()
    forged = sign(Signer(Keypair()), document)
    file.write_bytes(forged.to_bytes())
    with pytest.raises(BadInput):
        delegation_for(identity, file, **PLACE)
    file.write_bytes(b"{}")
    with pytest.raises(BadInput):
        delegation_for(identity, file, **PLACE)
    assert Signed.from_bytes(forged.to_bytes()) == forged


def test_one_agent_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Unavailable, match="already runs"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "x" * 33, "a b", "-a", os.sep])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(BadInput):
        contributor_name(name)
