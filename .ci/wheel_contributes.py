"""Starts a chain and a cell of this checkout, and waits until a contributor that was installed from the wheel is in.

Usage: .venv/bin/python .ci/wheel_contributes.py PATH/OF/cloudlinkup FOLDER
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cloudlinkup.home import Home
from deployments import services

PORT_BASE = 19_600
DEADLINE = 120.0  # seconds to import torch, measure the device and connect


async def main(program: str, folder: Path) -> int:
    """0 when the contributor connected and left cleanly on SIGTERM."""
    home = Home(folder / "cell-home").make()
    chain = services.localnet(home, PORT_BASE, services.make_keys(home))
    await chain.start()
    cell = services.cell(home, PORT_BASE, await services.genesis_hash(PORT_BASE))
    await cell.start()
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env = {**kept, "CLOUDLINKUP_HOME": str(folder / "contributor-home")}
    argv = [program, "contribute", "--gateway", services.gateway_url(PORT_BASE), "--share", "0.5"]
    argv += ["--rpc-url", services.rpc_url(PORT_BASE), "--ca-file", str(home.tls / "ca.pem")]
    log = folder / "contributor.log"
    with log.open("w") as file:
        contributor = subprocess.Popen(argv, cwd=folder, env=env, stdout=file, stderr=file)  # noqa: ASYNC220
    try:
        deadline = time.monotonic() + DEADLINE
        while '"event": "connected"' not in log.read_text():
            if contributor.poll() is not None or time.monotonic() > deadline:
                print(log.read_text())
                return 1
            await asyncio.sleep(0.2)
        contributor.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(contributor.wait, 60)
        print(f"the wheel's contributor connected and left with {code}")
        return code
    finally:
        if contributor.poll() is None:
            contributor.kill()
        await cell.stop()
        await chain.stop()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], Path(sys.argv[2]))))
