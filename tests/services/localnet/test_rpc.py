"""solana-py against the local chain: commitments, typed errors, fees, filters, bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.commitment import Confirmed, Finalized, Processed
from solana.rpc.core import RPCException
from solana.rpc.types import DataSliceOpts, MemcmpOpts, TokenAccountOpts, TxOpts
from solders.compute_budget import set_compute_unit_limit
from solders.keypair import Keypair
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.rpc.errors import SendTransactionPreflightFailureMessage
from solders.signature import Signature
from solders.system_program import CreateAccountParams, TransferParams, create_account, transfer
from solders.transaction import VersionedTransaction
from solders.transaction_status import TransactionErrorFieldless
from spl.token.instructions import (
    InitializeMintParams,
    create_associated_token_account,
    get_associated_token_address,
    initialize_mint,
)

if TYPE_CHECKING:
    from tests.conftest import Localnet
    from tests.services.localnet.conftest import Sender

OPTIONS = TxOpts(preflight_commitment=Confirmed)
BLIND = TxOpts(skip_preflight=True)
TOKEN = Pubkey.from_string("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA")
CLOCK = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")


def preflight(error: pytest.ExceptionInfo[RPCException]) -> SendTransactionPreflightFailureMessage:
    message = error.value.args[0]
    assert isinstance(message, SendTransactionPreflightFailureMessage)
    return message


async def test_the_three_commitments_differ(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet(program=None, slot_ms=150)
    async with AsyncClient(chain.url, commitment=Confirmed) as client:
        await watch_deepen(client)


async def watch_deepen(client: AsyncClient) -> None:
    signature = (await client.request_airdrop(Keypair().pubkey(), 10**6)).value
    seen: list[str] = []
    until = time.monotonic() + 5
    while time.monotonic() < until and (not seen or seen[-1] != "Finalized"):
        status = (await client.get_signature_statuses([signature])).value[0]
        assert status is not None and status.err is None
        name = str(status.confirmation_status).rpartition(".")[2]
        if not seen or seen[-1] != name:
            seen.append(name)
            slots = [(await client.get_slot(one)).value for one in (Finalized, Confirmed, Processed)]
            assert slots[1] - slots[0] >= 5 and slots[2] - slots[1] >= 1
            found = await client.get_transaction(signature, commitment=Finalized)
            assert (found.value is None) == (name != "Finalized")
        await asyncio.sleep(0.005)
    assert seen == ["Processed", "Confirmed", "Finalized"]


async def test_a_transaction_lands_once(sender: Sender) -> None:
    to = Keypair().pubkey()
    transaction = sender.transfer(to, 10**6, await sender.block_hash())
    signature = (await sender.client.send_transaction(transaction, OPTIONS)).value
    with pytest.raises(RPCException) as error:
        await sender.client.send_transaction(transaction, OPTIONS)
    assert preflight(error).data.err == TransactionErrorFieldless.AlreadyProcessed
    assert (await sender.client.send_transaction(transaction, BLIND)).value == signature
    assert (await sender.client.get_balance(to, Processed)).value == 10**6


async def test_unknown_and_expired_block_hashes(start_localnet: Callable[..., Localnet]) -> None:
    chain = start_localnet(program=None)
    key, to = Keypair(), Keypair().pubkey()
    async with AsyncClient(chain.url, commitment=Confirmed) as client:
        await client.request_airdrop(key.pubkey(), 10**9)
        latest = (await client.get_latest_blockhash(Confirmed)).value
        ask = (str(latest.blockhash), {"commitment": "confirmed"})
        assert chain.call("isBlockhashValid", *ask)["value"]
        chain.warp(10)  # 200 slots
        assert not chain.call("isBlockhashValid", *ask)["value"]
        assert (await client.get_block_height(Confirmed)).value > latest.last_valid_block_height
        move = transfer(TransferParams(from_pubkey=key.pubkey(), to_pubkey=to, lamports=10**6))
        message = MessageV0.try_compile(key.pubkey(), [move], [], latest.blockhash)
        with pytest.raises(RPCException) as error:
            await client.send_transaction(VersionedTransaction(message, [key]), OPTIONS)
        assert preflight(error).data.err == TransactionErrorFieldless.BlockhashNotFound
        await client.send_transaction(VersionedTransaction(message, [key]), BLIND)
        assert (await client.get_balance(to, Processed)).value == 0, "dropped, as on a cluster"


async def test_a_failed_transaction_pays_its_fee_only_without_preflight(sender: Sender) -> None:
    client, payer = sender.client, sender.key.pubkey()
    before = (await client.get_balance(payer)).value
    too_much = sender.transfer(Keypair().pubkey(), 10**15, await sender.block_hash())
    with pytest.raises(RPCException) as error:
        await client.send_transaction(too_much, OPTIONS)
    assert "custom program error: 0x1" in preflight(error).message
    assert "insufficient lamports" in str(preflight(error).data.logs)
    assert (await client.get_balance(payer, Processed)).value == before
    fee = (await client.get_fee_for_message(too_much.message)).value
    signature = (await client.send_transaction(too_much, BLIND)).value
    assert (await client.get_balance(payer, Processed)).value == before - (fee or 0) == before - 5_000
    status = (await client.get_signature_statuses([signature])).value[0]
    assert status is not None and "Custom(1)" in str(status.err)
    await client.confirm_transaction(signature, Confirmed, 0.02)
    found = (await client.get_transaction(signature, commitment=Confirmed)).value
    assert found is not None and found.transaction.meta is not None and found.transaction.meta.fee == 5_000
    assert found.transaction.meta.pre_balances[0] - found.transaction.meta.post_balances[0] == 5_000


async def test_signatures_are_checked(sender: Sender) -> None:
    good = sender.transfer(Keypair().pubkey(), 10**6, await sender.block_hash())
    forged = VersionedTransaction.populate(good.message, [Signature.default()])
    for options in (OPTIONS, BLIND):
        with pytest.raises(RPCException, match="SignatureVerificationFailure"):
            await sender.client.send_transaction(forged, options)
    simulated = await sender.client.simulate_transaction(forged, commitment=Confirmed)
    assert simulated.value.err is None, "without sigVerify, a simulation asks for no signature"
    await sender.client.send_transaction(good, OPTIONS)


async def test_simulation_changes_nothing(sender: Sender) -> None:
    to = Keypair().pubkey()
    transaction = sender.transfer(to, 10**6, await sender.block_hash())
    value = (await sender.client.simulate_transaction(transaction, sig_verify=True, commitment=Confirmed)).value
    assert value.err is None and value.units_consumed == 150
    assert (await sender.client.get_balance(to, Processed)).value == 0


async def test_token_accounts_and_program_filters(sender: Sender, localnet: Localnet) -> None:
    client, owner, mint = sender.client, sender.key.pubkey(), Keypair()
    rent = (await client.get_minimum_balance_for_rent_exemption(82)).value
    assert rent == (128 + 82) * 6_960
    create = create_account(
        CreateAccountParams(from_pubkey=owner, to_pubkey=mint.pubkey(), lamports=rent, space=82, owner=TOKEN)
    )
    begin = initialize_mint(
        InitializeMintParams(decimals=6, program_id=TOKEN, mint=mint.pubkey(), mint_authority=owner)
    )
    account = create_associated_token_account(owner, owner, mint.pubkey())
    everything = sender.sign([create, begin, account], await sender.block_hash(), mint)
    signature = (await client.send_transaction(everything, OPTIONS)).value
    await client.confirm_transaction(signature, Confirmed, 0.02)

    held = get_associated_token_address(owner, mint.pubkey())
    listed = await client.get_token_accounts_by_owner(owner, TokenAccountOpts(mint=mint.pubkey()))
    assert [one.pubkey for one in listed.value] == [held]
    assert (await client.get_token_account_balance(held)).value.ui_amount_string == "0"
    assert (await client.get_token_supply(mint.pubkey())).value.decimals == 6

    async def find(*filters: Any) -> list[Pubkey]:
        cut = DataSliceOpts(offset=0, length=32)
        found = await client.get_program_accounts(TOKEN, encoding="base64", data_slice=cut, filters=list(filters))
        assert all(len(one.account.data) == 32 for one in found.value)
        return [one.pubkey for one in found.value]

    mine = MemcmpOpts(offset=0, bytes=str(mint.pubkey()))
    assert await find(165, mine) == [held]
    assert await find(82, mine) == []
    assert mint.pubkey() in await find(82)
    options = {"encoding": "base64", "commitment": "confirmed"}
    wrong = localnet.call("getMultipleAccounts", [str(held), str(Keypair().pubkey())], options)
    assert wrong["value"][1] is None and wrong["value"][0]["owner"] == str(TOKEN)
    by_account = (await client.get_signatures_for_address(held, limit=5)).value
    assert [one.signature for one in by_account] == [signature]


async def test_versioned_transactions_and_inner_instructions(sender: Sender) -> None:
    client, payer = sender.client, sender.key.pubkey()
    instructions = [
        set_compute_unit_limit(1_000),
        transfer(TransferParams(from_pubkey=payer, to_pubkey=Keypair().pubkey(), lamports=10**6)),
    ]
    message = MessageV0.try_compile(payer, instructions, [], await sender.block_hash())
    signature = (await client.send_transaction(VersionedTransaction(message, [sender.key]), OPTIONS)).value
    await client.confirm_transaction(signature, Confirmed, 0.02)
    with pytest.raises(RPCException, match="maxSupportedTransactionVersion"):
        await client.get_transaction(signature, commitment=Confirmed)
    found = (await client.get_transaction(signature, "base64", Confirmed, 0)).value
    assert found is not None and found.transaction.meta is not None
    assert found.transaction.meta.compute_units_consumed == 300
    await client.confirm_transaction(signature, Finalized, 0.02)  # solana-py asks for finalized blocks
    block = (await client.get_block(found.slot, max_supported_transaction_version=0)).value
    assert block is not None and block.block_time == found.block_time and block.transactions
    recent = (await client.get_signatures_for_address(payer, limit=1)).value
    assert recent[0].signature == signature


async def test_the_clock_sysvar_follows_the_slot_asked_for(sender: Sender) -> None:
    data = (await sender.client.get_account_info(CLOCK, Confirmed)).value
    assert data is not None
    slot, moment = int.from_bytes(data.data[:8], "little"), int.from_bytes(data.data[32:40], "little")
    assert abs((await sender.client.get_slot(Confirmed)).value - slot) <= 2
    assert (await sender.client.get_block_time(slot)).value == moment
    assert abs(moment - time.time()) < 5


def test_blocks_are_stable_and_come_after_their_slot(localnet: Localnet) -> None:
    tip = localnet.call("getSlot", {"commitment": "finalized"})
    body = {"transactionDetails": "none", "rewards": False, "commitment": "finalized"}
    first = localnet.call("getBlock", tip, body)
    assert first == localnet.call("getBlock", tip, body)
    assert first["previousBlockhash"] == localnet.call("getBlock", tip - 1, body)["blockhash"]
    assert "transactions" not in first
    with pytest.raises(AssertionError, match="-32004"):
        localnet.call("getBlock", tip + 1_000, body)
    with pytest.raises(AssertionError, match="below `confirmed`"):
        localnet.call("getBlock", tip, {"commitment": "processed"})


def test_http_bounds_and_batches(localnet: Localnet) -> None:
    one = {"jsonrpc": "2.0", "id": 7, "method": "getHealth"}
    batch = httpx.post(localnet.url, json=[one, {**one, "id": 8, "method": "nope"}, 5]).json()
    assert [item.get("result", item.get("error", {}).get("code")) for item in batch] == ["ok", -32601, -32600]
    assert [item["id"] for item in batch] == [7, 8, None]
    assert httpx.post(localnet.url, content=b"{", headers={"content-type": "application/json"}).json()["error"]
    assert httpx.post(localnet.url, content=b"{}").status_code == 415
    assert httpx.post(localnet.url, json=[one] * 101).status_code == 413
    big = httpx.post(localnet.url, content=b" " * 300_000, headers={"content-type": "application/json"})
    assert big.status_code == 413


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("getBalance", ["not a key"]),
        ("getBalance", []),
        ("getSlot", {"commitment": "confirmed"}),
        ("getSlot", [{"commitment": "sure"}]),
        ("getBlockTime", [-1]),
        ("getMultipleAccounts", [["11111111111111111111111111111111"] * 101]),
        ("getAccountInfo", ["11111111111111111111111111111111", {"encoding": "base64+zstd"}]),
        ("sendTransaction", ["AAAA", {"encoding": "base64"}]),
        ("sendTransaction", ["A" * 3_000, {"encoding": "base64"}]),
        ("localnet_warp", [{"seconds": -5}]),
        ("localnet_warp", [{"seconds": 10**12}]),
        ("requestAirdrop", ["11111111111111111111111111111111", 0]),
        ("getProgramAccounts", ["11111111111111111111111111111111", {"filters": [{"memcmp": {"offset": -1}}]}]),
        ("getSignaturesForAddress", ["11111111111111111111111111111111", {"limit": 100_000}]),
    ],
)
def test_bad_parameters_are_refused(localnet: Localnet, method: str, params: Any) -> None:
    answer = httpx.post(localnet.url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).json()
    assert answer["error"]["code"] == -32602, answer
