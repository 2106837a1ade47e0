"""The chain: the escrow program's accounts, its money rules, and the client that reads and sends.

`accounts`, `money`, `errors` and `seats` need solders and httpx only and are what a contributor's machine uses;
`program` (AnchorPy), `connection` (solana-py), `tokens` and `escrow` run from a checkout.
"""
