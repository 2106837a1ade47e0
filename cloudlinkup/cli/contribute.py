"""`cloudlinkup contribute`: offer this machine's idle time. One outbound connection, nothing listens here.

Needs the plain wheel only. Reads the chain by its own RPC address and believes that, not the gateway, about seats.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Settings
from cloudlinkup.offer import UNIT_WORDS, AskPer, Window, format_windows, parse_ask, parse_reserve, parse_windows
from cloudlinkup.types import format_tokens, parse_tokens

if TYPE_CHECKING:
    from cloudlinkup.agent.bond import Agreed, Post
    from cloudlinkup.agent.identity import Identity
    from cloudlinkup.agent.shard import RunnerFactory
    from cloudlinkup.wire.messages import Hardware, Probe

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
        auto, cpu, cuda, or one GPU of several as cuda:0, cuda:1: each with a --name of its own.
    threads
        CPU threads that training uses.
    drain_seconds
        How long a running shard may go on after Ctrl-C or SIGTERM.
    cache
        GiB of disk for the rows of jobs; the least recently used are deleted first, and those of a job that is over.
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
        _dry_run(options)
        return 0
    if print_delegation:
        terminal.json = True  # it is a document either way: to be carried to the wallet's machine
        terminal.result(asyncio.run(_delegation(options)))
        return 0
    return start(options, _runner)


def _check(
    *, name: str, gateway: str | None, share: float, ask: str, threads: int, rpc_url: str | None, **rest: Any
) -> Options:
    from cloudlinkup.agent.bond import Agreed
    from cloudlinkup.agent.channel import gateway_parts
    from cloudlinkup.agent.hardware import check_device
    from cloudlinkup.agent.identity import contributor_name
    from cloudlinkup.wire.messages import LEAST_SHARE

    settings = Settings.load()
    chosen = (gateway or settings.gateway_url).rstrip("/")
    gateway_parts(chosen)
    if not LEAST_SHARE <= share <= 1:
        raise BadInput("--share", share, "not a part of one device", f"use a number from {LEAST_SHARE:g} to 1")
    if not 1 <= threads <= 1_024:
        raise BadInput("--threads", threads, "not a number of threads", "use 1, or as many as you have cores")
    check_device(rest["device"])
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


def start(options: Options, runner_factory: RunnerFactory | None = None) -> int:
    """Contributes until told to stop. Returns the exit code."""
    import torch

    from cloudlinkup.agent.agent import Agent, Offer
    from cloudlinkup.agent.chain import RpcChain
    from cloudlinkup.agent.hardware import choose_device, describe
    from cloudlinkup.agent.identity import locked, open_identity
    from cloudlinkup.agent.probes import cached, measure_or_cached
    from cloudlinkup.agent.progress import Progress
    from cloudlinkup.training.segments import SegmentRunner

    options.settings.home.make()
    identity, progress = open_identity(options.folder, options.wallet), Progress()
    if identity.own_wallet is not None:
        terminal.note(f"Pay goes to {identity.wallet}, a wallet made on this machine: fine on a local chain only.")
    device = choose_device(options.device)
    torch.set_num_threads(options.threads)
    hardware = describe(device, options.threads)
    with locked(options.folder):
        place = options.folder / "probes.json"
        if cached(place, hardware) is None:
            progress.report("probing", {})
        offer = Offer(
            gateway=options.gateway,
            ca_file=options.ca_file,
            delegation=options.delegation,
            hardware=hardware,
            probes=measure_or_cached(place, hardware, device),
            share=options.share,
            ask=options.ask,
            ask_per=options.ask_per,
            reserve=options.reserve,
            windows=options.windows,
            device=device,
            threads=options.threads,
            drain_seconds=options.drain_seconds,
            cache=int(options.cache * 2**30),
            agreed=options.agreed,
        )
        program = options.settings.program_id
        chain = RpcChain(options.rpc_url, program)

        async def work() -> int:
            factory = runner_factory or SegmentRunner
            agent = Agent(
                identity,
                chain,
                program,
                offer,
                report=progress.report,
                runner_factory=factory,
                post=_poster(options, identity),
            )
            return await agent.run()

        try:
            code = asyncio.run(work())
        finally:
            progress.close()
    totals = {k: str(v) if k in ("pay_if_verified", "awarded") else v for k, v in progress.totals.items()}
    terminal.result(
        {"name": options.name, "agent": str(identity.agent.public), "wallet": identity.wallet, **totals},
        lambda out: out.print(
            f"{progress.totals['segments']} segments trained, "
            f"{format_tokens(progress.totals['pay_if_verified'], DECIMALS)} tokens if they verify; "
            f"{format_tokens(progress.totals['awarded'], DECIMALS)} tokens awarded in jobs that ended.",
            markup=False,
            soft_wrap=True,
        ),
    )
    return code


def _poster(options: Options, identity: Identity) -> Post | None:
    """How bonds are posted: by the wallet, if its key is here. The fee is the wallet's, or this home's sponsor's."""
    from cloudlinkup.agent.bond import poster
    from cloudlinkup.crypto.identity import Signer

    if identity.own_wallet is None:
        return None
    sponsor = options.settings.home.key("sponsor")
    paying = (lambda: Signer.from_file(sponsor)) if sponsor.exists() else (lambda: None)
    return poster(options.rpc_url, options.settings.program_id, identity.own_wallet, paying)


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


