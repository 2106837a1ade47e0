"""Works on this machine's devices until told to stop: one in this process, each of several in a process of its own.

Several share the wallet, the agent key and the terms. Each has its own connection, worker, seat, sealing keys, probes
and part of the cache; its name is the agent key and a number: key/0, key/1. They run apart, as Python trains one small
network at a time in a process, and so that the end of one does not end the others. This process waits for them, shows
what they report, and passes every signal on once; when it dies itself, they finish their shards and leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import CloudLinkUpError
from cloudlinkup.types import format_tokens

if TYPE_CHECKING:
    from cloudlinkup.agent.bond import Post
    from cloudlinkup.agent.identity import Identity
    from cloudlinkup.agent.ports import Report
    from cloudlinkup.agent.progress import Progress
    from cloudlinkup.agent.shard import RunnerFactory
    from cloudlinkup.cli.contribute import Options

LOOPBACK = ("127.0.0.1", "::1", "localhost")  # a local stack's CA vouches for nobody else
DECIMALS = 6  # of the token that is asked for
INTERRUPTED = 130


@dataclass(frozen=True)
class Place:
    """One device. `number`: None for the only one. `together`: how many work here; `alike`: on this very device."""

    device: str
    number: int | None = None
    together: int = 1
    alike: int = 1


def start(options: Options, runner_factory: RunnerFactory | None = None) -> int:
    """Contributes until told to stop. Returns the exit code; of several devices, the first that is not 0."""
    from cloudlinkup.agent.hardware import choose_devices
    from cloudlinkup.agent.identity import locked, of_device, open_identity
    from cloudlinkup.agent.progress import Progress

    options.settings.home.make()
    identity, progress = open_identity(options.folder, options.wallet), Progress()
    if identity.own_wallet is not None:
        terminal.note(f"Pay goes to {identity.wallet}, a wallet made on this machine: fine on a local chain only.")
    places = _places(choose_devices(options.device))
    devices: list[dict[str, Any]] = []
    with locked(options.folder):
        try:
            if len(places) == 1:
                code = _work(options, places[0], identity, progress.report, runner_factory)
            else:
                codes = _Several(options, places, runner_factory, progress).run()
                code = next((one for one in codes if one), 0)
                devices = [
                    {"agent": of_device(identity, place.number or 0).name, "device": place.device, "exit_code": one}
                    for place, one in zip(places, codes, strict=True)
                ]
        finally:
            progress.close()
    _tell_totals(options, identity, progress, devices)
    return code


def _places(devices: dict[int | None, str]) -> list[Place]:
    names = list(devices.values())
    return [Place(device, number, len(names), names.count(device)) for number, device in devices.items()]


def _tell_totals(options: Options, identity: Identity, progress: Progress, devices: list[dict[str, Any]]) -> None:
    totals = {k: str(v) if k in ("pay_if_verified", "awarded") else v for k, v in progress.totals.items()}
    document = {"name": options.name, "agent": str(identity.agent.public), "wallet": identity.wallet, **totals}
    terminal.result(
        document | ({"devices": devices} if devices else {}),
        lambda out: out.print(
            f"{progress.totals['segments']} segments trained, "
            f"{format_tokens(progress.totals['pay_if_verified'], DECIMALS)} tokens if they verify; "
            f"{format_tokens(progress.totals['awarded'], DECIMALS)} tokens awarded in jobs that ended.",
            markup=False,
            soft_wrap=True,
        ),
    )


# ---------------------------------------------------------------- one device


def _work(options: Options, place: Place, identity: Identity, report: Report, factory: RunnerFactory | None) -> int:
    """One device, in this process, until a signal. Returns the exit code."""
    import torch

    from cloudlinkup.agent.agent import Agent, Offer
    from cloudlinkup.agent.chain import RpcChain
    from cloudlinkup.agent.hardware import describe
    from cloudlinkup.agent.probes import cached, measure_or_cached
    from cloudlinkup.training.segments import SegmentRunner

    torch.set_num_threads(options.threads)
    hardware = describe(place.device, options.threads, alike=place.alike)
    kept = identity.folder / "probes.json"
    if cached(kept, hardware) is None:
        report("probing", {})
    offer = Offer(
        gateway=options.gateway,
        ca_file=options.ca_file,
        home_ca=options.settings.home.ca if urlsplit(options.gateway).hostname in LOOPBACK else None,
        delegation=options.delegation,
        hardware=hardware,
        probes=measure_or_cached(kept, hardware, place.device),
        share=options.share,
        ask=options.ask,
        ask_per=options.ask_per,
        reserve=options.reserve,
        windows=options.windows,
        device=place.device,
        threads=options.threads,
        drain_seconds=options.drain_seconds,
        cache=int(options.cache * 2**30) // place.together,
        together=place.together,
        agreed=options.agreed,
    )
    program = options.settings.program_id
    chain = RpcChain(options.rpc_url, program)

    async def work() -> int:
        post = _poster(options, identity)
        agent = Agent(
            identity, chain, program, offer, report=report, runner_factory=factory or SegmentRunner, post=post
        )
        return await agent.run()

    return asyncio.run(work())


def _poster(options: Options, identity: Identity) -> Post | None:
    """How bonds are posted: by the wallet, if its key is here. The fee is the wallet's, or this home's sponsor's."""
    from cloudlinkup.agent.bond import poster
    from cloudlinkup.crypto.identity import Signer

    if identity.own_wallet is None:
        return None
    sponsor = options.settings.home.key("sponsor")
    paying = (lambda: Signer.from_file(sponsor)) if sponsor.exists() else (lambda: None)
    return poster(options.rpc_url, options.settings.program_id, identity.own_wallet, paying)


