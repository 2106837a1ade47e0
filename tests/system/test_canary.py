"""No row and no secret leaves the places that are meant for it: not into Prefect's database, a log, an artifact.

Canary rows go through a job that ends well (with a cheat, so that a rejection is told and stored too) and canary cells
through two that are refused; then every byte that the stack and the contributors wrote is searched for them, for the
keys and for the jobs' secrets. The search is shown to find them where they belong.
"""

from __future__ import annotations

import base64
import shutil
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from cloudlinkup.crypto.identity import read_key
from cloudlinkup.home import ROLES
from cloudlinkup.tables.prepared import Prepared
from tests.conftest import post

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

WORD, NUMBER, CELL = "canary-7c1f0f5b-word", 27182818.28459, "canary-e9d2f6a4-cell"
PRIVATE = ("keys", "jobs", "contributors", "tls")  # folders of the home that may hold them, for its owner alone


def forms(secret: bytes) -> Iterable[bytes]:
    """As it might have been written down."""
    yield from (secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret).rstrip(b"="))
    yield from (str(list(secret))[1:-1].encode(), str(list(secret))[1:-1].replace(" ", "").encode())


def table(rows: int = 300) -> pd.DataFrame:
    """A category with the canary word, and one canary number."""
    dice = np.random.default_rng(5)
    size = dice.normal(size=rows)
    frame = pd.DataFrame({"name": dice.choice([WORD, "other", "third"], rows), "size": size, "amount": size * 3})
    frame["answer"] = np.where(frame["size"] > 0, 1, 0)
    frame.loc[7, "amount"] = NUMBER
    return frame


@pytest.fixture(scope="module")
def done(site: Site) -> dict[str, Any]:
    """Receipt of the job that ends well, and what is said of the two that are refused."""
    allow = site.wallets("one", "two", "lazy")
    paths = {name: site.stack.rows / f"canary-{name}.csv" for name in ("good", "label", "column")}
    table().to_csv(paths["good"], index=False)
    frame = table().astype({"answer": object})
    frame.loc[11, "answer"] = CELL  # a word where the job says that the label is a number
    frame.to_csv(paths["label"], index=False)
    table().assign(day=f"{CELL} 2026-01-01", gone=None).to_csv(paths["column"], index=False)

    def job(name: str, task: str) -> dict[str, Any]:
        data = {"uri": paths[name].as_uri(), "format": "csv", "label": "answer", "holdout": 0.2}
        return site.job(allow, data=data, task=task)

    running = [site.submit(job(*of)) for of in (("good", "classification"), ("label", "regression"))]
    running.append(site.submit(job("column", "classification")))
    refused = [one.end() for one in running[1:]]
    return {"receipt": running[0].receipt(), "refused": refused}


@pytest.fixture(scope="module")
def needles(site: Site, done: dict[str, Any]) -> dict[str, list[bytes]]:
    """What must not be found, by what it is."""
    request = done["receipt"]["request_id"]
    home, state = site.stack.home, site.state(request)
    assert state is not None
    rows = Prepared.load(home.job_folder(request) / "prepared")
    column = int(np.abs(rows.features).max(axis=0).argmax())
    row = rows.features[int(np.abs(rows.features[:, column]).argmax())]
    raw = np.float64(NUMBER).tobytes()
    found = {"row": [WORD.encode(), str(NUMBER).encode(), raw, row.tobytes()], "cell": [CELL.encode()]}
    keys = {role: home.key(role) for role in (*ROLES, "mint")}
    keys |= {f"{path.parent.name} {path.stem}": path for path in site.machines.root.glob("contributors/*/*.json")}
    for name, path in keys.items():
        if path.stem in (*ROLES, "mint", "wallet", "agent"):
            key = read_key(path)
            found[name] = [str(key).encode(), path.read_bytes().strip(), *forms(bytes(key)), *forms(bytes(key)[:32])]
    secrets = {"result key": state.result_key}
    secrets |= {f"partition {s.seat}": s.partition.content_key for s in state.seats if s.partition is not None}
    for one in site.rounds(request):
        secrets |= {f"round {one.round}": one.secret, f"snapshot {one.round}": one.snapshot_key}
    return found | {name: list(forms(bytes.fromhex(text))) for name, text in secrets.items()}


