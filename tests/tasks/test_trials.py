"""A job of several independent trainings, with real contributors: waves, audits, rungs, kill -9, what is delivered."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cloudlinkup import load_model
from cloudlinkup.errors import BadInput
from cloudlinkup.training.architectures import initial_weights
from cloudlinkup.training.evaluate import score
from cloudlinkup.training.quantize import quantise
from cloudlinkup.types import parse_job
from cloudlinkup.wire.hashes import sha256
from models.correction import Correction
from models.facts import Prediction, ReferenceProfile
from models.plan import JobPlan
from tasks.context import Run
from tasks.deliver import deliver
from tasks.gate import suspicious
from tasks.orders import read_order, update_name
from tasks.rebalance import _learn, _tally
from tasks.rounds import _deal
from tasks.segment import FACTS
from tasks.subject import trial_rows
from tasks.train import _begin
from tasks.trials import (
    SEARCH,
    advance_trials,
    load_trials,
    plan_search,
    plan_trials,
    standings,
    stored_search,
    work_left,
)
from tests.tasks.conftest import JOB, Rig
from tests.tasks.test_ending import PLAN

GRID = {"kind": "grid", "over": {"train.lr": [1e-6, 0.02], "train.batch": [16, 32]}, "halving": {"eta": 2, "rungs": 1}}


async def search(rig: Rig, what: dict, samples: int = 1_600) -> Run:
    """The rig's job as a search, planned as segment does it. The contributors look slow, so a first wave is short."""
    run = rig.run
    for seat in run.state.seats:
        slow = Prediction(agent=seat.agent, seconds=0.25, low=0.2, high=0.3, base=0.25, source="base")
        seat.belief = {**Correction.start(slow).__dict__}
    run.job = parse_job({**JOB, "train": {**JOB["train"], "samples": samples}, "search": what})
    plan = await plan_search(run.job, run.data, run.settings)
    run.write(FACTS, plan.facts[0].model_dump_json().encode())
    run.write(SEARCH, plan.model_dump_json().encode())
    run.state.plan = json.loads(PLAN.model_copy(update={"segment_steps": plan.work.segment}).model_dump_json())
    run.state.total_steps = plan.work.total_steps
    load_trials(run)
    return run


