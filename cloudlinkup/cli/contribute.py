"""`cloudlinkup contribute`: offer this machine's idle time. One outbound connection, nothing listens here.

Needs the plain wheel only. Reads the chain by its own RPC address and believes that, not the gateway, about seats.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Settings
from cloudlinkup.offer import AskPer, Window, parse_ask, parse_reserve, parse_windows
from cloudlinkup.types import parse_tokens

if TYPE_CHECKING:
    from cloudlinkup.agent.bond import Agreed
    from cloudlinkup.agent.shard import RunnerFactory

DECIMALS = 6  # of the token that is asked for
_runner: RunnerFactory | None = None


@dataclass(frozen=True)
class Options:
    """The command line, once checked. `ask` and `reserve` in base units, for what `ask_per` says."""

    settings: Settings
    name: str
    gateway: str
    ca_file: Path | None
    rpc_url: str
    wallet: str | None
    delegation: Path | None
    share: float
    ask: int
    ask_per: AskPer
    reserve: int | None
    windows: tuple[Window, ...]
    device: str
    threads: int
    drain_seconds: float
    cache: float  # GiB
    agreed: Agreed

    @property
    def folder(self) -> Path:
        return self.settings.home.contributor(self.name)


def use_runner(factory: RunnerFactory) -> None:
    """Trains with another SegmentRunner in this process: for examples and tests of what the audit catches."""
    global _runner  # noqa: PLW0603 (a process contributes once)
    _runner = factory


def contribute(
    *,
    name: str = "default",
    gateway: str | None = None,
    ca_file: Path | None = None,
    rpc_url: str | None = None,
    wallet: str | None = None,
    delegation: Path | None = None,
    share: float = 1.0,
    ask: str = "1",
    reserve: str | None = None,
    available: str | None = None,
    device: str = "auto",
    threads: int = 1,
    drain_seconds: float = 120.0,
    cache: float = 8.0,
    bond: str = "0",
    mint: str | None = None,
    longest_window: int = 604_800,
    print_delegation: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Offer this machine for training, and be paid for the steps that verify.

    Connects outward only and works until Ctrl-C (which finishes the running shard first; again stops at once).
    Without --wallet a wallet key is made on this machine: fine on a local chain, not for real money.

    Parameters
    ----------
    name
        This contributor's name here; its keys lie in a folder of that name.
    gateway
        The gateway to work for, as wss://host:port.
    ca_file
        Certificate authority that signed the gateway's certificate (PEM); the system's by default.
    rpc_url
        A Solana RPC address of your choice: what it says about your seat is believed, the gateway is not.
    wallet
        Address that is paid. Its key stays where it is; it signs one delegation (see --print-delegation).
    delegation
        File with the delegation that the wallet signed.
    share
        Part of one device's time that is offered, from 0.001 to 1.
    ask
        Tokens for one hour of this device at full duty (0.50 or 0.50/h), for one step of any job (0.000002/step), or
        for 10^12 multiply-accumulates of it (0.03/tmac).
    reserve
        The least that you take, in the ask's unit, where a client's budget does not reach the asks; by default the ask.
    available
        Hours of every day in UTC, like 22:00-06:00,12:00-13:00. At their end the running shard is finished.
    device
        auto, cpu, cuda, or one GPU of several as cuda:1. For several at once, under one wallet and agent key: all, or
        a list as cuda:0,cuda:1. Each is a worker with a seat of its own, at this share, ask and number of threads.
    threads
        CPU threads that training uses, on each device.
    drain_seconds
        How long a running shard may go on after Ctrl-C or SIGTERM.
    cache
        GiB of disk for the rows of jobs, of all devices together; the least recently used are deleted first, and those
        of a job that is over.
    bond
        The most tokens to post as a bond for one seat; a seat that asks for more is refused.
    mint
        The token to be paid in; by default the configured one, else whatever a job pays in.
    longest_window
        Refuse jobs whose dispute or arbiter window is longer than so many seconds.
    print_delegation
        Print the text that the wallet has to sign, and stop.
    dry_run
        Say what would happen and what would leave this machine, without connecting.
    """
    options = _check(
        name=name,
        gateway=gateway,
        ca_file=ca_file,
        rpc_url=rpc_url,
        wallet=wallet,
        delegation=delegation,
        share=share,
        ask=ask,
        reserve=reserve,
        available=available,
        device=device,
        threads=threads,
        drain_seconds=drain_seconds,
        cache=cache,
        bond=bond,
        mint=mint,
        longest_window=longest_window,
    )
    if dry_run:
        from cloudlinkup.cli.rehearsal import rehearse

        rehearse(options)
        return 0
    if print_delegation:
        terminal.json = True  # it is a document either way: to be carried to the wallet's machine
        terminal.result(asyncio.run(_delegation(options)))
        return 0
    from cloudlinkup.cli.devices import start

    return start(options, _runner)


