"""A job of several independent trainings: which of them, and what of them is delivered. A part of the job's spec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cloudlinkup.frozen import Frozen

MOST_TRIALS = 64


class Halving(Frozen):
    """Successive halving: at each of `rungs` rungs, all but the best 1/`eta` of the trainings stop.

    The last rung is at 1/eta of a training's steps, the one before at 1/eta squared, and so on.
    """

    eta: Annotated[int, Field(ge=2, le=8)] = 3
    rungs: Annotated[int, Field(ge=1, le=5)] = 2


class Range(Frozen):
    """Numbers from `low` to `high`, drawn evenly, or evenly in their logarithm; `whole`: rounded to whole numbers."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("needs low below high, and low above 0 where log is true")
        return self


Values = Annotated[tuple[Any, ...], Field(min_length=1, max_length=MOST_TRIALS)]
Setting = Annotated[str, Field(pattern=r"^(train\.(lr|batch|seed)|model\.[a-z_]{1,40})$")]
Several = Annotated[int, Field(ge=2, le=MOST_TRIALS)]
Which = Literal["best", "all", "blend"]


class GridSearch(Frozen):
    """One training for each combination of the values in `over`, like ``{"train.lr": [0.003, 0.01]}``."""

    kind: Literal["grid"]
    over: Annotated[dict[Setting, Values], Field(min_length=1, max_length=8)]
    halving: Halving | None = None
    deliver: Which = "best"


class RandomSearch(Frozen):
    """`trials` trainings, each with one value of every entry of `over` drawn from its list or range."""

    kind: Literal["random"]
    trials: Several
    over: Annotated[dict[Setting, Values | Range], Field(min_length=1, max_length=8)]
    halving: Halving | None = None
    deliver: Which = "best"


class Folds(Frozen):
    """Cross-validation: `folds` trainings, each scored on the part of the rows that it was not trained on.

    `deliver`: "final" trains once more on all those rows and delivers that; "blend" delivers the folds' mean.
    """

    kind: Literal["folds"]
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    deliver: Literal["final", "blend"] = "final"


class Ensemble(Frozen):
    """`members` trainings that differ in their seed alone."""

    kind: Literal["ensemble"]
    members: Several = 5
    deliver: Which = "blend"


Search = Annotated[GridSearch | RandomSearch | Folds | Ensemble, Field(discriminator="kind")]
