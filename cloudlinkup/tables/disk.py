"""Room on disk before it is written to: what a full disk says, and nothing half done.

A file that is made long and then written through a map has no blocks yet: where the disk fills up meanwhile, the system
ends the process (SIGBUS). So its blocks are reserved first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudlinkup.errors import Unavailable

FULL = (errno.ENOSPC, errno.EDQUOT)
LACKING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # a file system, or a C library, that cannot reserve


@contextmanager
def room(place: Path, needed: int) -> Iterator[None]:
    """Says what is wrong where the disk of the folder `place` is too full for `needed` bytes. Raises Unavailable."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        fix = "free some space there, or set CLOUDLINKUP_HOME to a folder on a larger disk"
        raise Unavailable(f"the disk of {place} is too full for {needed} bytes more. Fix: {fix}") from None


def reserve(path: Path, size: int) -> None:
    """Makes the file `path`, which is there, `size` bytes long with blocks of its own; without them on a file system
    that cannot reserve any. Raises Unavailable where they are not free."""
    with room(path.parent, size), path.open("r+b") as file:
        file.truncate(size)
        if size and hasattr(os, "posix_fallocate"):  # not on macOS
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in LACKING:
                    raise
