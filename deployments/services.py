"""The services of the local stack: how each is started, and when it counts as healthy.

Not covered: their order and supervision (`local.py`), what they do (their own modules).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import httpx

from cloudlinkup.crypto.identity import read_or_make_key
from cloudlinkup.home import PORTS, PROGRAM_ID, ROLES, Home
from deployments.processes import Child, connects
from deployments.tls import client_context, make_certificates

CHECKOUT = Path(__file__).resolve().parent.parent
PROGRAM = CHECKOUT / "programs/escrow.so"
SLOT_MS = 100  # a slot of the local chain, in milliseconds (a cluster's is about 400)


def rpc_url(base: int) -> str:
    return f"http://127.0.0.1:{base + PORTS['localnet']}"


def gateway_url(base: int) -> str:
    return f"wss://127.0.0.1:{base + PORTS['gateway']}"


def dask_dashboard(base: int) -> str | None:
    """Dask draws its dashboard with bokeh, which is not among our packages: None unless somebody installed it."""
    there = importlib.util.find_spec("bokeh") is not None
    return f"http://127.0.0.1:{base + PORTS['dask_dashboard']}" if there else None


def prefect_api(base: int) -> str:
    return f"http://127.0.0.1:{base + PORTS['prefect']}/api"


def _environment(home: Home) -> dict[str, str]:
    """A child's environment: the user's, less what would send it to other services, and where its home is."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CLOUDLINKUP_"))}
    return {**kept, "CLOUDLINKUP_HOME": str(home.root), "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}


def _prefect_environment(home: Home, base: int) -> dict[str, str]:
    return {
        **_environment(home),
        "PREFECT_HOME": str(home.root / "prefect"),
        "PREFECT_API_URL": prefect_api(base),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(base + PORTS["prefect"]),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "PREFECT_WORKER_QUERY_SECONDS": "1",  # a submitted job starts within a second
        "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
    }


def make_keys(home: Home) -> str:
    """Makes the key files of all roles that are missing. Returns the admin's public key."""
    return [str(read_or_make_key(home.key(role)).pubkey()) for role in ROLES][ROLES.index("admin")]


async def _rpc(base: int, method: str) -> object:
    async with httpx.AsyncClient(timeout=2) as client:
        answer = await client.post(rpc_url(base), json={"jsonrpc": "2.0", "id": 1, "method": method})
        return answer.raise_for_status().json().get("result")


async def genesis_hash(base: int) -> str:
    """The local chain's genesis hash, base58."""
    return str(await _rpc(base, "getGenesisHash"))


def localnet(home: Home, base: int, authority: str) -> Child:
    """The local chain. `authority` (base58) may upgrade, and so initialise, the escrow program."""

    async def healthy() -> bool:
        try:
            return await connects(base + PORTS["localnet"]) and await _rpc(base, "getHealth") == "ok"
        except httpx.HTTPError:
            return False

    port = str(base + PORTS["localnet"])
    argv = [sys.executable, "-m", "services.localnet", "--port", port, "--db", str(home.localnet_db)]
    argv += ["--program", str(PROGRAM), "--program-id", PROGRAM_ID, "--upgrade-authority", authority]
    argv += ["--slot-ms", str(SLOT_MS)]
    return Child("localnet", argv, _environment(home), CHECKOUT, home.logs / "localnet.log", healthy, deadline=120)


def cell(home: Home, base: int, genesis: str) -> Child:
    """Dask scheduler and gateway in one process, on loopback, behind a certificate of the local authority."""
    certificates = make_certificates(home.tls)
    context = client_context(certificates.ca)

    async def healthy() -> bool:
        if not (await connects(base + PORTS["scheduler"]) and await connects(base + PORTS["gateway"])):
            return False
        async with httpx.AsyncClient(verify=context, timeout=2) as client:
            try:
                await client.get(f"https://127.0.0.1:{base + PORTS['gateway']}/")
            except httpx.HTTPError:
                return False
        return True

    argv = [sys.executable, "-m", "services.cell"]
    for name in ("gateway", "scheduler"):
        argv += [f"--{name}-port", str(base + PORTS[name])]
    argv += ["--dashboard-port", str(base + PORTS["dask_dashboard"])]
    argv += ["--tls-cert", str(certificates.cert), "--tls-key", str(certificates.key)]
    argv += ["--blobs", str(home.blobs), "--gateway-name", gateway_url(base)]
    argv += ["--genesis", genesis, "--program", PROGRAM_ID]
    return Child("cell", argv, _environment(home), CHECKOUT, home.logs / "cell.log", healthy, deadline=120)


def prefect_server(home: Home, base: int) -> Child:
    """Prefect's API and UI on loopback, with its SQLite file in our home."""

    async def healthy() -> bool:
        await connects(base + PORTS["prefect"])
        async with httpx.AsyncClient(timeout=2) as client:
            try:
                return (await client.get(f"{prefect_api(base)}/health")).status_code == 200
            except httpx.HTTPError:
                return False

    port = str(base + PORTS["prefect"])
    argv = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    argv += ["--host", "127.0.0.1", "--port", port, "--log-level", "warning", "--timeout-graceful-shutdown", "2"]
    env = {**_prefect_environment(home, base), "PREFECT__SERVER_FINAL": "1"}
    return Child("prefect-server", argv, env, CHECKOUT, home.logs / "prefect-server.log", healthy, deadline=300)


def prefect_worker(home: Home, base: int) -> Child:
    """What takes runs from the pool and starts each flow in a process of its own."""
    mark = home.root / "prefect" / "worker-ready"
    mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)

    async def healthy() -> bool:
        return mark.exists()

    env = {**_prefect_environment(home, base), "CLOUDLINKUP_READY": str(mark)}
    argv = [sys.executable, "-m", "deployments.worker"]
    log = home.logs / "prefect-worker.log"
    return Child("prefect-worker", argv, env, CHECKOUT, log, healthy, deadline=180, grace=8)
