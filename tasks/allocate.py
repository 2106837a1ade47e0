"""Stage *allocate*: the quote, and who takes part. Once a job; `rounds` says what each of them does then."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from prefect import task
from prefect.cache_policies import NO_CACHE

from models.correction import Correction
from models.plan import PlannedSeat
from models.quote import Quote
from tasks.calibrated import replay_classes
from tasks.context import Run
from tasks.peers import Peer, wait_connected
from tasks.planning import candidates, expected_overheads, limits, make_quote
from tasks.segment import stored_facts
from tasks.state import Seat
from tasks.trials import stored_search

FIRST_WAIT, MORE_WAIT = 30.0, 3.0  # seconds for the first contributor, then for more


@task(name="allocate", cache_policy=NO_CACHE)
async def allocate(run: Run) -> None:
    """Raises NoContributors, or BadInput when budget or deadline are too small; nothing is locked yet."""
    if run.state.quote:
        return
    with run.timed("allocate"):
        await wait_connected(run, 1, FIRST_WAIT)
        peers = await wait_connected(run, run.job.contributors.max, MORE_WAIT)
        quote = await _quote(run, peers)
        _keep_quote(run, quote)
        run.state.seats = [new_seat(place, peers[place.agent]) for place in quote.plan.everybody]
        if (newcomer := quote.plan.newcomer) is not None:
            seat = run.state.seat(newcomer.seat)
            seat.dropped, seat.state = True, "idle"
        run.save("lock")
    run.event(
        "allocated",
        contributors=len(run.state.seats),
        rounds=quote.plan.rounds,
        steps=quote.plan.total_steps,
        price=quote.price_per_step,
        predictor=run.state.predictor,
        p50_seconds=round(quote.seconds_p50, 1),
        p90_seconds=round(quote.seconds_p90, 1),
        hard_cap=str(quote.hard_cap),
    )


async def _quote(run: Run, peers: dict[str, Peer]) -> Quote:
    facts, config = stored_facts(run), await run.ledger.config()
    bounds = limits(
        run.job,
        now=await run.ledger.now(),
        fee_bps=config.fee_bps,
        decimals=run.decimals,
        reference=facts.profile,
        overheads=await expected_overheads(run.settings),
        replay=await asyncio.to_thread(
            replay_classes, run.job, run.data, run.settings.home, facts.profile.device_class
        ),
    )
    work = None if run.job.search is None else stored_search(run).work
    found = await candidates(peers.values(), run.settings.home, str(run.owner))
    quote = await asyncio.to_thread(
        make_quote, facts, found, bounds, run.settings.home, run.job.goal or "both", work, submitted=True
    )
    run.write("quote.json", quote.model_dump_json().encode())
    return quote


def _keep_quote(run: Run, quote: Quote) -> None:
    run.state.plan = quote.plan.model_dump(mode="json")
    run.state.predictor = f"{quote.predictor} {quote.version}"
    run.state.total_steps, run.state.price = quote.plan.total_steps, quote.price_per_step
    run.state.quote = {
        "p50_seconds": round(quote.seconds_p50, 3),
        "p90_seconds": round(quote.seconds_p90, 3),
        "p50_cost": str(quote.cost_p50),
        "p90_cost": str(quote.cost_p90),
        "hard_cap": str(quote.hard_cap),
        "price_per_step": str(quote.price_per_step),
        "learning_rate": run.data.spec.lr,
        "optimizer_state": "kept" if quote.plan.kept else "fresh each round",
        "single_machine_seconds": round(quote.single_machine_seconds, 3),
        "plaintext_readers": quote.plaintext_readers,
        "reasons": list(quote.reasons),
        "notes": list(quote.notes),
        "advice": quote.advice,
    }


def new_seat(place: PlannedSeat, peer: Peer) -> Seat:
    return Seat(
        seat=place.seat,
        wallet=place.wallet,
        agent=place.agent,
        device_class=place.device_class,
        share=peer.hello.share,
        probes=list(peer.hello.probes),
        state="active",
        predicted=place.prediction.seconds,
        belief=asdict(Correction.start(place.prediction)),
    )
