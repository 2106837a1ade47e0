"""What a whole job costs, by the same measurement as the benchmark's table: two rounds here, twenty there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.escrow_jobs import SIGNATURE, run_job

if TYPE_CHECKING:
    from cloudlinkup.ledger.escrow import Ledger
    from tests.conftest import Platform


async def test_sixteen_seats_and_twenty_rounds_cost_less_than_planned(ledger: Ledger, stage: Platform) -> None:
    life = await run_job(ledger, stage, 16, 2)
    each_round = ("raise_caps", "commit_round", "award", "pay")
    assert [life.steps[name].transactions for name in each_round] == [2, 2, 2, 2]
    assert life.total.signatures == life.total.transactions == 2 + 4 * 2 + 3, "one key signs and pays for each"
    assert life.total.fee == life.total.signatures * SIGNATURE
    assert (2 + 4 * 20 + 3) * SIGNATURE < 600_000, "twenty rounds: 0.0006 SOL"
    assert 0 < life.total.priority * 10 < 20_000, "and the priority fee adds little"
    assert life.back == life.rent > 0, "all of the rent comes back"
