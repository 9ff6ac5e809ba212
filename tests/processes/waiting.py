"""Waiting for what another process does not notify of."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 120.0
"""Seconds. It ends what hangs, and says nothing of how fast anything is: what is waited for takes a second on a machine
that does nothing else, and ten on one with twenty busy processes."""


async def until(condition: Callable[[], Awaitable[object]] | Callable[[], object], seconds: float = PATIENCE) -> None:
    """Waits until a condition holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


def look_until(look: Callable[[], T], is_wanted: Callable[[T], bool], seconds: float) -> T:
    """What is seen, once it is as wanted; for tests without an event loop. Raises AssertionError with what was seen
    last."""
    deadline = time.monotonic() + seconds
    while not is_wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def json_lines(log: Path) -> list[dict[str, Any]]:
    """What another process has written to a log so far: its last line may not be whole yet."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
