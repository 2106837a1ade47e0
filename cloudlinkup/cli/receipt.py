"""The receipt for a person: who worked, what verified, who was paid what, and where the time went."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from cloudlinkup.types import format_tokens


def show_receipt(console: Console, receipt: dict[str, Any]) -> None:
    """`receipt`: a Receipt as its JSON document. Amounts are shown in token units."""

    def tokens(units: str) -> str:
        return format_tokens(int(units), receipt["decimals"])

    table = Table(title="Receipt", title_justify="left", title_style="bold")
    for name, right in (
        ("contributor", False),
        ("state", False),
        ("samples/s", True),
        ("segments", True),
        ("accepted", True),
        ("replayed", True),
        ("rejected", True),
        ("paid", True),
        ("pending", True),
    ):
        table.add_column(name, justify="right" if right else "left")
    for row in receipt["contributors"]:
        style = "red" if row["state"] == "rejected" else None
        counts = [str(row[key]) for key in ("segments", "accepted", "replayed", "rejected")]
        speed = f"{row['speed']:.0f}"
        wallet = f"{row['wallet'][:6]}…{row['wallet'][-4:]}"
        table.add_row(wallet, row["state"], speed, *counts, tokens(row["paid"]), tokens(row["pending"]), style=style)
    console.print(table)
    parts = " + ".join(f"{tokens(receipt[key])} {key}" for key in ("paid", "fee", "refunded"))
    if receipt["settled"]:
        console.print(f"budget {tokens(receipt['budget'])} = {parts}")
    else:
        until = receipt["quoted"].get("pending_until", "the windows on chain have passed")
        console.print(
            f"budget {tokens(receipt['budget'])}: {parts}, {tokens(receipt['pending'])} pending until {until}"
        )
    alone = receipt["score_single_machine"]
    compared = f", a plain loop on this machine {alone:.4f}" if alone is not None else ""
    console.print(f"{receipt['metric']} {receipt['score']:.4f}{compared}")
    console.print(
        f"{receipt['rounds']} rounds, {receipt['seconds']:.1f} s, {size(receipt['bytes_up'])} up, "
        f"{size(receipt['bytes_down'])} down"
    )
    console.print(
        f"audit: {receipt.get('audit_segments', 0)} segments replayed in {receipt.get('audit_seconds', 0):.1f} s here "
        f"(worth {tokens(receipt.get('audit_cost', '0'))} at the job's price), "
        f"{size(receipt['audit_bytes'])} of the bytes"
    )
    quoted = receipt["quoted"]
    if "p50_seconds" in quoted:
        console.print(
            f"quoted by {receipt['predictor']}: {quoted['p50_seconds']:.1f} s (P50), "
            f"{quoted['p90_seconds']:.1f} s (P90), "
            f"{tokens(quoted['p50_cost'])} (P50), at most {tokens(quoted['hard_cap'])}"
        )
        cost = int(receipt["paid"]) + int(receipt["pending"]) + int(receipt["fee"])
        took, p50, p90 = receipt["seconds"], quoted["p50_seconds"], quoted["p90_seconds"]
        within = "within" if took <= p90 else "later than"
        console.print(
            f"it took {took:.1f} s, {took / max(p50, 1e-9):.2f} times the P50 and {within} the P90, "
            f"and cost {tokens(str(cost))}"
        )
    console.print(
        f"request {receipt['request_id']}, job {receipt['job_id']}, {len(receipt['signatures'])} transactions"
    )


def show_times(console: Console, times: dict[str, float]) -> None:
    """Where the time went, in seconds."""
    table = Table(title="Where the time went", title_justify="left", title_style="bold")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for name, seconds in times.items():
        table.add_row(name, f"{seconds:.1f}")
    console.print(table)


def size(count: int) -> str:
    """Bytes for a person."""
    left = float(count)
    for unit in ("B", "kB", "MB"):
        if left < 1000:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} GB"
