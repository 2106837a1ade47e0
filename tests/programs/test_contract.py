"""The IDL, the Rust source, the built program and AnchorPy say the same: constants, offsets, errors, names, bytes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from anchorpy.coder.coder import Coder
from anchorpy_core.idl import Idl as AnchorIdl  # pyright: ignore[reportMissingModuleSource]
from solders.pubkey import Pubkey

from cloudlinkup.home import PROGRAM_ID
from tests.programs.chain import (
    IDL_FILE,
    PROGRAM,
    ROOT,
    associated,
    camel,
    discriminator,
    idl,
    key,
    pda,
    snake,
)
from tests.programs.world import CONFIG, WINDOW, World

SOURCE = ROOT / "programs" / "escrow" / "src"


def source(name: str) -> str:
    return (SOURCE / name).read_text()


@pytest.fixture(scope="module")
def coder() -> Coder:
    return Coder(AnchorIdl.from_json(IDL_FILE.read_text()))


def offsets(fields: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """Where each fixed-size field starts, after the discriminator."""
    sizes = {"publicKey": 32, "u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8}
    at = 0
    for f in fields:
        yield snake(f["name"]), at
        kind = f["type"]
        if isinstance(kind, dict) and "vec" in kind:
            return
        at += sizes[kind] if isinstance(kind, str) else kind["array"][1]


def test_the_committed_program_has_the_committed_hash() -> None:
    want = (ROOT / "programs" / "escrow.so.sha256").read_text().split()[0]
    assert hashlib.sha256((ROOT / "programs" / "escrow.so").read_bytes()).hexdigest() == want


def test_every_attack_has_a_test_and_the_readme_names_only_tests_that_are_there() -> None:
    folder = ROOT / "tests" / "programs"
    text = "".join(path.read_text() for path in folder.glob("test_attack_*.py"))
    numbers = {int(found) for found in re.findall(r"def test_(\d\d)_", text)}
    assert numbers == set(range(1, 51))
    readme = (ROOT / "programs" / "escrow" / "README.md").read_text()
    named = {int(found) for found in re.findall(r"`test_(\d\d)_\*`", readme)}
    assert named and named <= numbers
    assert all((folder / f"{name}.py").exists() for name in re.findall(r"`(test_attack_[a-z]+)`", readme))


def test_the_address_is_the_localnets() -> None:
    assert idl().raw["metadata"]["address"] == PROGRAM_ID


def test_there_are_nineteen_instructions_and_the_program_knows_them() -> None:
    handlers = re.findall(r"^        (\w+) => ix::", source("lib.rs"), re.M)
    assert sorted(handlers) == sorted(idl().instructions)
    assert len(handlers) == 19


def test_the_specified_names_are_the_idls() -> None:
    """The IDL's camelCase names come back as the instruction names that discriminators are made of."""
    for name, entry in idl().instructions.items():
        assert camel(name) == entry["name"]


def test_constants_agree() -> None:
    stated = dict(re.findall(r"^pub const (MAX_\w+|OPEN_\w+|UNCLAIMED): \w+ = ([\d_]+);", source("state.rs"), re.M))
    assert {n: int(v.replace("_", "")) for n, v in stated.items()} == idl().constants


def test_errors_agree() -> None:
    stated = re.findall(r'^    (\d{4}) (\w+) "(.*)"$', source("error.rs"), re.M)
    listed = [(str(e["code"]), e["name"], e["msg"]) for e in idl().raw["errors"]]
    assert stated == listed
    assert [int(code) for code, _, _ in stated] == list(range(6000, 6041))


@pytest.mark.parametrize("name", ["Config", "Client", "Job", "Seat"])
def test_account_offsets_agree(name: str) -> None:
    block = re.search(rf"layout!\({name}, (\d+):(.*?)\);", source("state.rs"), re.S)
    assert block
    rust = {field: int(at) for field, at in re.findall(r"(\w+) @ (\d+)", block[2])}
    if name == "Seat":
        want = dict(offsets(idl().types["Seat"]))
        size = 96
    else:
        want = {"discriminator": 0} | {f: at + 8 for f, at in offsets(idl().accounts[name])}
        size = {"Config": 152, "Client": 208, "Job": 328}[name]
        if name == "Job":
            want["seat_count"] = want.pop("seats")
    assert rust == want
    assert int(block[1]) == size


