"""Takes work that is cut into slices in turns: one slice in each iteration of the loop.

A client can cause more work with one read than others should wait for. Whatever else is ready is served between two
slices, and however many clients do that, one slice is all that comes in between.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Turns:
    """The queue of one event loop."""

    __slots__ = ("_is_due", "_loop", "_waiting", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Callable[[], None], float] = {}
        """And `loop.time()` since which each has always had work left over."""
        self._is_due = False
        """`_next` is scheduled."""
        self.since = inf
        """The same of the one whose turn it is; `inf` between two turns."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], None]) -> None:
        """Call `work` once, when it is its turn. It raises nothing, and may add itself again: it has waited for as long
        as before then."""
        if work not in self._waiting:
            self._waiting[work] = min(self.since, self._loop.time())
        self._schedule()

    def discard(self, work: Callable[[], None]) -> None:
        """Do not call it. Does nothing if it does not wait."""
        self._waiting.pop(work, None)

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._is_due = False
        if self._waiting:
            work = next(iter(self._waiting))
            self.since = self._waiting.pop(work)
            self._schedule()
            work()
            self.since = inf
