"""Takes work that is cut into slices in turns: one slice in each iteration of the loop.

A client can cause more work with one read than others should wait for. Whatever else is ready is served between two
slices, and however many clients do that, one slice is all that comes in between.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Turns:
    """The queue of one event loop."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], None]) -> None:
        """Call `work` once, when it is its turn. It raises nothing, and may add itself again."""
        if not self._waiting:
            self._loop.call_soon(self._next)
        self._waiting.append(work)

    def _next(self) -> None:
        work = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._next)
        work()
