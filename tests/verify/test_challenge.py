import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cloudlinkup.verify.challenge import draw


def seed(number):
    return hashlib.sha256(number.to_bytes(8, "little")).digest()


@given(st.binary(min_size=32, max_size=32), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_what_is_drawn_is_in_the_shard_and_the_rules_hold(seed, segments, newcomer, small_job):
    drawn = draw(seed, segments, newcomer=newcomer, small_job=small_job)
    assert drawn == draw(seed, segments, newcomer=newcomer, small_job=small_job)
    assert drawn <= set(range(1, segments + 1))
    if segments == 0:
        assert not drawn
    elif newcomer:
        assert segments in drawn and len(drawn) >= min(2, segments)
    else:
        assert len(drawn) in (1, 2)
        assert not small_job or segments in drawn
    assert draw(seed, segments, newcomer=False, small_job=False) <= draw(seed, segments, newcomer=True, small_job=True)


def test_draws_are_uniform():
    count, segments = 6_000, 7
    alone = Counter()
    last = 0
    for number in range(count):
        drawn = draw(seed(number), segments, newcomer=False, small_job=False)
        # where the last came by the coin, the random one is the other
        alone.update(drawn - {segments})
        last += segments in drawn
    assert chisquare([alone[k] for k in range(1, segments)]).pvalue > 0.001
    expected = 1 - (1 - 1 / segments) / 2
    assert abs(last / count - expected) < 0.03


def test_a_newcomers_two_are_uniform_pairs():
    pairs = Counter()
    for number in range(6_000):
        drawn = draw(seed(number), 5, newcomer=True, small_job=False)
        if len(drawn) == 3:
            pairs[tuple(sorted(drawn - {5}))] += 1
    assert len(pairs) == 6 and chisquare(list(pairs.values())).pvalue > 0.001


def test_one_cheated_segment_in_ten_is_caught_as_often_as_computed():
    rounds, trials = 20, 300
    caught = sum(
        any(4 in draw(seed(t * 1000 + r), 10, newcomer=False, small_job=False) for r in range(rounds))
        for t in range(trials)
    )
    assert abs(caught / trials - (1 - 0.9**rounds)) < 0.07


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError):
        draw(bytes(32), -1, newcomer=False, small_job=False)
