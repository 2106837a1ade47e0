"""Removes each check of the escrow program in turn, rebuilds it, and names the test that catches the difference.

    python -m benchmarks.escrow_mutants [--list] [--only TEXT] [--json]

Two kinds of mutants: every statement that can refuse (a `require`, a check, an `unused`), removed; and one-symbol
changes of the money rules, from the list below. Each is built in a folder of its own and put to tests/programs. Exits 1
when a mutant survives that is not known to be harmless. Needs the toolchain of programs/install-toolchain.sh; about ten
seconds a mutant. It says nothing about mistakes that nobody listed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CRATE = ROOT / "programs" / "escrow"
TESTS = ["clients", "windows", "payees", "closing", "verifier", "accounts"]

# Which tests are likely to catch a change in which file: they run first.
FIRST = {
    "close.rs": ["closing", "payees"],
    "config.rs": ["accounts", "closing"],
    "disputes.rs": ["windows", "verifier", "accounts"],
    "payment.rs": ["payees", "windows", "accounts"],
    "rounds.rs": ["verifier", "windows", "accounts"],
    "checks.rs": ["accounts", "payees"],
    "client.rs": ["clients", "accounts"],
}

# Statements whose removal changes nothing that anybody can observe, and why.
HARMLESS = {
    "require(data.len() == size_of::<T>() && aligned(&data)": "the program just made the account with this length",
    "nothing_owed: owed == 0 && bonds == 0": "a held bond keeps the vault from being empty, which erasing asks for too",
}

# One-symbol changes: file, old, new. Each must be the only such text in its file.
CHANGES = [
    ("rules.rs", "(amount / 10_000).wrapping_mul(bps) + ", "(amount / 10_000).wrapping_mul(bps) + 1 + "),
    ("rules.rs", "self.now >= self.deadline\n", "self.now > self.deadline\n"),
    ("rules.rs", "self.deadline + self.window\n", "self.deadline\n"),
    ("rules.rs", "self.appeals_end() + self.arbiter_window\n", "self.appeals_end()\n"),
    ("rules.rs", "self.appeals_lapse() + self.window + UNCLAIMED", "self.appeals_lapse() + UNCLAIMED"),
    (
        "rules.rs",
        "self.now < seat.disputed_at + self.arbiter_window",
        "self.now <= seat.disputed_at + self.arbiter_window",
    ),
    ("rules.rs", "self.now < self.appeals_lapse()", "self.now <= self.appeals_lapse()"),
    ("rules.rs", "self.epoch - seat.epoch == 1", "self.epoch - seat.epoch >= 1"),
    ("rules.rs", "seat.aging = if", "seat.aging += if"),
    ("rules.rs", "        seat.disputed_at = 0;\n", ""),
    ("rules.rs", "        if self.on_hold(seat) {\n            return;\n        }\n", ""),
    ("rules.rs", "&& self.now >= self.appeals_end()", "&& self.now > self.appeals_end()"),
    ("rules.rs", "            && !self.on_hold(seat)\n", ""),
    ("rules.rs", "            && !self.appeal_live(seat)", ""),
    ("rules.rs", "if self.appeal_live(seat) { seat.cap } else { seat.awarded }", "seat.awarded"),
    ("rules.rs", "sub(sub(self.awarded, self.fresh)?, self.aging)", "sub(self.awarded, self.fresh)"),
    ("rules.rs", "        if self.is_active() {\n", "        if true {\n"),
    ("rules.rs", "if clock.unix_timestamp <= 0 {", "if clock.unix_timestamp < 0 {"),
    ("checks.rs", "data.get(108) == Some(&1)", "data.get(108).is_some()"),
    ("checks.rs", "        && address_at(&data, 0, mint)\n", ""),
    ("checks.rs", "|| account.data_len() != TOKEN_ACCOUNT_LEN", ""),
    ("checks.rs", "owner.is_none_or(|owner| address_at(&data, 32, owner))", "owner.is_none_or(|_| true)"),
    ("checks.rs", " && key != &ZERO, Error::Unauthorized)", ", Error::Unauthorized)"),
    ("instructions/payment.rs", "    seat.paid = add(seat.paid, award)?;\n", ""),
    ("instructions/payment.rs", "    seat.bond -= bond;\n", ""),
    ("instructions/payment.rs", "    job.paid_total = add(job.paid_total, award)?;\n", ""),
    ("instructions/rounds.rs", "slot > job.commit_slot", "slot >= job.commit_slot"),
    ("instructions/rounds.rs", "round >= 1 && round == job.round", "round == job.round"),
    ("instructions/rounds.rs", "        moment.roll(seat);\n", ""),
    ("instructions/disputes.rs", "    if awarded < before {", "    if false {"),
    ("instructions/disputes.rs", "    seat.bond -= slash;\n", ""),
    ("instructions/disputes.rs", "    seat.fresh = 0;\n", ""),
    ("instructions/disputes.rs", "    seat.aging = 0;\n", ""),
    ("instructions/disputes.rs", "    seat.disputed_at = 0;\n", ""),
    ("instructions/disputes.rs", "        seat.appeal = APPEAL_USED;\n", ""),
    ("instructions/disputes.rs", " && moment.now < moment.appeals_end()) {", ") {"),
    ("instructions/job.rs", "        client.allowance_left -= terms.budget;\n", ""),
    ("instructions/job.rs", "opens - OPEN_SKEW <= now && ", ""),
    ("instructions/job.rs", " && now < opens + OPEN_WINDOW", ""),
    ("instructions/job.rs", "now < client.allowance_expires", "now <= client.allowance_expires"),
    ("instructions/job.rs", "terms.budget <= client.max_per_job && ", ""),
    ("instructions/job.rs", " && terms.budget <= client.allowance_left", ""),
    ("instructions/job.rs", "job.deadline.min(now + job.dispute_window as i64)", "now + job.dispute_window as i64"),
    ("instructions/close.rs", "    job.fee_paid += fee_due;\n", ""),
    ("instructions/close.rs", "add(add(owed, bonds)?, reserve)?", "add(owed, bonds)?"),
    ("instructions/close.rs", "add(add(owed, bonds)?, reserve)?", "add(owed, reserve)?"),
    ("instructions/close.rs", "nothing_owed: owed == 0 && bonds == 0", "nothing_owed: owed == 0"),
    ("instructions/close.rs", "sweep.nothing_owed && sweep.id_is_old && ", "sweep.nothing_owed && "),
    ("instructions/close.rs", " && checks::vault_amount(&vault)? == 0", ""),
    ("instructions/close.rs", "Some(&config.treasury)", "None"),
    ("instructions/client.rs", "    client.seq = add(client.seq, 1)?;\n", ""),
    ("instructions/client.rs", "destination.address() != vault.address() && ", ""),
    ("instructions/seats.rs", "if new.bond == 0 { SEAT_ACTIVE } else { SEAT_ASKED }", "SEAT_ACTIVE"),
    ("state.rs", "data.0.len() == job_len(count as u16)", "data.0.len() >= job_len(count as u16)"),
]


@dataclass(frozen=True)
class Mutant:
    """One change: in `file`, `old` at `at` becomes `new`."""

    file: str
    line: int
    old: str
    new: str
    at: int

    @property
    def label(self) -> str:
        text = re.sub(r"\s+", " ", self.old.strip())
        become = re.sub(r"\s+", " ", self.new.strip())
        return f"{self.file}:{self.line}: {text}" + (f"  ->  {become}" if become else "")


@dataclass(frozen=True)
class Verdict:
    mutant: str
    caught_by: str  # a test's name, 'does not build', or '' for a survivor
    harmless: str
    seconds: float


def mutants() -> Iterator[Mutant]:
    """Every refusing statement removed, then every listed change."""
    statement = re.compile(
        r"^ *(?:require|checks::\w+|unused|within_budget)\((?:[^;{}]|\{[^{}]*\})*?\)\?;\n", re.MULTILINE
    )
    for path in sorted((CRATE / "src").rglob("*.rs")):
        name = str(path.relative_to(CRATE / "src"))
        if name in ("error.rs", "args.rs", "transfers.rs"):
            continue
        text = path.read_text()
        for found in statement.finditer(text):
            yield Mutant(name, text.count("\n", 0, found.start()) + 1, found[0], "", found.start())
    yield from listed()


def listed() -> Iterator[Mutant]:
    for name, old, new in CHANGES:
        text = (CRATE / "src" / name).read_text()
        if text.count(old) != 1:
            raise SystemExit(f"{name}: {old!r} occurs {text.count(old)} times; the list is out of date")
        at = text.index(old)
        yield Mutant(name, text.count("\n", 0, at) + 1, old, new, at)


def judge(mutant: Mutant, pristine: Path, folder: Path) -> Verdict:
    """Builds the mutant and runs the tests until one fails."""
    started = time.perf_counter()
    crate = folder / "escrow"
    shutil.copytree(pristine, crate, dirs_exist_ok=True)
    path = crate / "src" / mutant.file
    text = path.read_text()
    path.write_text(text[: mutant.at] + mutant.new + text[mutant.at + len(mutant.old) :])
    environment = os.environ | {"CARGO_TARGET_DIR": str(folder / "target")}
    built = subprocess.run(
        [crate / "build.sh"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    harmless = next((why for start, why in HARMLESS.items() if mutant.old.strip().startswith(start)), "")
    if built.returncode:
        return Verdict(mutant.label, "does not build", harmless, time.perf_counter() - started)
    environment |= {"ESCROW_PROGRAM_FILE": str(folder / "escrow.so")}
    first = FIRST.get(Path(mutant.file).name, [])
    names = [f"test_attack_{t}.py" for t in [*first, *(t for t in TESTS if t not in first)]]
    tests = [str(ROOT / "tests" / "programs" / t) for t in [*names, "test_life.py", "test_random.py"]]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    failed = re.search(r"^(?:FAILED|ERROR) .*?::(.+?)(?: - |$)", run.stdout, re.MULTILINE)
    caught = failed[1] if failed else ("" if run.returncode == 0 else "the tests did not run")
    return Verdict(mutant.label, caught, harmless, time.perf_counter() - started)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="show the mutants and stop")
    parser.add_argument("--only", default="", help="only mutants whose line contains this text")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    args = parser.parse_args()
    chosen = [m for m in mutants() if args.only in m.label]
    if args.list:
        print("\n".join(m.label for m in chosen))
        return 0
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        pristine = Path(folder) / "pristine"
        shutil.copytree(CRATE, pristine, ignore=shutil.ignore_patterns("target"))
        for mutant in chosen:
            verdict = judge(mutant, pristine, Path(folder))
            verdicts.append(verdict)
            if not args.json:
                found = verdict.caught_by or ("harmless" if verdict.harmless else "SURVIVED")
                print(f"{found:60} {verdict.mutant}", flush=True)
    survivors = [v for v in verdicts if not v.caught_by and not v.harmless]
    unsound = [v for v in verdicts if v.caught_by in ("does not build", "the tests did not run")]
    summary = {"mutants": len(verdicts), "survivors": len(survivors), "not_judged": len(unsound)}
    print(json.dumps(summary | {"verdicts": [asdict(v) for v in verdicts]}) if args.json else summary)
    return 1 if survivors or unsound else 0


if __name__ == "__main__":
    sys.exit(main())
