"""Which endpoints may be label values: pods are replaced, and each has its own address.

A bounded number of endpoints has its own series; the others are `_other`. The series of removed endpoints are kept
as long as there is room, and evicted in the order of removal.
"""

from __future__ import annotations

from collections.abc import Callable

from meshproxy.telemetry.metrics import OTHER

MOST_ENDPOINTS = 256
"""Of all servers together."""


class EndpointLabels:
    """The label `endpoint`.

    Args:
        forget: called with the server and endpoint whose series are evicted.
        most: the maximum number of endpoints with their own series.
    """

    def __init__(self, forget: Callable[[str, str], None], most: int = MOST_ENDPOINTS) -> None:
        self._forget = forget
        self._most = most
        self._known: dict[tuple[str, str], None] = {}
        self._removed: dict[tuple[str, str], None] = {}
        """Removed endpoints that still have series, in the order of removal."""

    def read(self, server: str, endpoint: str) -> str:
        """The value of the label for an endpoint."""
        key = (server, endpoint)
        if key not in self._known:
            if len(self._known) >= self._most:
                oldest = next(iter(self._removed), None)
                if oldest is None:
                    return OTHER
                del self._removed[oldest], self._known[oldest]
                self._forget(*oldest)
            self._known[key] = None
        return endpoint

    def added(self, server: str, endpoint: str) -> None:
        self._removed.pop((server, endpoint), None)

    def removed(self, server: str, endpoint: str) -> None:
        if (server, endpoint) in self._known:
            self._removed[server, endpoint] = None
