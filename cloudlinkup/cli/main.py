"""`cloudlinkup`: the command line.

Exit codes: 0 done, 1 unexpected, 2 bad input, 3 something is not running or not reachable, 4 money or chain, 5 the job
failed, 6 a protocol rule was broken by the other side, 130 interrupted. `--json`, anywhere, prints one document.
Each command's module is imported when it is called, so that `--help` stays fast.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from cloudlinkup import __version__
from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput, CloudLinkUpError

STACK = Group("The local stack", sort_key=1)
JOBS = Group("Jobs", sort_key=2)
CONTRIBUTE = Group("Contributing", sort_key=3)
MONEY = Group("Money", sort_key=4)

app = App(
    name="cloudlinkup",
    help="Train AI models on other people's idle machines, and pay for exactly the steps that were verified.",
    version=__version__,
    suppress_keyboard_interrupt=False,
    help_epilogue="Exit codes: 0 done, 1 unexpected, 2 bad input, 3 not running or not reachable, 4 money or chain, "
    "5 the job failed, 6 protocol broken by the other side, 130 interrupted.",
)
for group, where, text in (
    (STACK, "stack:up", "Start the local stack: a local chain, Prefect, and a cell that contributors connect to."),
    (STACK, "stack:down", "Stop the local stack. Its state stays, and `up` finds it again."),
    (STACK, "stack:doctor", "Look whether this machine and this checkout can run what the command line offers."),
    (STACK, "demo:demo", "Show the whole loop on this machine: four contributors, one of which cheats, and a receipt."),
    (JOBS, "prepare:init", "Write a job.json for a table, with sensible values to start from."),
    (JOBS, "prepare:quote", "What a job would take and cost now. Locks nothing, needs no wallet."),
    (JOBS, "jobs:submit", "Submit a job; it runs in the background unless you watch it."),
    (JOBS, "jobs:status", "Where one job is, or all of them. A finished one shows its receipt."),
    (JOBS, "jobs:watch", "Follow a job to its end and print its receipt."),
    (JOBS, "jobs:download", "Copy a finished job's model: weights, spec, preprocessing, metrics, receipt."),
    (JOBS, "predict:predict", "Predict on raw rows with a model that `download` made."),
    (CONTRIBUTE, "contribute:contribute", "Offer this machine: connect out to a cell, train shards, be paid per step."),
):
    app.command(f"cloudlinkup.cli.{where}", name=where.partition(":")[2], group=group, help=text)

MONEY_COMMANDS = {
    ("wallet", "A key, and what it holds."): (
        ("new", "wallet:new", "Make a wallet: a new key in a file that only you can read."),
        ("show", "wallet:show", "What a wallet holds: SOL for fees, tokens, its deposit."),
        ("airdrop", "wallet:airdrop", "Take SOL from a test chain's faucet."),
    ),
    ("escrow", "A job's money on chain."): (
        ("show", "seat:show", "A job's money: budget, approved pay, when it is paid out."),
        ("list", "escrow:list_", "The jobs that hold money on chain."),
        ("pay", "escrow:pay", "Send every seat the approved pay that is due."),
        ("dispute", "escrow:dispute", "As the client: hold a seat's approved pay until the arbiter rules."),
        ("accept", "seat:accept", "As a contributor: post the bond that your seat asks for."),
        ("appeal", "seat:appeal", "As a contributor: ask the arbiter for more than was approved."),
        ("collect", "seat:collect", "As a contributor: take what is due to another token account."),
        ("resolve", "escrow:resolve", "As the arbiter: decide what a seat gets."),
        ("close", "escrow:close", "After a job's end, return what nobody is owed, and the rent."),
    ),
    ("account", "The owner's deposit, and what its automation may lock of it."): (
        ("open", "account:open_", "Open the owner's account for the configured token."),
        ("show", "account:show", "The deposit and the spending limit."),
        ("deposit", "account:deposit", "Put tokens into the account, free for jobs."),
        ("withdraw", "account:withdraw", "Take tokens that no job has locked out of the account."),
        ("operator", "account:operator", "Approve what the automation may lock: a job, in all, for how long."),
    ),
    ("ops config", "The platform's terms on chain."): (
        ("show", "ops:show", "The platform's fee, windows and keys."),
        ("set", "ops:set_", "Change the terms of later jobs."),
        ("hand-over", "ops:hand_over", "Name the next admin, or take that back."),
        ("accept", "ops:accept", "Become the admin, as the one that was named."),
    ),
    ("ops model", "Which version of the predictor plans."): (
        ("list", "versions:list_", "Every version of the predictor."),
        ("show", "versions:show", "Where a version comes from."),
        ("promote", "versions:promote", "Let a version plan from the next job on."),
        ("rollback", "versions:rollback", "Let the version before plan again."),
    ),
}
ops = App(name="ops", help="Running the platform: its terms on chain, its predictor.", group=MONEY)
app.command(ops)
ops.command(
    "cloudlinkup.cli.calibrate:calibrate",
    name="calibrate",
    help="Measure honest work of another device class, so that the audit can judge it.",
)
for (path, about), commands in MONEY_COMMANDS.items():
    parent, _, name = path.rpartition(" ")
    group_app = App(name=name, help=about, group=None if parent else MONEY)
    (ops if parent else app).command(group_app)
    for command, where, text in commands:
        group_app.command(f"cloudlinkup.cli.{where}", name=command, help=text)


class Interrupted(CloudLinkUpError):
    """Ctrl-C."""

    exit_code = 130


app.meta.suppress_keyboard_interrupt = False  # ended in `run`, like every other error


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    json: Annotated[
        bool, Parameter(negative="", help="Print one JSON document on standard output, and nothing else.")
    ] = False,
) -> object:
    terminal.json = json
    return app(tokens, exit_on_error=False, print_error=False, result_action="return_value")


def run(tokens: list[str]) -> int:
    """Runs one command. Returns its exit code; errors are printed, not raised."""
    terminal.json = "--json" in tokens
    try:
        result = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:
        known = _as_known(error, tokens)
        terminal.error(known, known.exit_code)
        return known.exit_code


def _as_known(error: BaseException, tokens: list[str]) -> CloudLinkUpError:
    """Anything that ended a command, as an error with a message and an exit code."""
    if isinstance(error, CloudLinkUpError):
        return error
    if isinstance(error, CycloptsError):
        command = " ".join(("cloudlinkup", *(error.command_chain or ())))
        problem = " ".join(str(error).split()).rstrip(".")
        return BadInput("command line", " ".join(tokens), problem, f"see `{command} --help`")
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return Interrupted("interrupted. `cloudlinkup status` shows what was submitted")
    if os.environ.get("CLOUDLINKUP_TRACEBACK"):
        traceback.print_exception(error)
    fix = "report it, with what CLOUDLINKUP_TRACEBACK=1 prints"
    return CloudLinkUpError(f"unexpected {type(error).__name__}: {error}. Fix: {fix}")


def main() -> None:
    sys.exit(run(sys.argv[1:]))