# ---------------------------------------------------------------- dry run

DOES = (
    "measures this device once (at most 3 CPU-seconds, or 30 s of GPU) and keeps the result",
    "opens one outbound TLS connection to the gateway, and asks the RPC about the seats it is given",
    "trains declared networks on rows that clients send, one shard at a time; no code is ever received",
    "keeps a job's rows, weights and states in its folder (0700) until that job is over",
)
LEAVES = (
    "the hardware facts, probes, share, ask and hours shown here, signed by the agent key",
    "signed acknowledgements and commitments, sealed model updates, and the states that an audit draws",
)


def _dry_run(options: Options) -> None:
    """Says what would happen. Writes nothing and connects to nobody."""
    from cloudlinkup.agent.hardware import choose_device, describe
    from cloudlinkup.agent.probes import cached
    from cloudlinkup.crypto.identity import read_key
    from cloudlinkup.ledger.rpc import shown

    hardware = describe(choose_device(options.device), options.threads)
    folder = options.folder

    def address(file: str) -> str | None:
        return str(read_key(folder / file).pubkey()) if (folder / file).exists() else None

    probes = cached(folder / "probes.json", hardware)
    here = options.wallet is None
    document: dict[str, Any] = {
        "dry_run": True,
        "name": options.name,
        "folder": str(folder),
        "gateway": options.gateway,
        "ca_file": str(options.ca_file) if options.ca_file else None,
        "rpc_url": shown(options.rpc_url),  # without a key that may be in it
        "program": options.settings.program_id,
        "agent": address("agent.json"),
        "wallet": address("wallet.json") if here else options.wallet,
        "wallet_key": "on this machine: fine on a local chain only" if here else "elsewhere",
        "delegation": _delegation_state(options),
        "hardware": hardware.model_dump(),
        "device_class": hardware.device_class,
        "probes": None if probes is None else [probe.model_dump() for probe in probes],
        "share": options.share,
        "ask": str(options.ask),
        "ask_unit": f"base units {UNIT_WORDS[options.ask_per]}",
        "reserve": None if options.reserve is None else str(options.reserve),
        "available": format_windows(options.windows),
        "most_bond": str(options.agreed.bond),
        "mint": options.agreed.mint,
        "longest_window": options.agreed.longest_window,
        "does": list(DOES),
        "leaves_this_machine": list(LEAVES),
    }
    terminal.result(document, lambda out: _show(out, document, options.agreed, hardware, probes))


def _delegation_state(options: Options) -> str:
    if options.delegation is not None:
        return f"the one in {options.delegation}, checked on connecting"
    if (options.folder / "delegation.json").exists():
        return "kept from before, checked on connecting"
    return "signed by the wallet on this machine" if options.wallet is None else "missing: see --print-delegation"


def _show(
    out: Console, document: dict[str, Any], agreed: Agreed, hardware: Hardware, probes: tuple[Probe, ...] | None
) -> None:
    made = "(made on the first start)"
    measured = "not measured yet: a few seconds on the first start"
    if probes is not None:
        measured = ", ".join(f"{p.name} {p.precision} {p.seconds * 1e3:.2f} ms (spread {p.spread:.2f})" for p in probes)
    lines = {
        "Contributor": f"{document['name']}, agent key {document['agent'] or made}",
        "Pays to": f"{document['wallet'] or made}; the key is {document['wallet_key']}",
        "Gateway": f"{document['gateway']}, checked against {document['ca_file'] or 'the system certificates'}",
        "Pays out on": f"{document['program']} as {document['rpc_url']} shows it",
        "Delegation": document["delegation"],
        "Device": f"{hardware.name}, {hardware.kind}, {hardware.memory / 2**30:.1f} GiB for training, "
        f"{hardware.threads} thread(s), {hardware.capability}, torch {hardware.torch}",
        "Probes": measured,
        "Offers": f"{document['share']:.0%} of the device for "
        f"{format_tokens(int(document['ask']), DECIMALS)} tokens"
        f" {document['ask_unit'].removeprefix('base units ')}, at least"
        f" {format_tokens(int(document['reserve'] or document['ask']), DECIMALS)}",
        "Available": "always" if document["available"] == "always" else f"{document['available']} UTC",
        "Takes": f"pay in {document['mint'] or 'any token (name yours with --mint)'}, windows up to "
        f"{document['longest_window']} s, a bond up to {format_tokens(agreed.bond, DECIMALS)} tokens a seat",
    }
    for key, value in lines.items():
        out.print(f"{key:>12}  {value}", markup=False, soft_wrap=True)
    for title, sentences in (("It would:", DOES), ("What leaves this machine:", LEAVES)):
        out.print(f"\n{title}", markup=False)
        for sentence in sentences:
            out.print(f"  - {sentence}", markup=False, soft_wrap=True)
    out.print("\nNothing was sent and nothing was written. Run it without --dry-run to begin.", markup=False)
