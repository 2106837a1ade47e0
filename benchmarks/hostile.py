"""The rules that `benchmarks.robustness` compares, and the attacks it tries on them. Sources and names: there.

Updates are flat fp32 vectors by seat, with the optimizer steps they sum. An attack sees everything that the honest send
in the round, and returns what each hostile seat sends instead of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from cloudlinkup.training.aggregate import MOST_WEIGHT, aggregate, capped
from cloudlinkup.verify.gates import NORM_FACTOR, Offer, gates

Updates = dict[int, tuple[np.ndarray, int]]
Loss = Callable[[np.ndarray], float]
Mean = tuple[np.ndarray, list[float]]  # the mean, and the shares of those that it is of (their sum is 1)
Rule = Callable[[Updates, Loss, np.ndarray], Mean]  # the last: what the round before came to


# ---------------------------------------------------------------- rules


def _split(updates: Updates) -> tuple[np.ndarray, np.ndarray]:
    seats = sorted(updates)
    return np.stack([updates[s][0] for s in seats]), np.array([updates[s][1] for s in seats], np.float64)


def _alike(count: int) -> list[float]:
    return [1 / count] * count


def _by_steps(vectors: np.ndarray, steps: np.ndarray) -> Mean:
    shares = capped(steps, MOST_WEIGHT)
    return shares @ vectors, shares.tolist()


def plain_mean(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    return _by_steps(*_split(updates))


def coordinate_median(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    return np.median(_split(updates)[0], axis=0), _alike(len(updates))


def trimmed_mean(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    vectors, cut = np.sort(_split(updates)[0], axis=0), int(0.3 * len(updates))
    inside = vectors[cut : len(vectors) - cut]
    return inside.mean(axis=0), _alike(len(inside))


def multi_krum(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    """Of updates per square root of steps, as unequal lengths are no sign of anything here."""
    vectors, steps = _split(updates)
    paced, hostile = vectors / np.sqrt(steps)[:, None], int(0.3 * len(vectors))
    dots = paced.astype(np.float64) @ paced.T
    distances = np.diag(dots)[:, None] + np.diag(dots) - 2 * dots
    scores = np.sort(distances, axis=1)[:, 1 : len(vectors) - hostile - 1].sum(axis=1)
    best = np.argsort(scores, kind="stable")[: len(vectors) - hostile]
    return _by_steps(vectors[best], steps[best])


def cosrel(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    found = aggregate(updates)
    return found.update, list(found.shares.values())


def cosrel_loss(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    found = odd(updates, loss)
    return cosrel({seat: update for seat, update in updates.items() if not found[seat]}, loss, last)


def centred(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    """Centred clipping (Karimireddy, He and Jaggi 2021) around the last round's update, three times, to the median
    distance; distances and centres per square root of steps, as unequal contributors' updates are."""
    vectors, steps = _split(updates)
    roots, weights, centre = np.sqrt(steps), capped(steps, MOST_WEIGHT), last.astype(np.float64)
    for _ in range(3):
        apart = vectors - np.outer(roots / (weights @ roots), centre)
        paces = np.linalg.norm(apart, axis=1) / roots
        scale = np.minimum(1.0, np.median(paces) / np.maximum(paces, 1e-30))
        centre = centre + (weights * scale) @ apart
    return centre, weights.tolist()


def cosrel_centred(updates: Updates, loss: Loss, last: np.ndarray) -> Mean:
    dropped = aggregate(updates).dropped
    return centred({seat: update for seat, update in updates.items() if seat not in dropped}, loss, last)


def odd(updates: Updates, loss: Loss | None) -> dict[int, tuple[str, ...]]:
    size = len(next(iter(updates.values()))[0])
    return gates({seat: Offer(update, steps) for seat, (update, steps) in updates.items()}, size, loss)


RULES: dict[str, Rule] = {
    "mean": plain_mean,
    "median": coordinate_median,
    "trimmed": trimmed_mean,
    "multi-Krum": multi_krum,
    "centred": centred,
    "cosrel+centred": cosrel_centred,
    "cosrel": cosrel,
    "cosrel+loss": cosrel_loss,
    "audit": cosrel,
    "product": cosrel,
}


