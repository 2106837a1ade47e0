"""Starts a flow run: in the spare process that waits for one (`spare.py`), else by the command that is given.

`python deployments/handover.py COMMAND...`, started by Prefect's worker with the run in its environment. The spare
takes over environment, folder, input and output; this process stays in its stead, for whoever knows its number: it
passes on SIGTERM and SIGINT, ends as the spare does, and takes the spare with it when it is killed.

Standard library only, and nothing is imported from the project: it runs before every run, in about 20 ms.
"""

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from types import FrameType

TAKES = "train"  # the deployment whose runs the spare is for; upkeep need not be quick
TAKEN, ENDED = b"Y", b"X"
ANSWER_WITHIN = 60.0  # seconds; a spare that is there answers in a few milliseconds, one that is coming once it is


def socket_path(home: str) -> Path:
    """Where the spare listens: in Prefect's own folder, for its own user alone."""
    return Path(home) / "spare.sock"


def not_yet(path: Path) -> Path:
    """Its name while the spare imports."""
    return path.with_suffix(".coming")


def offer() -> socket.socket | None:
    """The connection to the spare that has taken this run; None where none did."""
    if os.environ.get("PREFECT__DEPLOYMENT_NAME") != TAKES or "PREFECT_HOME" not in os.environ:
        return None
    spare = socket.socket(socket.AF_UNIX)
    spare.settimeout(ANSWER_WITHIN)
    try:
        there = socket_path(os.environ["PREFECT_HOME"])
        spare.connect(str(there if there.exists() else not_yet(there)))
        told = json.dumps({"environment": dict(os.environ), "folder": str(Path.cwd())}).encode()
        socket.send_fds(spare, [struct.pack("!I", len(told))], [0, 1, 2])
        spare.sendall(told)
        if spare.recv(1) == TAKEN:
            spare.settimeout(None)
            return spare
    except OSError:
        pass
    spare.close()
    return None


def stand_for(spare: socket.socket) -> int:
    """Waits for the end of the run, and passes signals on. Returns its exit code."""

    deadly = signal.SIGKILL

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal deadly
        deadly = signal.Signals(number)
        spare.send(bytes([number]))

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    told = spare.recv(2, socket.MSG_WAITALL)
    if len(told) < 2 or told[:1] != ENDED:  # it was killed, by what was passed on if by anything
        if deadly != signal.SIGKILL:
            signal.signal(deadly, signal.SIG_DFL)
        os.kill(os.getpid(), deadly)
    return told[1]


def main() -> None:
    spare = offer()
    if spare is not None:
        sys.exit(stand_for(spare))
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command is our own


if __name__ == "__main__":
    main()
