"""Streams end when the certificate expires that their sidecar has shown: it comes again with the next one.

One timer for all of them: with one for each, and a timeout around it, 10,000 sidecars would take 25 MB more.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from meshproxy.refusal import GrpcStatus

if TYPE_CHECKING:
    from meshproxy.identity.caller import Workload
    from meshproxy.transport.grpc_server import ServerCall

SPACING = 0.25
"""Seconds between two looks at all streams."""


class Expiries:
    """The streams of one method."""

    def __init__(self) -> None:
        self._due: dict[ServerCall, float] = {}
        """`loop.time()` at which each ends."""
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = inf

    def add(self, call: ServerCall, workload: Workload, now: float) -> None:
        """A stream has begun. `now`: seconds since the epoch."""
        loop = asyncio.get_running_loop()
        self._due[call] = due = loop.time() + max(0.0, workload.not_after - now)
        if due < self._look_at:
            self._schedule(due)

    def discard(self, call: ServerCall) -> None:
        """A stream has ended."""
        self._due.pop(call, None)
        if not self._due:
            self._schedule(inf)

    def _schedule(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = when
        self._timer = asyncio.get_running_loop().call_at(when, self._look) if when != inf else None

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for call in [call for call, due in self._due.items() if due <= now]:
            del self._due[call]
            call.fail(GrpcStatus.UNAVAILABLE, "the certificate of this connection has expired")
        self._schedule(max(min(self._due.values(), default=inf), now + SPACING))
