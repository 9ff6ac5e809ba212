"""Room for one request at a time: what the driver fills, whatever the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Slot(Protocol):
    """A keep-alive HTTP/1.1 connection, or one of the concurrent streams of an HTTP/2 connection."""

    begun: float
    """Belongs to the driver: the moment from which the latency of the request under way is counted, in seconds."""

    def begin(self) -> None:
        """Sends a request. The slot's `finished` is called once for it, maybe before this returns."""


Finished = Callable[[Slot, str | None], None]
"""Called with the slot whose request is over and None, or with what went wrong in a few words (few different ones: they
are counted by text)."""
