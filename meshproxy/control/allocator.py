"""Memory of thousands of connections: what they leave free, and garbage. Their buffers: `transport.tls_buffer`."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from contextlib import suppress

NEW_OBJECTS = 10_000
"""Containers that are made until the youngest are looked through: those of a hundred connections, or 2 MB."""
PERIOD = 5.0
"""Seconds between two times that memory is returned to the kernel, while connections come."""
QUIET_PERIOD = 10.0
"""The same otherwise: reports that come faster than they are read leave free pages, too. Without this 500 sidecars that
report a thousand times a second left 28 MB of them, and 11 MB with it."""


def give_back() -> None:
    """Return free pages between pieces that are in use to the kernel (malloc_trim(3)): handshakes leave many. Takes
    0.4 us a connection. Does nothing where the C library cannot."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def collect_seldom() -> None:
    """Look for cyclic garbage less often from now on, and never in what there is now. Thousands of connections that
    come at once are no garbage: to look through them again and again took 6.5 % of the time for 3,000, a tenth of a
    second at a time, and takes 2 % so."""
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, 10, 10)


class FreePages:
    """Those that connections have left are given back while they come, and those of messages now and then."""

    def __init__(self) -> None:
        self._used = asyncio.Event()

    def used(self) -> None:
        """There may be more of them."""
        self._used.set()

    async def follow(self) -> None:
        """Give them back now and then, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_PERIOD):
                    await self._used.wait()
                    await asyncio.sleep(PERIOD)
            self._used.clear()
            await asyncio.to_thread(give_back)
