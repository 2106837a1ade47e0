"""One outbound connection to a gateway: handshake, calls beside each other, blobs over the same TLS port.

The host name is checked against the CA file given (or the system's). What a call needs beyond frames (GET and PUT of
sealed blobs, the early acknowledgement) is one `_CallIo` per call.
Not covered: what calls mean (handler.py), and connecting again (agent.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from cloudlinkup.agent.handler import Handler
from cloudlinkup.agent.ports import Report
from cloudlinkup.errors import BadInput, CloudLinkUpError, ContributorRefused, ProtocolError, Unavailable
from cloudlinkup.wire.calls import MAX_BODY, BlobRef
from cloudlinkup.wire.frames import (
    MAX_FRAME,
    PROTOCOL,
    AckFrame,
    AskTicket,
    Call,
    Cancel,
    Challenge,
    Drain,
    Failed,
    HelloFrame,
    Refused,
    Reply,
    Ticket,
    ToAgent,
    Welcome,
    read_for_agent,
)
from cloudlinkup.wire.hashes import sha256
from cloudlinkup.wire.messages import Signed
from cloudlinkup.wire.packed import Packed

HANDSHAKE = 15.0  # seconds
PING, PONG = 5.0, 10.0  # seconds between our pings, and for the answer to one
BLOB_TIMEOUT = httpx.Timeout(30.0, read=60.0, write=60.0)
MAX_CALLS = 8  # at once; the gateway's own device resource lets one train
_FORGOTTEN = 5.0  # seconds after a call's deadline at which we end it ourselves
TRIES = 3  # for one blob
FINAL = ("hello", "protocol", "wallet")  # refusals that another try cannot heal


class Refusal(ProtocolError):
    """The gateway refused us. `final`: trying again as we are cannot help."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.final = code, code in FINAL
        super().__init__(f"the gateway refused this contributor ({code}): {message}")


def tls(ca_file: Path | None) -> ssl.SSLContext:
    """Verifies the gateway's certificate and name. Raises BadInput for an unusable CA file."""
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError):
        raise BadInput("--ca-file", str(ca_file), "not a readable PEM file", "name the gateway's CA file") from None


def gateway_parts(url: str) -> tuple[str, str]:
    """(address of the WebSocket, base of the blobs) of ``wss://host[:port]``. Raises BadInput for anything else."""
    parts = urlsplit(url)
    try:
        fits = parts.scheme == "wss" and parts.hostname and parts.port != 0 and not parts.username
    except ValueError:
        fits = False
    if not fits or parts.path.strip("/") or parts.query or parts.fragment:
        raise BadInput("--gateway", url, "not an address of a gateway", "write it as wss://host:port")
    return f"wss://{parts.netloc}/ws", f"https://{parts.netloc}"