def _check(
    *, name: str, gateway: str | None, share: float, ask: str, threads: int, rpc_url: str | None, **rest: Any
) -> Options:
    from cloudlinkup.agent.bond import Agreed
    from cloudlinkup.agent.channel import gateway_parts
    from cloudlinkup.agent.hardware import check_devices
    from cloudlinkup.agent.identity import contributor_name
    from cloudlinkup.wire.messages import LEAST_SHARE

    settings = Settings.load()
    chosen = (gateway or settings.gateway_url).rstrip("/")
    gateway_parts(chosen)
    if not LEAST_SHARE <= share <= 1:
        raise BadInput("--share", share, "not a part of one device", f"use a number from {LEAST_SHARE:g} to 1")
    if not 1 <= threads <= 1_024:
        raise BadInput("--threads", threads, "not a number of threads", "use 1, or as many as you have cores")
    check_devices(rest["device"])
    if not 0 <= rest["drain_seconds"] <= 86_400:
        raise BadInput("--drain-seconds", rest["drain_seconds"], "not a time", "use 0 to 86400 seconds")
    if not 0 < rest["cache"] <= 65_536:
        raise BadInput("--cache", rest["cache"], "not a size in GiB", "use 8, or as much as you can spare")
    price, per = parse_ask(ask, DECIMALS)
    if rest["longest_window"] < 1:
        raise BadInput("--longest-window", rest["longest_window"], "not a time", "use 1 second or more")
    return Options(
        settings=settings,
        name=contributor_name(name),
        gateway=chosen,
        ca_file=rest["ca_file"] or settings.ca_file,
        rpc_url=rpc_url or settings.rpc_url,
        wallet=rest["wallet"],
        delegation=rest["delegation"],
        share=share,
        ask=price,
        ask_per=per,
        reserve=parse_reserve(rest["reserve"], price, DECIMALS),
        windows=parse_windows(rest["available"]),
        device=rest["device"],
        threads=threads,
        drain_seconds=rest["drain_seconds"],
        cache=rest["cache"],
        agreed=Agreed(
            # the configured token is the configured chain's
            mint=_address(rest["mint"]) or (settings.mint if rpc_url in (None, settings.rpc_url) else None),
            longest_window=rest["longest_window"],
            bond=parse_tokens(rest["bond"], DECIMALS, "--bond"),
        ),
    )


def _address(text: str | None) -> str | None:
    from solders.pubkey import Pubkey

    try:
        return None if text is None else str(Pubkey.from_string(text))
    except ValueError:
        raise BadInput("--mint", text, "not a base58 address", "give the token's mint address") from None


async def _delegation(options: Options) -> dict[str, str]:
    """What the wallet signs; asks the RPC which chain this is."""
    import time

    from cloudlinkup.agent.chain import RpcChain
    from cloudlinkup.agent.identity import (
        DELEGATION_SECONDS,
        delegation_text,
        open_identity,
        printable_delegation,
    )

    options.settings.home.make()
    identity, program = open_identity(options.folder, options.wallet), options.settings.program_id
    document = delegation_text(
        identity,
        gateway=options.gateway,
        genesis=await RpcChain(options.rpc_url, program).genesis(),
        program=program,
        expires=int(time.time()) + DELEGATION_SECONDS,
    )
    return printable_delegation(document)
