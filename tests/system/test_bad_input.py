"""Bad input through `submit`: exit code 2, one document with field, value and fix, and no money is locked.

What the command line can see is refused there. What only the rows show is refused by the run; and the run refuses by
itself what another client than our command line sends it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pandas as pd
import pytest

from cloudlinkup.jobs import JobView
from tests.conftest import post
from tests.system.site import wait_for

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SEEN_AT_ONCE: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown field": ({"surprise": 1}, "surprise", "remove it"),
    "wrong type": ({"train": {"samples": "many"}}, "train.samples", "correct it"),
    "deadline in the past": ({"deadline": "2020-01-01T00:00:00Z"}, "deadline", "later"),
    "model over the caps": ({"model": {"kind": "mlp", "hidden": [100_000]}}, "model.hidden[0]", "correct it"),
    "a system file": ({"uri": "file:///etc/passwd"}, "data.uri", ""),
    "a link-local address": ({"uri": "https://169.254.169.254/latest/meta-data"}, "data.uri", ""),
    "a chain of file systems": ({"uri": "zip://x.csv::file:///etc/passwd"}, "data.uri", ""),
    "a file that is not there": ({"uri": "nowhere.csv"}, "data.uri", ""),
}
SEEN_IN_THE_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "missing label": ({"label": "nobody"}, "data.label"),
    "all-missing column": ({}, "empty"),
    "budget too small": ({"budget": "0.000001", "drop": "empty"}, "budget"),
}


@pytest.fixture(scope="module")
def free(site: Site) -> int:
    """The client's free balance before all of it."""
    return asyncio.run(site.free())


def bad(site: Site, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """A job on a good table with an empty column, changed for the worse."""
    frame = pd.DataFrame(
        {"a": range(90), "b": [n % 7 for n in range(90)], "empty": None, "y": [n % 2 for n in range(90)]}
    )
    path = site.stack.rows / f"bad-{name.replace(' ', '-')}.csv"
    frame.drop(columns=changes.get("drop", [])).to_csv(path, index=False)
    job = site.job(site.wallets("one"))
    job["data"] = {"uri": changes.get("uri", str(path)), "format": "csv", "label": changes.get("label", "y")}
    job |= {key: value for key, value in changes.items() if key not in ("uri", "label", "drop", "train")}
    job["train"] |= changes.get("train", {})
    return job


def check(code: int, document: dict[str, Any], field: str) -> dict[str, Any]:
    assert code == 2, document
    error = document["error"]
    assert (error["type"], error["exit_code"]) == ("BadInput", 2)
    assert field in error["field"]
    assert error["fix"]
    assert error["message"].startswith(f"{error['field']} = ")
    return error


def test_what_the_command_line_sees(site: Site, free: int) -> None:
    running = {name: site.submit(bad(site, name, case[0])) for name, case in SEEN_AT_ONCE.items()}
    for name, one in running.items():
        code, document, said = one.end()
        error = check(code, document, SEEN_AT_ONCE[name][1])
        assert SEEN_AT_ONCE[name][2] in error["fix"]
        assert "Prefect run" not in said, f"{name}: nothing was submitted"
    assert asyncio.run(site.free()) == free


def test_what_only_the_rows_show(site: Site, free: int) -> None:
    running = {name: site.submit(bad(site, name, case[0])) for name, case in SEEN_IN_THE_ROWS.items()}
    for name, one in running.items():
        code, document, _ = one.end()
        check(code, document, SEEN_IN_THE_ROWS[name][1])
        view = site.store.view(one.request_id)
        assert view is not None
        assert (view.stage, view.job_id) == ("failed", None), f"{name}: nothing was opened on chain"
    assert asyncio.run(site.free()) == free


def test_the_run_refuses_what_another_client_sends(site: Site, free: int) -> None:
    """Straight to Prefect's API, past the command line."""
    api, sent = site.settings.prefect_api, {}
    deployment = httpx.get(f"{api}/deployments/name/train/train", timeout=60).json()
    for uri in ("file:///etc/passwd", site.stack.home.key("owner").as_uri()):
        request = str(uuid.uuid4())
        job = bad(site, "direct", {"uri": uri})
        body = {"name": request, "parameters": {"job": job, "request_id": request}, "state": {"type": "SCHEDULED"}}
        answer = post(f"{api}/deployments/{deployment['id']}/create_flow_run", body)
        assert answer.status_code in (200, 201), answer.text
        sent[request] = uri

    def ended(request: str) -> JobView | None:
        view = site.store.view(request)
        return view if view is not None and view.finished else None

    for request, uri in sent.items():
        view = wait_for(lambda r=request: ended(r), f"{uri} is refused")
        assert view.stage == "failed"
        assert view.error is not None
        assert (view.error["error"], view.error["field"]) == ("BadInput", "data.uri")
        assert "root:" not in json.dumps(view.error)
    assert asyncio.run(site.free()) == free
