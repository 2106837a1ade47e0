"""The physical base of a prediction: three ways to carry a job's time from the reference to another device.

All work on log seconds. `Work` is what a step is made of; a device is known by a few *probes* (works that it timed).
*rank-1*: the job's time on the reference times the geometric mean of the probe ratios. The mandatory baseline.
*blp*: log(t_b / t_a) = w_b . [1, r, h, h r], r = log of the job's fp16 / fp32 time on the reference, h = it runs in
fp16; w ~ N(mu, Sigma), learned by EM over ordered pairs of known devices, then the posterior given this
device's probes (the best linear predictor). With one precision only, [1]: a shrunken rank-1.
*roofline*: t = ((lambda kernels)^4 + (c (macs + 8 grouped macs) + d bytes)^4)^(1/4), c and d per precision, MAP from a
device's probes under a prior learned from known devices, carried over by (t_ref / roofline_ref)^0.8.
The mix is their mean. Nothing here knows a device's or a network's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FP32_ONLY = ("fp32",)
BOTH = ("fp32", "fp16")
EM_ROUNDS = 15
BLP_NOISE = 0.05  # of a log ratio about its line
ROOF_NOISE = 0.05  # of a probe's log time about its roofline
LEARN_NOISE = 0.15  # of a known device's many log times: networks of a family deviate together
ROOF_ROUNDS = 6
CARRY = 0.8  # how much of the job's own deviation from the reference's roofline another device shares


@dataclass(frozen=True)
class Work:
    """A step's work: kernels launched, MACs with grouped ones counted ninefold, bytes moved (at fp32)."""

    kernels: float
    macs: float
    bytes: float

    @classmethod
    def of(cls, features: Mapping[str, float]) -> Work:
        """From `features.graph_features`."""
        return cls(
            features["kernels"],
            features["macs"] + 8 * features["grouped_macs"],
            features["matmul_bytes"] + features["elementwise_bytes"],
        )


@dataclass(frozen=True)
class Timing:
    """One work in one precision on one device."""

    work: Work
    precision: str
    log_seconds: float


@dataclass(frozen=True)
class Roofline:
    """Prior over a device's log parameters (lambda, then c per precision, then d per precision)."""

    precisions: tuple[str, ...]
    mean: Array
    precision_matrix: Array

    def log_time(self, parameters: Array, works: Sequence[Work], precisions: Sequence[str]) -> tuple[Array, Array]:
        """(log seconds, Jacobian by the log parameters), one row per work."""
        n = len(self.precisions)
        lam, c, d = np.exp(parameters[0]), np.exp(parameters[1 : 1 + n]), np.exp(parameters[1 + n :])
        p = np.array([self.precisions.index(name) for name in precisions])
        kernels, macs, moved = np.array([[w.kernels, w.macs, w.bytes] for w in works], dtype=np.float64).T
        launch, product, memory = lam * kernels, c[p] * macs, d[p] * moved
        roof = product + memory
        total = launch**4 + roof**4
        share = roof**4 / total
        jacobian = np.zeros((len(works), 1 + 2 * n))
        rows = np.arange(len(works))
        jacobian[:, 0] = 1 - share
        jacobian[rows, 1 + p] = share * product / roof
        jacobian[rows, 1 + n + p] = share * memory / roof
        return 0.25 * np.log(total), jacobian

    def fit(self, timings: Sequence[Timing], noise: float = ROOF_NOISE) -> Array:
        """MAP parameters of one device, by damped Gauss-Newton. Without timings, the prior's mean."""
        x = self.mean.copy()
        if not timings:
            return x
        works, precisions = [t.work for t in timings], [t.precision for t in timings]
        y = np.array([t.log_seconds for t in timings])

        def loss(z: Array) -> float:
            gap = (y - self.log_time(z, works, precisions)[0]) / noise
            away = z - self.mean
            return float(gap @ gap + away @ self.precision_matrix @ away)

        best, damping = loss(x), 1e-2
        for _ in range(60):
            predicted, jacobian = self.log_time(x, works, precisions)
            gradient = jacobian.T @ (y - predicted) / noise**2 - self.precision_matrix @ (x - self.mean)
            hessian = jacobian.T @ jacobian / noise**2 + self.precision_matrix
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            found = loss(x + step)
            if found < best:
                improved, x, best, damping = best - found, x + step, found, max(damping / 5, 1e-9)
                if improved < 1e-9:
                    break
            else:
                damping *= 5
                if damping > 1e9:
                    break
        return x


