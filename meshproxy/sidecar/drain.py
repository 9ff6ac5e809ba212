"""Graceful shutdown, in two phases: clients are asked to leave while new requests are still served; then the ports are
closed, and what is in flight is completed."""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.sidecar.direction import Direction
    from meshproxy.upstream.serving import HealthService

logger = logging.getLogger(__name__)

QUIET = 0.5
"""Seconds without a request after which a phase is complete."""
LOOK_PERIOD = 0.05
"""Seconds between two looks for that."""
REFUSE_SECONDS = 5.0
"""Before the timeout, for requests that are in flight when the ports are closed..."""
REFUSE_SHARE = 0.2
"""...or this share of the timeout, if that is less."""
LAST_REQUEST_SECONDS = 5.0
"""How long idle connections whose client could not be told yet stay open after the ports are closed: an HTTP/1.1 client
is told with a response only."""


async def drain(directions: Sequence[Direction], health: HealthService | None, timeout: float) -> None:
    """Report NOT_SERVING and shut down: return when no request is in flight and none is to be expected, at the latest
    after `timeout` seconds."""
    loop = asyncio.get_running_loop()
    logger.info("draining", extra={"fields": {"in_flight": _in_flight(directions), "grace_seconds": timeout}})
    end = loop.time() + timeout
    if health is not None:
        health.drain()
    for direction in directions:
        direction.listener.drain()
    reserve = min(REFUSE_SECONDS, timeout * REFUSE_SHARE)
    await _wait_for_quiet(directions, end - reserve)
    for direction in directions:
        direction.listener.refuse(reserve / 4)
    logger.info("accepting no more connections", extra={"fields": {"in_flight": _in_flight(directions)}})
    await _wait_for_quiet(directions, end, unannounced_until=loop.time() + LAST_REQUEST_SECONDS)
    if in_flight := _in_flight(directions):
        logger.warning("drain timeout reached; aborting in-flight requests", extra={"fields": {"in_flight": in_flight}})


async def _wait_for_quiet(directions: Sequence[Direction], end: float, unannounced_until: float = -inf) -> None:
    """Return when there has been no request for `QUIET` seconds, at the latest at `end`. Until `unannounced_until`,
    clients that do not know of the shutdown are waited for."""
    loop = asyncio.get_running_loop()
    served, quiet_since = -1, 0.0
    while (now := loop.time()) < end:
        # Polled rather than awaited: what counts is that nothing came for a while.
        total = sum(direction.pipeline.served for direction in directions)
        if served != total or not all(direction.listener.is_quiet for direction in directions):
            served, quiet_since = total, now
        elif now - quiet_since >= QUIET and (
            now >= unannounced_until or all(direction.listener.is_announced for direction in directions)
        ):
            return
        await asyncio.sleep(min(LOOK_PERIOD, end - now))


def _in_flight(directions: Sequence[Direction]) -> int:
    return sum(len(direction.pipeline.live) for direction in directions)
