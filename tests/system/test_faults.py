"""What dies in mid-job: a contributor, the flow's process, the chain's. The job ends, and nothing is paid twice.

The moments are random, from a seed that is printed; CLOUDLINKUP_TEST_SEED repeats one.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import signal
import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from solders.pubkey import Pubkey

from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.ledger.accounts import JOB_TAG
from tests.system.site import wait_for

if TYPE_CHECKING:
    from tests.system.site import Machine, Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def jobs_on_chain(site: Site) -> int:
    """How many Job accounts there are: a job that was locked twice has two."""
    filters = [{"memcmp": {"offset": 0, "bytes": base64.b64encode(JOB_TAG).decode(), "encoding": "base64"}}]
    params = [PROGRAM_ID, {"encoding": "base64", "commitment": "confirmed", "filters": filters}]
    body = {"jsonrpc": "2.0", "id": 1, "method": "getProgramAccounts", "params": params}
    return len(httpx.post(site.settings.rpc_url, json=body, timeout=60).json()["result"])


async def held(site: Site, wallets: list[str]) -> tuple[int, dict[str, int]]:
    """What the client may lock, and what each wallet has been paid in all."""
    mint = site.settings.mint_key
    async with site.ledger() as ledger:
        amounts = [await ledger.token_balance(Pubkey.from_string(wallet), mint) for wallet in wallets]
    return await site.free(), dict(zip(wallets, amounts, strict=True))


def paid_by_the_step(site: Site, receipt: dict[str, Any]) -> None:
    """Everybody has what its verified steps earn, and all of the budget is accounted for."""
    state = site.state(receipt["request_id"])
    assert state is not None
    assert receipt["settled"]
    amounts = {key: int(receipt[key]) for key in ("budget", "paid", "fee", "refunded")}
    assert amounts["budget"] == amounts["paid"] + amounts["fee"] + amounts["refunded"]
    step = int(state.plan["segment_steps"])
    for line in receipt["contributors"]:
        assert int(line["paid"]) == line["accepted"] * step * state.price, line
    assert sum(line["accepted"] for line in receipt["contributors"]) * step == state.total_steps


# ---------------------------------------------------------------- contributors


def in_mid_shard(machine: Machine, round_: int) -> bool:
    """It has begun a shard of that round or a later one, and not ended it."""
    orders = [line["round"] for line in machine.events if line.get("event") == "order"]
    ended = [line["round"] for line in machine.events if line.get("event") == "trained"]
    return bool(orders) and orders[-1] >= round_ and orders[-1] not in ended


def test_contributors_that_die_or_leave_in_mid_round_keep_what_was_verified(site: Site) -> None:
    dies, leaves = site.start("dies", "leaves")
    allow = site.wallets("one", "dies", "leaves")
    job = site.job(allow, samples=115_200)
    job["model"]["hidden"], job["train"]["batch"] = [256, 256], 256  # shards of a second and more
    before, had = asyncio.run(held(site, allow))
    running = site.submit(job)

    wait_for(lambda: in_mid_shard(dies, 2) or None, "a shard of round 2")
    dies.kill()
    killed_in = next(line["round"] for line in reversed(dies.events) if line.get("event") == "order")
    wait_for(lambda: in_mid_shard(leaves, killed_in + 1) or None, "a shard of a later round")
    code = leaves.stop()
    left_in = next(line["round"] for line in reversed(leaves.events) if line.get("event") == "trained")

    receipt = running.receipt()
    paid_by_the_step(site, receipt)
    one, dead, left = sorted(receipt["contributors"], key=lambda line: allow.index(line["wallet"]))
    assert code == 0
    assert [line["state"] for line in (one, dead, left)] == ["active", "lost", "lost"]
    assert min(line["accepted"] for line in (one, dead, left)) > 0, "each was paid for the rounds that it finished"
    outcomes = {
        (entry.agent, one_round.round): entry.outcome
        for one_round in site.rounds(running.request_id)
        for entry in one_round.entries
    }
    seats = {seat.wallet: seat.agent for seat in site.state(running.request_id).seats}  # type: ignore[union-attr]
    assert outcomes[seats[dies.wallet], killed_in] == "lost"
    assert outcomes[seats[leaves.wallet], left_in] == "accepted", "it finished its shard, and stayed for the audit"
    assert max(round_ for agent, round_ in outcomes if agent == seats[dies.wallet]) == killed_in
    assert max(round_ for agent, round_ in outcomes if agent == seats[leaves.wallet]) == left_in
    after, have = asyncio.run(held(site, allow))
    assert {line["wallet"]: have[line["wallet"]] - had[line["wallet"]] for line in receipt["contributors"]} == {
        line["wallet"]: int(line["paid"]) for line in receipt["contributors"]
    }
    assert before - after == int(receipt["paid"]) + int(receipt["fee"])


# ---------------------------------------------------------------- the flow, the chain


def strike(site: Site, request: str, fault: str, dice: random.Random) -> str:
    """Waits for a random moment of the job and kills a process there. Says where that was."""
    seen = len(site.store.events(request)) if site.stack.home.jobs_db.exists() else 0
    wanted, more = dice.randint(1, 5), dice.uniform(0, 0.5)
    wait_for(
        lambda: (len(site.store.events(request)) >= seen + wanted and site.engine(request) is not None) or None,
        f"{wanted} more steps of the job",
    )
    time.sleep(more)
    events = [event.kind for event in site.store.events(request)]
    if fault == "localnet":
        process = site.stack.up()["pids"]["localnet"]
    else:
        engine = site.engine(request)
        assert engine is not None, f"the job was over before it was struck: {events}"
        process = engine.pid
    os.kill(process, signal.SIGKILL)
    return f"{fault} killed {more:.2f} s after {events[-1]} ({len(events)} events)"


def test_a_job_struck_at_random_moments_goes_on_and_pays_once(site: Site) -> None:
    seed = int(os.environ.get("CLOUDLINKUP_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CLOUDLINKUP_TEST_SEED={seed}")
    dice = random.Random(seed)
    allow = site.wallets("one", "two")
    job, request = site.job(allow, samples=16_000), str(uuid.uuid4())
    before, had = asyncio.run(held(site, allow))
    locked = jobs_on_chain(site)

    for fault in ("flow", "flow", "flow", "localnet"):
        running = site.submit(job, request)
        print(strike(site, request, fault, dice))
        code, document, said = running.end()
        print(code, document.get("error", {}).get("message"))
        if fault == "flow":
            assert code == 5, said
            assert "continues it" in document["error"]["message"]
        else:  # the chain comes back by itself; a run that met it while it was away ends, one that did not goes on
            assert code in (0, 3, 4, 5), said
    receipt = site.submit(job, request).receipt()

    paid_by_the_step(site, receipt)
    assert jobs_on_chain(site) == locked + 1
    after, have = asyncio.run(held(site, allow))
    for line in receipt["contributors"]:
        assert have[line["wallet"]] - had[line["wallet"]] == int(line["paid"])
    assert before - after == int(receipt["paid"]) + int(receipt["fee"])
