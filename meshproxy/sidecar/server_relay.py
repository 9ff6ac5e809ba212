"""Relays the model server's metrics page on the sidecar's own, so that a scraper has one port to read.

The page says which models there are, and how often each is called: on the inbound port it takes the verb `metrics`. The
admin port knows no callers, so the same policy is asked for a caller without an identity: only bindings by
address permit it. Whoever may not read it gets the sidecar's own page.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from meshproxy.inference.tfserving_metrics import PageError
from meshproxy.sidecar.server_page import NoPage, endpoints_of, feed, read_page
from meshproxy.telemetry.relayed_page import RelayedPage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshproxy.telemetry.metrics import Counter
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint

RELAY_SECONDS = 3.0
"""Until a scraper gets the sidecar's page without the model server's. Prometheus waits for ten seconds by default."""
SECONDS_BETWEEN_MESSAGES = 60.0

logger = logging.getLogger(__name__)


class ServerRelay:
    """The page of one `ModelServer`.

    Args:
        server: its name.
        path: of the page.
        clusters: those in use.
        permits: whether someone without an identity may read it, by the address `HOST:PORT`.
        relays: counts, by result.
        read: the page of an endpoint; raises NoPage.
        clock: seconds; spaces the log messages.
    """

    def __init__(
        self,
        server: str,
        path: str,
        clusters: Callable[[], Sequence[Cluster]],
        permits: Callable[[str], bool],
        relays: Counter,
        *,
        read: Callable[[Endpoint, bytes, float], Awaitable[bytes]] = read_page,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._path = path.encode()
        self._clusters = clusters
        self._permits = permits
        self._relays = relays
        self._read = read
        self._clock = clock
        self._reading: asyncio.Task[RelayedPage] | None = None
        self._logged: dict[str, float] = {}

    async def page(self, remote: str) -> RelayedPage | None:
        """The page for a scraper at this address; None if it may not read it, or there is none. One request to the
        model server at a time, however many want it."""
        if not self._permits(remote):
            self._count("denied", f"no binding permits the verb metrics to {remote.rpartition(':')[0]}")
            return None
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._fetch())
            self._reading.add_done_callback(self._ended)
        reading = self._reading
        await asyncio.wait((reading,))  # not awaited itself: a scraper that leaves must not cancel it for others
        try:
            found = reading.result()
        except NoPage as problem:
            self._count(problem.result, str(problem))
            return None
        except Exception as error:
            self._count("failed", f"internal error: {error!r}")
            return None
        self._count("ok", "")
        return found

    def _ended(self, task: asyncio.Task[RelayedPage]) -> None:
        self._reading = None

    async def _fetch(self) -> RelayedPage:
        """Raises NoPage."""
        endpoints = endpoints_of(self._server, self._clusters())
        if len(endpoints) != 1:
            raise NoPage("failed", f"{self._server} has {len(endpoints)} endpoints: one has a page that can be relayed")
        relayed = RelayedPage()
        try:
            await feed(relayed, await self._read(endpoints[0], self._path, RELAY_SECONDS))
        except PageError as error:
            raise NoPage("unusable", str(error)) from error
        return relayed

    def _count(self, result: str, problem: str) -> None:
        self._relays.labels(result).value += 1
        now = self._clock()
        if problem and now - self._logged.get(result, -SECONDS_BETWEEN_MESSAGES) >= SECONDS_BETWEEN_MESSAGES:
            self._logged[result] = now
            fields = {"server": self._server, "problem": problem}
            logger.warning("the model server's metrics page is not relayed", extra={"fields": fields})
