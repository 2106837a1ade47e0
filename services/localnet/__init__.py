"""A local Solana: the real VM and token programs behind Solana's own JSON-RPC, on one machine, in one process.

Run: ``python -m services.localnet --port 18800 --db localnet.db --program programs/escrow.so --program-id ID
--upgrade-authority KEY``. See `chain` for what is real and what is not.
"""
