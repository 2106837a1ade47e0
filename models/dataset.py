"""Training rows from the prepared GPU measurements: every ordered pair of known hosts, every network as a job.

The rows' bases are cross-fitted by target type: what is subtracted from a row was learned without any host of that
row's GPU type, or the residual would look smaller in training than it is for an unknown device. *Fixed*: three probe
networks for everybody. *Strict*: a probe of the job's own family is dropped too (resnet18 is a near-copy of resnet50,
which flatters the fixed probes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd

from models.base import (
    BOTH,
    Array,
    Base,
    Pair,
    Timing,
    Work,
    blp_rows,
    fit_device,
    learn_blp,
    learn_roofline,
    make_pair,
    predict_parts,
)
from models.data.prepare import GRAPHS, TIMES, family
from models.residual import centred_row

PROBES = ("resnet18", "vgg16", "densenet121")


@dataclass(frozen=True)
class Table:
    """The measurements: log seconds by (host, precision, network), the works, and each host's GPU type."""

    seconds: dict[tuple[str, str, str], float]
    graphs: dict[str, dict[str, float]]
    gpu: dict[str, str]
    networks: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by host

    def work(self, network: str) -> Work:
        return Work.of(self.graphs[network])

    def gain(self, host: str, network: str) -> float:
        return self.seconds[host, "fp16", network] - self.seconds[host, "fp32", network]


@cache
def load_table() -> Table:
    """The prepared files beside `models.data.prepare`."""
    return make_table(pd.read_csv(TIMES), pd.read_csv(GRAPHS))


def make_table(times: pd.DataFrame, graphs: pd.DataFrame) -> Table:
    """A table of rows as `models.data.prepare` writes them.

    A host counts when every probe network was timed there in both precisions, and a network of a host when it was timed
    there in both; what has no graph is left out.
    """
    kept = pd.DataFrame(times[times["network"].isin(list(graphs["network"]))])
    columns = zip(kept["host"], kept["precision"], kept["network"], kept["seconds"], strict=True)
    seconds = {(str(h), str(p), str(n)): float(np.log(taken)) for h, p, n, taken in columns}
    networks: dict[str, tuple[str, ...]] = {}
    gpu: dict[str, str] = {}
    for name, rows in kept.groupby("host"):
        host = str(name)
        both = tuple(sorted(n for n in map(str, set(rows["network"])) if all((host, p, n) in seconds for p in BOTH)))
        if set(PROBES) <= set(both):
            networks[host], gpu[host] = both, str(next(iter(rows["gpu"])))
    return Table(
        seconds=seconds,
        graphs={
            str(name): {str(k): float(v) for k, v in values.items()}
            for name, values in graphs.set_index("network").to_dict(orient="index").items()
        },
        gpu=gpu,
        networks=networks,
    )


def learn_base(table: Table, hosts: Sequence[str], families: Iterable[str], precisions: tuple[str, ...]) -> Base:
    """The base from some hosts and families alone."""
    allowed = set(families)
    known = {h: [n for n in table.networks[h] if family(n) in allowed] for h in hosts}
    devices = [[Timing(table.work(n), p, table.seconds[h, p, n]) for n in known[h] for p in precisions] for h in hosts]
    pairs: list[tuple[Array, Array]] = []
    for a in hosts:
        for b in hosts:
            shared = [(n, p) for n in known[a] if n in known[b] for p in precisions]
            if a == b or not shared:
                continue
            gains = np.array([table.gain(a, n) for n, _ in shared])
            half = np.array([float(p == "fp16") for _, p in shared])
            ratio = np.array([table.seconds[b, p, n] - table.seconds[a, p, n] for n, p in shared])
            pairs.append((blp_rows(gains, half, precisions == BOTH), ratio))
    return Base(learn_blp(pairs), learn_roofline(devices, precisions))


