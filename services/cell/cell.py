"""One cell: scheduler, gateway and TLS port, started together and stopped in the order that leaves no traceback."""

from __future__ import annotations

import importlib.util
import tempfile
from types import TracebackType
from typing import Any

import dask.config
import structlog
from distributed import Scheduler

from cloudlinkup.blobs.store import BlobStore
from cloudlinkup.errors import Unavailable
from services.cell.config import DASHBOARD_ROUTES, DASK, HEALTH_ROUTES, CellConfig
from services.cell.gateway import Gateway
from services.cell.server import Server, listen

log = structlog.get_logger()


class Cell:
    """``async with Cell(config) as cell``: afterwards `gateway_port` and `scheduler_address` are known.

    Dask's settings are process-wide while a cell is open.
    """

    gateway: Gateway
    scheduler_address: str
    gateway_port: int

    def __init__(self, config: CellConfig) -> None:
        self._config = config

    async def __aenter__(self) -> Cell:
        """Raises Unavailable when a port is taken."""
        config = self._config
        listen("127.0.0.1", config.scheduler_port).close()  # Dask would not say which port is taken
        bokeh = importlib.util.find_spec("bokeh") is not None
        if not bokeh:
            log.info("no Dask dashboard: bokeh is not installed")
        routes = DASHBOARD_ROUTES if bokeh else HEALTH_ROUTES
        self._dask = dask.config.set({**DASK, "distributed.scheduler.http.routes": list(routes)})
        self._scratch = tempfile.TemporaryDirectory(prefix="cloudlinkup-cell-")
        try:
            addresses: dict[str, Any] = {  # flows come by TCP, the gateway's own workers in process
                "host": ["127.0.0.1", None],
                "protocol": ["tcp", "inproc"],
                "port": [config.scheduler_port, None],
            }
            self._scheduler: Any = await Scheduler(
                dashboard_address=f"127.0.0.1:{config.dashboard_port}", dashboard=bokeh, **addresses
            )
        except (OSError, RuntimeError) as error:
            self._forget()
            raise Unavailable(f"the Dask scheduler did not start: {error.__cause__ or error}") from None
        tcp, inproc = (listener.contact_address for listener in self._scheduler.listeners)
        self.scheduler_address = tcp
        self.gateway = Gateway(config, inproc, BlobStore(config.blobs), self._scratch.name)
        try:
            self._server = Server(config, self.gateway.app)
            await self._server.start()
        except BaseException:
            await self._scheduler.close()
            self._forget()
            raise
        self.gateway_port = self._server.port
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gateway.begin_to_close()
        await self._server.stop()
        await self.gateway.closed()
        await self._scheduler.close(reason="the cell is shutting down")
        self._forget()

    def _forget(self) -> None:
        self._scratch.cleanup()
        self._dask.__exit__(None, None, None)
