"""AnchorPy alone, on the pinned versions, against the local chain and the real program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anchorpy
import pytest
from anchorpy import Context, Provider, Wallet
from anchorpy.error import ProgramError as AnchorError
from anchorpy.program.core import Program
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed
from solana.rpc.types import TxOpts
from solders.keypair import Keypair

from cloudlinkup.ledger.accounts import config_address

if TYPE_CHECKING:
    from tests.ledger.conftest import Play


async def test_anchorpy_sends_reads_and_raises_its_own_errors(play: Play) -> None:
    operator = play.key("operator").keypair
    options = TxOpts(skip_confirmation=False, preflight_commitment=Confirmed)
    async with AsyncClient(play.stage.chain.url, commitment=Confirmed) as client:
        provider = Provider(client, Wallet(operator), options)
        program = Program(play.ledger._program.anchor.idl, play.ledger.program_id, provider)
        job = await play.open()
        client_account = play.ledger.client_address(play.key("owner").public, play.stage.mint)
        where = {"authority": operator.pubkey(), "client": client_account, "job": job}
        before = await program.account["Job"].fetch(job, Confirmed)
        signature = await program.rpc["finish_job"](ctx=Context(accounts=where, signers=[operator]))
        after = await program.account["Job"].fetch(job, Confirmed)
        ours = await play.ledger.job(job)
        assert ours is not None and after.deadline == ours.deadline < before.deadline
        assert [event.name for event in await play.ledger.events(str(signature))] == ["JobFinished"]
        listed = await program.account["Job"].all(filters=None)
        assert job in [one.public_key for one in listed]

        stranger = Keypair()
        await play.ledger.airdrop(stranger.pubkey(), 10**9)
        other = Program(program.idl, program.program_id, Provider(client, Wallet(stranger), options))
        with pytest.raises(AnchorError) as refused:
            accounts = {**where, "authority": stranger.pubkey()}
            await other.rpc["finish_job"](ctx=Context(accounts=accounts, signers=[stranger]))
        assert (refused.value.code, refused.value.msg) == (6_003, "This key may not do that.")
        config = await program.account["Config"].fetch(config_address(program.program_id), Confirmed)
        assert config.fee_bps == play.stage.fee_bps
    assert anchorpy.__version__ == "0.21.0"
