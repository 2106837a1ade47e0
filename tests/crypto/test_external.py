"""A signer that is another program: its answers are verified, and each of its failures has a clear word."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from cloudlinkup.crypto.external import CommandSigner
from cloudlinkup.crypto.identity import Signer, check_text, write_new_key
from cloudlinkup.errors import Unavailable

SIGN = """
import json, sys
from solders.keypair import Keypair
key = Keypair.from_bytes(bytes(json.load(open(sys.argv[1]))))
signature = key.sign_message(sys.stdin.buffer.read())
sys.stdout.buffer.write(bytes(signature) if sys.argv[2] == "raw" else f"{signature}\\n".encode())
"""


def describe(path: Path, public: Pubkey, *command: str, **more: object) -> Path:
    path.touch(mode=0o600)
    path.write_text(json.dumps({"public": str(public), "command": list(command), **more}))
    return path


@pytest.mark.parametrize("form", ["raw", "base58"])
def test_signs_messages_and_texts(tmp_path: Path, form: str) -> None:
    key = write_new_key(tmp_path / "key.json")
    words = (sys.executable, "-c", SIGN, str(tmp_path / "key.json"), form)
    signer = Signer.from_file(describe(tmp_path / "signer.json", key.pubkey(), *words))
    assert isinstance(signer, CommandSigner) and signer.public == key.pubkey()
    assert signer.sign_transaction_message(b"a message") == key.sign_message(b"a message")
    program = Keypair().pubkey()
    check_text(signer.public, program, b"a text", signer.sign_text(program, b"a text"))
    assert repr(signer) == f"CommandSigner({key.pubkey()})"
    with pytest.raises(Unavailable, match="cannot be handed out"):
        _ = signer.keypair


def test_a_key_file_is_still_a_key_file(tmp_path: Path) -> None:
    key = write_new_key(tmp_path / "key.json")
    assert Signer.from_file(tmp_path / "key.json") == Signer(key)
    with pytest.raises(Unavailable, match="missing"):
        Signer.from_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import sys; sys.exit(3)", "exit code 3"),
        ("pass", "gave no signature"),
        ("import os; os.write(1, bytes(64))", "gave no signature"),
        ("import os; os.write(1, b'1' * 100_000)", "gave no signature"),
        ("import os; os.write(1, b'\\xff\\xfe')", "gave no signature"),
        ("import time; time.sleep(30)", "longer than 0.7 s"),
    ],
)
def test_a_signer_that_fails_says_how(code: str, problem: str) -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match=problem):
        CommandSigner(
            Keypair().pubkey(), (sys.executable, "-c", code), 0.7 if "sleep" in code else 20
        ).sign_transaction_message(b"x")
    assert time.monotonic() - start < 25


def test_another_keys_signature_is_not_taken(tmp_path: Path) -> None:
    write_new_key(tmp_path / "other.json")
    words = (sys.executable, "-c", SIGN, str(tmp_path / "other.json"), "raw")
    with pytest.raises(Unavailable, match="gave no signature of that key"):
        CommandSigner(Keypair().pubkey(), words).sign_transaction_message(b"x")
    with pytest.raises(Unavailable, match="cannot be run"):
        CommandSigner(Keypair().pubkey(), ("/nowhere/signer",)).sign_transaction_message(b"x")


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"public": "x", "command": ["a"]},
        {"public": str(Pubkey.default()), "command": "rm -rf"},
        {"public": str(Pubkey.default()), "command": []},
        {"public": str(Pubkey.default()), "command": ["a"], "timeout": 0},
        {"public": str(Pubkey.default()), "command": ["a"], "timeout": "soon"},
    ],
)
def test_malformed_descriptions(tmp_path: Path, document: object) -> None:
    path = tmp_path / "signer.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))
    with pytest.raises(Unavailable, match="malformed"):
        Signer.from_file(path)
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        Signer.from_file(path)
