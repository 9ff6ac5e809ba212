"""Sheds requests while the processor cannot keep up and clients give up waiting.

Served in order, more requests than the process can carry wait ever longer, until every one is served for a client that
has just left: the process works at full speed and for nobody (goodput fell to 2 % of the peak). Only refusing helps, at
once and for much less than serving costs, so that what is taken is answered soon and nothing else waits.

Nothing is refused because there is much to do: a patient client may have a thousand calls waiting. Shedding begins when
a tenth of the requests are reset by clients and the processor is busy all the time, and ends when for a second there
was nothing to refuse. Only requests of clients that give up are shed (`Patience`): who keeps the processor busy and
resets requests, out of malice or not, does not make others lose theirs.

While it lasts, requests come out of a token bucket, filled at the rate at which they were served when it began. That
rate is corrected by what it leads to. When a connection has always had input left over from its reads for `OLD`
seconds, what comes is old: all that the connection sends is refused until nothing is left over. When most of what comes
is old, too much was admitted, and the rate is lowered. Otherwise it is raised. So the processor is never idle, and
whoever is served has not waited for longer than that.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.codec.grpc import has_grpc
from meshproxy.codec.h2.patience import GIVEN_UP_SHARE

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meshproxy.codec.events import Headers
    from meshproxy.codec.h2.budgets import Statistics
    from meshproxy.codec.h2.joined import Client
    from meshproxy.transport.turns import TurnQueue

logger = logging.getLogger(__name__)

PERIOD = 0.25
"""Seconds between two looks at the counters."""
GIVEN_UP_LEAST = 25
"""Requests that clients reset, in a period, and `GIVEN_UP_SHARE` of all: chance and hedging stay below both."""
BUSY_SHARE = 0.9
"""Of a period that the thread ran, or waited for a processor."""
SHEDDING_PERIOD = 0.05
"""The same while requests are shed."""
BURST_SECONDS = 0.05
"""Requests come in bursts: what is not used of the rate for so long may be used at once."""
KEPT = 0.95
"""What a period counts for in the next one, when it is asked at which rate requests were served: in the last one before
shedding begins much of the time goes into reading what waits."""
REFILL_SECONDS = 0.02
"""Between two times that the bucket is filled. A few requests among many that are refused have a write and a read of
the server each, which many in a row share: they take three times as long."""
OLD = 0.01
"""Seconds for which a connection has had input left over, from which on what it sends is refused until it has none."""
LATE = 0.06
"""Seconds by which the event loop may come late to a look: the length of its iterations. Where many connections have
one request each, none has input left over."""
DRAIN_SECONDS = 3.0
"""The longest time for which what is old is refused, and then not."""
RAISED, LOWERED = 1.02, 0.95
"""For each look, and for the first at which most of what had come was old. One connection that is always behind does
not keep the rate down."""
LEAST_SHARE = 0.25
"""Of the first rate: where refusing alone takes all the time, less would not help."""
LEAST_RATE = 1 / BURST_SECONDS
"""Requests a second. Of less the bucket never holds one: in the period before, none may have come at all."""
CALM_SECONDS = 1.0
"""Without a refusal, after which nothing is shed any more."""


class Overload:
    """Whether requests are shed at present, of one event loop and direction. Watched by the reaper
    (`reaper.Expirable`)."""

    __slots__ = (
        "_begun",
        "_busy",
        "_busy_seconds",
        "_calm_since",
        "_carried",
        "_first_rate",
        "_given_up",
        "_loop",
        "_number",
        "_old",
        "_on_limit",
        "_rate",
        "_refilled",
        "_refused",
        "_room",
        "_seen",
        "_statistics",
        "_turns",
        "_was_old",
        "_young",
        "deadline",
        "is_shedding",
        "refused",
        "responses",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turns: TurnQueue,
        statistics: Statistics,
        on_limit: Callable[[str], None] = lambda limit: None,
        busy_seconds: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            turns: connections with input left over from a read.
            statistics: of the connections of clients.
            on_limit: called with `overload` for each request that is refused.
            busy_seconds: how long this thread has run or waited for a processor, in all.
        """
        self._loop = loop
        self._turns = turns
        self._statistics = statistics
        self._on_limit = on_limit
        self._busy_seconds = busy_seconds or thread_busy_seconds
        self.is_shedding = False
        self._number = 0
        """How many times it has begun."""
        self.refused = 0
        """Requests, in all."""
        self.responses: tuple[Headers, Headers] = (), ()
        """The fields of the response to a gRPC call, which has the status 200, and to any other request."""
        self.deadline = PERIOD
        # At the last look; the first only sees what is there.
        self._seen = self._busy = 0.0
        self._begun = self._given_up = self._refused = 0
        self._calm_since = 0.0
        self._carried = 0.0
        """Requests a second, the most of the last periods."""
        # The token bucket.
        self._rate = self._first_rate = 0.0
        self._room = 0.0
        self._refilled = 0.0
        self._old = self._young = 0
        """Requests since the last look that were, and were not."""
        self._was_old = False
        """Most of those before it were."""

    def admits(self, client: Client) -> bool:
        """Whether the request that has come is begun, while requests are shed. False: refuse it. Requests of a client
        that does not give up are begun."""
        patience = client.patience
        if patience is None:
            return True
        now = self._loop.time()
        if patience.shed_in != self._number:
            if not patience.is_short(client.requests, now):
                return True
            patience.shed_in = self._number
        if not self._is_old(now):
            passed = now - self._refilled
            if passed >= REFILL_SECONDS:
                self._refilled = now
                self._room = min(self._room + passed * self._rate, self._rate * BURST_SECONDS)
            if self._room >= 1.0:
                self._room -= 1.0
                return True
        self.refused += 1
        self._on_limit("overload")
        return False

    def refusal(self, headers: Headers) -> tuple[int, Headers]:
        """Status and fields of the response to a request with these fields that is not begun."""
        grpc, other = self.responses
        return (200, grpc) if has_grpc(headers) else (503, other)

    def _is_old(self, now: float) -> bool:
        """Whether the connection whose turn it is sent this long ago, and it is refused for that."""
        too_old = now - self._turns.since - OLD
        if too_old < 0.0:
            self._young += 1
            return False
        self._old += 1
        return too_old % (2 * DRAIN_SECONDS) < DRAIN_SECONDS

    def _lower(self) -> None:
        """More was admitted than there is time for."""
        self._rate = max(LOWERED * self._rate, LEAST_SHARE * self._first_rate, LEAST_RATE)

    def expire(self, now: float) -> None:
        """Look at what has happened since the last time (`reaper.Expirable`)."""
        statistics = self._statistics
        seconds, self._seen = now - self._seen, now
        busy, self._busy = -self._busy, self._busy_seconds()
        busy += self._busy
        requests, self._begun = statistics.requests - self._begun, statistics.requests
        given_up = statistics.resets_received + statistics.resets_late + statistics.resets_waiting
        resets, self._given_up = given_up - self._given_up, given_up
        is_busy = busy >= BUSY_SHARE * seconds
        if self.is_shedding:
            self._correct(now, seconds - SHEDDING_PERIOD)
        else:
            self._carried = max(requests / seconds, KEPT * self._carried)
            if is_busy and resets >= GIVEN_UP_LEAST and resets >= GIVEN_UP_SHARE * requests:
                self._begin(now)
                fields = {"requests": requests, "given_up": resets, "seconds": round(seconds, 2)}
                logger.warning(
                    "overloaded: clients give up before they are served, and new requests are refused: add replicas, "
                    "processors or workers",
                    extra={"fields": fields},
                )
        self.deadline = now + (SHEDDING_PERIOD if self.is_shedding else PERIOD)

    def _begin(self, now: float) -> None:
        self.is_shedding = True
        self._number += 1
        self._calm_since = now
        self._rate = self._first_rate = max(self._carried, LEAST_RATE)
        self._room = 0.0
        self._refilled = now
        self._was_old = True
        self._refused = self.refused

    def _correct(self, now: float, late: float) -> None:
        """Set the rate by its effect, or end."""
        refused, self._refused = self.refused - self._refused, self.refused
        is_old, was_old = self._old > self._young, self._was_old
        self._was_old = is_old
        self._old = self._young = 0
        if refused:
            self._calm_since = now
            if late > LATE or (is_old and not was_old):
                self._lower()
            elif not is_old:
                self._rate *= RAISED
        elif now - self._calm_since >= CALM_SECONDS:
            self.is_shedding = False
            logger.warning("no longer overloaded", extra={"fields": {"refused": self.refused}})


def thread_busy_seconds() -> float:
    """How long this thread has run, and, where Linux tells it, has waited for a processor (proc(5), schedstat)."""
    try:
        ran, waited, _ = Path("/proc/thread-self/schedstat").read_bytes().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran) + int(waited)) / 1e9