def learn_roofline(devices: Sequence[Sequence[Timing]], precisions: tuple[str, ...]) -> Roofline:
    """The prior from known devices, by EM with Laplace's approximation; a diagonal covariance.

    So a device whose works never show its launch cost does not drag the prior of that cost along.
    """
    n = len(precisions)
    # 50 microseconds a launch, about 12 T MACs/s and 170 GB/s: only where the search starts
    mean = np.log(np.array([5e-5, *[8e-14] * n, *[6e-12] * n]))
    variance = np.ones(1 + 2 * n)
    for _ in range(ROOF_ROUNDS):
        prior = Roofline(precisions, mean, np.diag(1 / variance))
        fits, spread = [], np.zeros(1 + 2 * n)
        for timings in devices:
            fit = prior.fit(timings, LEARN_NOISE)
            jacobian = prior.log_time(fit, [t.work for t in timings], [t.precision for t in timings])[1]
            spread += np.diag(np.linalg.inv(jacobian.T @ jacobian / LEARN_NOISE**2 + prior.precision_matrix))
            fits.append(fit)
        stacked = np.array(fits)
        mean = stacked.mean(axis=0)
        variance = ((stacked - mean) ** 2).mean(axis=0) + spread / len(fits) + 0.05**2
    return Roofline(precisions, mean, np.diag(1 / variance))


@dataclass(frozen=True)
class Blp:
    """w ~ N(mean, covariance) of the log ratio's line."""

    mean: Array
    covariance: Array

    def posterior(self, x: Array, y: Array) -> Array:
        """Mean of w after the probes: rows `x`, log ratios `y`."""
        if not len(y):
            return self.mean
        gain = self.covariance @ x.T @ np.linalg.inv(x @ self.covariance @ x.T + BLP_NOISE**2 * np.eye(len(y)))
        return self.mean + gain @ (y - x @ self.mean)


def blp_rows(gains: Array, half: Array, both: bool) -> Array:
    """[1, r, h, h r] per row, or [1] when there is one precision only."""
    one = np.ones(len(half))
    return np.stack([one, gains, half, half * gains], axis=1) if both else one[:, None]


def learn_blp(pairs: Sequence[tuple[Array, Array]]) -> Blp:
    """EM over ordered pairs of devices, each (rows, log ratios)."""
    k = pairs[0][0].shape[1]
    mean, covariance = np.zeros(k), np.eye(k)
    for _ in range(EM_ROUNDS):
        inverse = np.linalg.inv(covariance)
        means, spread = [], np.zeros((k, k))
        for x, y in pairs:
            v = np.linalg.inv(x.T @ x / BLP_NOISE**2 + inverse)
            means.append(v @ (x.T @ y / BLP_NOISE**2 + inverse @ mean))
            spread += v
        stacked = np.array(means)
        mean = stacked.mean(axis=0)
        away = stacked - mean
        covariance = (spread + away.T @ away) / len(pairs) + 1e-6 * np.eye(k)
    return Blp(mean, covariance)


