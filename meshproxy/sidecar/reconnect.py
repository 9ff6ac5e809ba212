"""Keeps a stream open: to the control plane, and to the agent of the Workload API."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

FIRST_RETRY = 0.5
LAST_RETRY = 30.0
"""Seconds between two attempts, doubled after each that came to nothing; half of them at random."""
LASTED = 15.0
"""Seconds after which a stream has not come to nothing although it brought no message. Longer than connecting takes
(`control_channel.CONNECT_SECONDS`), shorter than certificates are valid: the stream ends with that of the sidecar."""


async def keep_open(
    follow: Callable[[], Awaitable[str]], received: Callable[[], int], failed: Callable[[str], None]
) -> None:
    """Follow a stream until cancelled, whatever happens to it.

    Args:
        follow: takes what comes on one stream, and returns why that has ended; empty if there is nothing to tell.
        received: how many messages have come in all. A stream that brought one, or lasted, has not come to nothing.
        failed: called with the reason of an end, unless it is that of the end before and no message has come since.
    """
    loop = asyncio.get_running_loop()
    delay = FIRST_RETRY
    told = ""
    while True:
        begun, before = loop.time(), received()
        problem = await follow()
        has_brought = received() != before
        if problem and (has_brought or problem != told):
            failed(problem)
            told = problem
        was_good = has_brought or loop.time() - begun >= LASTED
        delay = FIRST_RETRY if was_good else min(2 * delay, LAST_RETRY)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
