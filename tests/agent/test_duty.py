"""The duty limit: the share is held, debt is bounded, and idleness buys no burst."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.agent.duty import MOST_OWED, Duty


class Clocks:
    """A thread's CPU clock and the wall clock, moved by hand; sleeping moves the wall alone."""

    def __init__(self) -> None:
        self.busy = self.wall = 0.0

    def work(self, busy: float, waited: float = 0.0) -> None:
        self.busy += busy
        self.wall += busy + waited

    def duty(self, share: float) -> Duty:
        return Duty(share, busy_clock=lambda: self.busy, clock=lambda: self.wall)

    def sleep(self, duty: Duty) -> float:
        owed = max(0.0, duty.owed())
        self.wall += owed
        return owed


@given(
    share=st.floats(0.05, 1.0),
    steps=st.lists(st.tuples(st.floats(1e-4, 0.3), st.floats(0, 0.5)), min_size=1, max_size=200),
)
def test_never_above_the_share(share: float, steps: list[tuple[float, float]]) -> None:
    clocks = Clocks()
    duty = clocks.duty(share)
    duty.start()
    for busy, waited in steps:
        clocks.work(busy, waited)
        clocks.sleep(duty)
        # 0.05 s: what an overslept pause may give back
        assert clocks.busy <= share * clocks.wall + share * 0.05 + 1e-6


def test_debt_is_bounded_and_idleness_is_not_saved() -> None:
    clocks = Clocks()
    duty = clocks.duty(0.1)
    duty.start()
    clocks.work(busy=60)
    assert clocks.sleep(duty) == MOST_OWED
    clocks.work(busy=0.0, waited=600)
    clocks.sleep(duty)
    clocks.work(busy=1.0)
    assert clocks.sleep(duty) == pytest.approx(9.0, abs=0.051)


def test_wall_share_without_a_busy_clock() -> None:
    duty = Duty(0.5, busy_clock=None)
    duty.start()
    begun, slept = time.perf_counter(), 0.0
    while time.perf_counter() - begun < 0.6:
        time.sleep(0.01)
        slept += duty.pause()
    assert 0.3 < slept / (time.perf_counter() - begun) < 0.7


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_a_real_thread_holds_its_share(share: float) -> None:
    used: list[float] = []
    slept = 0.0

    def work() -> None:
        nonlocal slept
        duty = Duty(share)
        duty.start()
        begun, busy = time.perf_counter(), time.thread_time()
        while time.perf_counter() - begun < 1.5:
            step = time.thread_time()
            while time.thread_time() - step < 0.004:
                pass
            slept += duty.pause()
        used.extend((time.thread_time() - busy, time.perf_counter() - begun))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    busy, elapsed = used
    assert busy / elapsed <= share * 1.05
    # pauses are no longer than due; none at all where other programs already hold the processor for longer
    assert slept <= busy * (1 / share - 1) * 1.5 + 0.3


def test_stop_ends_a_pause_at_once() -> None:
    clocks = Clocks()
    duty, stop = clocks.duty(0.1), threading.Event()
    duty.start()
    clocks.work(busy=10)
    stop.set()
    begun = time.monotonic()
    duty.pause(stop)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_refuses_other_shares(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Duty(share)


def test_what_another_thread_did_for_the_shard_counts() -> None:
    clocks = Clocks()
    duty = clocks.duty(0.5)
    duty.start()
    clocks.work(0.1)
    alone = duty.owed()
    duty.also(0.05)
    assert duty.owed() == pytest.approx(alone + 0.1)
    of_the_clock = Duty(0.5, busy_clock=None, clock=lambda: clocks.wall)
    of_the_clock.start()
    of_the_clock.also(5.0)
    assert of_the_clock.owed() == 0