# ---------------------------------------------------------------- attacks


@dataclass(frozen=True)
class View:
    """What the hostile know. `own`: what they would have sent if honest; `mislabelled`: trained on 9 - y; `rule` and
    `loss` as they can compute them themselves, on their own rows; `outer`: by what a mean with these shares is
    multiplied."""

    honest: Updates
    own: Updates
    mislabelled: dict[int, np.ndarray]
    rule: Rule
    loss: Loss
    outer: Callable[[list[float]], float]
    last: np.ndarray
    rng: np.random.Generator

    def paced(self) -> np.ndarray:
        return np.stack([u / steps**0.5 for u, steps in self.honest.values()]).astype(np.float64)

    def all_send(self, paced: np.ndarray) -> dict[int, np.ndarray]:
        return {s: (paced * steps**0.5).astype(np.float32) for s, (_, steps) in self.own.items()}


def noise(view: View) -> dict[int, np.ndarray]:
    sent = {}
    for seat, (own, _) in view.own.items():
        random = view.rng.standard_normal(len(own))
        sent[seat] = (random * 2 * np.linalg.norm(own) / np.linalg.norm(random)).astype(np.float32)
    return sent


def under_the_gate(view: View) -> dict[int, np.ndarray]:
    paced = view.paced()
    middle = paced.mean(axis=0)
    length = 0.98 * NORM_FACTOR * np.median(np.linalg.norm(paced, axis=1))
    return view.all_send(-middle * length / np.linalg.norm(middle))


def alie(view: View, z: float | None = None) -> dict[int, np.ndarray]:
    """The mean less z deviations; by the paper z is what the fewest supporters that make a majority allow."""
    honest, hostile = len(view.honest), len(view.own)
    if z is None:
        needed = (honest + hostile) // 2 + 1 - hostile
        z = max(0.0, NormalDist().inv_cdf(max(1e-3, (honest - needed) / honest)))
    paced = view.paced()
    return view.all_send(paced.mean(axis=0) - z * paced.std(axis=0))


def adapted(view: View) -> dict[int, np.ndarray]:
    paced = view.paced()
    middle, spread = paced.mean(axis=0), paced.std(axis=0)
    length = float(np.median(np.linalg.norm(paced, axis=1)))
    back = middle * length / np.linalg.norm(middle)
    worst: tuple[float, dict[int, np.ndarray]] | None = None
    for direction in (middle - 0.6 * back, middle - 1.5 * back, middle - 0.6 * spread, middle - 1.5 * spread):
        for times in (1.0, 2.0):
            sent = view.all_send(direction * times * length / np.linalg.norm(direction))
            mixed = view.honest | {seat: (update, view.own[seat][1]) for seat, update in sent.items()}
            update, shares = view.rule(mixed, view.loss, view.last)
            harm = view.loss(update * view.outer(shares))
            if worst is None or harm > worst[0]:
                worst = harm, sent
    assert worst is not None
    return worst[1]


ATTACKS: dict[str, Callable[[View], Mapping[int, np.ndarray]]] = {
    "none": lambda view: {seat: own for seat, (own, _) in view.own.items()},
    "sign flip": lambda view: {seat: -own for seat, (own, _) in view.own.items()},
    "sign flip x5": lambda view: {seat: -5 * own for seat, (own, _) in view.own.items()},
    "noise": noise,
    "label flip": lambda view: view.mislabelled,
    "under the gate": under_the_gate,
    "ALIE": alie,
    "ALIE 1.5": lambda view: alie(view, 1.5),
    "inner product": lambda view: view.all_send(-0.5 * view.paced().mean(axis=0)),
    "adapted": adapted,
    "adapted, two": adapted,
    "sign flip, half": lambda view: {seat: -own for seat, (own, _) in view.own.items()},
    "adapted, half": adapted,
}
