"""The local stack as a user meets it: up, down, what is there, and that nothing is left behind. Real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml
from solders.pubkey import Pubkey

from cloudlinkup.crypto.identity import read_key
from cloudlinkup.home import PORTS, PROGRAM_ID, ROLES
from cloudlinkup.ledger.escrow import Ledger
from deployments import money
from tests.conftest import post

if TYPE_CHECKING:
    from tests.conftest import LocalStack

pytestmark = pytest.mark.system


def eventually(what: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return what()


def test_up_again_says_that_it_is_up(local_stack: LocalStack) -> None:
    again = local_stack.up()
    assert again["already_up"] is True
    assert again["pids"] == json.loads(local_stack.home.stack.read_text())["pids"]


def test_stack_json_tells_where_everything_is_and_no_secret(local_stack: LocalStack) -> None:
    text = local_stack.home.stack.read_text()
    stack = json.loads(text)
    assert stack["port_base"] == local_stack.base
    wanted = {"rpc_url", "gateway_url", "ca_file", "program_id", "mint", "owner", "scheduler", "prefect_api", "pids"}
    assert wanted <= set(stack)
    for role in (*ROLES, "mint"):
        path = local_stack.home.key(role)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = read_key(path)
        for secret in (str(key), bytes(key).hex(), path.read_text().strip("[]"), str(list(bytes(key)))[1:-1]):
            assert secret not in text
    for log in local_stack.home.logs.glob("*.log"):
        for role in ROLES:
            assert str(read_key(local_stack.home.key(role))) not in log.read_text()


async def test_the_chain_has_mint_terms_deposit_and_allowance(local_stack: LocalStack) -> None:
    stack = json.loads(local_stack.home.stack.read_text())
    mint, owner = Pubkey.from_string(stack["mint"]), Pubkey.from_string(stack["owner"])
    assert owner == read_key(local_stack.home.key("owner")).pubkey()
    async with Ledger.connect(stack["rpc_url"], PROGRAM_ID) as ledger:
        assert await ledger.mint_decimals(mint) == 6
        config = await ledger.config()
        assert (config.fee_bps, config.min_window, config.arbiter_window) == (250, 2, 2)
        assert await ledger.free_balance(owner, mint) == money.DEPOSIT
        client = await ledger.client(owner, mint)
        assert client is not None
        assert client.operator == read_key(local_stack.home.key("operator")).pubkey()
        assert client.verifier == read_key(local_stack.home.key("verifier")).pubkey()
        assert client.allowance_left == money.DEPOSIT
        before = await ledger.slot()
        await money.prepare(local_stack.home, stack["rpc_url"])  # a second time: nothing is missing
        assert await ledger.free_balance(owner, mint) == money.DEPOSIT
        assert await ledger.token_balance(owner, mint) == 0
        assert await ledger.slot() >= before


def test_prefect_has_the_deployments_of_prefect_yaml(local_stack: LocalStack) -> None:
    api = json.loads(local_stack.home.stack.read_text())["prefect_api"]
    train = httpx.get(f"{api}/deployments/name/train/train", timeout=60).json()
    assert train["entrypoint"] == "flows.train.train"
    assert train["enforce_parameter_schema"] is True
    assert train["work_pool_name"] == "local"
    assert train["global_concurrency_limit"]["limit"] == 2
    assert set(train["parameter_openapi_schema"]["properties"]) == {"job", "request_id"}
    found = post(f"{api}/deployments/filter", {}).json()
    wanted = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    assert {item["name"] for item in found} == {entry["name"] for entry in wanted}
    for entry in wanted:
        schedules = next(item["schedules"] for item in found if item["name"] == entry["name"])
        assert len(schedules) == len(entry.get("schedules", []))
        for there, here in zip(schedules, entry.get("schedules", []), strict=True):
            assert here.items() <= there["schedule"].items()
    retrain = next(item["id"] for item in found if item["name"] == "retrain-allocator")

    def runs() -> int:
        body = {"deployments": {"id": {"any_": [retrain]}}}
        return post(f"{api}/flow_runs/count", body).json()

    assert eventually(lambda: runs() > 0, 30), "the scheduler made no run of the cron schedule"


@pytest.mark.parametrize(
    "variables",
    [{"command": "touch pwned"}, {"env": {"LD_PRELOAD": "x"}}, {"env.LD_PRELOAD": "x"}, {"working_dir": "/"}],
)
def test_a_run_cannot_choose_what_is_executed(local_stack: LocalStack, variables: dict[str, object]) -> None:
    api = json.loads(local_stack.home.stack.read_text())["prefect_api"]
    found = httpx.get(f"{api}/deployments/name/train/train", timeout=60).json()
    job = {"data": {"uri": "x", "format": "csv", "label": "y"}, "model": {"kind": "mlp"}, "train": {"samples": 1}}
    job |= {"version": 1, "task": "regression", "budget": "1", "deadline": "2035-01-01T00:00:00Z"}
    body = {"parameters": {"job": job}, "job_variables": variables}
    answer = post(f"{api}/deployments/{found['id']}/create_flow_run", body)
    assert answer.status_code in (409, 422), answer.text
    assert "not allowed" in answer.text


def test_prefect_refuses_parameters_that_are_no_job(local_stack: LocalStack) -> None:
    api = json.loads(local_stack.home.stack.read_text())["prefect_api"]
    found = httpx.get(f"{api}/deployments/name/train/train", timeout=60).json()
    body = {"parameters": {"job": {"version": 1, "nonsense": True}}}
    answer = post(f"{api}/deployments/{found['id']}/create_flow_run", body)
    assert answer.status_code in (409, 422), answer.text


def test_a_taken_port_is_named_with_the_fix(own_stack: LocalStack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", own_stack.base + PORTS["gateway"]))
        other.listen()
        done = own_stack.call("up", "--port-base", str(own_stack.base))
    assert done.returncode == 3
    assert f"port {own_stack.base + PORTS['gateway']} (gateway) is taken" in done.stderr
    assert "--port-base" in done.stderr
    assert own_stack.processes() == []


def test_kill_9_of_up_while_starting_leaves_nothing(own_stack: LocalStack) -> None:
    starting = own_stack.start()
    assert eventually(lambda: len(own_stack.processes()) >= 4)
    starting.kill()
    starting.communicate(timeout=60)
    assert eventually(lambda: own_stack.processes() == [])


def test_ctrl_c_while_starting_leaves_nothing(own_stack: LocalStack) -> None:
    starting = own_stack.start()
    assert eventually(lambda: len(own_stack.processes()) >= 3)  # up, supervisor, one service: seconds before the end
    starting.send_signal(signal.SIGINT)
    _, errors = starting.communicate(timeout=60)
    assert starting.returncode == 130
    assert "interrupted" in errors
    assert own_stack.processes() == []


def test_kill_9_of_the_supervisor_leaves_nothing_and_up_finds_all_again(local_stack: LocalStack) -> None:
    first = local_stack.up()
    assert len(local_stack.processes()) >= 5
    os.kill(first["pids"]["supervisor"], signal.SIGKILL)
    assert eventually(lambda: local_stack.processes() == [])

    second = local_stack.up()
    assert second["already_up"] is False
    assert (second["mint"], second["owner"]) == (first["mint"], first["owner"])


def test_a_service_that_dies_is_started_again(local_stack: LocalStack) -> None:
    cell = local_stack.up()["pids"]["cell"]
    os.kill(cell, signal.SIGKILL)

    def now() -> int | None:
        return json.loads(local_stack.home.stack.read_text())["pids"]["cell"]

    assert eventually(lambda: now() not in (None, cell))


def test_down_leaves_nothing_and_may_be_repeated(local_stack: LocalStack) -> None:
    local_stack.up()
    local_stack.down()
    assert local_stack.processes() == []
    assert not local_stack.home.stack.exists()
    again = local_stack.call("down", "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"stopped": False})