def test_event_fields_agree() -> None:
    block = source("events.rs").split("\nevents! {")[1]
    kinds = {"&'a Address": "publicKey"} | {f"&'a [u8; {n}]": {"array": ["u8", n]} for n in (16, 32)}
    rust = {}
    for name, body in re.findall(r"(\w+) \{(.*?)\}", block, re.S):
        pairs = re.findall(r"(\w+): ([^,]+?)(?:,|$)", body.strip())
        rust[name] = [(n, kinds.get(k.strip(), k.strip())) for n, k in pairs]
    assert rust == {n: [(snake(f["name"]), f["type"]) for f in fields] for n, fields in idl().events.items()}


def test_anchorpys_discriminators_are_the_specified_ones(coder: Coder) -> None:
    for name in idl().instructions:
        assert coder.instruction.sighashes[name] == discriminator("global", name)
    for name in idl().accounts:
        assert coder.accounts.acc_name_to_discriminator[name] == discriminator("account", name)
    assert set(coder.events.discriminators) == {discriminator("event", n) for n in idl().events}


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "initialize": (key("a").pubkey(), key("b").pubkey(), key("c").pubkey(), 250, 10, 300),
    "set_config": (None, key("b").pubkey(), 7, None, 300, key("c").pubkey()),
    "accept_admin": (),
    "open_client": (),
    "set_operator": (key("a").pubkey(), key("b").pubkey(), 1, 2**63, -5, 9),
    "withdraw": (2**64 - 1,),
    "open_job": (bytes(range(16)), key("a").pubkey(), bytes(range(32)), 5, 6, 7, 8, 9),
    "assign_seats": (3, [(bytes(key("a").pubkey()), 1, 2), (bytes(key("b").pubkey()), 3, 4)]),
    "raise_caps": ([(1, 2), (3, 4)],),
    "accept_seat": (1, 2),
    "commit_round": (1, bytes(range(32))),
    "award": (1, [(1, 2), (3, 2**64 - 1)]),
    "pay": ([(1, 255), (2, 254)],),
    "pay_to": (9,),
    "dispute": ([1, 2, 1023],),
    "appeal": (1, 2),
    "resolve": (1, 2, 3),
    "finish_job": (),
    "close_job": (),
}


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_anchorpy_encodes_what_the_program_reads(name: str, coder: Coder) -> None:
    entry = idl().instructions[name]
    values = {}
    for f, value in zip(entry["args"], ARGUMENTS[name], strict=True):
        shape = f["type"]
        if isinstance(shape, dict) and isinstance(shape.get("vec"), dict):
            fields = [snake(x["name"]) for x in idl().types[shape["vec"]["defined"]]]
            value = [dict(zip(fields, item, strict=True)) for item in value]  # noqa: PLW2901
        values[snake(f["name"])] = value
    assert coder.instruction.encode(name, values) == idl().data(name, ARGUMENTS[name])


def test_anchorpy_reads_accounts_and_events(world: World, coder: Coder) -> None:
    job = world.job([300_000, 0], bonds=[0, 5])
    outcome = world.awarded(job, 100)
    entry = next(line for line in outcome.logs if line.startswith("Program data: "))
    event = coder.events.parse(base64.b64decode(entry.split(": ")[1]))
    assert (event.name, event.data.round, event.data.count, event.data.amount) == ("Awarded", 1, 1, 100)
    assert event.data.job == job.address

    data = coder.accounts.decode(world.chain.data(job.address))
    assert data.client == world.client
    assert data.job_id == list(job.id)
    assert (data.budget, data.caps_total, data.round, data.dispute_window) == (1_000_000, 300_000, 1, WINDOW)
    assert [(s.wallet, s.cap, s.awarded, s.fresh, s.bond, s.state) for s in data.seats] == [
        (world.wallet(0), 300_000, 100, 100, 0, 1),
        (world.wallet(1), 0, 0, 0, 5, 0),
    ]
    assert coder.accounts.decode(world.chain.data(CONFIG)).treasury == world.treasury
    client = coder.accounts.decode(world.chain.data(world.client))
    assert (client.operator, client.seq) == (world.operator, 2)


def test_addresses_follow_from_their_seeds(world: World) -> None:
    job = world.job()
    assert Pubkey.find_program_address([b"config"], PROGRAM) == (CONFIG, world.read_config().bump)
    seeds = [b"client", bytes(world.owner), bytes(world.mint)]
    assert Pubkey.find_program_address(seeds, PROGRAM) == (world.client, world.read_client().bump)
    seeds = [b"job", bytes(world.client), job.id]
    assert Pubkey.find_program_address(seeds, PROGRAM) == (job.address, world.read(job).bump)
    assert world.read(job).vault == pda(b"vault", job.address)
    assert world.read_client().vault == pda(b"vault", world.client)
    assert associated(world.treasury, world.mint)[0] == world.accounts("close_job")["treasury_token"]
