"""A marketplace in a test: keys for every role, a mint, a funded client, jobs, and the books that money must balance.

`World.call` fills in an instruction's usual accounts by their IDL names, so that a test only names what it makes
unusual. `World.check` holds the invariants of the money rules; the `world` fixture calls it after every test.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.rent import Rent
from solders.system_program import CreateAccountParams, create_account
from spl.token import instructions as spl
from spl.token.constants import MINT_LEN

from tests.programs.chain import (
    LOADER,
    PROGRAM,
    PROGRAM_FILE,
    SOL,
    SYSTEM,
    TOKEN,
    Chain,
    Outcome,
    associated,
    idl,
    key,
    pda,
)

WINDOW = 100  # a job's dispute window W, seconds
ARBITER = 300  # the arbiter's window L
FEE = 250  # basis points
BUDGET = 1_000_000
DAY = 86_400
FUNDS = 10_000_000

CONFIG = pda(b"config")
PROGRAM_DATA = pda(PROGRAM, program=LOADER)


@dataclass(frozen=True)
class JobRef:
    """Where one job is."""

    id: bytes
    address: Pubkey
    vault: Pubkey
    client: Pubkey

    @staticmethod
    def at(client: Pubkey, job_id: bytes) -> JobRef:
        address = pda(b"job", client, job_id)
        return JobRef(job_id, address, pda(b"vault", address), client)


def fee(amount: int, bps: int) -> int:
    return amount * bps // 10_000


class World:
    def __init__(self, program_file: Path = PROGRAM_FILE, *, fee_bps: int = FEE, rent: Rent | None = None) -> None:
        self.program_file = program_file
        self.chain = Chain(program_file, rent=rent)
        self.keys: dict[Pubkey, Keypair] = {self.chain.payer.pubkey(): self.chain.payer}
        self._wallets: dict[int, Pubkey] = {}
        for role in ("admin", "arbiter", "treasury", "owner", "operator", "verifier", "issuer", "upgrader", "stranger"):
            setattr(self, role, self.person(role))
        self.minted: dict[Pubkey, int] = defaultdict(int)
        self.token_accounts: dict[Pubkey, set[Pubkey]] = defaultdict(set)
        self.stray: dict[Pubkey, int] = defaultdict(int)  # deposits nobody asked for, by vault
        self.flows: dict[Pubkey, int] = defaultdict(int)  # what the events say a job's vault holds
        self.jobs: list[JobRef] = []
        self.job_count = 0
        self.fee_bps = fee_bps
        data = struct.pack("<IQB", 3, 0, 1) + bytes(self.upgrader)
        self.chain.put(PROGRAM_DATA, data, LOADER)
        self.mint = self.new_mint("mint")
        self.client = pda(b"client", self.owner, self.mint)
        self.client_vault = pda(b"vault", self.client)

    owner: Pubkey
    operator: Pubkey
    verifier: Pubkey
    admin: Pubkey
    arbiter: Pubkey
    treasury: Pubkey
    issuer: Pubkey
    upgrader: Pubkey
    stranger: Pubkey

    def open(self) -> World:
        """Config, the client with FUNDS tokens, and an operator that may lock BUDGET a job, 3 x BUDGET in all."""
        args = (self.admin, self.arbiter, self.treasury, self.fee_bps, 10, ARBITER)
        self.ok("initialize", *args)
        self.ok("open_client")
        self.token_accounts[self.mint].add(self.client_vault)
        self.mint_to(self.client_vault, FUNDS)
        self.ok("set_operator", self.operator, self.verifier, BUDGET, 3 * BUDGET, self.chain.now + 10 * DAY, 0)
        self.token_account(self.treasury)
        return self

    # ---- people and tokens

    def person(self, name: str) -> Pubkey:
        """A key with a name and 100 SOL."""
        pair = key(name)
        self.keys[pair.pubkey()] = pair
        self.chain.svm.airdrop(pair.pubkey(), 100 * SOL)
        return pair.pubkey()

    def send(self, *instructions: Instruction, limit: int = 1_400_000) -> Outcome:
        wanted = {m.pubkey for i in instructions for m in i.accounts if m.is_signer}
        outcome = self.chain.send(*instructions, signers=[self.keys[k] for k in wanted], limit=limit)
        if not outcome.error:
            self._book(outcome)
        return outcome

    def sent(self, *instructions: Instruction) -> Outcome:
        outcome = self.send(*instructions)
        assert not outcome.error, (outcome.error, outcome.logs)
        return outcome

    def new_mint(self, name: str, program: Pubkey = TOKEN) -> Pubkey:
        mint = self.person(f"{name} of {program}")
        rent = self.chain.svm.minimum_balance_for_rent_exemption(MINT_LEN)
        params = CreateAccountParams(
            from_pubkey=self.issuer, to_pubkey=mint, lamports=rent, space=MINT_LEN, owner=program
        )
        self.chain.svm.set_account(mint, self.empty())
        params2 = spl.InitializeMint2Params(
            decimals=6, mint=mint, mint_authority=self.issuer, program_id=program, freeze_authority=self.issuer
        )
        self.sent(create_account(params), spl.initialize_mint2(params2))
        return mint

    @staticmethod
    def empty() -> Any:
        from solders.account import Account

        return Account(0, b"", SYSTEM)

    def token_account(self, wallet: Pubkey, mint: Pubkey | None = None) -> Pubkey:
        """The wallet's associated token account, created by a sponsor."""
        mint = mint or self.mint
        self.sent(spl.create_associated_token_account(self.chain.payer.pubkey(), wallet, mint))
        address = associated(wallet, mint)[0]
        self.token_accounts[mint].add(address)
        return address

    def other_account(self, name: str, owner: Pubkey, mint: Pubkey | None = None) -> Pubkey:
        """A token account at an address of its own, not the associated one."""
        mint, address = mint or self.mint, self.person(name)
        self.chain.svm.set_account(address, self.empty())
        rent = self.chain.svm.minimum_balance_for_rent_exemption(165)
        params = CreateAccountParams(from_pubkey=self.issuer, to_pubkey=address, lamports=rent, space=165, owner=TOKEN)
        init = spl.InitializeAccount3Params(program_id=TOKEN, account=address, mint=mint, owner=owner)
        self.sent(create_account(params), spl.initialize_account3(init))
        self.token_accounts[mint].add(address)
        return address

    def mint_to(self, account: Pubkey, amount: int, mint: Pubkey | None = None) -> None:
        mint = mint or self.mint
        params = spl.MintToParams(program_id=TOKEN, mint=mint, dest=account, mint_authority=self.issuer, amount=amount)
        self.sent(spl.mint_to(params))
        self.minted[mint] += amount

    def gift(self, vault: Pubkey, amount: int) -> None:
        """Tokens that somebody sends to a vault unasked."""
        self.mint_to(vault, amount)
        self.stray[vault] += amount

    def transfer(self, source: Pubkey, to: Pubkey, owner: Pubkey, amount: int) -> Outcome:
        return self.send(
            spl.transfer(spl.TransferParams(program_id=TOKEN, source=source, dest=to, owner=owner, amount=amount))
        )

    def freeze(self, account: Pubkey, mint: Pubkey | None = None) -> None:
        mint = mint or self.mint
        self.sent(
            spl.freeze_account(
                spl.FreezeAccountParams(program_id=TOKEN, account=account, mint=mint, authority=self.issuer)
            )
        )

    def thaw(self, account: Pubkey, mint: Pubkey | None = None) -> None:
        mint = mint or self.mint
        self.sent(
            spl.thaw_account(spl.ThawAccountParams(program_id=TOKEN, account=account, mint=mint, authority=self.issuer))
        )

    def tokens(self, owner_or_account: Pubkey) -> int:
        """Tokens of a wallet's associated account, or of a token account."""
        found = self.chain.account(owner_or_account)
        if found is not None and found.owner == TOKEN:
            return self.chain.tokens(owner_or_account)
        return self.chain.tokens(associated(owner_or_account, self.mint)[0])

    # ---- the program

    def accounts(self, name: str, job: JobRef | None = None) -> dict[str, Pubkey]:
        """The accounts that the instruction usually has, by IDL name."""
        usual = {
            "upgrade_authority": self.upgrader,
            "payer": self.chain.payer.pubkey(),
            "program_data": PROGRAM_DATA,
            "config": CONFIG,
            "system_program": SYSTEM,
            "token_program": TOKEN,
            "admin": self.admin,
            "new_admin": self.stranger,
            "owner": self.owner,
            "mint": self.mint,
            "client": self.client,
            "client_vault": self.client_vault,
            "authority": self.operator,
            "verifier": self.verifier,
            "arbiter": self.arbiter,
            "treasury_token": associated(self.treasury, self.mint)[0],
            "rent_payer": self.chain.payer.pubkey(),
        }
        if job is not None:
            usual |= {"job": job.address, "job_vault": job.vault}
        return usual

    def ix(
        self,
        name: str,
        *args: Any,
        job: JobRef | None = None,
        accounts: Mapping[str, Pubkey] | None = None,
        extra: Sequence[Pubkey] = (),
    ) -> Instruction:
        metas = idl().metas(name, self.accounts(name, job) | dict(accounts or {}))
        metas += [AccountMeta(a, False, True) for a in extra]
        return Instruction(PROGRAM, idl().data(name, args), metas)

    def call(
        self,
        name: str,
        *args: Any,
        job: JobRef | None = None,
        extra: Sequence[Pubkey] = (),
        **accounts: Pubkey,
    ) -> Outcome:
        return self.send(self.ix(name, *args, job=job, accounts=accounts, extra=extra))

    def ok(
        self, name: str, *args: Any, job: JobRef | None = None, extra: Sequence[Pubkey] = (), **accounts: Pubkey
    ) -> Outcome:
        outcome = self.call(name, *args, job=job, extra=extra, **accounts)
        assert not outcome.error, (name, outcome.error, outcome.logs)
        return outcome

    def refused(
        self,
        error: str,
        name: str,
        *args: Any,
        job: JobRef | None = None,
        extra: Sequence[Pubkey] = (),
        **accounts: Pubkey,
    ) -> None:
        outcome = self.call(name, *args, job=job, extra=extra, **accounts)
        assert outcome.error == error, (name, outcome.error, outcome.logs)

    # ---- jobs

    def new_id(self, at: int | None = None) -> bytes:
        """A UUIDv7 of the chain's second, unique in this world."""
        self.job_count += 1
        millis = (self.chain.now if at is None else at) * 1000
        return millis.to_bytes(6, "big") + b"\x70\x00\x80" + self.job_count.to_bytes(7, "big")

    def terms(self, job_id: bytes, **change: Any) -> tuple[Any, ...]:
        values = {
            "job_id": job_id,
            "verifier": self.verifier,
            "spec_hash": b"\x07" * 32,
            "budget": BUDGET,
            "deadline": self.chain.now + 1000,
            "dispute_window": WINDOW,
            "arbiter_window": ARBITER,
            "fee_bps": self.fee_bps,
        }
        unknown = set(change) - set(values)
        assert not unknown, unknown
        return tuple((values | change).values())

    def ref(self, job_id: bytes) -> JobRef:
        return JobRef.at(self.client, job_id)

    def job(self, caps: Sequence[int] = (), *, bonds: Sequence[int] = (), authority: Pubkey | None = None,
            **terms: Any) -> JobRef:  # fmt: skip
        """An open job whose seat i is wallet(i)'s, with these caps and bonds (not posted)."""
        ref = self.ref(self.new_id())
        self.ok("open_job", *self.terms(ref.id, **terms), job=ref, authority=authority or self.operator)
        self.token_accounts[self.mint].add(ref.vault)
        self.jobs.append(ref)
        if caps:
            self.seats(ref, caps, bonds)
        return ref

    def wallet(self, index: int) -> Pubkey:
        """Contributor `index`; without a token account until `paid_wallet` makes one."""
        if index not in self._wallets:
            known = key(f"contributor {index}").pubkey()
            self._wallets[index] = known if known in self.keys else self.person(f"contributor {index}")
        return self._wallets[index]

    def seats(self, job: JobRef, caps: Sequence[int], bonds: Sequence[int] = ()) -> None:
        bonds = bonds or [0] * len(caps)
        new = [(bytes(self.wallet(i)), cap, bond) for i, (cap, bond) in enumerate(zip(caps, bonds, strict=True))]
        for first in range(0, len(new), 16):
            self.ok("assign_seats", first, new[first : first + 16], job=job)

    def paid_wallet(self, index: int, amount: int = 0) -> Pubkey:
        """Contributor `index` with an associated token account."""
        wallet = self.wallet(index)
        address = associated(wallet, self.mint)[0]
        if self.chain.account(address) is None:
            self.token_account(wallet)
        if amount:
            self.mint_to(address, amount)
        return wallet

    def commit(self, job: JobRef, round_: int = 1) -> None:
        self.ok("commit_round", round_, bytes([round_]) * 32, job=job)
        self.chain.wait(0)

    def awarded(self, job: JobRef, *amounts: int, round_: int = 1, commit: bool = True) -> Outcome:
        """Commits the round (unless told not to) and awards seat i its cumulative amount."""
        if commit:
            self.commit(job, round_)
        return self.ok("award", round_, list(enumerate(amounts)), job=job)

    def pay(self, job: JobRef, *seats: int, to: Mapping[int, Pubkey] | None = None) -> Outcome:
        """Pays seats; their wallets come from the account. Does not raise."""
        all_seats = self.read(job).seats
        items, accounts = [], []
        for seat in seats:
            address, bump = associated(all_seats[seat].wallet, self.mint)
            items.append((seat, bump))
            accounts.append((to or {}).get(seat, address))
        return self.call("pay", items, job=job, extra=accounts)

    def read(self, job: JobRef) -> SimpleNamespace:
        return idl().account("Job", self.chain.data(job.address))

    def read_client(self) -> SimpleNamespace:
        return idl().account("Client", self.chain.data(self.client))

    def read_config(self) -> SimpleNamespace:
        return idl().account("Config", self.chain.data(CONFIG))

    def seat(self, job: JobRef, index: int = 0) -> SimpleNamespace:
        return self.read(job).seats[index]

    def is_open(self, job: JobRef) -> bool:
        return self.chain.account(job.address) is not None

    # ---- books

    def _book(self, outcome: Outcome) -> None:
        for e in outcome.events:
            if e.name == "JobOpened":
                self.flows[e.job] += e.budget
            elif e.name == "SeatAccepted":
                self.flows[e.job] += e.bond
            elif e.name == "Paid":
                self.flows[e.job] -= e.award + e.bond
            elif e.name == "JobSwept":
                self.flows[e.job] -= e.to_client + e.fee

    def check(self) -> None:
        """The money invariants, over every mint, job and seat of this world."""
        for mint, accounts in self.token_accounts.items():
            assert sum(self.chain.tokens(a) for a in accounts) == self.minted[mint], "tokens appeared or vanished"
        for ref in self.jobs:
            if not self.is_open(ref):
                assert self.chain.account(ref.vault) is None, "a vault outlived its job"
                assert self.flows[ref.address] + self.stray[ref.vault] == 0, "a closed job kept tokens"
                continue
            check_job(self.read(ref), self.chain.tokens(ref.vault), self.chain.now)
            held = self.flows[ref.address] + self.stray[ref.vault]
            assert self.chain.tokens(ref.vault) == held, "the vault is not what came in less what went out"


def check_job(job: SimpleNamespace, vault: int, now: int) -> None:
    """Invariants 2 and 3: per seat, the totals, and that the vault covers everything that may still be owed."""
    for seat in job.seats:
        assert seat.paid + seat.fresh + seat.aging <= seat.awarded <= seat.cap
    assert job.paid_total == sum(s.paid for s in job.seats)
    assert job.caps_total == sum(s.cap for s in job.seats)
    assert job.caps_total + fee(job.caps_total, job.fee_bps) <= job.budget
    assert job.fee_paid <= fee(job.paid_total, job.fee_bps)
    lapse = job.deadline + job.dispute_window + job.arbiter_window
    if now >= lapse + job.dispute_window + idl().constants["UNCLAIMED"]:
        return
    owed = sum((s.cap if s.appeal == 1 and now < lapse else s.awarded) - s.paid for s in job.seats)
    bonds = sum(s.bond for s in job.seats if s.state == 1)
    assert vault >= owed + bonds + fee(job.paid_total + owed, job.fee_bps) - job.fee_paid, "not everything is covered"
