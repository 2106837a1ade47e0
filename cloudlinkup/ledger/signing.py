"""A transaction, signed by whoever has to. Pure but for external signers; solders only."""

from __future__ import annotations

from collections.abc import Sequence

from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import Message
from solders.transaction import VersionedTransaction

from cloudlinkup.crypto.identity import Signer
from cloudlinkup.errors import LedgerError


def sign(
    instructions: Sequence[Instruction], payer: Signer, signers: Sequence[Signer], block_hash: Hash
) -> VersionedTransaction:
    """A signed transaction. Raises LedgerError when a required signer is missing."""
    message = Message.new_with_blockhash(list(instructions), payer.public, block_hash)
    keys = {one.public: one for one in (*signers, payer)}
    needed = message.account_keys[: message.header.num_required_signatures]
    if missing := [str(key) for key in needed if key not in keys]:
        raise LedgerError(f"no signer for {', '.join(missing)}")
    body = bytes(message)
    return VersionedTransaction.populate(message, [keys[key].sign_transaction_message(body) for key in needed])
