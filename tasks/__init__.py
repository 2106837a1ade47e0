"""Prefect tasks, one file per stage of a job. Each reads the job store and the chain before it has an effect."""
