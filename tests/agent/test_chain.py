"""What the agent's reader shows of the chain, and what it never shows."""

from __future__ import annotations

import pytest
from solders.keypair import Keypair

from cloudlinkup.agent.chain import RpcChain
from cloudlinkup.errors import LedgerError, Unavailable
from cloudlinkup.home import PROGRAM_ID
from cloudlinkup.ledger.rpc import shown
from tests.agent.chain_server import GENESIS, ChainServer, SeatState
from tests.conftest import Localnet, free_port


async def test_reads_genesis_and_seats(chain: ChainServer) -> None:
    chain.job.seats = [SeatState(PROGRAM_ID, cap=9, awarded=4), SeatState(PROGRAM_ID, state=0)]
    chain.job.round, chain.job.commit_root = 3, b"\x05" * 32
    reader = RpcChain(chain.url, PROGRAM_ID)
    assert await reader.genesis() == GENESIS
    job = await reader.job(chain.account)
    assert job is not None
    assert (job.verifier, job.round, job.commit_root) == (chain.job.verifier, 3, b"\x05" * 32)
    assert [(s.cap, s.awarded, s.active) for s in job.seats] == [(9, 4, True), (10**9, 0, False)]
    assert await reader.job(PROGRAM_ID) is None
    with pytest.raises(LedgerError):  # the account is another program's
        await RpcChain(chain.url, GENESIS).job(chain.account)


async def test_reads_the_local_chain(localnet: Localnet) -> None:
    reader = RpcChain(localnet.url, PROGRAM_ID)
    assert await reader.genesis() == localnet.call("getGenesisHash")
    assert await reader.job(str(Keypair().pubkey())) is None
    with pytest.raises(LedgerError):
        await reader.job("SysvarC1ock11111111111111111111111111111111")  # there, but no job


async def test_no_key_in_messages() -> None:
    url = f"http://user:pass@127.0.0.1:{free_port()}/v2/KEY?api-key=KEY"
    with pytest.raises(Unavailable) as caught:
        await RpcChain(url, PROGRAM_ID).genesis()
    assert "127.0.0.1" in str(caught.value)
    assert not {"KEY", "pass"} & set(str(caught.value).replace("/", " ").replace(":", " ").split())
    assert shown(url).startswith("http://127.0.0.1:")
