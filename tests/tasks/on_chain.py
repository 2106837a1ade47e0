"""A rig's run and contributors on a real chain, and the places that a plan gives them."""

from __future__ import annotations

from dataclasses import replace

from cloudlinkup.agent.chain import RpcChain
from cloudlinkup.ledger.escrow import Ledger
from models.correction import Correction
from models.plan import PlannedSeat
from tests.conftest import Platform
from tests.tasks.conftest import Rig

PRICE = 7  # base units a step


async def join(rig: Rig, platform: Platform, ledger: Ledger, places: int) -> tuple[PlannedSeat, ...]:
    """The run works with the platform's keys, its contributors look at its chain. `places`: most contributors of the
    job. Returns a planned seat for everybody who has a seat."""
    run, keys = rig.run, platform.keys
    run.job = run.job.model_copy(update={"contributors": run.job.contributors.model_copy(update={"max": places})})
    run.ledger, run.mint, run.owner, run.decimals = ledger, platform.mint, keys["owner"].public, 6
    run.operator, run.verifier, run.sponsor = keys["operator"], keys["verifier"], keys["sponsor"]
    run.cranker, run.genesis = keys["cranker"], await ledger.genesis()
    for one in rig.cluster.by_agent.values():
        one.handler._chain = RpcChain(platform.chain.url, str(platform.chain.program_id))
        one.handler.terms = replace(one.handler.terms, genesis=run.genesis)
    settings = {"rpc_url": platform.chain.url, "mint": str(platform.mint), "owner": str(run.owner)}
    run.settings = replace(run.settings, **settings, challenge_delay=1)
    return tuple(
        PlannedSeat(
            seat=seat.seat,
            agent=seat.agent,
            wallet=seat.wallet,
            device_class=seat.device_class,
            ask=PRICE,
            prediction=Correction(**seat.belief).prediction,
        )
        for seat in run.state.seats
    )
