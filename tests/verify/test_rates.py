from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlinkup.verify.challenge import draw
from cloudlinkup.verify.rates import HASTE, MOST_EXTRA, TOLERATED, Risk, caught, drawn_for_value, gain, rate, slipping

risks = st.builds(
    Risk,
    rounds=st.integers(0, 50),
    contributors=st.integers(1, 64),
    value=st.floats(0, 1),
    misses=st.floats(0, 20),
    pace=st.floats(0, 100),
    share=st.floats(0, 1),
)


@settings(deadline=None, max_examples=200)
@given(risks, st.integers(1, 40), st.data())
def test_no_record_makes_a_cheat_pay(risk, segments, data):
    """The floor: at every rate, whatever part is not trained, the round's pay alone makes it a loss."""
    drawn = rate(risk).random
    cheated = data.draw(st.integers(1, segments))
    cost = data.draw(st.floats(0, 0.99))
    assert drawn >= 1
    assert caught(segments, cheated, drawn) >= cheated / segments - 1e-12
    assert gain(segments, cheated, drawn, cost) < 0


@settings(deadline=None, max_examples=200)
@given(risks, risks)
def test_more_to_fear_is_never_audited_less(one, two):
    worse = Risk(
        rounds=min(one.rounds, two.rounds),
        contributors=min(one.contributors, two.contributors),
        value=max(one.value, two.value),
        misses=max(one.misses, two.misses),
        pace=max(one.pace, two.pace),
        share=max(one.share, two.share),
    )
    for less in (one, two):
        assert rate(worse).random >= rate(less).random
        assert rate(worse).last >= rate(less).last
    assert rate(worse).extra <= MOST_EXTRA


def test_the_default_is_the_protocols():
    known = Risk(rounds=3, contributors=8, value=0.01, pace=0.8)
    assert (rate(known).random, rate(known).last, rate(known).why) == (1, 0.5, ())
    assert (rate(Risk(rounds=0, contributors=8)).random, rate(Risk(rounds=0, contributors=8)).last) == (2, 1.0)
    assert (rate(Risk(rounds=3, contributors=3)).random, rate(Risk(rounds=3, contributors=3)).last) == (1, 1.0)


def test_whoever_does_much_of_a_round_has_its_upload_tied_to_its_training():
    large, at = (rate(Risk(rounds=3, contributors=8, share=share)) for share in (0.26, 0.25))
    assert (large.random, large.last, large.why) == (1, 1.0, ("26% of the round's steps",))
    assert (at.last, at.why) == (0.5, ())
    assert rate(Risk(rounds=3, contributors=3, share=0.5)).why == ()  # the default of a small job


@pytest.mark.parametrize(
    ("fact", "extra", "word"),
    [({"misses": 1.0}, 1, "misses"), ({"misses": 0.2}, 1, "misses"), ({"pace": HASTE}, 2, "faster"),
     ({"value": 0.1}, 1, "budget"), ({"misses": 99.0, "pace": 9.0, "value": 1.0}, MOST_EXTRA, "misses")],
)  # fmt: skip
def test_what_raises_it_is_said(fact, extra, word):
    found = rate(Risk(rounds=3, contributors=8, **fact))
    assert found.extra == extra
    assert any(word in why for why in found.why)


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1))
def test_the_value_that_slips_is_bounded_or_the_most_is_drawn(value):
    drawn = drawn_for_value(value)
    assert drawn == 1 + MOST_EXTRA or value * slipping(drawn) <= TOLERATED
    assert drawn == 1 or value * slipping(drawn - 1) > TOLERATED


def test_the_formulas_are_what_they_say():
    for drawn in range(1, 6):
        peak = max(x / 1000 * (1 - x / 1000) ** drawn for x in range(1001))
        assert slipping(drawn) == pytest.approx(peak, abs=1e-6)
    # by counting every draw of 2 out of 6
    hits = sum(bool({a, b} & {1, 2}) for a in range(6) for b in range(a))
    assert caught(6, 2, 2) == pytest.approx(float(Fraction(hits, 15)))
    assert (caught(6, 0, 3), caught(6, 6, 1), caught(4, 1, 9)) == (0.0, 1.0, 1.0)
    for wrong in [(6, 7, 1), (6, -1, 1), (0, 0, 1)]:
        with pytest.raises(ValueError):
            caught(*wrong)
    with pytest.raises(ValueError):
        rate(Risk(rounds=-1, contributors=3))


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 60), st.booleans(), st.booleans(), st.integers(0, 8))
def test_extra_segments_only_add(seed, segments, newcomer, small_job, extra):
    before = draw(seed, segments, newcomer=newcomer, small_job=small_job)
    more = draw(seed, segments, newcomer=newcomer, small_job=small_job, extra=extra)
    assert before <= more <= set(range(1, segments + 1))
    assert len(more) >= min(segments, 1 + newcomer + extra)
    if extra:
        assert segments in more
