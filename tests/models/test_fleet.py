"""Many jobs on one fleet: every job ends in one way, nobody works for two at once, the same seed goes the same way."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from benchmarks.fleet import run
from models import fleet


def counted(found: dict[str, Any]) -> int:
    return found["done"] + found["broke off"] + sum(found["refused"].values())


def test_every_job_ends_and_nobody_is_held_twice() -> None:
    held: dict[int, set[str]] = {}
    hold = fleet.Fleet._hold

    def watched(self: fleet.Fleet, going: Any) -> None:
        hold(self, going)
        held[id(going)] = set(going.held)
        if going.simulation.over:
            del held[id(going)]
        everybody = [agent for agents in held.values() for agent in agents]
        assert len(everybody) == len(set(everybody)) and set(everybody) <= self.busy | going.held

    with patch.object(fleet.Fleet, "_hold", watched):
        found = run(300, 14, 3, ranked=True)
    assert counted(found) == 14 and found["done"] >= 5 and found["rounds"] >= 5 * found["done"]
    again = run(300, 14, 3, ranked=True)
    assert {k: v for k, v in again.items() if k not in ("wall", "cpu")} == {
        k: v for k, v in found.items() if k not in ("wall", "cpu")
    }


def test_in_the_order_of_arrival_they_all_end_as_well() -> None:
    with patch("benchmarks.fleet.AT_ONCE", 2):
        found = run(200, 10, 4, ranked=False)
    assert counted(found) == 10 and found["waited, P95"] >= 0
