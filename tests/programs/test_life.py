"""The whole life of a job, as a client, three contributors, a verifier and a stranger live it."""

from tests.programs.world import BUDGET, DAY, FEE, FUNDS, WINDOW, World, fee


def test_a_job_from_lock_to_refund(world: World) -> None:
    job = world.job([300_000, 200_000, 100_000])
    assert world.tokens(job.vault) == BUDGET
    for i in range(3):
        world.paid_wallet(i)

    world.awarded(job, 100_000, 50_000, 0)
    world.chain.wait(2 * WINDOW)
    assert not world.pay(job, 0, 1, 2).error
    assert [world.tokens(world.wallet(i)) for i in range(3)] == [100_000, 50_000, 0]

    world.ok("raise_caps", [(0, 350_000)], job=job)
    world.awarded(job, 350_000, 50_000, 80_000, round_=2)
    world.ok("finish_job", job=job)
    world.refused("JobNotEnded", "close_job", job=job)
    world.chain.wait(3 * WINDOW)
    assert not world.pay(job, 0, 1, 2).error
    paid = 350_000 + 50_000 + 80_000
    assert [world.tokens(world.wallet(i)) for i in range(3)] == [350_000, 50_000, 80_000]

    swept = world.ok("close_job", job=job).events[-1]
    assert (swept.fee, swept.to_client, swept.closed) == (fee(paid, FEE), BUDGET - paid - fee(paid, FEE), False)
    assert world.tokens(world.treasury) == fee(paid, FEE)
    assert world.tokens(world.client_vault) == FUNDS - paid - fee(paid, FEE)

    before = world.chain.lamports(world.chain.payer.pubkey())
    rent = world.chain.lamports(job.address) + world.chain.lamports(job.vault)
    world.chain.wait(DAY)
    assert world.ok("close_job", job=job).events[-1].closed
    assert not world.is_open(job)
    assert world.chain.lamports(world.chain.payer.pubkey()) == before + rent - 5000  # one signature
