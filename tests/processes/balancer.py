"""What a Kubernetes Service does: forwards each new connection to one of its backends, and leaves those that exist
alone."""

from __future__ import annotations

import asyncio


class Balancer:
    """Forwards connections.

    Attributes:
        backends: HOST:PORT of each; they take turns, and one that refuses is skipped.
        address: its own, once it was started.
        connected: set by the first connection that a backend has accepted.
    """

    def __init__(self, *backends: str) -> None:
        self.backends = list(backends)
        self.address = ""
        self.connected = asyncio.Event()
        self._turn = 0
        self._pumps: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        return server

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await self._next()
        if far is None:
            writer.transport.abort()
            return
        self.connected.set()
        for source, sink in ((reader, far[1]), (far[0], writer)):
            task = asyncio.ensure_future(self._pump(source, sink))
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in self.backends:
            host, _, port = self.backends[self._turn % len(self.backends)].rpartition(":")
            self._turn += 1
            try:
                return await asyncio.open_connection(host, int(port))
            except OSError:
                continue
        return None

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
