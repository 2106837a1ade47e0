"""How many places one wallet takes: of any field, never more than a third of what is filled, rounded up."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cloudlinkup.training.aggregate import aggregate
from models.wallets import admit, most_places

fields = st.lists(st.sampled_from("abcdef"), max_size=16)


def test_the_bound() -> None:
    assert [most_places(n) for n in range(1, 11)] == [1, 2, 3, 2, 2, 2, 3, 3, 3, 4]


def test_examples() -> None:
    assert admit("abcd", 4) == (0, 1, 2, 3)
    assert admit("aabc", 4) == (0, 1, 2, 3)  # two devices beside two others
    assert admit("aaabc", 8) == (0, 1, 3, 4)  # of five places the third device would have been more than its part
    assert admit("aaaaaaaa", 8) == (0, 1, 2)  # alone it can only have so many that nothing binds
    assert admit("aaaabbbb", 8) == (0, 1, 2)  # two wallets cannot share four without one above a third
    assert admit("aab", 3) == (0, 1, 2)
    assert admit("ab", 4, held="aac") == (1,)
    assert admit("ab", 4, held="aab") == ()  # two wallets would share four
    assert admit("", 4) == admit("abc", 0) == admit("a", 1, held="b") == ()


@given(fields, st.integers(0, 12))
def test_nobody_takes_more_than_its_part(wallets: list[str], places: int) -> None:
    found = admit(wallets, places)
    taken = Counter(wallets[i] for i in found)
    assert list(found) == sorted(set(found)) and len(found) <= places
    assert all(n <= most_places(len(found)) for n in taken.values())
    assert len(found) < 4 or len(taken) >= 3
    assert bool(found) == bool(wallets and places)
    first = {wallet: wallets.index(wallet) for wallet in taken}
    assert set(first.values()) <= set(found)  # of one wallet its best


@given(st.lists(st.sampled_from("abcdef"), max_size=16, unique=True), st.integers(0, 12))
def test_where_each_has_one_device_nothing_binds(wallets: list[str], places: int) -> None:
    some = len(admit(wallets, places))
    assert admit(wallets, places) == tuple(range(min(places, len(wallets)))) or some == 3


@given(fields, fields, st.integers(0, 12))
def test_who_holds_a_place_counts(wallets: list[str], held: list[str], places: int) -> None:
    found = admit(wallets, places, held)
    filled = [*held, *(wallets[i] for i in found)]
    assert len(filled) <= max(places, len(held))
    for wallet in {wallets[i] for i in found}:
        assert filled.count(wallet) <= most_places(len(filled))


@given(fields, st.integers(4, 12), st.randoms(use_true_random=False))
def test_whoever_is_admitted_stays_within_a_third_of_the_weight(wallets: list[str], places: int, chance) -> None:
    """From four seats on, whatever each of the devices gets done."""
    seats = {number: wallets[i] for number, i in enumerate(admit(wallets, places))}
    updates = {seat: (np.ones(4, np.float32), chance.randint(1, 500)) for seat in seats}
    if len(seats) < 4:
        return
    shares = aggregate(updates, seats).shares
    for wallet in set(seats.values()):
        assert sum(shares[seat] for seat in seats if seats[seat] == wallet) <= 1 / 3 + 1e-9
