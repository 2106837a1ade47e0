"""The planning brain: what a job will cost and take, who takes part, and how each round is split.

One walk: `features` and `profile` describe the job, `predictor` gives seconds per step for every candidate,
`selection` says who takes part, `pricing` at what price, `plan` how many steps each does in a round, `quote` puts it in
words with a hard cap. `correction` learns within a job, `telemetry` and `registry` between jobs. All of it is pure
functions over frozen values except `profile`, `telemetry` and `registry`.
"""
