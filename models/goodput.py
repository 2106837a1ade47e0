"""How many contributors one training can use: throughput times statistical efficiency, not throughput alone.

At equal samples more contributors mean fewer sequential steps for each, and early in a training their
pseudo-gradients say nearly the same: 4,000 steps by 4, 16 and 64 contributors reached 92.8, 84.2 and 67.7% on a
synthetic table. Goodput (Pollux, Qiao et al., OSDI 2021) is throughput times *efficiency*: the steps that one
contributor alone needs for the same score over the steps of all. By the gradient noise scale (McCandlish et al., 2018)

    1 / E = 1 + (K - 1) r

where r, the share in which a contributor repeats the others, is the batch over the noise scale, and falls as that grows
in training. Neither is known before a job runs, so r is taken as measured on the sequential steps s = steps / K:

    r(s) = REPEATED / (1 + (s / EARLY)^4)

`benchmarks.goodput` measures it: on its table, contributors repeat 0.7 of each other up to 250 steps each, half at 500,
and nothing from 1,000 on; on digits nothing from 500 on. `EARLY` lies between the two problems, so it caps too late
for hard ones and too soon for easy ones. K E rises to a peak at 1.5 to 2 times `EARLY` steps each and falls: the cap is
there, or before it where one more contributor would add less than a tenth of itself.

Not here: independent trainings (there is no limit), unequal contributors (they count alike), a noise scale measured in
the job itself, learning rates raised for more contributors. Pure.
"""

from __future__ import annotations

REPEATED = 0.7
EARLY = 350.0  # sequential steps
FALL = 4
LEAST_GAIN = 0.1


def efficiency(contributors: int, steps: int) -> float:
    """Of each step, the part that counts: 0 to 1. `steps`: of all contributors together. Raises ValueError below 1."""
    if contributors < 1 or steps < 1:
        raise ValueError("contributors and steps are at least 1")
    repeated = REPEATED / (1 + (steps / contributors / EARLY) ** FALL)
    return 1 / (1 + (contributors - 1) * repeated)


def most_useful(steps: int, most: int) -> int:
    """How many contributors, 1 to `most`, a training of `steps` can use: each more adds `LEAST_GAIN` of itself."""
    count, goodput = 1, efficiency(1, steps)
    while count < most and (more := (count + 1) * efficiency(count + 1, steps)) >= goodput + LEAST_GAIN:
        count, goodput = count + 1, more
    return count
