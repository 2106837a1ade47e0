"""Carries TCP from one address to others: `python -m benchmarks.peers.relay LISTEN:PORT=TO:PORT ...`.

Our local stack listens on loopback, and its certificate is for loopback only. A relay on each worker's machine listens
there on loopback and goes to the hub's address over the machine's limited link; one on the hub goes on to the stack.
"""

from __future__ import annotations

import asyncio
import sys

CHUNK = 65_536


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(pairs: list[tuple[str, str]]) -> None:
    """For ever."""

    def handler(target: str):
        host, port = target.rsplit(":", 1)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there = await asyncio.open_connection(host, int(port))
            except OSError:
                writer.close()
                return
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer), return_exceptions=True)

        return handle

    servers = []
    for listen, target in pairs:
        host, port = listen.rsplit(":", 1)
        servers.append(await asyncio.start_server(handler(target), host, int(port)))
    print("relaying", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve([(pair.split("=")[0], pair.split("=")[1]) for pair in sys.argv[1:]]))
