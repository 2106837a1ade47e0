"""Predictions, the files they are loaded from, the physical base, and what is learned of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloudlinkup.errors import Unavailable
from cloudlinkup.training.architectures import parameter_count
from cloudlinkup.training.spec import TrainingSpec
from cloudlinkup.wire.messages import Probe
from models.base import BOTH, FP32_ONLY, Base, Timing, Work, learn_blp, learn_roofline
from models.dataset import PROBES, all_probes, build_rows, learn_base, load_table
from models.facts import Candidate, JobFacts, TrackRecord
from models.features import NAMES, graph_features
from models.leave_out import Case, job_widths, paired_gain
from models.predictor import GROUPS, LEARNED, SHIPPED, Expert, Predictor, make_box, make_facts
from models.probe_works import CUDA_PROBES, probe_work
from models.profile import profile_reference
from models.residual import COLUMNS, fit

Make = Callable[..., Candidate]
META = {"data": "invented", "git_commit": "none", "metrics": {}}


def trained(version: str = "7") -> Predictor:
    """With a real expert, trained on invented rows: the residual is 0.3 where a job has over e^3 kernels, else -0.3."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, len(COLUMNS)))
    x[:, COLUMNS.index("log_kernels")] += 3
    residual = np.where(x[:, COLUMNS.index("log_kernels")] > 3, 0.3, -0.3)
    expert = Expert("test", fit(x, residual, np.ones(400), 20), make_box(x), dict.fromkeys(GROUPS, 0.2))
    shipped = Predictor.load(SHIPPED)
    return Predictor(LEARNED, version, shipped.base, (expert,), shipped.widths, dict(META))


# ---------------------------------------------------------------- predicting


def test_rank1_is_time_times_geometric_mean_of_probe_ratios_over_share(job: JobFacts, make_candidate: Make) -> None:
    found = Predictor.load(SHIPPED).predict(
        job, [make_candidate(0), make_candidate(1, 2.0), make_candidate(2, 2.0, 0.25)]
    )
    step = job.profile.step_seconds(job.batch)
    assert [p.seconds for p in found] == pytest.approx([step, 2 * step, 8 * step])
    assert all(p.low < p.seconds < p.high and p.source == "rank-1" for p in found)
    uneven = make_candidate(3).model_copy(
        update={
            "probes": tuple(
                p.model_copy(update={"seconds": p.seconds * k})
                for p, k in zip(job.profile.probes, (1, 2, 4), strict=True)
            )
        }
    )
    assert Predictor.rank1().predict(job, [uneven])[0].seconds == pytest.approx(2 * step)


def test_more_contributors_widen_the_interval_and_an_unknown_one_is_marked(job: JobFacts, make_candidate: Make) -> None:
    predictor = Predictor.load(SHIPPED)
    alone = predictor.predict(job, [make_candidate(0)])[0]
    among = predictor.predict(job, [make_candidate(i) for i in range(8)])[0]
    assert among.high / among.low >= alone.high / alone.low
    strange = make_candidate(9, probes=(Probe(name="other", precision="fp32", seconds=1, spread=0),))
    assert predictor.predict(job, [strange])[0].source == "unknown"


def test_a_devices_name_changes_nothing(job: JobFacts, make_candidate: Make) -> None:
    one, other = make_candidate(0), make_candidate(0, device_class="cpu|something else|x|y|z")
    predictor = trained()
    assert predictor.predict(job, [one]) == predictor.predict(job, [other])


def test_an_expert_speaks_inside_its_box_only(job: JobFacts, make_candidate: Make) -> None:
    predictor = trained()
    near = job.model_copy(update={"features": dict.fromkeys(NAMES, 1.0) | {"kernels": math.exp(3.9)}})
    # every boxed column of this job is near 0 but the rate, which follows from the time on the reference
    near = near.model_copy(update={"profile": near.profile.model_copy(update={"overhead": 1.0, "per_sample": 1e-6})})
    inside = predictor.predict(near, [make_candidate(0)])[0]
    assert inside.source == "xgboost" and inside.seconds > 1.1 * inside.base
    far = near.model_copy(update={"features": near.features | {"kernels": 1e9}})
    outside = predictor.predict(far, [make_candidate(0)])[0]
    assert outside.source == "rank-1" and outside.seconds == pytest.approx(outside.base)
    assert "nothing was learned" in " ".join(predictor.notes(far, [outside]))
    assert not any("nothing was learned" in n for n in predictor.notes(near, [inside]))


