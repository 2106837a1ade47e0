"""Stage *segment*: the client's rows become arrays and the job becomes facts, before any money is locked.

What was prepared is kept in the job's folder, so that a run that is taken up again trains on the same rows even if
the source changed meanwhile.
"""

from __future__ import annotations

import asyncio
import shutil

from prefect import task
from prefect.cache_policies import NO_CACHE

from cloudlinkup.tables.prepared import Prepared
from cloudlinkup.training.spec import TrainingSpec
from models.facts import JobFacts
from tasks.context import Run
from tasks.initial import INITIAL, bring_initial
from tasks.pilot import settle_rate
from tasks.planning import job_facts, load_data, profile
from tasks.pretrained import load_base
from tasks.quoted import check_quoted, quoted_facts
from tasks.subject import generation
from tasks.trials import SEARCH, load_trials, plan_search

PREPARED, FACTS, RATE = "prepared", "facts.json", "rate.json"


@task(name="segment", cache_policy=NO_CACHE)
async def segment(run: Run) -> None:
    """Loads, checks, prepares and times the job; or loads what an earlier run of it stored.

    Raises BadInput for data, label, task or model that cannot be trained, and for rows that changed since the quote.
    """
    with run.timed("segment"):
        if not (run.folder / PREPARED).exists():
            await _prepare(run)
        run.prepared = await asyncio.to_thread(Prepared.load, run.folder / PREPARED)
        if run.job.search is None:
            await bring_initial(run.job, [run.data.spec], run.settings.file_roots, run.folder)
        run.prepared, rates = await settle_rate(run.job, run.data, run.folder / RATE, run.folder / INITIAL)
        await load_base(run)
        if run.job.search is not None:
            await _search(run, rates)
        if not (run.folder / FACTS).exists():
            facts = await asyncio.to_thread(quoted_facts, run.settings.home, run.job, run.data.spec)
            if facts is None:
                reference = await profile(run.data, run.settings, run.frozen)
                facts = await asyncio.to_thread(job_facts, run.job, run.data, reference, run.settings.home, run.base)
            run.write(FACTS, facts.model_copy(update={"rates": rates}).model_dump_json().encode())
        run.published = await asyncio.to_thread(generation, run, run.state.generation)
    if run.state.stage == "segment":
        run.save("allocate")
        spec = run.data.spec
        run.event("segmented", rows=len(run.data.features), inputs=spec.inputs, outputs=spec.outputs, lr=spec.lr)


async def _prepare(run: Run) -> None:
    """The folder of prepared rows; it appears whole, and only once it is known to be what was quoted."""
    part = run.folder / f"{PREPARED}.part"
    try:
        rows = await load_data(run.job, run.settings.file_roots, part)
        check_quoted(run.settings.home, run.job, await asyncio.to_thread(lambda: rows.hash))
        part.rename(run.folder / PREPARED)
    finally:
        await asyncio.to_thread(shutil.rmtree, part, ignore_errors=True)


async def _search(run: Run, rates: dict[str, float]) -> None:
    """The job's independent trainings instead of its one."""
    if not (run.folder / SEARCH).exists():
        plan = await plan_search(run.job, run.data, run.settings, run.base)
        run.write(FACTS, plan.facts[0].model_copy(update={"rates": rates}).model_dump_json().encode())
        specs = [TrainingSpec.from_bytes(trial.spec.encode()) for trial in plan.trials]
        await bring_initial(run.job, specs, run.settings.file_roots, run.folder)
        run.write(SEARCH, plan.model_dump_json().encode())
    await asyncio.to_thread(load_trials, run)


def stored_facts(run: Run) -> JobFacts:
    """What segment measured of this job."""
    return JobFacts.model_validate_json((run.folder / FACTS).read_bytes())