def whole(path: Path) -> bytes:
    """A file's bytes; of a database also every value, since a long one is stored in pieces."""
    data = path.read_bytes()
    if data.startswith(b"SQLite format 3"):
        with TemporaryDirectory() as folder:  # a copy: the local chain keeps its own locked
            for part in path.parent.glob(f"{path.name}*"):
                shutil.copy(part, folder)
            with closing(sqlite3.connect(Path(folder) / path.name)) as db:
                data += "\n".join(db.iterdump()).encode(errors="surrogateescape")
    return data


def hits(paths: Iterable[Path], needles: dict[str, list[bytes]]) -> set[tuple[str, str]]:
    """(what, where) of everything that was found."""
    found: set[tuple[str, str]] = set()
    for path in paths:
        try:
            data = whole(path)
        except FileNotFoundError:  # a log or journal that was just turned over
            continue
        found |= {(name, path.name) for name, forms in needles.items() if any(form in data for form in forms)}
    return found


def test_the_bad_cells_are_refused_without_being_shown(done: dict[str, Any]) -> None:
    for code, document, said in done["refused"]:
        assert code == 2, document
        assert CELL not in str(document) + said
        assert document["error"]["field"]
        assert document["error"]["fix"]


def test_the_search_finds_them_where_they_belong(site: Site, done: dict[str, Any], needles: dict[str, list[bytes]]):
    home, request = site.stack.home, done["receipt"]["request_id"]
    assert hits([site.stack.rows / "canary-good.csv"], needles) == {("row", "canary-good.csv")}
    assert ("row", "features.npy") in hits([home.job_folder(request) / "prepared" / "features.npy"], needles)
    told = {name for name, _ in hits([home.jobs_db], needles)}
    assert {"result key", "round 1", "snapshot 1", "partition 0"} <= told
    assert {(role, f"{role}.json") for role in ROLES} <= hits((home.root / "keys").glob("*"), needles)
    assert {line["state"] for line in done["receipt"]["contributors"]} == {"active", "rejected"}


def test_nothing_is_found_anywhere_else(site: Site, done: dict[str, Any], needles: dict[str, list[bytes]]) -> None:
    home = site.stack.home
    files = [
        path
        for path in home.root.rglob("*")
        if path.is_file()
        and path.relative_to(home.root).parts[0] not in PRIVATE
        and not path.name.startswith(home.jobs_db.name)
    ]
    names = {path.name for path in files}
    assert {"prefect.db", "prefect-worker.log", "cell.log", "localnet.db", "telemetry.db"} <= names
    assert hits([*files, *site.machines.logs.glob("*")], needles) == set()


@pytest.mark.parametrize("what", ["logs", "artifacts", "events", "flow_runs", "task_runs"])
def test_nothing_is_found_through_the_api(site: Site, needles: dict[str, list[bytes]], what: str) -> None:
    answer = post(f"{site.settings.prefect_api}/{what}/filter", {})
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 100
    assert [name for name, forms in needles.items() if any(form in answer.content for form in forms)] == []


def test_a_contributor_keeps_no_row_of_an_ended_job(site: Site, needles: dict[str, list[bytes]]) -> None:
    rows = {name: needles[name] for name in ("row", "cell")}
    kept = [path for path in site.machines.root.rglob("*") if path.is_file()]
    assert kept
    assert hits(kept, rows) == set()


def test_what_may_hold_them_is_its_owners_alone(site: Site, done: dict[str, Any]) -> None:
    home = site.stack.home
    private = [home.jobs_db, home.job_folder(done["receipt"]["request_id"]), *(home.root / "keys").glob("*")]
    private += site.machines.root.glob("contributors/*/wallet.json")
    private += site.machines.root.glob("contributors/*/agent.json")
    for path in (*private, home.root):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
