"""Command line of the local chain. Exit codes: 0 stopped by SIGTERM or SIGINT, 2 bad input, 3 something is missing."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import structlog
import uvicorn
from solders.pubkey import Pubkey

from cloudlinkup.errors import BadInput, CloudLinkUpError
from services.localnet.app import make_app
from services.localnet.chain import Chain

log = structlog.get_logger(__name__)


def _key(field: str, text: str | None) -> Pubkey | None:
    try:
        return None if text is None else Pubkey.from_string(text)
    except ValueError:
        raise BadInput(field, text, "not a base58 public key", "use 32 bytes in base58") from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.localnet", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--db", type=Path, required=True, help="SQLite file of the chain, made if missing")
    parser.add_argument("--program", type=Path, help="the escrow program (.so)")
    parser.add_argument("--program-id", help="where the program lives")
    parser.add_argument("--upgrade-authority", help="who may upgrade, and so initialize, the program; default nobody")
    parser.add_argument("--slot-ms", type=int, default=100, help="milliseconds a slot (default 100)")
    parser.add_argument("--finalized-after", type=int, default=8, help="slots until a block is finalized (default 8)")
    return parser.parse_args()


class _Server(uvicorn.Server):
    """uvicorn repeats SIGTERM to itself after shutting down; a requested stop is a success here."""

    def handle_exit(self, sig: int, frame: object) -> None:
        self.should_exit = True


def main() -> int:
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server takes over
    try:
        if not 10 <= args.slot_ms <= 10_000:
            raise BadInput("slot-ms", args.slot_ms, "out of bounds", "use 10 to 10000")
        if not 2 <= args.finalized_after <= 1_000:
            raise BadInput("finalized-after", args.finalized_after, "out of bounds", "use 2 to 1000")
        chain = Chain(
            args.db,
            program=args.program,
            program_id=_key("program-id", args.program_id),
            upgrade_authority=_key("upgrade-authority", args.upgrade_authority),
            slot_ms=args.slot_ms,
            finalized_after=args.finalized_after,
        )
    except CloudLinkUpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    log.info("localnet ready", port=args.port, slot=chain.clock.slot(), genesis=str(chain.genesis_hash))
    config = uvicorn.Config(
        make_app(chain),
        host=args.host,
        port=args.port,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=60,  # longer than clients keep idle connections, so that no request meets a closing one
        timeout_graceful_shutdown=3,
    )
    server = _Server(config)
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
