"""Clients without a certificate at a port where others have one: they come to ask for one, and go.

Each may stay for so long, whatever it says or does not say, and the oldest gives way when there is no room: nobody who
has proven nothing keeps others out. The reaper has one deadline for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.transport.h1_server import H1Server
    from meshproxy.transport.h2_server import H2Server


class Strangers:
    """Those of one port (`reaper.Expirable`).

    Args:
        seconds: for which each may stay.
        exceeded: is told of each whose time is over.
    """

    def __init__(self, seconds: float, exceeded: Callable[[], None]) -> None:
        self._seconds = seconds
        self._exceeded = exceeded
        self._due: dict[H1Server | H2Server, float] = {}
        """When each has to go; the oldest first."""
        self.deadline = 0.0

    def __len__(self) -> int:
        return len(self._due)

    def add(self, connection: H1Server | H2Server, now: float) -> None:
        """One has come. `now`: `loop.time()`."""
        self._due[connection] = now + self._seconds
        self._follow()

    def discard(self, connection: H1Server | H2Server) -> None:
        """One is gone. It need not be a stranger."""
        if self._due.pop(connection, None) is not None:
            self._follow()

    def give_way(self) -> None:
        """The oldest goes at once. There is one."""
        oldest = next(iter(self._due))
        self.discard(oldest)
        oldest.abort()

    def expire(self, now: float) -> None:
        """The time of some is over."""
        for connection in [each for each, due in self._due.items() if due <= now]:
            self._exceeded()
            self.discard(connection)
            connection.abort()

    def _follow(self) -> None:
        self.deadline = next(iter(self._due.values()), 0.0)
