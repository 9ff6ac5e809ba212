"""The page `/tap` of the web port: calls of the mesh as they end, as JSON lines until the client leaves.

    GET /tap?sidecar=serving/*&model=resnet*&outcome=denied&rate=50&seconds=60

`sidecar` may be repeated, `identities=hidden` leaves out who calls, other fields are those of `call_filter`. Beside
calls there is a line of counts whenever they have changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from meshproxy.control.orders import who_orders
from meshproxy.control.taps import DEFAULT_RATE, LONGEST, TapRefused

if TYPE_CHECKING:
    from meshproxy.control.audit import ControlAudit
    from meshproxy.control.taps import Tap, TapService

logger = logging.getLogger(__name__)

PULSE_SECONDS = 0.2
"""Between two writes."""
LOOK_SECONDS = 1.0
"""Between two looks whether the client is still there."""
STALL_SECONDS = 10.0
"""A client that reads nothing for so long is dismissed."""


async def tap_page(request: web.Request, taps: TapService, audit: ControlAudit | None) -> web.StreamResponse:
    """Serve it. Whoever asks may.

    Args:
        request: of a client on this host.
        taps: begins it.
        audit: has a line of each, and without a trail that can be written there is none; None: there is no trail.
    """
    who = await asyncio.to_thread(who_orders, request)
    if audit is not None and (problem := audit.problem):
        raise web.HTTPServiceUnavailable(text=f"{problem}\n")
    try:
        tap = _open(request, taps)
    except TapRefused as error:
        refused = web.HTTPTooManyRequests if error.is_busy else web.HTTPBadRequest
        raise refused(text=f"{error}\n") from None
    fields = {"by": who, "query": request.query_string, "sidecars": tap.asked.total()}
    logger.info("tap opened", extra={"fields": fields})
    if audit is not None:
        audit.tapped(request.query_string, tap.asked, who)
    response = web.StreamResponse(headers={"content-type": "application/jsonl", "cache-control": "no-store"})
    try:
        with suppress(ConnectionError):  # it has left
            await response.prepare(request)
            await _show(request, response, tap)
    except TimeoutError:  # it reads no more: whoever ends the response would wait for it
        if request.transport is not None:
            request.transport.abort()
    finally:
        taps.close(tap)
        logger.info("tap closed", extra={"fields": {"by": who, **tap.counts}})
    return response


def _open(request: web.Request, taps: TapService) -> Tap:
    """Raises TapRefused."""
    own = {"sidecar", "rate", "seconds", "identities"}
    query = request.query
    try:
        rate, seconds = int(query.get("rate", DEFAULT_RATE)), float(query.get("seconds", LONGEST))
    except ValueError:
        raise TapRefused("rate, seconds: expected numbers") from None
    if query.get("identities", "hidden") != "hidden":
        raise TapRefused("identities: expected hidden")
    return taps.open(
        [(name, value) for name, value in query.items() if name not in own],
        query.getall("sidecar", []),
        rate=rate,
        seconds=seconds,
        hide_callers="identities" in query,
    )


async def _show(request: web.Request, response: web.StreamResponse, tap: Tap) -> None:
    """Until its time is over, it is closed, or the client has left. Raises ConnectionError and TimeoutError."""
    while not tap.is_closed and (left := tap.ends_at - time.monotonic()) > 0:
        if lines := tap.take():
            async with asyncio.timeout(STALL_SECONDS):
                await response.write(lines)
        if request.transport is None or request.transport.is_closing():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, LOOK_SECONDS)):
                await tap.woken.wait()
        await asyncio.sleep(min(PULSE_SECONDS, left))
    async with asyncio.timeout(STALL_SECONDS):
        await response.write(tap.take())
        await response.write_eof()
