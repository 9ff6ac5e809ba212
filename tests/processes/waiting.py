"""Waiting for what another process does not notify of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[object]] | Callable[[], object], seconds: float = 30) -> None:
    """Waits until a condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)
