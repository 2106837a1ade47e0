"""What only a local chain can do, for tests: move its clock, and keep and bring back its whole state.

    localnet_warp {"seconds": n}        the clock and the slots go forward
    localnet_snapshot {"name": "x"}     a consistent copy of the database beside it: DB.x.snapshot
    localnet_restore {"name": "x"}      everything is as it was then: accounts, transactions, and what was warped

After a restore time is the machine's again plus what had been warped at the snapshot, so it can be earlier than before.
Whoever reaches the RPC can call these; the service listens on loopback.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cloudlinkup.errors import Unavailable
from services.localnet.chain import MAX_WARP_SECONDS
from services.localnet.params import Params, bad

MAX_SNAPSHOTS = 16


def warp(p: Params) -> Any:
    seconds = p.options(0).get("seconds", p.raw(0))
    if not isinstance(seconds, int) or isinstance(seconds, bool) or not 0 <= seconds <= MAX_WARP_SECONDS:
        raise bad(f"Invalid params: seconds must be an integer from 0 to {MAX_WARP_SECONDS}")
    p.chain.warp(seconds)
    slot = p.chain.clock.slot()
    return {"slot": slot, "unixTimestamp": p.chain.clock.time_of(slot)}


def snapshot(p: Params) -> Any:
    """The same name again replaces the copy."""
    path = _path(p)
    others = [one for one in path.parent.glob(f"{p.chain.store.path.name}.*.snapshot") if one != path]
    if len(others) >= MAX_SNAPSHOTS:
        raise bad(f"Invalid params: a chain keeps at most {MAX_SNAPSHOTS} snapshots; delete their files")
    p.chain.snapshot(path)
    return {"slot": p.chain.clock.slot(), "bytes": path.stat().st_size}


def restore(p: Params) -> Any:
    path = _path(p)
    try:
        p.chain.restore(path)
    except Unavailable as error:
        raise bad(f"Invalid params: {error}") from None
    return {"slot": p.chain.clock.slot(), "transactions": p.chain.store.count()}


def _path(p: Params) -> Path:
    name = p.options(0).get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise bad("Invalid params: name must be 1 to 40 of a-z, 0-9 and -")
    path = p.chain.store.path
    return path.with_name(f"{path.name}.{name}.snapshot")
