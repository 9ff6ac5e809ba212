"""Graceful shutdown: clients are asked to reconnect elsewhere while new requests are still served, until there are
none."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.sidecar.direction import Direction
    from meshproxy.upstream.serving import HealthService

logger = logging.getLogger(__name__)

QUIET = 0.5
"""Seconds without a request after which the drain is complete."""
LOOK_PERIOD = 0.05
"""Seconds between two looks for that."""


async def drain(directions: Sequence[Direction], health: HealthService | None, grace: float) -> None:
    """Report NOT_SERVING, ask clients to close their connections, and return when no request has been in flight for
    `QUIET` seconds, or after `grace` seconds."""
    loop = asyncio.get_running_loop()
    logger.info("draining", extra={"fields": {"in_flight": _in_flight(directions), "grace_seconds": grace}})
    if health is not None:
        health.drain()
    for direction in directions:
        direction.listener.drain()
    deadline = loop.time() + grace
    served, quiet_since = -1, 0.0
    while (now := loop.time()) < deadline:
        # Polled rather than awaited: what counts is that nothing came for a while.
        total = sum(direction.pipeline.served for direction in directions)
        if served != total or not all(direction.listener.is_quiet for direction in directions):
            served, quiet_since = total, now
        elif now - quiet_since >= QUIET:
            return
        await asyncio.sleep(min(LOOK_PERIOD, deadline - now))
    logger.warning(
        "drain timeout reached; aborting in-flight requests", extra={"fields": {"in_flight": _in_flight(directions)}}
    )


def _in_flight(directions: Sequence[Direction]) -> int:
    return sum(len(direction.pipeline.live) for direction in directions)
