"""Retrains the predictor from telemetry: read the window, train a challenger, judge it, promote it only by the rule.

    python -m flows.retrain_allocator     or the deployment `retrain-allocator`, on a schedule

Training is in `models.retrain`, the rule in `models.judge`, versions in `models.registry`. A run that promotes nothing
is a success that says why: too little data, a store that cannot be read, a champion that cannot be loaded. Every run
writes one artifact with the figures and a calibration plot; it holds no contributor's name and no row. Runs come by
schedule, on demand, and when predictions drift (`tasks.drift`).
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import replace
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from cloudlinkup.errors import Unavailable
from cloudlinkup.home import Home, checkout
from models.chart import calibration_svg, data_uri
from models.judge import Verdict, judge
from models.predictor import Predictor
from models.registry import Registry
from models.retrain import Window, read_window, split, too_little, train_challenger
from models.seen import Seen
from models.telemetry import Telemetry

DAY = 86_400.0


def _git_commit() -> str:
    """The checkout's commit, or "unknown" where there is none."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=checkout(), capture_output=True, text=True, timeout=10, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@task(cache_policy=NO_CACHE)
async def read_telemetry(home: Home, days: int, champion: Predictor) -> Window:
    """The last `days` of attempts, validated."""
    frame = await Telemetry(home.telemetry_db).attempts(since=time.time() - days * DAY)
    return await asyncio.to_thread(read_window, frame, champion, time.time())


@task(cache_policy=NO_CACHE)
async def train(champion: Predictor, seen: list[Seen], version: str, window: Window) -> Predictor:
    """The challenger, with where it comes from in its metadata."""
    metadata = {
        "data": {
            "from": min(s.at for s in window.seen),
            "to": max(s.at for s in window.seen),
            "rows": len(seen),
            "jobs": len({s.job_id for s in seen}),
            "dropped": window.dropped,
        },
        "git_commit": await asyncio.to_thread(_git_commit),
        "champion": champion.version,
        "metrics": {},  # filled in when it is promoted
    }
    return await asyncio.to_thread(train_challenger, champion, seen, version, metadata)


@task(cache_policy=NO_CACHE)
async def compare(champion: Predictor, challenger: Predictor, held: list[Seen]) -> Verdict:
    """Both on the held-out jobs."""
    return await asyncio.to_thread(judge, champion, challenger, held)


@task(cache_policy=NO_CACHE)
async def promote(registry: Registry, challenger: Predictor, verdict: Verdict) -> None:
    """Stores the version with the figures it was promoted by, then points to it."""
    challenger = replace(challenger, metadata=challenger.metadata | {"metrics": verdict.figures})
    await asyncio.to_thread(registry.add, challenger)
    await asyncio.to_thread(registry.promote, challenger.version)


@flow(name="retrain-allocator")
async def retrain_allocator(days: int = 90) -> dict[str, Any]:
    """Returns {champion, challenger, promoted, reason, figures, dropped}; raises only when something is broken."""
    home = Home.find()
    registry = Registry(home.root / "models")
    champion = await asyncio.to_thread(registry.champion)
    outcome: dict[str, Any] = {
        "champion": champion.version,
        "challenger": None,
        "promoted": False,
        "reason": champion.notice or None,
        "figures": {},
        "calibration": {},
        "dropped": {},
        "shards": 0,
        "jobs": 0,
    }
    if outcome["reason"] is None:
        try:
            window = await read_telemetry(home, days, champion)
        except Unavailable as error:
            outcome["reason"] = str(error)
        else:
            outcome |= {"dropped": window.dropped, "shards": len(window.seen), "jobs": len(window.jobs)}
            outcome |= await _retrain(registry, champion, window)
    get_run_logger().info("version %s: %s", outcome["challenger"] or champion.version, outcome["reason"])
    await acreate_markdown_artifact(
        key="retrain-allocator", markdown=report(outcome), description="What retraining found, and whether it promoted"
    )
    return outcome


async def _retrain(registry: Registry, champion: Predictor, window: Window) -> dict[str, Any]:
    """What the outcome says of a window that could be read."""
    reason = too_little(window)
    if reason is not None:
        return {"reason": reason}
    seen, held = split(window)
    challenger = await train(champion, seen, registry.next_version(), window)
    verdict = await compare(champion, challenger, held)
    if verdict.promote:
        await promote(registry, challenger, verdict)
    return {
        "challenger": challenger.version,
        "promoted": verdict.promote,
        "reason": verdict.reason,
        "figures": verdict.figures,
        "calibration": verdict.calibration,
    }


def report(outcome: dict[str, Any]) -> str:
    """The artifact's text."""
    title = (
        f"Promoted version {outcome['challenger']}" if outcome["promoted"] else f"Kept version {outcome['champion']}"
    )
    lines = [
        f"# {title}",
        "",
        f"{outcome['reason']}.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| accepted shards | {outcome['shards']} |",
        f"| jobs | {outcome['jobs']} |",
        *(f"| rows dropped: {name} | {count} |" for name, count in sorted(outcome["dropped"].items())),
        *(f"| {name} | {value:.4g} |" for name, value in outcome["figures"].items()),
    ]
    if curves := outcome.get("calibration"):
        lines += [
            "",
            "How often the intervals held in the held-out jobs, for the worst contributor of each:",
            "",
            f"![calibration plot]({data_uri(calibration_svg(curves))})",
            "",
            "| stated | " + " | ".join(curves) + " |",
            "|---|" + "---|" * len(curves),
            *(
                f"| {points[0][0]:.0%} | " + " | ".join(f"{share:.0%}" for _, share in points) + " |"
                for points in zip(*curves.values(), strict=True)
            ),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(asyncio.run(retrain_allocator()))
