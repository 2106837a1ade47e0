"""The race of round 0 through every process there is, struck with kill -9 in its midst: the totals are exact."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from typing import TYPE_CHECKING

import pytest

from models.plan import JobPlan
from tests.system.site import wait_for
from tests.system.test_faults import held, jobs_on_chain, paid_by_the_step

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

RACERS = ("racer-1", "racer-2", "racer-3")
PLACES = 2
STRUCK = ("trained", "raced")  # killed when this first shows: in the pilot before its audit, and once it is decided


def kinds(site: Site, request: str) -> list[str]:
    return [event.kind for event in site.store.events(request)]


def test_a_race_that_is_killed_in_it_and_after_it_goes_on_and_pays_once(site: Site) -> None:
    machines = site.start(*RACERS, options=("--ask", "0.000002/step"))  # one price, so that all three may race
    allow = site.wallets(*RACERS)
    job = site.job(allow, samples=24_000, contributors={"max": PLACES, "allow": allow})
    job["train"]["rounds"] = "stateless"  # kept rounds of such a job are too short for anybody to be raced for
    request, locked = str(uuid.uuid4()), jobs_on_chain(site)
    before, had = asyncio.run(held(site, allow))

    for kind in STRUCK:
        running = site.submit(job, request, "--for", "budget")
        wait_for(lambda k=kind: (k in kinds(site, request)) or None, f"{kind} of the job", 480)
        engine = site.engine(request)
        assert engine is not None, kinds(site, request)
        os.kill(engine.pid, signal.SIGKILL)
        code, document, said = running.end()
        assert code == 5 and "continues it" in document["error"]["message"], said
    receipt = site.submit(job, request, "--for", "budget").receipt()

    paid_by_the_step(site, receipt)
    assert jobs_on_chain(site) == locked + 1
    after, have = asyncio.run(held(site, allow))
    assert before - after == int(receipt["paid"]) + int(receipt["fee"])
    for line in receipt["contributors"]:
        assert have[line["wallet"]] - had[line["wallet"]] == int(line["paid"])

    state = site.state(request)
    assert state is not None and state.raced == "kept"
    quote = json.loads((site.stack.home.job_folder(request) / "quote.json").read_text())
    assert quote["inputs"]["goal"] == "budget" and quote["inputs"]["submitted"], "as the command line said"
    plan = JobPlan.model_validate(state.plan)
    assert len(plan.seats) == PLACES and len(plan.racers) == 1 and plan.pilot_segments > 0
    rounds = site.rounds(request)
    assert sorted(entry.seat for entry in rounds[0].entries) == [0, 1, 2], "the pilot is everybody's"
    assert {entry.max_segments for entry in rounds[0].entries} == {plan.pilot_segments}
    kept = [seat.seat for seat in state.seats if not seat.dropped]
    assert len(kept) == PLACES
    assert {entry.seat for one in rounds[1:] for entry in one.entries} == set(kept), "later rounds are the kept's"
    (lost,) = [line for line in receipt["contributors"] if line["wallet"] not in {state.seat(s).wallet for s in kept}]
    assert 0 < lost["accepted"] == rounds[0].entries[[s.dropped for s in state.seats].index(True)].segments
    for machine in machines:
        assert machine.stop() == 0
