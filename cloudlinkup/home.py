"""Where state lives, and how a process finds the services: CLOUDLINKUP_HOME, stack.json, the environment.

    keys/            <role>.json for admin, owner, operator, verifier, cranker, arbiter, treasury, sponsor (0600)
    contributors/    <name>/: wallet, agent and sealing keys, delegation, probes, partitions of running jobs
    prefect/         Prefect's own home
    blobs/           sealed blobs by job and hash
    jobs/            <request id>/ (0700): weights, evidence and the delivered model of one job
    quotes/          hashes of the rows that jobs were quoted with; scratch/: those rows, while a quote is made
    jobs.db          request ids, stages, rounds, secrets, attempts (0600), written before each effect
    telemetry.db     what was planned and what happened
    localnet.db      the local chain
    tls/             the local certificate authority, constrained to loopback
    logs/            one file a process
    stack.json       what `up` started and where it listens

An environment variable wins over stack.json, stack.json over the defaults.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from solders.pubkey import Pubkey

from cloudlinkup.errors import BadInput, Unavailable

ROLES = ("admin", "owner", "operator", "verifier", "cranker", "arbiter", "treasury", "sponsor")
PORT_BASE = 18_800
PROGRAM_ID = "9AFQvvFjfmKynwsRPfPGt3FWL1saoj4TqDx6novyyyAg"  # where the localnet puts the escrow program

# offsets from the port base
PORTS = {"localnet": 0, "prefect": 1, "gateway": 2, "scheduler": 3, "dask_dashboard": 4}


def checkout() -> Path | None:
    """The checkout's root, or None where only the wheel is installed."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "prefect.yaml").exists() and (root / "pyproject.toml").exists() else None


@dataclass(frozen=True)
class Home:
    """The state folder. Nothing is created until it is needed."""

    root: Path

    @classmethod
    def find(cls) -> Home:
        if chosen := os.environ.get("CLOUDLINKUP_HOME"):
            return cls(Path(chosen).expanduser().resolve())
        if (root := checkout()) is not None:
            return cls(root / ".cloudlinkup")
        return cls(Path(platformdirs.user_state_dir("cloudlinkup")))

    def key(self, role: str) -> Path:
        return self.root / "keys" / f"{role}.json"

    def contributor(self, name: str) -> Path:
        return self.root / "contributors" / name

    def job_folder(self, request_id: str) -> Path:
        return self.root / "jobs" / request_id

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def jobs_db(self) -> Path:
        return self.root / "jobs.db"

    @property
    def telemetry_db(self) -> Path:
        return self.root / "telemetry.db"

    @property
    def localnet_db(self) -> Path:
        return self.root / "localnet.db"

    @property
    def tls(self) -> Path:
        return self.root / "tls"

    @property
    def ca(self) -> Path:
        return self.tls / "ca.pem"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def stack(self) -> Path:
        return self.root / "stack.json"

    def make(self) -> Home:
        """Creates the root, private to this user."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self


@dataclass(frozen=True)
class Settings:
    """Where a process finds everything. Addresses hold no credentials."""

    home: Home
    rpc_url: str
    gateway_url: str  # wss://host:port
    ca_file: Path | None
    program_id: str
    mint: str | None  # base58; None before a mint is configured
    owner: str | None  # base58 wallet whose Client account pays; bound here, never a run parameter
    scheduler: str  # tcp://host:port of the cell's Dask scheduler, for flows only
    prefect_api: str
    file_roots: tuple[Path, ...]  # folders that `file:` URIs may name
    challenge_delay: int  # slots between commit and the block that the challenge is drawn from
    bond: str = "0"  # token units that every seat of this stack's jobs asks for
    dispute_window: int = 0  # seconds; the platform's shortest one where that is longer

    @property
    def mint_key(self) -> Pubkey:
        """The mint. Raises Unavailable before one is configured."""
        return _key(self.mint, "mint", "CLOUDLINKUP_MINT")

    @property
    def owner_key(self) -> Pubkey:
        """The wallet whose Client account pays. Raises Unavailable before one is configured."""
        return _key(self.owner, "paying owner", "CLOUDLINKUP_OWNER")

    @classmethod
    def load(cls, home: Home | None = None) -> Settings:
        """Raises Unavailable when stack.json cannot be read as JSON."""
        home = home or Home.find()
        try:
            stack = json.loads(home.stack.read_text()) if home.stack.exists() else {}
        except ValueError:
            raise Unavailable(f"{home.stack} is not JSON. Fix: run `cloudlinkup down`, then `cloudlinkup up`") from None
        base = int(stack.get("port_base", PORT_BASE))

        def pick(name: str, default: str) -> str:
            return os.environ.get(f"CLOUDLINKUP_{name.upper()}") or stack.get(name) or default

        ca = pick("ca_file", str(home.ca) if home.ca.exists() else "")
        roots = pick("file_roots", os.pathsep.join(str(p) for p in (checkout(), Path.cwd()) if p))
        return cls(
            home=home,
            rpc_url=pick("rpc_url", f"http://127.0.0.1:{base + PORTS['localnet']}"),
            gateway_url=pick("gateway_url", f"wss://127.0.0.1:{base + PORTS['gateway']}"),
            ca_file=Path(ca) if ca else None,
            program_id=pick("program_id", PROGRAM_ID),
            mint=pick("mint", "") or None,
            owner=pick("owner", "") or None,
            scheduler=pick("scheduler", f"tcp://127.0.0.1:{base + PORTS['scheduler']}"),
            prefect_api=pick("prefect_api", f"http://127.0.0.1:{base + PORTS['prefect']}/api"),
            file_roots=tuple(Path(p).resolve() for p in roots.split(os.pathsep) if p),
            challenge_delay=_number("challenge_delay", pick("challenge_delay", "1")),
            bond=pick("bond", "0"),
            dispute_window=_number("dispute_window", pick("dispute_window", "0")),
        )


def _number(name: str, text: str) -> int:
    """Raises BadInput."""
    if not text.isascii() or not text.isdigit():
        raise BadInput(name, text, "not a whole number", f"set CLOUDLINKUP_{name.upper()} to one, or unset it")
    return int(text)


def _key(value: str | None, what: str, variable: str) -> Pubkey:
    if value is None:
        raise Unavailable(f"no {what} is configured. Fix: run `cloudlinkup up`, or set {variable}")
    return Pubkey.from_string(value)
