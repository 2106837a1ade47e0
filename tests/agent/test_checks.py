"""What an unknown client owes: never more rounds than truly lack their award, and none where all is awarded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.agent.checks import unawarded
from cloudlinkup.agent.files import Delivered, SeatRecord

ROUNDS = st.lists(st.tuples(st.integers(1, 10**6), st.booleans()), max_size=12)  # (pay, whether it was awarded)


def record(pays: list[int]) -> SeatRecord:
    done = tuple(
        Delivered(round=n, attempt=0, order=f"{n:064x}", root="", segments=1, pay=pay, seconds=float(n), delivered=True)
        for n, pay in enumerate(pays, 1)
    )
    return SeatRecord(job="j", job_id="00" * 16, seat=0, deadline=0, baseline=50, done=done)


@given(ROUNDS)
def test_no_more_rounds_are_owed_than_lack_their_award(rounds: list[tuple[int, bool]]) -> None:
    found, seconds = unawarded(record([pay for pay, _ in rounds]), 50 + sum(p for p, paid in rounds if paid), 2**32)
    lacking = [pay for pay, paid in rounds if not paid]
    assert (found > 0) == bool(lacking) and found <= len(lacking)
    assert (seconds > 0) == bool(lacking)


def test_one_lost_round_stays_one_round_whatever_the_others_earn() -> None:
    """It is not taken for two by rounds that earn less than it did."""
    lost = record([100, 90, 20, 20, 20])
    assert unawarded(lost, 50 + 100 + 20 + 20 + 20, 2**32) == (1, 1.0)
    assert unawarded(lost, 50 + 100 + 20 + 20, 6)[0] == 2, "the second and the last"
    assert unawarded(lost, 50, 2**32) == (5, 15.0)
    assert unawarded(lost, 50, 1) == (0, 0.0), "nothing before the first round"
