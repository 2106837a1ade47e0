"""What a cell is told when it starts, and the settings that Dask needs for workers that only wait."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Stock settings make 100 idle in-process workers burn half a core, and let a lost contributor's call wait for ever.
# "tick.interval" must stay below "tick.limit" (3 s).
DASK: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.no-workers-timeout": "0.5s",
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": "5 minutes",
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.use-file-locking": False,
    "distributed.worker.preload": [],
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.admin.system-monitor.log-length": 2,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.cycle": "30s",
}
# The dashboard reads; nothing behind these routes changes anything.
DASHBOARD_ROUTES = [
    "distributed.http.scheduler.prometheus",
    "distributed.http.scheduler.info",
    "distributed.http.health",
    "distributed.http.statics",
]
HEALTH_ROUTES = ["distributed.http.health"]


@dataclass(frozen=True)
class CellConfig:
    """Ports may be 0 (any free one). The scheduler and its dashboard listen on loopback only.

    `gateway_name` is what contributors delegate to and sign; `allow`: wallets that may come in, None for all.
    A contributor that answers no ping for `ping_interval + ping_timeout` seconds is lost. Beyond `most` contributors
    nobody is let in: keys cost nothing, and each connection takes about 0.1 MB.
    """

    genesis: str
    program: str
    gateway_name: str
    tls_cert: Path
    tls_key: Path
    blobs: str
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 0
    scheduler_port: int = 0
    dashboard_port: int = 0
    allow: frozenset[str] | None = None
    ping_interval: float = 2.0
    ping_timeout: float = 2.0
    most: int = 1_000
