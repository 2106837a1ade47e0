"""Progress lines: every event has its sentence and its totals, for people and for collectors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudlinkup.agent.progress import Progress

EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("probing", {}),
    ("waiting", {"why": "[bold]no[/bold]"}),
    ("connected", {"gateway": "wss://g", "agent": "key"}),
    (
        "order",
        {"job": "J", "round": 1, "seat": 0, "segments": 4, "steps": 5, "may_earn": 1_500_000, "awarded": 250_000},
    ),
    ("segment", {"round": 1, "done": 2, "of": 4}),
    ("trained", {"round": 1, "segments": 4, "pay": 1_500_000, "seconds": 2.0}),
    ("included", {"round": 1}),
    ("not_included", {"round": 1}),
    ("refused", {"reason": "credit", "detail": "2 rounds"}),
    ("offered_again", {"order": "abcdef00"}),
    ("finished", {"job": "f" * 32, "reason": "done", "awarded": 1_500_000}),
    ("expired", {"job": "f" * 32}),
    ("draining", {"shards": 1, "seconds": 120.0}),
    ("left", {}),
]


def say_all() -> Progress:
    progress = Progress()
    for event, facts in EVENTS:
        progress.report(event, facts)
    progress.close()
    return progress


def test_json_lines_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    progress = say_all()
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert [line["event"] for line in lines] == [event for event, _ in EVENTS]
    assert lines[3]["may_earn"] == "1500000"
    assert captured.out == ""
    assert progress.totals == {
        "orders": 1, "segments": 4, "refused": 1, "pay_if_verified": 1_500_000, "awarded": 1_500_000,
    }  # fmt: skip


def test_sentences_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "300")
    say_all()
    text = capsys.readouterr().err
    for said in ("may earn 1.5 tokens", "so far 0.25 tokens", "[bold]no[/bold]", "NOT in the round", "credit"):
        assert said in text
