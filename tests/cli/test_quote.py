"""What `quote` prints, and which options it refuses before it asks anything of anybody."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from cloudlinkup.cli.prepare import show_quote

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

QUOTE: dict[str, Any] = {
    "seconds_p50": 100.0, "seconds_p90": 140.0, "cost_p50": "1500000", "cost_p90": "1500000", "hard_cap": "2000000",
    "single_machine_seconds": 50.0, "advice": "Train this on your own machine: it takes 50.0 s there and 100.0 s here",
    "audit_seconds": 4.0, "audit_cost": "20000", "audit_bytes": 3_400_000, "plaintext_readers": 1, "decimals": 6,
    "bottleneck": "abc is the bottleneck: speed", "predictor": "p", "version": "0", "reasons": ["r"], "notes": ["n"],
    "options": [
        {"contributors": 2, "seconds_p50": 60.0, "seconds_p90": 90.0, "cost": "3000000", "hard_cap": "4000000"},
        {"contributors": 1, "seconds_p50": 100.0, "seconds_p90": 140.0, "cost": "1500000", "hard_cap": "2000000"},
    ],
}  # fmt: skip


def test_a_quote_says_how_long_how_much_why_and_who_reads() -> None:
    out = io.StringIO()
    show_quote(Console(file=out, width=200), QUOTE)
    text = out.getvalue()
    for said in (
        "100.0 s (P50), 140.0 s (P90)",
        "1.5 (P50), 1.5 (P90), never more than 2",
        "own machine",
        "The audit: 4.0 s of this machine, which costs 0.02, 3.4 MB. 1 contributor would read rows in plaintext.",
        "abc is the bottleneck: speed.",
        "90.0 s",
    ):
        assert said in text


@pytest.mark.parametrize(
    "words", [[], ["job.json", "--for", "fun"], ["job.json", "--replay", "quote.json"], ["no-such-job.json"]]
)
def test_bad_options_name_one_fix(cli: Cli, words: list[str]) -> None:
    answer = cli("quote", *words, "--json")
    assert answer.code == 2 and "Fix" in answer.err + answer.out
