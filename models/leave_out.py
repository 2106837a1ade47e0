"""Predictions for devices and networks that nothing was learned from: the honest way to judge a predictor.

For every cell (GPU type, network family) everything is learned without any host of that type and any network of that
family, then the cell is predicted. *Fixed*: all three probes; *strict*: a probe of the left-out family is gone too, in
training and in prediction. Errors are |exp(predicted - true) - 1|; intervals of differences come from a bootstrap over
cells, in which the two methods are resampled together (paired).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.base import Array, Base
from models.dataset import PROBES, Table, all_probes, build_rows, foreign_probes, learn_base
from models.residual import COLUMNS, apply, fit

FAMILIES = ("densenet", "mobile", "resnet", "squeezenet", "vgg")
TENSOR_CORES = ("2060", "2080TI", "2080ti(2)", "TitanRTX")  # full hosts whose GPU has them
REFERENCE = "2080ti(2)"
METHODS = ("rank-1", "blp", "roofline", "base", "xgboost")


@dataclass(frozen=True)
class Case:
    """One prediction: its cell, its job (reference, network, precision), its host, and log seconds by method."""

    cell: tuple[str, str]
    job: tuple[str, str, str]
    host: str
    truth: float
    predicted: dict[str, float]

    def error(self, method: str) -> float:
        """Absolute relative error."""
        return float(abs(np.exp(self.predicted[method] - self.truth) - 1))


class Bases:
    """Physical bases of one table by hosts, families and precisions, each learned once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._learned: dict[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], Base] = {}

    def learn(self, hosts: Sequence[str], families: Sequence[str], precisions: tuple[str, ...]) -> Base:
        """As `dataset.learn_base`."""
        key = tuple(hosts), tuple(families), precisions
        if key not in self._learned:
            self._learned[key] = learn_base(self.table, hosts, families, precisions)
        return self._learned[key]


def leave_out(
    bases: Bases,
    references: Sequence[str],
    precisions: tuple[str, ...],
    *,
    strict: bool,
    targets: Sequence[str] | None = None,
) -> list[Case]:
    """Every case of every cell, for each reference host.

    `targets`: hosts kept apart. They alone are predicted and nothing is learned from them; None: all hosts, each GPU
    type in its turn.
    """
    table = bases.table
    apart = set(targets or ())
    cases: list[Case] = []
    for gpu in sorted({table.gpu[h] for h in targets or table.gpu}):
        train = [h for h in table.gpu if table.gpu[h] != gpu and h not in apart]
        test_hosts = [h for h in targets or table.gpu if table.gpu[h] == gpu]
        types = sorted({table.gpu[h] for h in train})
        for family in FAMILIES:
            pairs = [(a, b) for a in references for b in test_hosts if a != b]
            known = [f for f in FAMILIES if f != family]
            probes_for = foreign_probes if strict else all_probes
            full = bases.learn(train, known, precisions)
            test = build_rows(table, {gpu: full}, pairs, [family], probes_for)
            if not len(test.truth):
                continue
            crossed = {
                other: bases.learn([h for h in train if table.gpu[h] != other], known, precisions) for other in types
            }
            probes = probes_for(family)
            rows = build_rows(
                table, crossed, [(a, b) for a in train for b in train if a != b], known, lambda _, p=probes: p
            )
            corrected = test.mix + apply(fit(rows.x, rows.truth - rows.mix, rows.weights), test.x)
            blp = test.rank1 + test.x[:, COLUMNS.index("blp_rank1")]
            roofline = test.rank1 + test.x[:, COLUMNS.index("roofline_rank1")]
            columns = dict(zip(METHODS, (test.rank1, blp, roofline, test.mix, corrected), strict=True))
            cases += [
                Case(
                    test.cell[i],
                    test.job[i],
                    test.host[i],
                    float(test.truth[i]),
                    {m: float(v[i]) for m, v in columns.items()},
                )
                for i in range(len(test.truth))
            ]
    return cases


def mape(cases: Sequence[Case], method: str) -> float:
    """Mean absolute relative error over cases."""
    return float(np.mean([c.error(method) for c in cases]))


def paired_gain(
    cases: Sequence[Case], method: str, against: str, draws: int = 2_000, seed: int = 0
) -> tuple[float, float, float]:
    """(gain, low, high): by how much `method`'s error is below `against`'s, as a share, with a 95% interval.

    Bootstrap over cells, both methods resampled together; deterministic by seed.
    """
    cells = sorted({c.cell for c in cases})
    index = {cell: i for i, cell in enumerate(cells)}
    sums = np.zeros((2, len(cells)))
    for case in cases:
        sums[0, index[case.cell]] += case.error(method)
        sums[1, index[case.cell]] += case.error(against)
    picks = np.random.default_rng(seed).integers(0, len(cells), (draws, len(cells)))
    gains = 1 - sums[0][picks].sum(axis=1) / sums[1][picks].sum(axis=1)
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(1 - sums[0].sum() / sums[1].sum()), float(low), float(high)


def job_widths(cases: Sequence[Case], method: str, groups: Sequence[int], level: float = 0.8) -> dict[int, float]:
    """Half widths in log space such that the worst of n contributors of a job lies inside in `level` of the jobs.

    Conformal: the ceil((n + 1) level)-th smallest score. Each job's hosts are drawn in groups of n, without
    replacement, with a fixed seed; a job with fewer than n hosts contributes the worst of all it has.
    """
    by_job: dict[tuple[str, str, str], list[float]] = {}
    for case in cases:
        by_job.setdefault(case.job, []).append(abs(case.predicted[method] - case.truth))
    rng = np.random.default_rng(0)
    out: dict[int, float] = {}
    for group in groups:
        scores = np.sort([rng.permutation(v)[:group].max() for v in map(np.array, by_job.values()) for _ in range(8)])
        rank = min(len(scores), int(np.ceil((len(scores) + 1) * level)))
        out[group] = float(scores[rank - 1])
    return out


def drop_sets() -> list[tuple[str, ...]]:
    """The probe sets that a shipped model is trained with: all three, and each two of them."""
    return [PROBES, *(tuple(p for p in PROBES if p != gone) for gone in PROBES)]


def residual_rows(table: Table, precisions: tuple[str, ...]) -> tuple[Array, Array, Array]:
    """(x, residual, weights) of all hosts and families under every probe set, bases cross-fitted by target type."""
    types = sorted(set(table.gpu.values()))
    crossed = {g: learn_base(table, [h for h in table.gpu if table.gpu[h] != g], FAMILIES, precisions) for g in types}
    pairs = [(a, b) for a in table.gpu for b in table.gpu if a != b]
    sets = drop_sets()
    built = [build_rows(table, crossed, pairs, FAMILIES, lambda _, p=probes: p) for probes in sets]
    return (
        np.concatenate([r.x for r in built]),
        np.concatenate([r.truth - r.mix for r in built]),
        np.concatenate([r.weights for r in built]) / len(sets),
    )
