"""What the commands that touch money share: the chain, the mint, keys, amounts in token units, and how a job is named.

A command's key is `--key FILE` (a key file, or the description of an external signer), else the home's key of the role
that the command is for. Where that key holds no SOL, the home's sponsor pays the fee, if there is one.
Not covered: choosing another mint or owner than the configured ones.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from solders.pubkey import Pubkey

from cloudlinkup.cli.stack import require_checkout
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import BadInput
from cloudlinkup.home import Home, Settings
from cloudlinkup.jobs import JobStore
from cloudlinkup.ledger import money
from cloudlinkup.ledger.accounts import client_address, job_address
from cloudlinkup.types import format_tokens, parse_tokens

if TYPE_CHECKING:
    from cloudlinkup.ledger.accounts import Job
    from cloudlinkup.ledger.escrow import Ledger
    from cloudlinkup.ledger.wallet import WalletLedger

LAMPORTS = 9  # decimals of SOL


@dataclass(frozen=True)
class Desk:
    """An open connection. `decimals` are the mint's."""

    ledger: Ledger
    settings: Settings
    decimals: int

    @property
    def mint(self) -> Pubkey:
        return self.settings.mint_key

    @property
    def owner(self) -> Pubkey:
        return self.settings.owner_key

    def parse(self, text: str, field: str = "amount") -> int:
        """Token units as typed, to base units. Raises BadInput."""
        return parse_tokens(text, self.decimals, field)

    def tokens(self, units: int) -> str:
        return format_tokens(units, self.decimals)

    async def payer(self, signer: Signer) -> Signer:
        return await payer_for(self.ledger, self.settings, signer)

    async def job(self, text: str) -> tuple[Pubkey, Job]:
        """The job account of a request id, a job id or an account's address. Raises BadInput."""
        address = self.address(text)
        job = await self.ledger.job(address)
        if job is None:
            raise BadInput("job", text, "there is no such job on the chain, or it was closed for good", FIND)
        return address, job

    def address(self, text: str) -> Pubkey:
        return job_account(text, self.settings)


FIND = "`cloudlinkup escrow list` shows the open ones"


def job_account(text: str, settings: Settings) -> Pubkey:
    """The Job account of a request id, a job id or an account's address. Raises BadInput."""
    try:
        number = uuid.UUID(text)
    except ValueError:
        try:
            return Pubkey.from_string(text)
        except ValueError:
            raise BadInput("job", text, "not a request id, job id or account", FIND) from None
    path = settings.home.jobs_db
    view = JobStore(path).view(str(number)) if path.exists() else None
    if view is not None and view.job_id is None:
        raise BadInput("job", text, "it has not locked any money yet", "see `cloudlinkup status`")
    job_id = number.bytes if view is None or view.job_id is None else bytes.fromhex(view.job_id)
    program = Pubkey.from_string(settings.program_id)
    return job_address(client_address(settings.owner_key, settings.mint_key, program), job_id, program)


async def payer_for(ledger: Ledger | WalletLedger, settings: Settings, signer: Signer) -> Signer:
    """Who pays the fee: the signer, or this home's sponsor where the signer has no SOL."""
    sponsor = settings.home.key("sponsor")
    if await ledger.lamports(signer.public) > 0 or not sponsor.exists():
        return signer
    return Signer.from_file(sponsor)


def state_of(job: Job, now: int) -> str:
    if now < job.deadline:
        return "running"
    return "windows open" if now < money.last_time(job) else "decided"


@asynccontextmanager
async def open_desk() -> AsyncIterator[Desk]:
    """Raises Unavailable where the chain cannot be reached or only the wheel is installed."""
    require_checkout()
    from cloudlinkup.ledger.escrow import Ledger

    settings = Settings.load()
    async with Ledger.connect(settings.rpc_url, settings.program_id) as ledger:
        yield Desk(ledger, settings, await ledger.mint_decimals(settings.mint_key))


def run(work: Callable[[Desk], Awaitable[Any]]) -> Any:
    """One command's work at an open desk."""

    async def whole() -> Any:
        async with open_desk() as desk:
            return await work(desk)

    return asyncio.run(whole())


def key_file(key: Path | None, role: str) -> Path:
    return key or Home.find().key(role)


def signer(key: Path | None, role: str) -> Signer:
    """The key to sign with. Raises Unavailable when its file is missing or open to others."""
    return Signer.from_file(key_file(key, role))


def parse_address(text: str, field: str) -> Pubkey:
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise BadInput(field, text, "not a base58 address", "give 32 bytes in base58") from None


def seat_of(job: Job, seat: int) -> int:
    if not 0 <= seat < len(job.seats):
        raise BadInput("seat", seat, f"the job has {len(job.seats)} seats", f"use 0 to {len(job.seats) - 1}")
    return seat


def when(moment: int) -> str:
    """Chain seconds for a person."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def sent(signatures: list[str], sentence: str, **more: Any) -> None:
    """The result of a call that sends: what happened, and the transactions; said too if nothing had to be sent."""
    document = {**more, "signatures": signatures}

    def show(console: Console) -> None:
        console.print(sentence if signatures else "Nothing to do: the chain says so already.", soft_wrap=True)
        for one in signatures:
            console.print(f"  {one}", soft_wrap=True)

    terminal.result(document, show)
