"""What of the audits shows in a job's time: never more than all of it, never less than those of two rounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.auditing import LONGEST, shown_seconds

SECONDS = st.floats(0, 10_000)


@given(SECONDS, st.integers(1, 100), SECONDS)
def test_what_shows_lies_between_two_rounds_audits_and_all(audit: float, rounds: int, training: float) -> None:
    shown = shown_seconds(audit, rounds, training)
    assert min(audit, 2 * audit / rounds) - 1e-6 <= shown <= audit + 1e-6
    assert shown_seconds(audit, rounds, LONGEST * rounds * 1.01) == audit, "long rounds wait for their audit"
    if training <= LONGEST * rounds:
        assert shown_seconds(audit, rounds, training / 2) >= shown - 1e-6, "less training hides less"