class Fits:
    """Two hosts as their probe networks show them; each host's roofline is fitted once per probe set."""

    def __init__(self, table: Table, base: Base) -> None:
        self.table, self.base = table, base
        self._roofs: dict[tuple[str, tuple[str, ...]], Array] = {}

    def pair(self, a: str, b: str, probes: tuple[str, ...]) -> Pair:
        """Reference `a`, target `b`."""
        table, base = self.table, self.base
        timed = [(n, p) for n in probes for p in base.roofline.precisions]
        works, precisions = [table.work(n) for n, _ in timed], [p for _, p in timed]
        seconds = {host: np.array([table.seconds[host, p, n] for n, p in timed]) for host in (a, b)}
        for host, found in seconds.items():
            if (host, probes) not in self._roofs:
                self._roofs[host, probes] = fit_device(base, works, precisions, found)
        gains = np.array([table.gain(a, n) for n, _ in timed])
        roofs = self._roofs[a, probes], self._roofs[b, probes]
        return make_pair(base, works, precisions, seconds[a], seconds[b], gains, roofs)


@dataclass(frozen=True)
class Rows:
    """`x` by `COLUMNS`; `truth`, `rank1`, `mix` in log seconds; `cell`: GPU type and family of each row's target."""

    x: Array
    truth: Array
    rank1: Array
    mix: Array
    cell: list[tuple[str, str]]
    job: list[tuple[str, str, str]]  # reference host, network, precision
    host: list[str]

    @property
    def weights(self) -> Array:
        """1 / sqrt(cell size). Not scaled: the least weight of a leaf (`residual.LEAST_LEAF`) is meant for these."""
        count: dict[tuple[str, str], int] = {}
        for cell in self.cell:
            count[cell] = count.get(cell, 0) + 1
        return np.array([count[cell] ** -0.5 for cell in self.cell])


def all_probes(_: str) -> tuple[str, ...]:
    """*Fixed*: the same three for everybody."""
    return PROBES


def foreign_probes(job_family: str) -> tuple[str, ...]:
    """*Strict*: none of the job's own family."""
    return tuple(p for p in PROBES if family(p) != job_family)


def build_rows(
    table: Table,
    base_for: dict[str, Base],
    pairs: Iterable[tuple[str, str]],
    families: Iterable[str],
    probes_for: Callable[[str], tuple[str, ...]],
) -> Rows:
    """Rows of these (reference, target) pairs and families.

    `base_for`: the base to use, by the target's GPU type; `probes_for`: the probe networks, by the job's family.
    """
    allowed = set(families)
    x, truth, rank1, mix = [], [], [], []
    cells: list[tuple[str, str]] = []
    jobs: list[tuple[str, str, str]] = []
    hosts: list[str] = []
    fits = {gpu: Fits(table, base) for gpu, base in base_for.items()}
    for a, b in pairs:
        base = base_for[table.gpu[b]]
        fitted: dict[tuple[str, ...], Pair] = {}
        for n in table.networks[a]:
            if n in PROBES or n not in table.networks[b] or family(n) not in allowed:
                continue
            probes = probes_for(family(n))
            if probes not in fitted:
                fitted[probes] = fits[table.gpu[b]].pair(a, b, probes)
            pair, gain = fitted[probes], table.gain(a, n)
            for p in base.roofline.precisions:
                log_reference = table.seconds[a, p, n]
                parts = predict_parts(base, pair, table.work(n), p, log_reference, gain)
                same = np.array([q == p for q in pair.precisions])
                ratios = (pair.target - pair.reference)[same]
                x.append(centred_row(table.graphs[n], p, log_reference, gain if base.both else np.nan, ratios, parts))
                truth.append(table.seconds[b, p, n])
                rank1.append(parts.rank1)
                mix.append(parts.mix)
                cells.append((table.gpu[b], family(n)))
                jobs.append((a, n, p))
                hosts.append(b)
    return Rows(np.array(x), np.array(truth), np.array(rank1), np.array(mix), cells, jobs, hosts)