@dataclass(frozen=True)
class Base:
    """Everything learned of the base. `both`: it uses fp16 terms."""

    blp: Blp
    roofline: Roofline

    @property
    def both(self) -> bool:
        return len(self.roofline.precisions) > 1

    def to_json(self) -> dict[str, object]:
        """Plain lists."""
        return {
            "precisions": list(self.roofline.precisions),
            "blp_mean": self.blp.mean.tolist(),
            "blp_covariance": self.blp.covariance.tolist(),
            "roofline_mean": self.roofline.mean.tolist(),
            "roofline_precision": self.roofline.precision_matrix.tolist(),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, object]) -> Base:
        """Raises ValueError or KeyError for anything that is not a base."""
        precisions = raw["precisions"]
        if precisions not in (list(FP32_ONLY), list(BOTH)):
            raise ValueError("precisions must be fp32, or fp32 and fp16")
        n, k = (3, 1) if precisions == list(FP32_ONLY) else (5, 4)
        arrays = {
            name: np.array(raw[name], dtype=np.float64)
            for name in ("blp_mean", "blp_covariance", "roofline_mean", "roofline_precision")
        }
        shapes = {"blp_mean": (k,), "blp_covariance": (k, k), "roofline_mean": (n,), "roofline_precision": (n, n)}
        for name, array in arrays.items():
            if array.shape != shapes[name] or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, of shape {shapes[name]}")
        names = FP32_ONLY if k == 1 else BOTH
        return cls(
            Blp(arrays["blp_mean"], arrays["blp_covariance"]),
            Roofline(names, arrays["roofline_mean"], arrays["roofline_precision"]),
        )


@dataclass(frozen=True)
class Pair:
    """Reference and target as their probes show them. Probes are in one order, known to both.

    `gains`: log(fp16 / fp32) of each probe on the reference, 0 where it is not known.
    """

    works: tuple[Work, ...]
    precisions: tuple[str, ...]
    reference: Array  # log seconds of each probe
    target: Array
    gains: Array
    reference_roof: Array  # fitted parameters
    target_roof: Array
    line: Array  # posterior of w


@dataclass(frozen=True)
class Parts:
    """Predicted log seconds by each way, and what the residual model looks at."""

    rank1: float
    blp: float
    roofline: float
    floor: float  # launches alone, on the target
    launch_share: float  # launches over the time, on the reference
    launch_ratio: float  # log of the launch cost, target over reference

    @property
    def mix(self) -> float:
        return (self.rank1 + self.blp + self.roofline) / 3


def fit_device(base: Base, works: Sequence[Work], precisions: Sequence[str], log_seconds: Array) -> Array:
    """A device's roofline parameters from its probes' log seconds."""
    return base.roofline.fit([Timing(w, p, float(t)) for w, p, t in zip(works, precisions, log_seconds, strict=True)])


def make_pair(
    base: Base,
    works: Sequence[Work],
    precisions: Sequence[str],
    reference: Array,
    target: Array,
    gains: Array,
    roofs: tuple[Array, Array] | None = None,
) -> Pair:
    """Fits both devices from their probes. `roofs`: their fits, where the caller has them from another pair."""
    half = np.array([p == "fp16" for p in precisions], dtype=np.float64)
    rows = blp_rows(gains, half, base.both)
    if roofs is None:
        roofs = (fit_device(base, works, precisions, reference), fit_device(base, works, precisions, target))
    return Pair(
        works=tuple(works),
        precisions=tuple(precisions),
        reference=reference,
        target=target,
        gains=gains,
        reference_roof=roofs[0],
        target_roof=roofs[1],
        line=base.blp.posterior(rows, target - reference),
    )


def predict_parts(base: Base, pair: Pair, work: Work, precision: str, log_reference: float, gain: float = 0.0) -> Parts:
    """One job of `work` that takes exp(log_reference) seconds on the reference."""
    same = np.array([p == precision for p in pair.precisions])
    ratio = pair.target - pair.reference
    rank1 = log_reference + float(ratio[same].mean() if same.any() else ratio.mean())
    half = np.array([float(precision == "fp16")])
    blp = log_reference + float((blp_rows(np.array([gain]), half, base.both) @ pair.line)[0])
    on_reference = float(base.roofline.log_time(pair.reference_roof, [work], [precision])[0][0])
    on_target = float(base.roofline.log_time(pair.target_roof, [work], [precision])[0][0])
    floor = float(pair.target_roof[0]) + float(np.log(work.kernels))
    return Parts(
        rank1=rank1,
        blp=blp,
        roofline=on_target + CARRY * (log_reference - on_reference),
        floor=floor,
        launch_share=float(np.exp(min(0.0, pair.reference_roof[0] + np.log(work.kernels) - log_reference))),
        launch_ratio=float(pair.target_roof[0] - pair.reference_roof[0]),
    )
