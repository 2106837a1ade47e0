"""`cloudlinkup contribute --dry-run`: what would happen, and what would leave this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console

from cloudlinkup.cli.devices import DECIMALS
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.offer import UNIT_WORDS, format_windows
from cloudlinkup.types import format_tokens

if TYPE_CHECKING:
    from cloudlinkup.agent.bond import Agreed
    from cloudlinkup.cli.contribute import Options

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


def rehearse(options: Options) -> None:
    """Says what would happen. Writes nothing and connects to nobody."""
    from cloudlinkup.crypto.identity import read_key
    from cloudlinkup.ledger.rpc import shown

    folder = options.folder

    def address(file: str) -> str | None:
        return str(read_key(folder / file).pubkey()) if (folder / file).exists() else None

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
        **_devices(options),
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
    terminal.result(document, lambda out: _show(out, document, options.agreed))


def _devices(options: Options) -> dict[str, Any]:
    """The one device's facts; of several, `devices` with the facts of each, by the number in its name."""
    from cloudlinkup.agent.hardware import choose_devices, describe
    from cloudlinkup.agent.probes import cached

    devices, found = choose_devices(options.device), []
    for number, device in devices.items():
        hardware = describe(device, options.threads, alike=list(devices.values()).count(device))
        own = options.folder if number is None else options.folder / "devices" / str(number)
        probes = cached(own / "probes.json", hardware)
        facts: dict[str, Any] = {
            "hardware": hardware.model_dump(),
            "device_class": hardware.device_class,
            "probes": None if probes is None else [probe.model_dump() for probe in probes],
        }
        found.append(facts if number is None else {"number": number, "device": device, **facts})
    return {"devices": found} if len(found) > 1 else found[0]


def _delegation_state(options: Options) -> str:
    if options.delegation is not None:
        return f"the one in {options.delegation}, checked on connecting"
    if (options.folder / "delegation.json").exists():
        return "kept from before, checked on connecting"
    return "signed by the wallet on this machine" if options.wallet is None else "missing: see --print-delegation"


def _show(out: Console, document: dict[str, Any], agreed: Agreed) -> None:
    made = "(made on the first start)"
    several = document.get("devices")
    devices: dict[str, str] = {}
    for facts in several or [document]:
        number = f" {facts['number']}" if several else ""
        devices |= {f"Device{number}": _hardware(facts["hardware"]), f"Probes{number}": _probes(facts["probes"])}
    lines = {
        "Contributor": f"{document['name']}, agent key {document['agent'] or made}",
        "Pays to": f"{document['wallet'] or made}; the key is {document['wallet_key']}",
        "Gateway": f"{document['gateway']}, checked against {document['ca_file'] or 'the system certificates'}",
        "Pays out on": f"{document['program']} as {document['rpc_url']} shows it",
        "Delegation": document["delegation"],
        **devices,
        "Offers": f"{document['share']:.0%} of {'each' if several else 'the'} device for "
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


def _hardware(facts: dict[str, Any]) -> str:
    return (
        f"{facts['name']}, {facts['kind']}, {facts['memory'] / 2**30:.1f} GiB for training, "
        f"{facts['threads']} thread(s), {facts['capability']}, torch {facts['torch']}"
    )


def _probes(measured: list[dict[str, Any]] | None) -> str:
    if measured is None:
        return "not measured yet: a few seconds on the first start"
    return ", ".join(
        f"{p['name']} {p['precision']} {p['seconds'] * 1e3:.2f} ms (spread {p['spread']:.2f})" for p in measured
    )