# ---------------------------------------------------------------- several devices


class _Several:
    """A process for each device; what they report comes here through pipes."""

    def __init__(
        self, options: Options, places: list[Place], factory: RunnerFactory | None, progress: Progress
    ) -> None:
        self._options, self._places, self._factory, self._progress = options, places, factory, progress
        self._processes: list[SpawnProcess] = []
        self._codes: dict[int, int] = {}
        self._signalled = False

    def run(self) -> list[int]:
        """Until all have ended; their exit codes."""
        with self._passing_signals_on() as heed_ctrl_c:
            pipes = self._begin()
            heed_ctrl_c()
            while pipes:
                for pipe in wait(list(pipes)):
                    number = pipes[pipe]  # type: ignore[index]  # what was waited for
                    try:
                        event, facts = pipe.recv()  # type: ignore[union-attr]
                    except (EOFError, OSError):
                        del pipes[pipe]  # type: ignore[arg-type]
                        self._ended(number)
                    else:
                        self._report(number, event, facts)
            return [self._codes[number] for number in range(len(self._places))]

    def _begin(self) -> dict[Connection, int]:
        context, pipes = multiprocessing.get_context("spawn"), {}
        for number, place in enumerate(self._places):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_child, args=(self._options, place, self._factory, theirs), name=place.device, daemon=True
            )
            process.start()
            theirs.close()  # so that its end is seen here
            self._processes.append(process)
            pipes[ours] = number
        return pipes

    def _ended(self, number: int) -> None:
        process = self._processes[number]
        process.join()
        code = process.exitcode or 0
        if code < 0 and not self._signalled:
            self._report(number, "failed", {"why": f"its process was ended by signal {-code}"})
        self._codes[number] = code if code >= 0 else INTERRUPTED if self._signalled else 1

    def _report(self, number: int, event: str, facts: dict[str, Any]) -> None:
        self._progress.report(event, facts | {"device": self._places[number].number})

    @contextlib.contextmanager
    def _passing_signals_on(self) -> Iterator[Callable[[], object]]:
        """A terminal's Ctrl-C comes to this process alone, as the others leave its group: each gets one of it.

        Yields what heeds Ctrl-C from then on: to be called once all have begun.
        """

        def on_signal(*_: object) -> None:
            self._signalled = True
            for process in self._processes:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGTERM)

        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # which they begin with, until they have left the group
            signal.signal(signal.SIGTERM, on_signal)
            yield lambda: signal.signal(signal.SIGINT, on_signal)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _child(options: Options, place: Place, factory: RunnerFactory | None, pipe: Connection) -> None:
    """One device's process."""
    from cloudlinkup.agent.identity import locked, of_device, open_identity

    os.setpgid(0, 0)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    lock = threading.Lock()

    def report(event: str, facts: dict[str, Any]) -> None:
        with lock, contextlib.suppress(OSError):  # the one who listens may be gone
            pipe.send((event, facts))

    try:
        assert place.number is not None
        identity = of_device(open_identity(options.folder, options.wallet), place.number)
        with locked(identity.folder):
            code = _work(options, place, identity, report, factory)
    except CloudLinkUpError as error:
        report("failed", {"why": str(error)})
        code = error.exit_code
    sys.exit(code)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
