"""A client without any right that sends one of the floods of `tests/test_flood_budget.py` as fast as it is read:

    python -m tests.figures.flooder NAME HOST:PORT FOLDER SECONDS

FOLDER has `stranger.pem`, `stranger-key.pem` and `ca.pem`. Prints the bytes it has sent, and on how many connections.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from meshproxy.devtools.load.target import client_tls
from tests.test_flood_budget import FLOODS, HTTP_1_FLOODS, START

PIECE = 98_304
"""Bytes of a write."""


class Flood:
    """One connection at a time, which is opened again whenever it is closed."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.make = FLOODS[name]
        self.start = b"" if name in HTTP_1_FLOODS else START
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        files = [folder / name for name in ("ca.pem", "stranger.pem", "stranger-key.pem")]
        self.tls = client_tls(*files, checks_name=False)
        self.tls.set_alpn_protocols(["h2" if self.start else "http/1.1"])
        self.sent = self.connections = 0

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.tls)
            self.connections += 1
            reading = asyncio.create_task(self._read(reader))
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(until - time.monotonic()):
                    await self._send(writer, self.make())
            writer.transport.abort()
            await reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while await reader.read(1 << 16):
                pass

    async def _send(self, writer: asyncio.StreamWriter, pieces: Iterator[bytes]) -> None:
        writer.write(self.start)
        waiting = b""
        for piece in pieces:
            waiting += piece
            if len(waiting) >= PIECE:
                writer.write(waiting)
                self.sent += len(waiting)
                waiting = b""
                await writer.drain()
                await asyncio.sleep(0)


def main() -> None:
    name, address, folder, seconds = sys.argv[1:]
    os.nice(5)  # the caller that is measured goes before
    flood = Flood(name, address, Path(folder))
    asyncio.run(flood.run(time.monotonic() + float(seconds)))
    print(flood.sent, flood.connections)


if __name__ == "__main__":
    main()
