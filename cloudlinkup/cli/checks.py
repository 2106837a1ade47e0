"""What `doctor` looks at: each check names what it found and, when that will not do, one fix.

Not covered: a contributor's hardware (`cloudlinkup contribute --dry-run` shows that).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudlinkup.home import PORT_BASE, Home, checkout

FREE_DISK = 2 * 1024**3  # bytes: state, blobs and Prefect's database of many small jobs
STACK_PACKAGES = ("anchorpy", "distributed", "pandera", "prefect", "xgboost")


@dataclass(frozen=True)
class Check:
    what: str
    ok: bool
    found: str
    fix: str = ""


def examine(home: Home, stack: dict[str, Any] | None, ports: Mapping[str, int]) -> list[Check]:
    """Quick looks only: nothing is started, nothing heavy imported."""
    root = checkout()
    where = str(root) if root else "the wheel only"
    checks = [
        Check(
            "Python", sys.version_info >= (3, 11), ".".join(map(str, sys.version_info[:3])), "use Python 3.11 or newer"
        ),
        Check("checkout", root is not None, where, "clone the repository, for everything but `contribute`"),
    ]
    if root is not None:
        missing = [name for name in STACK_PACKAGES if importlib.util.find_spec(name) is None]
        checks.append(
            Check("packages", not missing, f"missing {', '.join(missing)}" if missing else "all", "make setup")
        )
        program, recorded = root / "programs/escrow.so", root / "programs/escrow.so.sha256"
        same = (
            program.exists()
            and recorded.exists()
            and hashlib.sha256(program.read_bytes()).hexdigest() == recorded.read_text().split()[0]
        )
        checks.append(
            Check("escrow program", same, "as recorded" if same else "missing or changed", f"git checkout {program}")
        )
    folder = next(path for path in (home.root, *home.root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    checks.append(Check("disk", free > FREE_DISK, f"{free / 1024**3:.1f} GiB free at {folder}", "make room there"))
    loose = [path.name for path in sorted((home.root / "keys").glob("*.json")) if path.stat().st_mode & 0o077]
    checks.append(
        Check("key files", not loose, ", ".join(loose) or "private", f"chmod 600 {home.root / 'keys'}{os.sep}*.json")
    )
    if stack is not None:
        checks.append(Check("stack", True, f"up, ports from {stack['port_base']}"))
    else:
        taken = [f"{PORT_BASE + offset} ({name})" for name, offset in ports.items() if not _free(PORT_BASE + offset)]
        found = f"down; taken ports: {', '.join(taken)}" if taken else "down; its ports are free"
        checks.append(Check("stack", not taken, found, "`cloudlinkup up --port-base N`"))
    return checks


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
