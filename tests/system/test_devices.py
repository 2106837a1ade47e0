"""Two devices of one contributor beside another contributor, through every process there is."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.system.site import Machine, wait_for
from tests.system.test_faults import held, paid_by_the_step

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def test_both_devices_of_one_wallet_train_and_both_seats_are_paid_to_it(site: Site) -> None:
    pair = Machine("pair", 0.25, site.machines, site.stack, options=("--device", "cpu,cpu"))
    site.all["pair"] = pair
    pair.start()
    wait_for(lambda: pair.count("connected") == 2 or None, f"{pair.log}: both connected", 240)
    allow = site.wallets("pair", "one")
    job = site.job(allow, samples=9_600, contributors={"max": 3, "allow": allow})
    before, had = asyncio.run(held(site, allow))
    receipt = site.submit(job).receipt()

    paid_by_the_step(site, receipt)
    lines = receipt["contributors"]
    assert Counter(line["wallet"] for line in lines) == {allow[0]: 2, allow[1]: 1}
    assert all(line["accepted"] > 0 for line in lines), lines
    state = site.state(receipt["request_id"])
    assert state is not None
    own = [seat for seat in state.seats if seat.wallet == allow[0]]
    assert sorted(seat.agent.partition("/")[2] for seat in own) == ["0", "1"]
    assert len({seat.agent.partition("/")[0] for seat in own}) == 1, "one key signs for both"
    assert own[0].partition is not None and own[1].partition is not None
    assert own[0].partition.which != own[1].partition.which, "each has rows of its own"
    after, have = asyncio.run(held(site, allow))
    assert before - after == int(receipt["paid"]) + int(receipt["fee"])
    for wallet in allow:
        earned = sum(int(line["paid"]) for line in lines if line["wallet"] == wallet)
        assert have[wallet] - had[wallet] == earned > 0
    assert pair.stop(120) == 0
