"""``python -m services.cell``: a cell until SIGTERM or Ctrl-C, then exit code 0. Logs are JSON lines on stderr."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import structlog

from cloudlinkup.errors import CloudLinkUpError, Unavailable
from cloudlinkup.home import PORT_BASE, PORTS, Settings
from services.cell.cell import Cell
from services.cell.config import CellConfig


def arguments(argv: list[str], settings: Settings) -> argparse.Namespace:
    """Defaults come from the environment and stack.json."""
    gateway = urlsplit(settings.gateway_url)
    gateway_port = gateway.port or PORT_BASE + PORTS["gateway"]
    scheduler_port = urlsplit(settings.scheduler).port or PORT_BASE + PORTS["scheduler"]
    parser = argparse.ArgumentParser(prog="python -m services.cell", description=__doc__)
    parser.add_argument("--gateway-host", default="127.0.0.1", help="address that contributors reach")
    parser.add_argument("--gateway-port", type=int, default=gateway_port)
    parser.add_argument("--gateway-name", default=settings.gateway_url, help="what contributors delegate to and sign")
    parser.add_argument("--scheduler-port", type=int, default=scheduler_port, help="on loopback, for flows only")
    parser.add_argument("--dashboard-port", type=int, default=gateway_port + 2, help="on loopback")
    parser.add_argument("--tls-cert", type=Path, default=settings.home.tls / "cert.pem")
    parser.add_argument("--tls-key", type=Path, default=settings.home.tls / "key.pem")
    parser.add_argument("--blobs", default=str(settings.home.blobs), help="folder or fsspec URL of the sealed blobs")
    parser.add_argument("--genesis", help="genesis hash of the chain; asked from the RPC when not given")
    parser.add_argument("--program", default=settings.program_id, help="the escrow program")
    parser.add_argument("--allow", action="append", metavar="WALLET", help="admit only these wallets (repeatable)")
    parser.add_argument("--ping-interval", type=float, default=2.0, help="seconds between pings")
    parser.add_argument("--ping-timeout", type=float, default=2.0, help="seconds for the answer to one")
    parser.add_argument("--most", type=int, default=1_000, help="contributors that are let in at once")
    return parser.parse_args(argv)


def genesis_hash(rpc_url: str) -> str:
    """Asks the chain. Raises Unavailable."""
    try:
        body = {"jsonrpc": "2.0", "id": 1, "method": "getGenesisHash"}
        return str(httpx.post(rpc_url, json=body, timeout=10).raise_for_status().json()["result"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        raise Unavailable(f"no chain answers at {rpc_url}. Fix: start it, or give --genesis") from None


def set_up_logs() -> None:
    """Our own events as JSON; libraries from WARNING, Dask's task errors not at all: the flow raises them."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for name in ("distributed", "distributed.scheduler", "distributed.core"):  # Dask has set them to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)


async def serve(config: CellConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log = structlog.get_logger()
    async with Cell(config) as cell:
        log.info("ready", gateway=cell.gateway_port, scheduler=cell.scheduler_address, name=config.gateway_name)
        await stop.wait()
    log.info("stopped")


def main(argv: list[str]) -> int:
    set_up_logs()
    try:
        settings = Settings.load()
        given = arguments(argv, settings)
        config = CellConfig(
            genesis=given.genesis or genesis_hash(settings.rpc_url),
            program=given.program,
            gateway_name=given.gateway_name,
            tls_cert=given.tls_cert,
            tls_key=given.tls_key,
            blobs=given.blobs,
            gateway_host=given.gateway_host,
            gateway_port=given.gateway_port,
            scheduler_port=given.scheduler_port,
            dashboard_port=given.dashboard_port,
            allow=frozenset(given.allow) if given.allow else None,
            ping_interval=given.ping_interval,
            ping_timeout=given.ping_timeout,
            most=given.most,
        )
        asyncio.run(serve(config))
    except CloudLinkUpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