@pytest.fixture(autouse=True)
def known_profile(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A step's time as if measured, so that most tests need not: it takes a second for each network."""

    async def known(*_: object) -> ReferenceProfile:
        return ReferenceProfile(overhead=0.001, per_sample=1e-5)

    monkeypatch.setattr("tasks.trials.profile", known)
    return monkeypatch


async def begin(rig: Rig) -> None:
    run = rig.run
    await _deal(run)
    beliefs = {seat.seat: Correction(**seat.belief).prediction for seat in run.state.active()}
    plan = plan_trials(run, JobPlan.model_validate(run.state.plan), run.state.round + 1, beliefs, None)
    assert plan is not None
    await _begin(run, plan)


async def end(rig: Rig, *, learn: bool = True) -> None:
    """Audits what came, advances, pays on the contributors' chain."""
    run = rig.run
    assert run.round is not None
    for entry in run.round.entries:
        assert entry.outcome == "committed", entry.reason
        entry.outcome = "accepted" if (await rig.audit(entry)).accepted else "rejected"
        rig.chain.job.seats[entry.seat].awarded += entry.segments * 10 * run.state.price
        if learn:
            _learn(run, entry, 0.0)
            _tally(run, entry)
    advance_trials(run, run.round)
    run.state.round = run.round.round
    run.save()
    run.round.stage = "finished"
    run.save_round()
    run.round = None


async def finish(rig: Rig) -> None:
    while work_left(rig.run):
        await begin(rig)
        await rig.send()
        await end(rig)


def reread(rig: Rig) -> None:
    """What a new process has: the store's words and the folder's files."""
    old = rig.run
    fresh = Run(old.job, old.request_id, "second", old.settings, old.ledger, old.cluster)
    fresh.genesis, fresh.prepared, fresh.published = old.genesis, old.prepared, old.published
    rig.run = fresh
    load_trials(fresh)


async def test_a_grid_is_trained_halved_and_its_best_delivered(rig: Rig):
    run = await search(rig, GRID, samples=3_200)
    assert [of.spec.lr for of in run.trials] == [1e-6, 1e-6, 0.02, 0.02]
    assert len({of.spec.hash for of in run.trials}) == 4
    await finish(rig)
    states = run.state.trials
    assert [state.state for state in states] == ["stopped", "stopped", "done", "done"], "1e-6 learns nothing"
    assert [state.done for state in states] == [100, 50, 200, 100]
    assert run.state.steps_done == 450 <= run.state.total_steps == 500, "the bound is for the longer two going on"
    assert sum(seat.steps for seat in run.state.seats) == 450
    assert all(seat.rounds_done for seat in run.state.seats), "both worked"
    for of, state in zip(run.trials, states, strict=True):
        assert (run.folder / f"{of.prefix}weights-{state.generation}.bin").exists()
    await deliver.fn(run)
    folder = run.folder / "delivered"
    model = load_model(folder)
    assert model.spec.lr == 0.02 and model.metrics["score"] == run.state.score
    # what is reported was not chosen on
    assert model.metrics["rows"]["held_out"] == 30 and "chosen by 30 other held-out rows" in model.metrics["chosen"]
    rng = np.random.default_rng(7)
    raw = pd.DataFrame(rng.standard_normal((400, 6)), columns=[f"f{i}" for i in range(6)])
    assert (model.predict(raw) == np.where(raw["f0"] + raw["f1"] > 0, "yes", "no")).mean() > 0.85
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [(r["train.lr"], r["train.batch"], r["steps"], r["of"], r["state"]) for r in rows] == [
        ("1e-06", "16", "100", "200", "stopped"), ("1e-06", "32", "50", "100", "stopped"),
        ("0.02", "16", "200", "200", "done"), ("0.02", "32", "100", "100", "done"),
    ]  # fmt: skip
    assert (folder / "trials.png").read_bytes()[:4] == b"\x89PNG"
    assert "trials.csv" in (folder / "README.md").read_text()


async def test_orders_name_their_own_training_and_all_share_the_rows(rig: Rig):
    run = await search(rig, {"kind": "ensemble", "members": 2})
    await begin(rig)
    assert run.round is not None
    orders = {entry.trial: read_order(run, entry) for entry in run.round.entries}
    for number, order in orders.items():
        assert number is not None
        of = run.trials[number]
        assert order.spec_hash == of.spec.hash
        assert order.weights_hash == sha256(initial_weights(of.spec).astype("<f4").tobytes())
    assert len({order.partition_hash for order in orders.values()}) == len(run.state.shared) == 1
    assert len({order.weights_hash for order in orders.values()}) == 2, "another seed, another start"


async def test_a_wave_ends_at_a_bell_and_each_goes_on_from_what_it_did_by_then(rig: Rig):
    run = await search(rig, {"kind": "ensemble", "members": 2})
    await begin(rig)
    assert run.round is not None
    orders = [read_order(run, entry) for entry in run.round.entries]
    assert len({order.time_box for order in orders}) == 1
    assert [order.max_segments for order in orders] == [3, 3], "two are expected in five seconds"
    await rig.send()
    entry = run.round.entries[0]
    assert entry.trial is not None
    entry.segments -= 1  # as if the bell had come one segment earlier
    entry.outcome = "accepted"
    advance_trials(run, run.round)
    assert run.state.trials[entry.trial].done == 20
    work = stored_search(run).work
    assert standings(run, work)[entry.trial].done == 20 and work_left(run)


async def test_it_goes_on_after_kill_9_in_the_middle_of_a_wave(rig: Rig):
    await search(rig, {"kind": "ensemble", "members": 3})
    await begin(rig)
    await rig.send()
    await end(rig)
    rig.run.state.stage = "rounds"
    rig.run.save()
    await begin(rig)
    assert rig.run.round is not None
    for entry in rig.run.round.entries:
        assert entry.trial is not None
        done, batch = rig.run.state.trials[entry.trial].done, rig.run.trials[entry.trial].spec.batch
        assert read_order(rig.run, entry).rows_before == done * batch, (
            "whoever goes on with it, with the rows after those"
        )
    assert {read_order(rig.run, entry).rows_before for entry in rig.run.round.entries} != {0}
    await rig.send()
    before = [(of.generation, of.published.published.tobytes()) for of in rig.run.trials]
    reread(rig)  # results are there, nothing was judged
    run = rig.run
    assert run.round is not None
    assert [entry.outcome for entry in run.round.entries] == ["committed"] * len(run.round.entries)
    assert [(of.generation, of.published.published.tobytes()) for of in run.trials] == before
    await end(rig)
    after = [of.published.published.tobytes() for of in run.trials]
    reread(rig)
    assert [of.published.published.tobytes() for of in rig.run.trials] == after
    await finish(rig)
    assert [state.done for state in rig.run.state.trials] == [100, 100, 100]
    assert rig.run.state.steps_done == 300, "nothing was done twice"


async def test_a_forged_update_of_a_trial_is_rejected_and_moves_nothing(rig: Rig):
    run = await search(rig, {"kind": "ensemble", "members": 2})
    await begin(rig)
    await rig.send()
    assert run.round is not None
    entry = run.round.entries[0]
    assert entry.trial is not None
    other = run.round.entries[1]
    # the second contributor's result under the first one's name
    data = (run.folder / update_name(run.round.round, other.seat)).read_bytes()
    run.write(update_name(run.round.round, entry.seat), data)
    entry.upload = sha256(data)
    assert not (await rig.audit(entry, whole=True)).accepted
    entry.outcome, other.outcome = "rejected", "accepted"
    start = run.trials[entry.trial].published.published.copy()
    advance_trials(run, run.round)
    np.testing.assert_array_equal(run.trials[entry.trial].published.published, start)
    assert run.state.trials[entry.trial].done == 0
    assert other.trial is not None and run.state.trials[other.trial].done == other.segments * 10


async def test_the_next_chunk_of_the_same_contributor_gets_the_difference_only(rig: Rig):
    run = await search(rig, {"kind": "ensemble", "members": 2})
    for wave in range(2):
        await begin(rig)
        assert run.round is not None
        assert [entry.snapshot for entry in run.round.entries] == [wave == 0] * 2
        await rig.send()
        assert [entry.outcome for entry in run.round.entries] == ["committed"] * 2
        await end(rig, learn=False)  # equal speeds: everybody goes on with its own


async def test_folds_train_on_the_others_and_score_on_their_own(rig: Rig):
    run = await search(rig, {"kind": "folds", "folds": 3})
    rows = [len(trial_rows(run, k)[1]) for k in range(4)]
    assert rows[3] == len(run.data.features) and sum(rows[:3]) == 2 * rows[3]
    await finish(rig)
    assert len(run.state.shared) == 4
    await deliver.fn(run)
    model = load_model(run.folder / "delivered")
    last = [state.scores[-1][1] for state in run.state.trials]
    assert model.metrics["folds"] == {
        "count": 3, "mean": pytest.approx(np.mean(last[:3])), "deviation": pytest.approx(np.std(last[:3], ddof=1)),
    }  # fmt: skip
    np.testing.assert_array_equal(model.weights, run.trials[3].published.published)
    held = run.data.holdout_features, run.data.holdout_targets
    assert model.metrics["score"] == score(model.spec, model.weights, *held)[1] == last[3]
    assert "3-fold cross-validation" in (run.folder / "delivered" / "README.md").read_text()


@pytest.mark.parametrize("which", ["all", "blend"])
async def test_an_ensemble_ended_early_delivers_all_or_their_blend(rig: Rig, which: str):
    run = await search(rig, {"kind": "ensemble", "members": 2, "deliver": which})
    await begin(rig)
    await rig.send()
    await end(rig)
    run.state.ended_early = "the deadline is near"
    await deliver.fn(run)
    folder = run.folder / "delivered"
    members = [load_model(folder / f"trials/0{k}") for k in range(2)]
    assert [m.metrics["steps"] for m in members] == [state.done for state in run.state.trials]
    model = load_model(folder)
    raw = pd.DataFrame(np.random.default_rng(3).standard_normal((60, 6)), columns=[f"f{i}" for i in range(6)])
    if which == "blend":
        mean = np.mean([m.predict_proba(raw) for m in members], axis=0)
        np.testing.assert_allclose(model.predict_proba(raw), mean, atol=1e-6)
        assert 0 <= model.metrics["score"] == run.state.score <= 1
    else:
        assert any(np.array_equal(model.weights, m.weights) for m in members)
    assert "ended early: the deadline is near" in (folder / "README.md").read_text()


async def test_updates_of_unlike_networks_are_not_compared(rig: Rig):
    """A hundred times longer than the others' is odd where all train one network, not where each trains its own."""
    run = await search(rig, {"kind": "ensemble", "members": 2})
    await begin(rig)
    await rig.send()
    assert run.round is not None
    size = run.trials[0].published.weights.size
    update = np.full(size, 1e-3, np.float32)
    for entry, factor in zip(run.round.entries, (1, 1_000), strict=True):
        run.write(update_name(1, entry.seat), quantise(update * np.float32(factor)))
    assert suspicious(run, run.round, run.round.entries) == {}
    run.write(update_name(1, run.round.entries[0].seat), b"nonsense")
    assert list(suspicious(run, run.round, run.round.entries)) == [run.round.entries[0].seat]


async def test_a_training_that_diverges_stops_alone(rig: Rig):
    run = await search(rig, {"kind": "ensemble", "members": 2})
    await begin(rig)
    await rig.send()
    assert run.round is not None
    for entry in run.round.entries:
        entry.outcome = "accepted"
    bad = run.round.entries[0].trial
    assert bad is not None
    weights = run.trials[bad].published.weights
    weights[:] = np.float32(3e38)  # whatever is added to it is too much
    run.write(update_name(1, run.round.entries[0].seat), quantise(np.full(weights.size, 6e4, np.float32)))
    advance_trials(run, run.round)
    assert [state.state for k, state in enumerate(run.state.trials) if k == bad] == ["stopped"]
    assert work_left(run) or all(state.state != "open" for state in run.state.trials)
    assert "not_advanced" in [event.kind for event in run.store.events(run.request_id)]


async def test_what_cannot_be_trained_is_refused_before_anything_is_timed(rig: Rig):
    run = rig.run
    large = {"kind": "grid", "over": {"model.hidden": [[8], [8_192, 8_192]]}}
    with pytest.raises(BadInput) as caught:
        await plan_search(parse_job({**JOB, "search": large}), run.data, run.settings)
    assert caught.value.field == "search"
    few = replace(run.data, features=run.data.features[:5], targets=run.data.targets[:5])
    with pytest.raises(BadInput) as caught:
        await plan_search(parse_job({**JOB, "search": {"kind": "folds", "folds": 5}}), few, run.settings)
    assert caught.value.field == "search.folds"


async def test_the_plan_of_a_search_survives_its_file(rig: Rig, known_profile: pytest.MonkeyPatch):
    known_profile.undo()  # measured
    run = await search(rig, GRID, samples=3_200)
    plan = stored_search(run)
    assert plan.work.total_steps == 500 and sum(plan.work.steps) == 600
    assert max(plan.work.weights) == 1.0 and min(plan.work.weights) > 0
    assert plan.facts[0].steps == plan.work.total_steps
    assert {plan.facts[trial.facts].batch for trial in plan.trials} == {16, 32}
