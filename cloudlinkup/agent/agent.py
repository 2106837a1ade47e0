"""The agent's life: connect, say hello, serve calls, connect again; leave in good order when asked to.

Network failures are tried again for ever, with a jittered pause that grows to 30 s. A refusal that cannot heal ends
the agent with its reason and exit code. On SIGTERM or SIGINT it drains: it takes no new work, finishes the running
shard (up to a bound, after which it commits the segments that are done), waits a little for the audit of what it
delivered, and exits with 0. At the end of its hours, where it has some, it drains too, and waits for the next. A second
signal stops it at once; states on disk let the next start go on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import cloudlinkup
from cloudlinkup.agent.acceptance import Terms
from cloudlinkup.agent.bond import Agreed, Post
from cloudlinkup.agent.chain import Chain
from cloudlinkup.agent.channel import Channel, Refusal, tls
from cloudlinkup.agent.files import CACHE
from cloudlinkup.agent.handler import Handler
from cloudlinkup.agent.hardware import extras
from cloudlinkup.agent.identity import Identity, delegation_for
from cloudlinkup.agent.ports import Report
from cloudlinkup.agent.shard import RunnerFactory
from cloudlinkup.errors import BadInput, LedgerError, ProtocolError, Unavailable
from cloudlinkup.offer import AskPer, Window, format_windows, open_seconds, opens_in
from cloudlinkup.training.segments import SegmentRunner
from cloudlinkup.wire.frames import Challenge, HelloFrame
from cloudlinkup.wire.messages import Hardware, Hello, Probe, Signed, sign

_SHORTEST, _LONGEST = 0.5, 30.0  # seconds of pause before connecting again
_STEADY = 20.0  # seconds connected after which the pauses begin anew
_FRESH = 3_600  # seconds before its sealing key's end at which an idle agent says hello again
_LOOK_AT_CLOCK = 0.5  # seconds between two looks at the time of day
INTERRUPTED = 130


@dataclass(frozen=True)
class Offer:
    """What this contributor says of itself, and where. `gateway` is ``wss://host:port``, as delegated to."""

    gateway: str
    ca_file: Path | None
    delegation: Path | None
    hardware: Hardware
    probes: tuple[Probe, ...]
    share: float
    ask: int
    device: str
    threads: int
    drain_seconds: float = 120.0  # for the running shard
    audit_seconds: float = 30.0  # for the audit of what was delivered
    agreed: Agreed = Agreed()  # noqa: RUF009 (frozen)
    ask_per: AskPer = "hour"
    reserve: int | None = None  # base units, in the ask's unit
    windows: tuple[Window, ...] = ()  # hours of every day, UTC; none: always
    extras: tuple[str, ...] = field(default_factory=extras)  # optional parts that are installed
    home_ca: Path | None = None  # where the home of a local stack will have its CA; instead of none, once it is there
    cache: int = CACHE  # bytes of rows that are kept on disk, of all jobs together
    together: int = 1  # devices that share this disk


