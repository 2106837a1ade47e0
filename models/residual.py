"""XGBoost on what the physical base leaves: log seconds minus the base, three seeds averaged.

Small on purpose: depth 2, 100 rounds, strong regularisation, absolute error. Deeper or longer trees and squared error
were measured to be worse on unseen devices. Monotone upwards in what the base's parts say. `nthread` is always set:
left to itself on a shared machine XGBoost was 35 times slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log, nan

import numpy as np
import xgboost as xgb

from models.base import Array, Parts

ROUNDS = 100
SEEDS = (0, 1, 2)
LEAST_LEAF = 30.0  # weight of a leaf, of rows that weigh 1 / sqrt(cell size): a small leaf follows one network or host
PARAMETERS = {
    "objective": "reg:absoluteerror",
    "tree_method": "hist",
    "max_depth": 2,
    "eta": 0.05,
    "subsample": 0.6,
    "colsample_bytree": 0.6,
    "lambda": 30,
    "nthread": 1,
    "verbosity": 0,
}
COLUMNS = (
    "log_intensity",  # MACs a byte
    "log_kernels",
    "log_macs",
    "grouped_share",
    "low_share",
    "launch_share",  # launches over the step's time, on the reference
    "gain",  # log(fp16 / fp32) of the job on the reference; NaN where fp16 is not used
    "log_rate",  # MACs a second on the reference
    "half",
    "ratio_mean",  # log probe ratios: used for the box only, constant to the model (see centred_row)
    "ratio_low",
    "ratio_middle",
    "ratio_high",
    "launch_ratio",
    "floor_rank1",
    "blp_rank1",
    "roofline_rank1",
    "ratio_range",
)
MONOTONE = {"floor_rank1": 1, "blp_rank1": 1, "roofline_rank1": 1}
HIDDEN = COLUMNS.index("ratio_mean")


def centred_row(
    features: Mapping[str, float],
    precision: str,
    log_reference: float,
    gain: float,
    ratios: Sequence[float] | Array,
    parts: Parts,
) -> Array:
    """One row of inputs in the order of `COLUMNS`. `ratios`: log probe ratios in the job's precision, in any order.

    Ratios are centred and sorted, so the model sees how a device differs, not which probe says so: probes of different
    installations differ. What a trace did not give is NaN.
    """
    # plain floats: numpy on single numbers took most of the time of planning over many contributors
    values = sorted(map(float, ratios))
    centre = sum(values) / len(values)
    centred = [value - centre for value in values]
    macs = max(features.get("macs", nan), 1.0)
    moved = max(features.get("matmul_bytes", nan) + features.get("elementwise_bytes", nan), 1.0)
    return np.array(
        [
            _log(macs / moved),
            _log(features.get("kernels", nan)),
            _log(macs),
            features.get("grouped_macs", nan) / macs,
            features.get("low_share", nan),
            parts.launch_share,
            gain,
            _log(macs) - log_reference,
            float(precision == "fp16"),
            centre,
            centred[0],
            centred[len(centred) // 2],
            centred[-1],
            parts.launch_ratio,
            parts.floor - parts.rank1,
            parts.blp - parts.rank1,
            parts.roofline - parts.rank1,
            centred[-1] - centred[0],
        ]
    )


def _log(x: float) -> float:
    return log(x) if x > 0 else nan if x != 0 else -inf


def _visible(x: Array) -> Array:
    """The rows without what only the box may see."""
    out = x.copy()
    out[:, HIDDEN] = 0.0
    return out


def fit(x: Array, residual: Array, weights: Array, least_leaf: float = LEAST_LEAF) -> tuple[xgb.Booster, ...]:
    """One booster per seed. Rows are used in the order given; the same rows give the same trees."""
    constraints = "(" + ",".join(str(MONOTONE.get(c, 0)) for c in COLUMNS) + ")"
    data = xgb.DMatrix(_visible(x), label=residual, weight=weights, feature_names=list(COLUMNS), nthread=1)
    parameters = {**PARAMETERS, "monotone_constraints": constraints, "min_child_weight": least_leaf}
    return tuple(xgb.train({**parameters, "seed": seed}, data, num_boost_round=ROUNDS) for seed in SEEDS)


def apply(boosters: Sequence[xgb.Booster], x: Array) -> Array:
    """Mean residual of the boosters, one per row."""
    data = xgb.DMatrix(_visible(x), feature_names=list(COLUMNS), nthread=1)
    return np.mean([b.predict(data) for b in boosters], axis=0).astype(np.float64)
