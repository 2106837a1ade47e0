"""Random histories, program against model, step by step; whatever happened, every job ends and nothing is left.

The long run is `python -m benchmarks.escrow_fuzz --instructions N --seed S`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from benchmarks.escrow_fuzz import history
from tests.programs.actions import ACTIONS, Player


class Histories(RuleBasedStateMachine):
    """One rule an action; `Twins` compares after every one of them."""

    twins: Player

    @initialize(
        bps=st.sampled_from([0, 250, 1000]),
        window=st.sampled_from([10, 60]),
        arbiter_window=st.sampled_from([5, 30, 200]),
    )
    def begin(self, bps: int, window: int, arbiter_window: int) -> None:
        self.twins = Player(bps=bps, window=window, arbiter_window=arbiter_window)

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            self.twins.finish()


def as_rule(action: Callable[[Player, Any], None]) -> Any:
    def step(self: Histories, data: st.DataObject) -> None:
        action(self.twins, lambda options: data.draw(st.sampled_from(options)))

    return rule(data=st.data())(step)


for _name, (_, _action) in ACTIONS.items():
    setattr(Histories, _name, as_rule(_action))

TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("seed", range(8))
def test_a_random_history_agrees_with_the_model(seed: int) -> None:
    twins = history(seed)
    assert sum(twins.counts.values()) > 40
