"""A process that has imported all that a job's flow needs, and waits for a run: `python -m deployments.spare`.

The imports (Prefect, torch, xgboost, the flows) take five seconds on one core, which every job would begin with. So the
worker keeps one such process; `handover.py`, which Prefect starts for a run, hands it the run. It then is what
`python -m prefect.engine` would have been: same environment, folder, output, signals and exit code. It takes one run,
and none if a file of the project, or a setting of Prefect, is no longer what it was when it started.

Environment: PREFECT_HOME. An idle one holds about 400 MB.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from deployments.handover import ENDED, TAKEN, not_yet, socket_path

CHECKOUT = Path(__file__).resolve().parent.parent
CODE = ("cloudlinkup", "deployments", "flows", "models", "tasks")
MOST_TOLD = 1 << 20  # bytes of an environment
NEEDS = ("prefect.flow_engine", "flows.train")  # named, not imported: this folder only names what it runs


def state_of_code() -> int:
    """Changes when a file of the project is written, added or removed."""
    files = (path for folder in CODE for path in (CHECKOUT / folder).rglob("*.py"))
    return hash(tuple(sorted((str(path), path.stat().st_mtime_ns) for path in files)))


def same_settings(environment: dict[str, str]) -> bool:
    """Whether Prefect, imported with that environment, would have the settings that it has here."""
    from prefect.settings import get_current_settings

    mine = dict(os.environ) | get_current_settings().to_environment_variables(exclude_unset=True)
    theirs = {k: v for k, v in environment.items() if k.startswith("PREFECT_") and not k.startswith("PREFECT__")}
    return all(mine.get(k) == v for k, v in theirs.items())


def take_one(path: Path) -> tuple[socket.socket, dict[str, Any], list[int]] | None:
    """Listens at `path` and takes the first run. None: what was imported is no longer what such a run would import."""
    before = state_of_code()
    listener, coming = socket.socket(socket.AF_UNIX), not_yet(path)
    for old in (path, coming):
        old.unlink(missing_ok=True)
    listener.bind(str(coming))
    coming.chmod(0o600)
    listener.listen(1)  # whoever connects by now waits for less than it would take to import all this itself
    for name in NEEDS:
        importlib.import_module(name)
    coming.rename(path)
    while True:
        connection, _ = listener.accept()
        connection.settimeout(5)
        try:
            head, descriptors, *_ = socket.recv_fds(connection, 4, 3)
            size = struct.unpack("!I", head)[0]
            if len(descriptors) != 3 or size > MOST_TOLD:
                raise ValueError("not a run")
            told = json.loads(connection.recv(size, socket.MSG_WAITALL))
        except (OSError, ValueError, struct.error):
            connection.close()
            continue
        path.unlink(missing_ok=True)
        if state_of_code() != before or not same_settings(told["environment"]):
            return None
        connection.settimeout(None)
        connection.sendall(TAKEN)
        listener.close()
        return connection, told, descriptors


def obey(connection: socket.socket, ended: threading.Event) -> None:
    """Signals that the other end was sent; its end is ours, as it stood for this process."""
    while number := connection.recv(1):
        os.kill(os.getpid(), number[0])
    if not ended.is_set():
        os.kill(os.getpid(), signal.SIGKILL)


def become(connection: socket.socket, told: dict[str, Any], descriptors: list[int]) -> int:
    """Runs the engine as told. Returns the exit code."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    sys.argv = ["prefect.engine"]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'prefect.engine' found in sys.modules", RuntimeWarning)
            runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Ends with the run's exit code, and says it to the other end last of all, when Prefect's logs are sent."""
    told_last: list[tuple[socket.socket, int]] = []
    atexit.register(lambda: [connection.sendall(ENDED + bytes([code & 255])) for connection, code in told_last])
    taken = take_one(socket_path(os.environ["PREFECT_HOME"]))
    if taken is None:
        return
    ended = threading.Event()
    threading.Thread(target=obey, args=(taken[0], ended), daemon=True, name="obey").start()
    code = become(*taken)
    ended.set()
    told_last.append((taken[0], code))
    sys.exit(code)


if __name__ == "__main__":
    main()
