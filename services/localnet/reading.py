"""The methods that read accounts, each as of the commitment asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from solders.pubkey import Pubkey

from services.localnet.chain import TOKEN
from services.localnet.encode import encode_account
from services.localnet.params import Calls, Params, bad, parse_filters, parse_key, parse_piece

MAX_KEYS = 100
TOKEN_2022 = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")


class AccountCalls(Calls):
    """After a restart, everything that survived counts as finalized."""

    def account_methods(self) -> dict[str, Callable[[Params], Any]]:
        return {
            "getAccountInfo": self.account_info,
            "getBalance": self.balance,
            "getMinimumBalanceForRentExemption": lambda p: self.chain.rent(p.integer(0)),
            "getMultipleAccounts": self.multiple_accounts,
            "getProgramAccounts": self.program_accounts,
            "getTokenAccountBalance": self.token_account_balance,
            "getTokenAccountsByOwner": self.token_accounts_by_owner,
            "getTokenSupply": self.token_supply,
        }

    def _shown_account(self, key: Pubkey, options: dict[str, Any], slot: int) -> Any:
        account = self.chain.account(key, slot)
        if account is None:
            return None
        return encode_account(account, options.get("encoding", "base58"), parse_piece(options))

    def account_info(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        return {"context": context, "value": self._shown_account(p.key(0), p.options(1), context["slot"])}

    def multiple_accounts(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        options = {"encoding": "base64"} | p.options(1)
        keys = [parse_key(one) for one in p.listed(0, MAX_KEYS)]
        return {"context": context, "value": [self._shown_account(key, options, context["slot"]) for key in keys]}

    def balance(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        account = self.chain.account(p.key(0), context["slot"])
        return {"context": context, "value": 0 if account is None else account.lamports}

    def _listed(self, program: Pubkey, slot: int, options: dict[str, Any], *filters: Any) -> list[dict[str, Any]]:
        encoding, piece = options.get("encoding", "base58"), parse_piece(options)
        return [
            {"pubkey": str(key), "account": encode_account(account, encoding, piece)}
            for key, account in self.chain.owned_by(program, slot, *filters)
        ]

    def program_accounts(self, p: Params) -> Any:
        context, options = self._context(p.commitment(1)), p.options(1)
        filters = parse_filters(options.get("filters", []))
        shown = self._listed(p.key(0), context["slot"], options, *filters)
        return {"context": context, "value": shown} if options.get("withContext") else shown

    def token_accounts_by_owner(self, p: Params) -> Any:
        context = self._context(p.commitment(2))
        owner, chosen = p.key(0), p.options(1)
        matches = [(32, bytes(owner))]
        program = TOKEN
        if "mint" in chosen:
            matches.append((0, bytes(parse_key(chosen["mint"]))))
        elif "programId" in chosen:
            program = parse_key(chosen["programId"])
            if program not in (TOKEN, TOKEN_2022):
                raise bad("Invalid param: unrecognized Token program id")
        else:
            raise bad("Invalid params: expected mint or programId")
        return {"context": context, "value": self._listed(program, context["slot"], p.options(2), [165], matches)}

    def token_account_balance(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        account = self.chain.account(p.key(0), context["slot"])
        if account is None:
            raise bad("Invalid param: could not find account")
        if account.owner != TOKEN or len(account.data) != 165:
            raise bad("Invalid param: not a Token account")
        mint = self.chain.account(Pubkey.from_bytes(account.data[:32]), context["slot"])
        amount = int.from_bytes(account.data[64:72], "little")
        return {"context": context, "value": _token_amount(amount, mint.data[44] if mint else 0)}

    def token_supply(self, p: Params) -> Any:
        context = self._context(p.commitment(1))
        mint = self.chain.account(p.key(0), context["slot"])
        if mint is None or mint.owner != TOKEN or len(mint.data) != 82:
            raise bad("Invalid param: not a Token mint")
        amount = int.from_bytes(mint.data[36:44], "little")
        return {"context": context, "value": _token_amount(amount, mint.data[44])}


def _token_amount(amount: int, decimals: int) -> dict[str, Any]:
    whole, part = divmod(amount, 10**decimals)
    tail = str(part).rjust(decimals, "0").rstrip("0") if decimals else ""
    return {
        "amount": str(amount),
        "decimals": decimals,
        "uiAmount": amount / 10**decimals,
        "uiAmountString": f"{whole}.{tail}" if tail else str(whole),
    }
