"""Versions, and who may become champion: a better challenger, and no poisoned one."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cloudlinkup.errors import Unavailable
from models.facts import JobFacts
from models.judge import MARGIN, Verdict, _rule, judge
from models.predictor import LEARNED, SHIPPED, Predictor
from models.registry import Registry
from models.replay import past_job, replay
from models.retrain import Window, read_window, split, too_little, train_challenger

Rows = Callable[..., list[dict[str, Any]]]


def law(width: int, agent: int) -> float:
    """Wide layers run 1.6 times slower than the rank-1 rule says, narrow ones faster, and agents with a slow launch
    are slower by a half: something to learn for quotes and for plans."""
    return {16: 0.7, 64: 1.0, 256: 1.6}[width] * (1.5 if agent % 2 else 1.0)


def champion() -> Predictor:
    """The shipped physical base: these tests make worlds in which the rank-1 rule is right, but for what is planted."""
    return replace(Predictor.load(SHIPPED), experts=())


def run(rows: list[dict[str, Any]]) -> tuple[Window, Verdict | None, Predictor | None]:
    window = read_window(pd.DataFrame(rows), champion())
    if too_little(window):
        return window, None, None
    seen, held = split(window)
    challenger = train_challenger(champion(), seen, "1", {})
    return window, judge(champion(), challenger, held), challenger


def test_a_challenger_that_learned_something_is_promoted(make_telemetry: Rows) -> None:
    _, verdict, challenger = run(make_telemetry(law))
    assert verdict is not None and challenger is not None
    assert verdict.promote, verdict
    assert verdict.figures["challenger error"] < 0.5 * verdict.figures["champion error"]
    assert challenger.name == LEARNED and challenger.experts[-1].name == "local"
    for name in ("error", "makespan", "cost"):
        assert 0 < verdict.figures[f"{name} gain low"] <= verdict.figures[f"{name} gain"]
    for who in ("champion", "challenger"):
        assert dict(verdict.calibration[who])[0.8] == verdict.figures[f"{who} coverage"]
        assert [share for _, share in verdict.calibration[who]] == sorted(s for _, s in verdict.calibration[who])


def test_held_out_are_the_latest_jobs(make_telemetry: Rows) -> None:
    window = read_window(pd.DataFrame(make_telemetry(law)), champion())
    seen, held = split(window)
    assert max(s.at for s in seen) < min(s.at for s in held)
    assert len({s.job_id for s in held}) == 6 and not {s.job_id for s in held} & {s.job_id for s in seen}


def test_nothing_to_learn_promotes_nothing(make_telemetry: Rows) -> None:
    _, verdict, _ = run(make_telemetry(lambda width, agent: 1.0))
    assert verdict is not None and not verdict.promote and "interval" in verdict.reason


def test_too_little_says_so(make_telemetry: Rows) -> None:
    window, verdict, _ = run(make_telemetry(law, jobs=6))
    assert verdict is None and "too little data" in str(too_little(window))
    empty = read_window(pd.DataFrame(make_telemetry(law, jobs=1)).iloc[:0], champion())
    assert "too little" in str(too_little(empty))


def test_ten_times_the_time_from_one_contributor_is_set_aside(make_telemetry: Rows) -> None:
    """Where there is nothing to learn, one liar must not look like something to learn."""
    window, verdict, _ = run(make_telemetry(lambda width, agent: 10.0 if agent == 3 else 1.0))
    assert window.suspects == ("agent-3",) and window.dropped["of a suspect contributor"] == 48
    assert verdict is not None and not verdict.promote


def test_half_of_the_contributors_lying_stops_everything(make_telemetry: Rows) -> None:
    window, verdict, _ = run(make_telemetry(lambda width, agent: 10.0 if agent >= 2 else 1.0))
    assert verdict is None and "not trustworthy" in str(too_little(window))


def test_a_liar_about_its_probes_is_set_aside(make_telemetry: Rows) -> None:
    """It claims to be five times as fast; its shards say what it is."""
    rows = make_telemetry(lambda width, agent: 1.0)
    for row in rows:
        if row["agent"] == "agent-3":
            row["probes"] = json.dumps([p | {"seconds": p["seconds"] / 5} for p in json.loads(row["probes"])])
    window, verdict, _ = run(rows)
    assert window.suspects == ("agent-3",) and window.dropped == {"of a suspect contributor": 48}
    assert verdict is not None and not verdict.promote


def test_nan_alone_is_dropped(make_telemetry: Rows) -> None:
    rows = [r | ({"seconds": math.nan} if n % 3 == 0 else {}) for n, r in enumerate(make_telemetry(lambda w, a: 1.0))]
    window, verdict, _ = run(rows)
    assert window.dropped == {"breaks the schema": 64} and verdict is not None and not verdict.promote
    window, verdict, _ = run([row | {"seconds": math.nan} for row in rows])
    assert not window.seen and verdict is None


def test_duplicated_rows_weigh_once(make_telemetry: Rows) -> None:
    """One odd job, copied a thousand times: the judgement is the same as without the copies."""
    rows = make_telemetry(lambda width, agent: 1.0)
    odd = [row | {"seconds": row["seconds"] * 2} for row in rows if row["job_id"] == "job-020"]
    others = [row for row in rows if row["job_id"] != "job-020"]
    window, verdict, _ = run(others + odd * 1_000)
    assert window.dropped == {"duplicate": 999 * len(odd)}
    assert verdict == run(others + odd)[1] and verdict is not None and not verdict.promote


def test_a_clock_that_ran_backwards_leaves_no_rows_in_the_future(make_telemetry: Rows) -> None:
    rows = make_telemetry(law)
    ahead = [row | {"at": row["at"] + 10**9} if row["job_id"] < "job-005" else row for row in rows]
    window = read_window(pd.DataFrame(ahead), champion(), now=1_900_030_000.0)
    assert window.dropped == {"from the future": 40} and window.jobs[0] == "job-005"


def test_better_quotes_promote_where_plans_get_no_worse(make_telemetry: Rows) -> None:
    """Networks run slower or faster than rank-1 says, all contributors alike: quotes get better, plans cannot."""
    _, verdict, _ = run(make_telemetry(lambda width, agent: {16: 0.7, 64: 1.0, 256: 1.6}[width]))
    assert verdict is not None and verdict.figures["error gain low"] > 0.3
    assert verdict.promote, verdict
    for name in ("makespan", "cost"):
        assert -MARGIN < verdict.figures[f"{name} gain low"] <= verdict.figures[f"{name} gain high"]


GOOD = {"error": (0.3, 0.2, 0.4), "makespan": (0.0, -0.01, 0.01), "cost": (0.0, -0.01, 0.01)}


@pytest.mark.parametrize(
    ("name", "gain", "why"),
    [
        ("error", (0.1, 0.0, 0.2), "error is not lower"),
        ("error", (-0.2, -0.3, -0.1), "error is not lower"),
        ("makespan", (-0.01, -0.03, 0.01), "replayed makespan may be over 2% worse"),
        ("makespan", (0.05, -0.02, 0.12), "replayed makespan may be over 2% worse"),  # few jobs: not known to be safe
        ("cost", (-0.10, -0.12, -0.08), "replayed cost may be over 2% worse"),
    ],
)
def test_lower_error_never_pays_for_worse_plans(name: str, gain: tuple[float, float, float], why: str) -> None:
    assert _rule(GOOD, 1.0, 0.9, 0.7) == (
        True,
        "its error is lower with confidence, replayed makespan and cost are not worse, no class is worse, and its"
        " intervals cover",
    )
    promote, reason = _rule(GOOD | {name: gain}, 1.0, 0.9, 0.7)
    assert not promote and why in reason
    assert not _rule(GOOD, 1.2, 0.9, 0.7)[0] and not _rule(GOOD, 1.0, 0.6, 0.7)[0]


def test_the_replay_knows_a_plan_by_true_speeds_from_one_by_wrong_ones(make_telemetry: Rows) -> None:
    window = read_window(pd.DataFrame(make_telemetry(lambda width, agent: 1.0, noise=1e-9)), champion())
    past = past_job([s for s in window.seen if s.job_id == "job-003"])
    bound = past.job.steps / sum(1 / s for s in past.seconds)
    makespan, cost = replay(past, Predictor.rank1())
    assert makespan == pytest.approx(bound, rel=0.1) and makespan >= bound * 0.999
    wrong = replace(past, seconds=(past.seconds[0] * 2, *past.seconds[1:]))
    slower, dearer = replay(wrong, Predictor.rank1())
    assert slower > 1.05 * past.job.steps / sum(1 / s for s in wrong.seconds) and dearer > cost


def test_nan_duplicates_and_junk_are_dropped_and_not_promoted(make_telemetry: Rows) -> None:
    rows = make_telemetry(lambda width, agent: 1.0)
    nan = [row | {"seconds": math.nan, "attempt": 2} for row in rows[:40]]
    twice = [row for row in rows if row["agent"] == "agent-1"] * 20
    junk = [row | {"job": "{}", "attempt": 3} for row in rows[:5]] + [
        row | {"probes": "[1]", "attempt": 4} for row in rows[:3]
    ]
    lost = [row | {"outcome": "lost", "attempt": 5} for row in rows[:7]]
    window, verdict, _ = run(rows + nan + twice + junk + lost)
    assert window.dropped == {"duplicate": len(twice), "breaks the schema": 40, "does not parse": 8, "not accepted": 7}
    assert len(window.seen) == len(rows)
    assert verdict is not None and not verdict.promote


def test_a_poisoned_past_is_stopped_by_the_held_out_jobs(make_telemetry: Rows) -> None:
    """Everybody's older jobs were slow (a broken clock), the latest are not: the challenger is judged on the latest."""
    rows = [row | ({"seconds": row["seconds"] * 3} if row["at"] < 1_900_017_500 else {}) for row in make_telemetry(law)]
    _, verdict, _ = run(rows)
    assert verdict is not None and not verdict.promote
    assert verdict.figures["challenger error"] > verdict.figures["champion error"]


