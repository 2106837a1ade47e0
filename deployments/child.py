"""Runs a command that dies with its parent: `python deployments/child.py COMMAND...`.

The kernel is asked to kill this process when the process that started it ends, however that one ended (kill -9
included), and then the command takes this process's place. So no service and no flow outlives the local stack.

Standard library only, and nothing is imported from the project: it runs before every child, in about 20 ms.
It does not cover other systems than Linux: there a killed parent leaves its children to `cloudlinkup down`.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the request was made
            sys.exit(1)
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the command is our own


if __name__ == "__main__":
    main()
