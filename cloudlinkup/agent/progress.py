"""What a person or a log collector sees of an agent: one line an event, on standard error. Totals for the end.

On a terminal: short sentences and one live line; otherwise JSON lines. Amounts in tokens; never a row value or secret.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import structlog
from rich.console import Console
from rich.status import Status

from cloudlinkup.types import format_tokens

DECIMALS = 6
_MONEY = ("pay", "may_earn", "awarded")
_SENTENCES = {
    "connected": "connected to {gateway} as {agent}",
    "waiting": "not connected, trying again: {why}",
    "order": "job {job}, round {round}, seat {seat}: {segments} segments of {steps} steps, may earn {may_earn}, "
    "awarded on chain so far {awarded}",
    "refused": "order refused ({reason}): {detail}",
    "trained": "round {round}: {segments} segments in {seconds:.1f} s, {pay} if they verify",
    "included": "round {round}: our result is in the round that the chain shows",
    "not_included": "round {round}: our result is NOT in the round that the chain shows",
    "offered_again": "order {order}: already done, offered again",
    "finished": "job {job}: {reason}, awarded on chain {awarded}; its data is deleted here",
    "expired": "job {job}: its deadline passed long ago; its data is deleted here",
    "draining": "leaving: no new work; a running shard has {seconds:.0f} s (again to stop at once)",
    "left": "left",
    "probing": "measuring this device, some seconds",
    "failed": "this device works no more: {why}",
}


class Progress:
    """`report` is the agent's callback, from any thread. `device` among the facts: which of several it is about."""

    def __init__(self) -> None:
        self.totals = {"orders": 0, "segments": 0, "refused": 0, "pay_if_verified": 0, "awarded": 0}
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._live: dict[Any, str] = {}  # what the live line says, by device
        self._lock = threading.Lock()
        self._log = structlog.wrap_logger(
            structlog.WriteLogger(sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.JSONRenderer(serializer=json.dumps),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(20),
        )

    def report(self, event: str, facts: dict[str, Any]) -> None:
        with self._lock:
            self._count(event, facts)
            if self._console.is_terminal:
                self._show(event, facts)
            else:
                self._log.info(event, **{k: str(v) if k in _MONEY else v for k, v in facts.items()})

    def close(self) -> None:
        with self._lock:
            if self._status is not None:
                self._status.stop()

    def _count(self, event: str, facts: dict[str, Any]) -> None:
        totals = self.totals
        if event == "order":
            totals["orders"] += 1
        elif event == "trained":
            totals["segments"] += facts["segments"]
            totals["pay_if_verified"] += facts["pay"]
        elif event == "finished":
            totals["awarded"] += facts["awarded"]
        elif event == "refused":
            totals["refused"] += 1

    def _show(self, event: str, facts: dict[str, Any]) -> None:
        if self._status is None and event == "connected":  # not before: its refreshing would disturb the probes
            self._status = self._console.status("waiting for orders", refresh_per_second=2)
            self._status.start()
        device = facts.get("device")
        prefix = "" if device is None else f"device {device}: "
        if event == "segment":
            self._update(device, f"{prefix}round {facts['round']}: {facts['done']} of {facts['of']} segments")
            return
        shown = {k: f"{format_tokens(v, DECIMALS)} tokens" if k in _MONEY else v for k, v in facts.items()}
        sentence = _SENTENCES.get(event, event)
        self._console.print(prefix + sentence.format(**shown), markup=False, soft_wrap=True)
        if event in ("trained", "finished", "failed", "left"):
            self._update(device, "")

    def _update(self, device: Any, text: str) -> None:
        self._live[device] = text
        if self._status is not None:
            self._status.update("; ".join(filter(None, self._live.values())) or "waiting for orders")