class Channel:
    """`async with Channel.open(...)`; then `greet`, then `serve` until the connection ends."""

    def __init__(self, socket: ClientConnection, http: httpx.AsyncClient, report: Report) -> None:
        self._socket, self._http, self._report = socket, http, report
        self._session = ""
        self._calls: dict[int, tuple[asyncio.Task[None], _CallIo]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str, context: ssl.SSLContext, report: Report):
        """Connects. Raises Unavailable when nobody answers there, ProtocolError when it is no gateway."""
        address, base = gateway_parts(url)
        try:
            socket = await connect(
                address,
                ssl=context,
                compression=None,
                max_size=MAX_FRAME,
                open_timeout=HANDSHAKE,
                close_timeout=3,
                ping_interval=PING,
                ping_timeout=PONG,
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else type(error).__name__
            raise Unavailable(f"the gateway {url} cannot be reached ({why})") from None
        try:
            async with httpx.AsyncClient(base_url=base, verify=context, timeout=BLOB_TIMEOUT) as http:
                yield cls(socket, http, report)
        finally:
            await socket.close()

    # ---------------------------------------------------------------- handshake

    async def challenge(self) -> Challenge:
        """The gateway's first frame. Raises Refusal, ProtocolError, Unavailable."""
        frame = await self._next_frame(HANDSHAKE)
        if not isinstance(frame, Challenge):
            raise ProtocolError("the gateway did not begin with a challenge")
        if frame.protocol != PROTOCOL:
            raise Refusal("protocol", f"it speaks version {frame.protocol}, this is version {PROTOCOL}: update one")
        return frame

    async def greet(self, hello: HelloFrame) -> None:
        """Answers the challenge. Returns once the gateway has let us in. Raises Refusal, ProtocolError, Unavailable."""
        await self._send(hello)
        frame = await self._next_frame(HANDSHAKE)
        if not isinstance(frame, Welcome):
            raise ProtocolError("the gateway did not answer the hello")
        self._session = frame.session

    async def _next_frame(self, seconds: float) -> ToAgent:
        try:
            async with asyncio.timeout(seconds):
                data = await self._socket.recv()
        except (ConnectionClosed, TimeoutError):
            raise Unavailable("the gateway closed the connection or fell silent") from None
        if isinstance(data, str):
            raise ProtocolError("a text frame")
        frame = read_for_agent(data)
        if isinstance(frame, Refused) and frame.id is None:
            raise Refusal(frame.code, frame.message)
        return frame

    # ---------------------------------------------------------------- calls

    async def serve(self, handler: Handler) -> None:
        """Reads until the connection ends (then raises Unavailable); calls run beside the reading."""
        try:
            while True:
                try:
                    data = await self._socket.recv()
                except ConnectionClosed as closed:
                    code = closed.rcvd.code if closed.rcvd else 1006
                    raise Unavailable(f"the connection to the gateway ended ({code})") from None
                if isinstance(data, str):
                    raise ProtocolError("a text frame")
                await self._receive(read_for_agent(data), handler)
        finally:
            for task, _ in self._calls.values():
                task.cancel()
            await asyncio.gather(*(task for task, _ in self._calls.values()), return_exceptions=True)

    async def drain(self) -> None:
        """Tells the gateway that no new work is wanted."""
        await self._send(Drain())

    async def idle(self) -> None:
        """Returns when no call is running."""
        await self._idle.wait()

    @property
    def calls(self) -> int:
        return len(self._calls)

    async def _receive(self, frame: ToAgent, handler: Handler) -> None:
        if isinstance(frame, Call):
            if frame.id in self._calls or len(frame.body) > MAX_BODY:
                raise ProtocolError("a call whose number runs already, or whose body is too long")
            if len(self._calls) >= MAX_CALLS:
                await self._send(Failed(id=frame.id, code="busy", message=f"{MAX_CALLS} calls are running"))
                return
            io = _CallIo(self, frame.id)
            task = asyncio.create_task(self._run(frame, handler, io), name=f"call {frame.id} {frame.kind}")
            # the gateway holds the deadline and cancels; this is for one that forgets to
            timer = asyncio.get_running_loop().call_later(frame.deadline + _FORGOTTEN, self._give_up, frame.id)
            task.add_done_callback(lambda _: timer.cancel())
            self._calls[frame.id] = (task, io)
            self._idle.clear()
        elif isinstance(frame, Cancel):
            self._give_up(frame.id)
        elif isinstance(frame, Ticket | Refused):
            if frame.id is None:
                assert isinstance(frame, Refused)
                raise Refusal(frame.code, frame.message)
            if found := self._calls.get(frame.id):
                found[1].answer(frame)
        else:
            raise ProtocolError(f"a {frame.t} frame out of place")

    def _give_up(self, number: int) -> None:
        """The other side wants no answer to this call any more."""
        if found := self._calls.get(number):
            task, io = found
            io.abandoned = True
            task.cancel()

    async def _run(self, call: Call, handler: Handler, io: _CallIo) -> None:
        try:
            answer: Packed
            try:
                answer = Reply(id=call.id, body=await handler.call(call.kind, call.body, io))
            except ContributorRefused as error:
                answer = _failed(call.id, error.code, str(error).partition(": ")[2])
            except TimeoutError:
                answer = _failed(call.id, "late", "the gateway did not answer in time")
            except CloudLinkUpError as error:
                answer = _failed(call.id, type(error).__name__, str(error))
            except Exception as error:  # a fault of ours: the flow learns that there is one, and nothing of the data
                self._report("call_failed", {"kind": call.kind, "error": type(error).__name__})
                answer = _failed(call.id, "internal", type(error).__name__)
            with contextlib.suppress(Unavailable):
                await self._send(answer)
        finally:
            del self._calls[call.id]
            if not self._calls:
                self._idle.set()

    async def _send(self, frame: Packed) -> None:
        try:
            await self._socket.send(frame.pack())
        except ConnectionClosed:
            raise Unavailable("the connection to the gateway ended") from None

    # ---------------------------------------------------------------- blobs

    async def _get(self, ref: BlobRef) -> bytes:
        headers = {"Authorization": f"Bearer {self._session}"}
        try:
            async with self._http.stream("GET", f"/blobs/{ref.sha256}", headers=headers) as response:
                if response.status_code != 200:
                    raise Unavailable(f"the gateway does not give a blob of this call ({response.status_code})")
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > ref.size:
                        raise ProtocolError(f"a blob longer than the {ref.size} bytes announced")
        except httpx.HTTPError as error:
            raise Unavailable(f"a blob could not be fetched ({type(error).__name__})") from None
        return bytes(data)

    async def _put(self, name: str, data: bytes, token: str) -> bool:
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
            response = await self._http.put(f"/blobs/{name}", content=data, headers=headers)
        except httpx.HTTPError:
            return False
        return response.is_success


class _CallIo:
    """The handler's `Io` for one call."""

    def __init__(self, channel: Channel, number: int) -> None:
        self.abandoned = False
        self._channel, self._number = channel, number
        self._answer: asyncio.Future[Ticket | Refused] | None = None
        self._asking = asyncio.Lock()

    def answer(self, frame: Ticket | Refused) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(frame)

    async def send_ack(self, signed: Signed) -> None:
        await self._channel._send(AckFrame(id=self._number, signed=signed))

    async def get_blob(self, ref: BlobRef) -> bytes:
        return await self._channel._get(ref)

    async def put_blob(self, data: bytes) -> str:
        """Each try takes a ticket of its own. Raises ContributorRefused when the gateway gives none."""
        name = await asyncio.to_thread(sha256, data)
        for attempt in range(TRIES):
            if await self._channel._put(name, data, await self._ticket(name, len(data))):
                return name
            await asyncio.sleep(0.5 * attempt)
        raise Unavailable("an upload failed several times")

    async def _ticket(self, name: str, size: int) -> str:
        async with self._asking:
            self._answer = asyncio.get_running_loop().create_future()
            await self._channel._send(AskTicket(id=self._number, sha256=name, size=size))
            async with asyncio.timeout(HANDSHAKE):
                frame = await self._answer
        if isinstance(frame, Refused) or frame.sha256 != name:
            raise ContributorRefused("upload", "the gateway gives no ticket for this upload")
        return frame.token


def _failed(number: int, code: str, message: str) -> Failed:
    return Failed(id=number, code=code[:200], message=message.encode("ascii", "replace").decode()[:200])