class Agent:
    """One contributor. `run` returns the exit code."""

    def __init__(
        self,
        identity: Identity,
        chain: Chain,
        program: str,
        offer: Offer,
        *,
        report: Report,
        runner_factory: RunnerFactory = SegmentRunner,
        post: Post | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock  # for the hours of the day only
        self._identity, self._chain, self._program, self._post = identity, chain, program, post
        self._offer, self._report, self._factory = offer, report, runner_factory
        self._signals = 0
        self._signalled = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self) -> int:
        """Until a signal or a refusal that cannot heal. Raises that refusal (CloudLinkUpError with its exit code)."""
        self._tls()
        with self._listening():
            genesis = await self._genesis()
            if genesis is None:
                return 0
            handler = self._handler(genesis)
            handler.clean()
            try:
                return await self._stay_connected(handler)
            finally:
                await handler.close()

    def _handler(self, genesis: str) -> Handler:
        offer = self._offer
        terms = Terms(
            genesis=genesis,
            program=self._program,
            hardware=offer.hardware,
            share=offer.share,
            ask=offer.ask,
            device=offer.device,
            threads=offer.threads,
            agreed=offer.agreed,
            extras=offer.extras,
            cache=offer.cache,
            together=offer.together,
        )
        return Handler(
            self._identity, self._chain, terms, runner_factory=self._factory, report=self._report, post=self._post
        )

    async def _genesis(self) -> str | None:
        """The chain's genesis hash by our own RPC; tried until it answers. None once a signal came."""
        pause = _SHORTEST
        while not self._signalled.is_set():
            try:
                return await self._chain.genesis()
            except Unavailable as error:
                self._report("waiting", {"why": str(error)})
                pause = await self._pause(pause)
        return None

    def _tls(self) -> ssl.SSLContext:
        """By the CA as it is on disk now: a stack's home is made, or made anew, while we wait for it. Raises BadInput
        for an unusable CA file."""
        later = self._offer.home_ca
        return tls(self._offer.ca_file or (later if later is not None and later.exists() else None))

    async def _stay_connected(self, handler: Handler) -> int:
        pause = _SHORTEST
        while not self._signalled.is_set():
            if not await self._hours_begin():
                break
            begun = time.monotonic()
            try:
                async with self._connected(handler) as channel:
                    if await self._serve(handler, channel):
                        return INTERRUPTED if self._at_once.is_set() else 0
            except Refusal as refusal:
                if refusal.final:
                    raise
                self._report("waiting", {"why": str(refusal)})
            except Unavailable as error:
                self._report("waiting", {"why": str(error)})
            except ProtocolError as error:
                if getattr(error, "final", False):
                    raise
                self._report("waiting", {"why": str(error)})
            if time.monotonic() - begun > _STEADY:
                pause = _SHORTEST
            pause = await self._pause(pause)
        if handler.busy:  # no connection: let the shard end and be stored; the next start offers it
            await self._finish_shard(handler)
        return INTERRUPTED if self._at_once.is_set() else 0

    async def _hours_begin(self) -> bool:
        """Waits for the hours in which this contributor is available. False when a signal came first."""
        windows = self._offer.windows
        if windows and (wait := opens_in(windows, self._clock())) > 0:
            hours = format_windows(windows)
            self._report("waiting", {"why": f"it is outside our hours ({hours} UTC); they begin in {wait:.0f} s"})
            await _until(
                lambda: self._signalled.is_set() or opens_in(windows, self._clock()) == 0, every=_LOOK_AT_CLOCK
            )
        return not self._signalled.is_set()

    async def _pause(self, seconds: float) -> float:
        """Waits, or until a signal comes; returns the next pause."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.5)):  # noqa: S311 (spreads load, no secret)
                await self._signalled.wait()
        return min(seconds * 2, _LONGEST)

    # ---------------------------------------------------------------- one connection

    @contextlib.asynccontextmanager
    async def _connected(self, handler: Handler) -> AsyncIterator[Channel]:
        try:
            context = self._tls()
        except BadInput as error:  # it was usable when we began: it is being made anew
            raise Unavailable(str(error)) from None
        async with Channel.open(self._offer.gateway, context, self._report) as channel:
            challenge = await channel.challenge()
            self._check_challenge(challenge, handler.terms)
            delegation = delegation_for(
                self._identity,
                self._offer.delegation,
                gateway=challenge.gateway,
                genesis=challenge.genesis,
                program=challenge.program,
            )
            await channel.greet(HelloFrame(delegation=delegation, hello=self._hello(challenge)))
            self._report("connected", {"gateway": challenge.gateway, "agent": self._identity.name})
            yield channel

    def _check_challenge(self, challenge: Challenge, terms: Terms) -> None:
        """The gateway is the one we dialled, on the chain that our own RPC shows: nobody can relay our hello."""
        if challenge.gateway != self._offer.gateway:
            raise _Wrong(f"the gateway calls itself {challenge.gateway}. Fix: use exactly that with --gateway")
        if challenge.genesis != terms.genesis:
            raise _WrongChain("the gateway works on another chain than our RPC shows. Fix: correct --rpc-url")
        if challenge.program != terms.program:
            raise _WrongChain(f"the gateway works with the escrow program {challenge.program}, not {terms.program}")

    def _hello(self, challenge: Challenge) -> Signed:
        expires, sealing = self._identity.sealing_keys[0]
        offer = self._offer
        hello = Hello(
            genesis=challenge.genesis,
            program=challenge.program,
            nonce=challenge.nonce,
            gateway=challenge.gateway,
            agent=self._identity.name,
            sealing_key=sealing.public,
            sealing_expires=expires,
            hardware=offer.hardware,
            probes=offer.probes,
            share=offer.share,
            ask=offer.ask,
            version=cloudlinkup.__version__,
            ask_per=offer.ask_per,
            reserve=offer.reserve,
            windows=offer.windows,
            extras=offer.extras,
        )
        return sign(self._identity.agent, hello)

    async def _serve(self, handler: Handler, channel: Channel) -> bool:
        """Serves one connection. True when we left on purpose; raises what ended it otherwise."""
        serving = asyncio.create_task(channel.serve(handler))
        leaving = asyncio.create_task(self._leave(handler, channel))
        renewing = asyncio.create_task(self._renew(handler, channel))
        closing = asyncio.create_task(self._hours_end(handler, channel))
        tasks = (serving, leaving, renewing, closing)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leaving in done:
                leaving.result()
                return True
            if serving in done:
                serving.result()
            return False
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self, handler: Handler, channel: Channel) -> None:
        """Returns when the announced sealing key is near its end and nothing runs: a new hello is due."""
        expires = self._identity.sealing_keys[0][0]
        await _until(lambda: expires - time.time() <= _FRESH and not handler.busy and not channel.calls, every=30.0)

    async def _leave(self, handler: Handler, channel: Channel) -> None:
        """Waits for a signal, then drains."""
        await self._signalled.wait()
        await self._drain(handler, channel)
        self._report("left", {})

    async def _hours_end(self, handler: Handler, channel: Channel) -> None:
        """Drains when our hours end; for ever where there are none."""
        windows = self._offer.windows
        await _until(lambda: bool(windows) and open_seconds(windows, self._clock()) == 0.0, every=_LOOK_AT_CLOCK)
        await self._drain(handler, channel)

    async def _drain(self, handler: Handler, channel: Channel) -> None:
        """Takes no new work, finishes the running shard, and waits a little for its audit."""
        self._report("draining", {"shards": int(handler.busy), "seconds": self._offer.drain_seconds})
        with contextlib.suppress(Unavailable):
            await channel.drain()
        await self._finish_shard(handler)
        await _until(lambda: self._at_once.is_set() or not channel.calls, self._offer.drain_seconds)  # the upload
        await _until(
            lambda: self._at_once.is_set() or not (channel.calls or handler.awaits_audit), self._offer.audit_seconds
        )

    async def _finish_shard(self, handler: Handler) -> None:
        await _until(lambda: self._at_once.is_set() or not handler.busy, self._offer.drain_seconds)
        if handler.busy and not self._at_once.is_set():
            handler.finish_early()
            await _until(lambda: self._at_once.is_set() or not handler.busy)

    # ---------------------------------------------------------------- signals

    @contextlib.contextmanager
    def _listening(self):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        self._signals += 1
        self._signalled.set()
        if self._signals > 1:
            self._at_once.set()


async def _until(done: Callable[[], bool], seconds: float = math.inf, every: float = 0.05) -> None:
    """Returns once `done`, or when the time is over. Polls: what it waits for is set by threads and by the clock."""
    end = time.monotonic() + seconds
    while True:
        if done() or time.monotonic() >= end:
            return
        await asyncio.sleep(every)


class _Wrong(ProtocolError):
    """The other side is not whom we were told to work for: connecting again cannot help."""

    final = True


class _WrongChain(LedgerError):
    """Not the chain or program that we work on."""
