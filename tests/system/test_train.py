"""A job from job.json to the receipt, through every process there is, held against the chain and the audit's files."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from solders.pubkey import Pubkey

import cloudlinkup
from cloudlinkup.sdk.delivered import load_model
from cloudlinkup.types import Receipt
from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.system.site import Site

pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Trained:
    """A job that is done: its receipt, and the client's free balance before it."""

    receipt: dict[str, Any]
    before: int
    names: dict[str, str]  # wallet to machine

    @property
    def lines(self) -> dict[str, dict[str, Any]]:
        return {self.names[line["wallet"]]: line for line in self.receipt["contributors"]}


@pytest.fixture(scope="module")
def trained(site: Site) -> Trained:
    """Three contributors, one of which skips one step in ten."""
    before = asyncio.run(site.free())
    allow = site.wallets("one", "two", "lazy")
    receipt = site.submit(site.job(allow, samples=9_600)).receipt()
    return Trained(receipt, before, dict(zip(allow, ("one", "two", "lazy"), strict=True)))


def test_the_receipt_is_one_document_of_its_form(trained: Trained) -> None:
    receipt = Receipt.model_validate(trained.receipt)
    assert receipt.settled
    assert receipt.rounds >= 3
    assert receipt.score > 0.6
    assert receipt.pending == "0"
    assert receipt.quoted["hard_cap"]
    assert receipt.predictor
    assert min(receipt.bytes_up, receipt.bytes_down, receipt.audit_bytes) > 0
    assert set(trained.lines) == {"one", "two", "lazy"}


def test_money_is_conserved_to_the_unit(trained: Trained) -> None:
    amounts = {key: int(trained.receipt[key]) for key in ("budget", "paid", "fee", "refunded", "awarded")}
    assert amounts["budget"] == amounts["paid"] + amounts["fee"] + amounts["refunded"]
    assert amounts["paid"] == amounts["awarded"] == sum(int(line["paid"]) for line in trained.receipt["contributors"])
    assert amounts["paid"] > 0


async def test_every_amount_is_what_the_chain_says(site: Site, trained: Trained) -> None:
    receipt = trained.receipt
    state = site.state(receipt["request_id"])
    assert state is not None and state.terms is not None
    mint = site.settings.mint_key
    async with site.ledger() as ledger:
        job = await ledger.job(Pubkey.from_string(state.terms.account))
        assert job is not None
        for seat, line in zip(job.seats, receipt["contributors"], strict=True):
            assert (str(seat.wallet), str(seat.paid), str(seat.cap)) == (line["wallet"], line["paid"], line["cap"])
            assert seat.awarded == seat.paid <= seat.cap
        assert (str(job.budget), str(job.paid_total), str(job.fee_paid)) == tuple(
            receipt[key] for key in ("budget", "paid", "fee")
        )
        assert job.fee_paid == job.paid_total * job.fee_bps // 10_000
        assert await ledger.vault_balance(job.vault) == 0
        for line in receipt["contributors"]:
            assert await ledger.token_balance(Pubkey.from_string(line["wallet"]), mint) >= int(line["paid"])
    assert await site.free() == trained.before - int(receipt["paid"]) - int(receipt["fee"])


def test_honest_pay_is_verified_steps_times_the_price(site: Site, trained: Trained) -> None:
    state = site.state(trained.receipt["request_id"])
    assert state is not None
    step, lines = int(state.plan["segment_steps"]), trained.lines
    for name in ("one", "two"):
        assert lines[name]["state"] == "active"
        assert lines[name]["rejected"] == 0
        assert lines[name]["accepted"] == lines[name]["segments"] > 0
        assert int(lines[name]["paid"]) == lines[name]["accepted"] * step * state.price
    assert sum(line["accepted"] for line in lines.values()) * step == state.total_steps


def test_the_cheat_gets_nothing_and_no_further_order(site: Site, trained: Trained) -> None:
    lazy = trained.lines["lazy"]
    assert (lazy["state"], lazy["paid"], lazy["accepted"]) == ("rejected", "0", 0)
    assert lazy["rejected"] == lazy["segments"] > 0
    seat = next(i for i, line in enumerate(trained.receipt["contributors"]) if line["state"] == "rejected")
    entries = [entry for one in site.rounds(trained.receipt["request_id"]) for entry in one.entries]
    assert [entry.outcome for entry in entries if entry.seat == seat] == ["rejected"]
    assert "finished" in [line["event"] for line in site.all["lazy"].events], "it was told"


def test_a_third_person_rechecks_the_evidence(site: Site, trained: Trained) -> None:
    folders = list((site.stack.home.job_folder(trained.receipt["request_id"]) / "evidence").iterdir())
    assert len(folders) == 1
    argv = [sys.executable, "-m", "cloudlinkup.verify.evidence", str(folders[0])]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_model_predicts_on_raw_rows(site: Site, trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    done = site.stack.call("download", trained.receipt["request_id"], "--to", str(folder), "--json")
    document = json.loads(done.stdout)
    assert {"weights.safetensors", "spec.json", "preprocessing.json", "metrics.json", "receipt.json"} <= set(
        document["files"]
    )
    assert json.loads((folder / "receipt.json").read_text()) == trained.receipt
    frame = pd.read_parquet(ROOT / "examples/digits/digits.parquet")
    guessed = load_model(folder).predict(frame.drop(columns="digit"))
    assert (guessed == frame["digit"].to_numpy()).mean() > 0.6
    assert (cloudlinkup.predict(folder, frame.head(20)) == guessed[:20]).all()


def test_status_and_a_second_submission_show_the_same_receipt(site: Site, trained: Trained) -> None:
    request = trained.receipt["request_id"]
    done = site.stack.call("status", request, "--json")
    assert json.loads(done.stdout) == trained.receipt
    allow = [line["wallet"] for line in trained.receipt["contributors"]]
    again = site.submit(site.job(allow, samples=9_600), request)
    assert again.receipt() == trained.receipt


def test_what_was_shared_for_the_job_is_deleted(site: Site, trained: Trained) -> None:
    job_id = trained.receipt["job_id"]
    assert not [path for path in site.stack.home.blobs.rglob("*") if job_id in str(path)]
    home = site.machines.root / "contributors"
    left = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file() and job_id in str(path)}
    assert left == {("lazy", "evidence")}, "what it was rejected for, and what it may appeal with, is its own to keep"