def test_a_class_that_gets_worse_or_too_narrow_intervals_stop_it(make_telemetry: Rows) -> None:
    rows = make_telemetry(law)
    window = read_window(pd.DataFrame(rows), champion())
    seen, held = split(window)
    challenger = train_challenger(champion(), seen, "1", {})
    expert = challenger.experts[0]
    narrow = replace(challenger, experts=(replace(expert, widths=dict.fromkeys(expert.widths, 1e-4)),))
    assert "covers" in judge(champion(), narrow, held).reason
    # one agent's class runs as rank-1 says: what was learned from the others makes it worse
    other = [
        replace(
            s,
            candidate=s.candidate.model_copy(update={"device_class": "cpu|other"}),
            truth=s.truth - math.log(law(int(s.job.features["parameters"] - 10) // 75, 0)),
        )
        if s.candidate.agent == "agent-0"
        else s
        for s in held
    ]
    assert "class" in judge(champion(), challenger, other).reason


# ---------------------------------------------------------------- registry


def versioned(version: str) -> Predictor:
    return replace(champion(), version=version)


def test_promote_and_one_step_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    assert registry.champion().version == "0" and registry.versions() == ["0"] and registry.next_version() == "1"
    registry.add(versioned("1"))
    assert registry.champion().version == "0"  # stored is not promoted
    registry.promote("1")
    assert Registry(tmp_path / "models").champion().version == "1"
    assert registry.promote("1").previous == "0"  # again changes nothing
    registry.add(versioned(registry.next_version()))
    registry.promote("2")
    assert registry.rollback().version == "1" and registry.champion().version == "1"
    with pytest.raises(Unavailable, match="no earlier"):
        registry.rollback()
    assert registry.versions() == ["0", "1", "2"] and registry.next_version() == "3"


def test_a_version_is_never_changed_and_a_broken_one_never_plans(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    registry.add(versioned("1"))
    with pytest.raises(FileExistsError):
        registry.add(versioned("1"))
    with pytest.raises(FileExistsError):
        registry.add(versioned("0"))
    (registry.folder / "1" / "metadata.json").write_text("{}")
    with pytest.raises(Unavailable):
        registry.promote("1")
    assert registry.champion().version == "0"
    for strange in ("../1", "", "x", "9"):
        with pytest.raises(Unavailable):
            registry.load(strange)
    (registry.folder / "champion.json").write_text('{"version": "../../etc", "previous": null}')
    with pytest.raises(Unavailable):
        _ = registry.pointer


@pytest.mark.parametrize("harm", ["pointer", "cut", "newer", "gone", "folder"])
def test_where_the_champion_cannot_be_used_the_rank1_rule_plans_and_says_so(
    tmp_path: Path, harm: str, job: JobFacts
) -> None:
    registry = Registry(tmp_path / "models")
    registry.add(versioned("1"))
    registry.promote("1")
    registry.add(versioned("2"))
    registry.promote("2")
    meta, pointer = registry.folder / "2" / "metadata.json", registry.folder / "champion.json"
    if harm == "pointer":
        pointer.write_text("not json")
    elif harm == "cut":
        meta.write_text(meta.read_text()[:100])
    elif harm == "newer":
        meta.write_text(meta.read_text().replace('"format": 1', '"format": 99'))
    elif harm == "gone":
        shutil.rmtree(meta.parent)
    else:
        pointer.unlink()
        pointer.mkdir()
    found = registry.champion()
    assert (found.name, found.version) == ("rank-1", "0")
    first = found.notes(job)[0]
    assert "rank-1 rule alone" in first and "Fix: " in first
    assert ("newer version" in first) == (harm == "newer")
    if harm not in ("pointer", "folder"):  # one step back, and a version that can be used plans again
        registry.rollback()
        assert registry.champion().version == "1" and not registry.champion().notice
