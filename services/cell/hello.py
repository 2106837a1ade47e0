"""Who may come in: the gateway's challenge, the agent's signed answer, and why one is refused.

Everything is checked before anything is built for a contributor. Codes of `refused`: "timeout", "protocol" (not a
hello), "hello" (a signature, name or date in it is wrong), "nonce", "wallet" (not on the allow-list), "duplicate"
(this agent key is connected already), "full" (too many are), "scheduler" (Dask takes no worker of this name).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable

from cloudlinkup.cluster.dispatch import verify_description
from cloudlinkup.errors import ProtocolError
from cloudlinkup.wire.calls import Description
from cloudlinkup.wire.frames import Challenge, HelloFrame, read_for_gateway
from cloudlinkup.wire.messages import Delegation, Hello
from services.cell.config import CellConfig

HANDSHAKE = 10.0  # seconds


class NotAdmitted(ProtocolError):
    """A connection that is refused, with the code that its agent is told."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


async def shake_hands(
    config: CellConfig, send: Callable[[bytes], Awaitable[None]], receive: Callable[[], Awaitable[bytes]]
) -> tuple[Description, Delegation, Hello]:
    """Challenges and checks one connection. Raises NotAdmitted."""
    nonce = secrets.token_hex(32)
    challenge = Challenge(nonce=nonce, gateway=config.gateway_name, genesis=config.genesis, program=config.program)
    try:
        async with asyncio.timeout(HANDSHAKE):
            await send(challenge.pack())
            frame = read_for_gateway(await receive())
    except TimeoutError:
        raise NotAdmitted("timeout", f"no hello within {HANDSHAKE:g} s") from None
    except ProtocolError as error:
        raise NotAdmitted("protocol", str(error)) from None
    if not isinstance(frame, HelloFrame):
        raise NotAdmitted("protocol", "the first frame is no hello")
    described = Description(delegation=frame.delegation, hello=frame.hello, via="gateway")
    try:
        delegation, hello = verify_description(
            described, config.genesis, config.program, config.gateway_name, time.time()
        )
    except ProtocolError as error:
        raise NotAdmitted("hello", str(error)) from None
    if hello.nonce != nonce:
        raise NotAdmitted("nonce", "the hello answers another challenge")
    if config.allow is not None and delegation.wallet not in config.allow:
        raise NotAdmitted("wallet", "this gateway admits listed wallets only")
    return described, delegation, hello
