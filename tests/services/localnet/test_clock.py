from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.localnet.clock import BLOCKHASH_WINDOW, ChainClock, parse_commitment


class Wall:
    """A machine whose clock the test turns."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000.0

    def make(self, **options: int) -> ChainClock:
        facts = {"genesis_ms": 1_700_000_000_000 - 6_400, "slot_ms": 100, "floor_ms": 0, "warped_ms": 0} | options
        return ChainClock(**facts, secret=b"s" * 32, wall_ms=lambda: self.now, monotonic_ms=lambda: self.now)


@given(st.lists(st.tuples(st.sampled_from(["run", "warp", "restart", "clock set back"]), st.integers(0, 10**7))))
def test_time_and_slots_never_go_back(steps: list[tuple[str, int]]) -> None:
    wall = Wall()
    clock = wall.make()
    before = clock.now_ms(), clock.slot()
    for what, amount in steps:
        if what == "run":
            wall.now += amount
        elif what == "warp":
            clock.warp(amount)
        else:
            if what == "clock set back":
                wall.now -= amount
            floor, warped = before[0], clock.warped_ms
            clock = wall.make(floor_ms=floor, warped_ms=warped)
        after = clock.now_ms(), clock.slot()
        assert after >= before
        before = after
        assert clock.slot("finalized") <= clock.slot("confirmed") <= clock.slot()
        assert clock.time_of(clock.slot()) <= clock.now_ms() // 1_000


def test_a_block_hash_is_known_for_the_window_and_no_longer() -> None:
    wall = Wall()
    clock = wall.make()
    slot = clock.slot()
    fresh = clock.block_hash(slot)
    assert clock.slot_of_hash(fresh) == slot
    wall.now += 100 * BLOCKHASH_WINDOW
    assert clock.slot_of_hash(fresh) == slot
    wall.now += 100
    assert clock.slot_of_hash(fresh) is None
    assert clock.slot_of_hash(clock.block_hash(clock.slot() + 1)) is None, "not before its slot"
    assert clock.block_hash(slot) == fresh == wall.make().block_hash(slot), "and the same for ever"


def test_commitment_deepens_with_slots() -> None:
    wall = Wall()
    clock = wall.make()
    slot, seen = clock.slot(), []
    for _ in range(10):
        seen.append(clock.commitment_of(slot))
        wall.now += 100
    assert seen == ["processed"] * 2 + ["confirmed"] * 6 + ["finalized"] * 2
    assert parse_commitment(None) == "finalized"
