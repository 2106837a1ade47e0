"""Seconds per step of a job on every candidate: a physical base, XGBoost on what it leaves, an interval that holds.

The base is the rank-1 rule (this job's time on the flow's machine times the ratio of probe times), and where reference
and candidate are both CUDA devices the mean of rank-1, a learned ratio and a roofline (`base`). An *expert* is a set of
boosters trained on the base's residual, with the box of inputs it was trained in; outside every expert's box the base
speaks alone and the notes say so. What ships has the base, and an expert only if that earned its place
(`train_shipped`); retraining adds one for what this installation runs. A machine without tensor cores as the reference
gains nothing from fp16 terms, and jobs run in fp32, so those terms are left out here (`benchmarks/predictor.py`
measures the recipe with and without).

Intervals are conformal per job: half widths in log space such that the *worst* of n contributors lies inside in 80% of
left-out jobs; they are kept in the model's file and `calibration` shows them. A device's or network's name is no input.
A contributor whose past shards took over three times what its probes promise is planned by its shards (`DISAGREE`).
Not here: what is learned inside a job (`correction`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isnan, log
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from cloudlinkup.errors import Unavailable
from models.base import Array, Base, Parts, Work, make_pair, predict_parts
from models.facts import Candidate, JobFacts, Prediction, ReferenceProfile, Source
from models.residual import COLUMNS, apply, centred_row

FORMAT = 1
PHYSICAL, LEARNED = "rank1-roofline", "rank1-roofline-xgboost"  # without and with an expert
SHIPPED = Path(__file__).resolve().parent / "shipped"
GROUPS = (1, 2, 4, 8)  # contributors of a job for which widths are kept
OUTSIDE = 1.5  # widths grow by this outside every expert's box: an assumption, since nothing was measured there
MAX_FILE = 8 * 2**20  # bytes of one predictor file
MAX_RESIDUAL = 1.5  # log: an expert may move the base by a factor of 4.5 at most
LEVEL = 0.8  # of the jobs, in which P10 to P90 holds for the worst contributor
DISAGREE = 3.0  # fold by which past shards may be slower than the probes promise before the probes are not believed
REQUIRED = ("data", "git_commit", "metrics")  # of a model file's metadata
TENSOR_GAIN = 0.9  # fp16 over fp32 time of a probe: a device none of whose probes gains more has no tensor cores
# the box is judged on the job's and the devices' size; the rest follows from these
BOXED = ("log_intensity", "log_kernels", "log_macs", "log_rate", "ratio_mean", "ratio_range")


_AT = {column: i for i, column in enumerate(COLUMNS)}


@dataclass(frozen=True)
class Expert:
    """Boosters, where they may speak (`box`: column to lowest and highest), and their half widths by group size."""

    name: str
    boosters: tuple[xgb.Booster, ...]
    box: dict[str, tuple[float, float]]
    widths: dict[int, float]

    def knows(self, row: Array, slack: float = 0.25) -> bool:
        """Is the row inside the box, widened by a quarter of its size (at least 0.3) on each side?"""
        for column, (low, high) in self.box.items():
            value = row[_AT[column]]
            margin = max(0.3, slack * (high - low))
            if not isnan(value) and not low - margin <= value <= high + margin:
                return False
        return True


def make_box(x: Array) -> dict[str, tuple[float, float]]:
    """The box of training rows, by the 1st and 99th percentile, so that one odd row does not stretch it."""
    out: dict[str, tuple[float, float]] = {}
    for column in BOXED:
        values = x[:, COLUMNS.index(column)]
        values = values[~np.isnan(values)]
        if len(values):
            out[column] = (float(np.quantile(values, 0.01)), float(np.quantile(values, 0.99)))
    return out


@dataclass(frozen=True)
class Facts:
    """One candidate's row: log seconds at full duty by rank-1 and by the base, the expert's inputs."""

    rank1: float
    base: float
    physical: bool  # the base is more than rank-1
    row: Array


def probe_pairs(profile: ReferenceProfile, probes: Sequence[Any]) -> list[tuple[str, float, float]]:
    """(name, log seconds on the reference, log seconds on the candidate) of the fp32 probes that both ran."""
    mine = {p.name: p.seconds for p in profile.probes if p.precision == "fp32"}
    return [(p.name, log(mine[p.name]), log(p.seconds)) for p in probes if p.precision == "fp32" and p.name in mine]


def make_facts(base: Base | None, job: JobFacts, kind: str, probes: Sequence[Any]) -> Facts | None:
    """What there is to say about one candidate; None when it has no probe in common with the reference.

    The same function makes training rows of telemetry, so training and planning cannot drift apart.
    """
    pairs = probe_pairs(job.profile, probes)
    if not pairs:
        return None
    log_reference = log(job.profile.step_seconds(job.batch))
    ratios = [t - r for _, r, t in pairs]
    rank1 = log_reference + sum(ratios) / len(ratios)
    parts = None
    if base is not None and not base.both and kind == job.profile.kind == "cuda" and "kernels" in job.features:
        from models.probe_works import CUDA_PROBES, probe_work

        if all(name in CUDA_PROBES for name, _, _ in pairs):
            works = [probe_work(name) for name, _, _ in pairs]
            reference, target = np.array([r for _, r, _ in pairs]), np.array([t for _, _, t in pairs])
            pair = make_pair(base, works, ["fp32"] * len(works), reference, target, np.zeros(len(works)))
            parts = predict_parts(base, pair, Work.of(job.features), "fp32", log_reference)
    used = parts or Parts(rank1, np.nan, np.nan, np.nan, np.nan, np.nan)
    row = centred_row(job.features, "fp32", log_reference, np.nan, ratios, used)
    return Facts(rank1, parts.mix if parts else rank1, parts is not None, row)


@dataclass(frozen=True)
class Predictor:
    """Immutable. `name` and `version` stand in every plan and receipt.

    `widths`: half widths in log space of "rank-1" and "base" by group size. `metadata`: data window, git commit and
    metrics (`REQUIRED`), written and read as it is. `notice`: why this is not the version that should plan; it stands
    first in every quote's notes.
    """

    name: str
    version: str
    base: Base | None
    experts: tuple[Expert, ...]
    widths: dict[str, dict[int, float]]
    metadata: dict[str, Any] = field(default_factory=dict)
    notice: str = ""

    # ------------------------------------------------------------ predicting

    def predict(self, job: JobFacts, candidates: Sequence[Candidate]) -> list[Prediction]:
        """Wall seconds per step at the offered share, in the order of `candidates`; P10 to P90 per job.

        A candidate without a probe in common with the reference comes back with source "unknown".
        """
        known = [make_facts(self.base, job, c.kind, c.probes) for c in candidates]
        residuals = self._residuals(known)
        group = max(1, sum(f is not None for f in known))
        widths: dict[tuple[str, int], float] = {}
        out: list[Prediction] = []
        for candidate, facts, (expert, residual) in zip(candidates, known, residuals, strict=True):
            if facts is None:
                guess = job.profile.step_seconds(job.batch) / candidate.share
                out.append(_prediction(candidate.agent, guess, guess, log(10), "unknown"))
                continue
            source: Source = "xgboost" if expert else "base" if facts.physical else "rank-1"
            if (width := widths.get((source, id(expert)))) is None:
                width = widths[source, id(expert)] = self.half_width(source, group, expert)
            seconds = exp(facts.base + residual) / candidate.share
            if candidate.record.slower > DISAGREE:
                source, seconds = "record", seconds * candidate.record.slower
            out.append(_prediction(candidate.agent, seconds, exp(facts.rank1) / candidate.share, width, source))
        return out

    def half_width(self, source: str, group: int, expert: Expert | None = None) -> float:
        """Half width in log space that holds for the worst of `group` contributors in `LEVEL` of the jobs."""
        widths = expert.widths if expert else self.widths["base" if source == "base" else "rank-1"]
        width = widths[min((g for g in GROUPS if g >= group), default=GROUPS[-1])]
        return width if expert else OUTSIDE * width

    def calibration(self) -> dict[str, Any]:
        """What the intervals are: their level, for whom they hold, and fold widths by source and contributors.

        A fold width of 1.5 means P10 = P50 / 1.5 and P90 = P50 x 1.5.
        """
        sources = {n: (w, OUTSIDE) for n, w in self.widths.items()} | {e.name: (e.widths, 1.0) for e in self.experts}
        return {
            "level": LEVEL,
            "holds for": "the worst contributor of a job",
            "fold width by contributors": {
                name: {str(n): round(exp(outside * w), 3) for n, w in widths.items()}
                for name, (widths, outside) in sources.items()
            },
        }

    def _residuals(self, known: Sequence[Facts | None]) -> list[tuple[Expert | None, float]]:
        out: list[tuple[Expert | None, float]] = [(None, 0.0)] * len(known)
        for expert in self.experts:  # a later expert speaks where it knows better
            rows = [(i, f.row) for i, f in enumerate(known) if f is not None and expert.knows(f.row)]
            if rows:
                inside, found = [i for i, _ in rows], apply(expert.boosters, np.array([row for _, row in rows]))
                for i, residual in zip(inside, found, strict=True):
                    out[i] = (expert, float(np.clip(residual, -MAX_RESIDUAL, MAX_RESIDUAL)))
        return out

    def notes(self, job: JobFacts, predictions: Sequence[Prediction] = ()) -> list[str]:
        """What the client should know about how this job was predicted, in words."""
        notes = [self.notice] if self.notice else []
        sources = {p.source for p in predictions} or {"rank-1"}
        if job.profile.kind == "cpu":
            notes.append(
                "the reference is this machine's CPU, which has no tensor cores: predictions have no fp16 terms"
            )
        elif not has_tensor_cores(job.profile):
            notes.append("the reference device has no tensor cores: predictions have no fp16 terms")
        if sources & {"rank-1", "base"}:
            notes.append(
                "nothing was learned yet from jobs like this one: predicted by "
                + ("a physical model" if "base" in sources else "the rank-1 rule (time here x ratio of probe times)")
                + f", with the interval widened {OUTSIDE:g}-fold"
            )
        for p in predictions:
            if p.source == "record":
                notes.append(
                    f"{p.agent[:8]} is planned by its past shards: they took over {DISAGREE:g} times what its probes"
                    " promise, so the speed that it claims is not believed"
                )
        if predictions:
            n = len(predictions)
            notes.append(
                f"P10 to P90 of the speeds is calibrated for the worst of {n} contributor{'s' if n > 1 else ''}"
                f" together, to hold in {LEVEL:.0%} of jobs"
            )
        return notes

    # ------------------------------------------------------------ files

    def save(self, folder: Path) -> None:
        """metadata.json and one UBJ file a booster, with their hashes. The folder is created."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files: dict[str, str] = {}
        experts: list[dict[str, Any]] = []
        for expert in self.experts:
            names: list[str] = []
            for number, booster in enumerate(expert.boosters):
                name = f"{expert.name}-{number}.ubj"
                raw = bytes(booster.save_raw("ubj"))
                (folder / name).write_bytes(raw)
                files[name] = hashlib.sha256(raw).hexdigest()
                names.append(name)
            experts.append({"name": expert.name, "files": names, "box": expert.box, "widths": _keys(expert.widths)})
        document = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "columns": list(COLUMNS),
            "base": self.base.to_json() if self.base else None,
            "experts": experts,
            "widths": {name: _keys(w) for name, w in self.widths.items()},
            "level": LEVEL,
            "files": files,
            "metadata": self.metadata,
        }
        (folder / "metadata.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Raises Unavailable when files are missing, too large, changed, of a newer version or of another schema."""
        try:
            document = json.loads(_read(folder / "metadata.json"))
            if int(document["format"]) > FORMAT:
                raise ValueError(f"a newer version made it (format {int(document['format'])}, this one reads {FORMAT})")
            if document["format"] != FORMAT or tuple(document["columns"]) != COLUMNS:
                raise ValueError("it is of another format or has other columns")
            if document["level"] != LEVEL:
                raise ValueError("its intervals are of another level")
            metadata = dict(document["metadata"])
            if missing := [name for name in REQUIRED if name not in metadata]:
                raise ValueError(f"its metadata does not say {', '.join(missing)}")
            experts = tuple(_expert(folder, raw, document["files"]) for raw in document["experts"])
            return cls(
                name=str(document["name"]),
                version=str(document["version"]),
                base=Base.from_json(document["base"]) if document["base"] else None,
                experts=experts,
                widths={str(n): _numbers(document["widths"][n]) for n in ("rank-1", "base")},
                metadata=metadata,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, xgb.core.XGBoostError) as error:
            problem = error if isinstance(error, ValueError | OSError) else type(error).__name__
            raise Unavailable(
                f"the predictor in {folder} cannot be loaded: {problem}. Fix: roll back to the version before it"
            ) from None

    @classmethod
    def rank1(cls, notice: str = "") -> Predictor:
        """The mandatory baseline alone, which needs no file: nothing learned, 1.6-fold widths (an assumption)."""
        widths = {g: log(1.6) for g in GROUPS}
        return cls("rank-1", "0", None, (), {"rank-1": widths, "base": widths}, notice=notice)


def has_tensor_cores(profile: ReferenceProfile) -> bool:
    """Does any probe of the reference run clearly faster in fp16? Unknown counts as no."""
    times = {(p.name, p.precision): p.seconds for p in profile.probes}
    return any(
        times[name, "fp16"] < TENSOR_GAIN * seconds
        for (name, precision), seconds in times.items()
        if precision == "fp32" and (name, "fp16") in times
    )


def _prediction(agent: str, seconds: float, rank1: float, width: float, source: Source) -> Prediction:
    low, high = seconds * exp(-width), seconds * exp(width)
    return Prediction(agent=agent, seconds=seconds, low=low, high=high, base=rank1, source=source)


def _keys(widths: Mapping[int, float]) -> dict[str, float]:
    return {str(k): v for k, v in widths.items()}


def _numbers(raw: Mapping[str, Any]) -> dict[int, float]:
    widths = {int(k): float(v) for k, v in raw.items()}
    if set(widths) != set(GROUPS) or not all(0 < v < 10 for v in widths.values()):
        raise ValueError("widths must be one per group size, above 0 and below 10")
    return widths


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"{path.name} is larger than {MAX_FILE} bytes")
    return path.read_bytes()


def _expert(folder: Path, raw: Mapping[str, Any], files: Mapping[str, str]) -> Expert:
    boosters: list[xgb.Booster] = []
    for name in raw["files"]:
        if Path(name).name != name:
            raise ValueError("a file outside the folder")
        data = _read(folder / name)
        if hashlib.sha256(data).hexdigest() != files[name]:
            raise ValueError(f"{name} is not the file that was saved")
        booster = xgb.Booster({"nthread": 1})
        booster.load_model(bytearray(data))
        if tuple(booster.feature_names or ()) != COLUMNS:
            raise ValueError(f"{name} has other columns")
        boosters.append(booster)
    box = {str(c): (float(low), float(high)) for c, (low, high) in raw["box"].items()}
    if not set(box) <= set(COLUMNS):
        raise ValueError("the box has other columns")
    return Expert(str(raw["name"]), tuple(boosters), box, _numbers(raw["widths"]))