def test_on_cuda_the_base_is_physical(job: JobFacts) -> None:
    def probes(scale: float) -> tuple[Probe, ...]:
        return tuple(Probe(name=n, precision="fp32", seconds=1e-3 * scale, spread=0.1) for n in CUDA_PROBES)

    profile = job.profile.model_copy(update={"kind": "cuda", "probes": probes(1)})
    here = job.model_copy(update={"profile": profile})
    slow = Candidate(agent="a", wallet="w", device_class="cuda|x", kind="cuda", probes=probes(2))
    found = Predictor.load(SHIPPED).predict(here, [slow])[0]
    assert found.source == "base"
    assert found.seconds == pytest.approx(2 * here.profile.step_seconds(here.batch), rel=0.4)
    assert probe_work("cnn").macs > probe_work("mlp").macs > 0


# ---------------------------------------------------------------- files


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path, job: JobFacts, make_candidate: Make) -> None:
    predictor = trained()
    predictor.save(tmp_path / "p")
    again = Predictor.load(tmp_path / "p")
    candidates = [make_candidate(i, 1 + i / 4) for i in range(5)]
    assert again.predict(job, candidates) == predictor.predict(job, candidates)
    assert (again.name, again.version, again.metadata) == (LEARNED, "7", dict(META))


DOCUMENTS: dict[str, Callable[[dict], object]] = {
    "columns": lambda d: d["columns"].reverse(),
    "outside": lambda d: d["experts"][0]["files"].__setitem__(0, "../p/test-0.ubj"),
    "widths": lambda d: d["widths"]["rank-1"].__setitem__("1", -1),
    "level": lambda d: d.__setitem__("level", 0.95),
    "commit": lambda d: d["metadata"].pop("git_commit"),
    "newer": lambda d: d.__setitem__("format", 2),
}


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "huge", "not json", "list", *DOCUMENTS])
def test_a_harmed_file_is_refused(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "p"
    trained().save(folder)
    booster, meta = folder / "test-0.ubj", folder / "metadata.json"
    raw = bytearray(booster.read_bytes())
    if harm in DOCUMENTS:
        document = json.loads(meta.read_text())
        DOCUMENTS[harm](document)
        meta.write_text(json.dumps(document))
    elif harm == "flip":
        raw[len(raw) // 2] ^= 1
        booster.write_bytes(raw)
    elif harm == "cut":
        booster.write_bytes(raw[:-10])
    elif harm == "missing":
        booster.unlink()
    elif harm == "huge":
        booster.write_bytes(b"0" * (9 * 2**20))
    else:
        meta.write_text("[]" if harm == "list" else "{")
    words = {"newer": "a newer version made it", "commit": "does not say git_commit"}.get(harm, "cannot be loaded")
    with pytest.raises(Unavailable, match=words):
        Predictor.load(folder)


def test_intervals_are_those_that_the_calibration_shows(job: JobFacts, make_candidate: Make) -> None:
    predictor = Predictor.load(SHIPPED)
    shown = predictor.calibration()
    assert shown["level"] == 0.8 and set(shown["fold width by contributors"]) == {"rank-1", "base", "cpu"}
    for n, group in ((1, "1"), (3, "4"), (8, "8"), (20, "8")):
        found = predictor.predict(job, [make_candidate(i) for i in range(n)])
        fold = shown["fold width by contributors"]["rank-1"][group]
        assert all(p.high / p.seconds == pytest.approx(fold, abs=1e-3) for p in found)
        assert f"worst of {n} contributor" in " ".join(predictor.notes(job, found))


def test_a_contributor_that_was_slower_than_its_probes_promise_is_planned_by_its_record(
    job: JobFacts, make_candidate: Make
) -> None:
    predictor = Predictor.load(SHIPPED)
    honest, boaster, jittery = (
        make_candidate(i, scale, record=TrackRecord(slower=slower))
        for i, (scale, slower) in enumerate([(1.0, 1.0), (0.2, 5.0), (1.0, 2.9)])
    )
    plain, found, kept = predictor.predict(job, [honest, boaster, jittery])
    assert (plain.source, found.source, kept.source) == ("rank-1", "record", "rank-1")
    assert found.seconds == pytest.approx(plain.seconds) and found.base == pytest.approx(plain.seconds / 5)
    assert kept.seconds == plain.seconds
    words = " ".join(predictor.notes(job, [plain, found]))
    assert "agent-1 is planned by its past shards: they took over 3 times" in words and "agent-0 is" not in words


def test_a_reference_without_tensor_cores_is_named(job: JobFacts) -> None:
    def cuda(gain: float) -> JobFacts:
        probes = tuple(
            Probe(name=n, precision=p, seconds=1e-3 * (gain if p == "fp16" else 1), spread=0.1)
            for n in CUDA_PROBES
            for p in ("fp32", "fp16")
        )
        return job.model_copy(update={"profile": job.profile.model_copy(update={"kind": "cuda", "probes": probes})})

    predictor = Predictor.load(SHIPPED)
    assert "no tensor cores" in " ".join(predictor.notes(cuda(1.0)))
    assert "no tensor cores" not in " ".join(predictor.notes(cuda(0.5)))
    assert "no tensor cores" in " ".join(predictor.notes(job))


def test_the_shipped_predictor_is_what_its_data_gives() -> None:
    """The base is learned again from the prepared files; its metadata names these very files."""
    import hashlib

    from models.data.prepare import GRAPHS, TIMES
    from models.leave_out import FAMILIES

    shipped = Predictor.load(SHIPPED)
    table = load_table()
    assert shipped.base is not None
    again = learn_base(table, tuple(table.gpu), FAMILIES, FP32_ONLY)
    np.testing.assert_allclose(again.roofline.mean, shipped.base.roofline.mean, rtol=1e-6)
    named = shipped.metadata["data"]["files"]
    assert named == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (TIMES, GRAPHS)}
    assert shipped.metadata["metrics"]["mape"]["base"] < shipped.metadata["metrics"]["mape"]["rank-1"]


# ---------------------------------------------------------------- base and data


def test_the_roofline_is_found_again_from_what_it_made() -> None:
    rng = np.random.default_rng(0)
    works = [Work(k, m, b) for k, m, b in np.exp(rng.uniform([3, 20, 16], [7, 26, 23], (30, 3)))]
    true = [np.log([3e-5, 1e-13, 5e-12]) + rng.normal(0, 0.4, 3) for _ in range(6)]
    prior = learn_roofline([[Timing(w, "fp32", 0.0) for w in works]], FP32_ONLY)
    devices = [
        [Timing(w, "fp32", float(t)) for w, t in zip(works, prior.log_time(p, works, ["fp32"] * 30)[0], strict=True)]
        for p in true
    ]
    learned = learn_roofline(devices, FP32_ONLY)
    for device, parameters in zip(devices, true, strict=True):
        found = learned.fit(device[:20])
        np.testing.assert_allclose(
            learned.log_time(found, works, ["fp32"] * 30)[0], [t.log_seconds for t in device], atol=0.1
        )
        assert found.shape == parameters.shape


def test_blp_shrinks_to_its_prior_without_probes_and_follows_them_with() -> None:
    pairs = [(np.ones((5, 1)), np.full(5, m)) for m in (-0.5, 0.0, 0.5)]
    blp = learn_blp(pairs)
    assert blp.posterior(np.ones((0, 1)), np.zeros(0)) == pytest.approx([0.0], abs=1e-6)
    assert blp.posterior(np.ones((3, 1)), np.full(3, 0.4))[0] == pytest.approx(0.4, abs=0.02)


def test_base_json_round_trips_and_nonsense_is_refused() -> None:
    base = Predictor.load(SHIPPED).base
    assert base is not None
    again = Base.from_json(json.loads(json.dumps(base.to_json())))
    np.testing.assert_array_equal(again.roofline.mean, base.roofline.mean)
    with pytest.raises(ValueError, match="finite"):
        Base.from_json(base.to_json() | {"blp_mean": [float("nan")]})
    with pytest.raises(ValueError, match="precisions"):
        Base.from_json(base.to_json() | {"precisions": ["fp8"]})


def test_rank1_of_the_published_data_is_the_known_baseline() -> None:
    """328 cases, GPU type and family out: MAPE 14.7%, the figure that every predictor here is held against."""
    table = load_table()
    hosts = [h for h in table.gpu if h != "2080ti(2)"]
    base = learn_base(table, ["2080ti(2)", "TitanRTX", "2060"], ["vgg", "resnet"], BOTH)
    rows = build_rows(
        table,
        dict.fromkeys(set(table.gpu.values()), base),
        [("2080ti(2)", h) for h in hosts],
        ["densenet", "mobile", "resnet", "squeezenet", "vgg"],
        all_probes,
    )
    assert len(rows.truth) == 328 and len(set(rows.cell)) == 28
    assert float(np.mean(np.abs(np.exp(rows.rank1 - rows.truth) - 1))) == pytest.approx(0.147, abs=0.0006)
    assert not any(network in PROBES for _, network, _ in rows.job)


def test_widths_cover_the_worst_of_a_job_and_gains_are_paired() -> None:
    rng = np.random.default_rng(0)
    cases = [
        Case(("g", f"f{j % 5}"), ("r", f"n{j}", "fp32"), f"h{h}", 0.0, {"a": float(rng.normal(0, 0.2)), "b": 0.0})
        for j in range(200)
        for h in range(8)
    ]
    widths = job_widths(cases, "a", GROUPS)
    assert widths[1] < widths[2] < widths[4] < widths[8]
    assert widths[1] == pytest.approx(0.2 * 1.2816, rel=0.1)
    assert paired_gain(cases, "b", "a") == (1.0, 1.0, 1.0)
    assert paired_gain(cases, "a", "a") == (0.0, 0.0, 0.0)


# ---------------------------------------------------------------- features and profile


def spec(hidden: tuple[int, ...], batch: int) -> TrainingSpec:
    model = {"kind": "mlp", "hidden": list(hidden), "activation": "relu"}
    return TrainingSpec(task="classification", model=model, inputs=64, outputs=10, batch=batch, lr=0.01, seed=0)


def test_features_count_what_a_step_does() -> None:
    one = graph_features(spec((32,), 16))
    assert tuple(sorted(one)) == tuple(sorted(NAMES))
    # forward of both layers, their weights' gradients, and the gradient that flows back through the second
    assert one["macs"] == 16 * (2 * (64 * 32 + 32 * 10) + 32 * 10)
    assert one["parameters"] == parameter_count(spec((32,), 16)) and one["grouped_macs"] == 0
    twice = graph_features(spec((32,), 32))
    assert twice["macs"] == 2 * one["macs"] and twice["kernels"] == one["kernels"]
    regression = TrainingSpec(
        task="regression", model=spec((8,), 4).model, inputs=3, outputs=1, batch=4, lr=0.1, seed=0
    )
    assert graph_features(regression)["kernels"] > 0


def test_the_profile_times_real_segments_and_sees_the_batch() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2_000, 64)).astype(np.float32), rng.integers(0, 10, 2_000)
    found = profile_reference(spec((256, 256), 64), *rows, probes=(), seconds=0.3)
    assert found.overhead >= 0 and found.per_sample > 0 and found.steps >= 15 and found.kind == "cpu"
    assert found.step_seconds(512) > found.step_seconds(64) > 0


def test_facts_need_a_common_probe(job: JobFacts) -> None:
    assert make_facts(None, job, "cpu", ()) is None
    facts = make_facts(None, job, "cpu", job.profile.probes)
    assert facts is not None and not facts.physical and len(facts.row) == len(COLUMNS)
