"""Which endpoints may be values of a label: pods come and go, and each has an address of its own.

So many have series of their own, those that were there last; the others are `_other`. The series of one that is gone
stay as long as there is room, since a counter that is taken away looks to Prometheus like one that fell.
"""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.telemetry.metrics import OTHER

MOST_ENDPOINTS = 256
"""Of all servers together: more pods than one client of theirs can do with."""


class EndpointLabels:
    """The label `endpoint`.

    Args:
        forget: told server and endpoint whose series make room.
        most: how many have series of their own.
    """

    def __init__(self, forget: Callable[[str, str], None], most: int = MOST_ENDPOINTS) -> None:
        self._forget = forget
        self._most = most
        self._known: dict[tuple[str, str], None] = {}
        self._gone: dict[tuple[str, str], None] = {}
        """Of those, the ones that are gone, the longest first."""

    def read(self, server: str, endpoint: str) -> str:
        """The value of the label for an endpoint that counts for something."""
        key = (server, endpoint)
        if key not in self._known:
            if len(self._known) >= self._most:
                oldest = next(iter(self._gone), None)
                if oldest is None:
                    return OTHER
                del self._gone[oldest], self._known[oldest]
                self._forget(*oldest)
            self._known[key] = None
        return endpoint

    def come(self, server: str, endpoint: str) -> None:
        """It is there, perhaps again."""
        self._gone.pop((server, endpoint), None)

    def gone(self, server: str, endpoint: str) -> None:
        """It is not there any more."""
        if (server, endpoint) in self._known:
            self._gone[server, endpoint] = None
