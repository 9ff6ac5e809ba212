"""Takes work that is cut into slices in turns: one slice in each iteration of the loop.

A client can cause more work with one read than others should wait for. Whatever else is ready is served between two
slices, and its output is written before the next one: however many clients do that, one slice is all that comes in
between.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class Turns:
    """Whose turn it is, of one event loop. Its queues take turns, whatever waits in each."""

    __slots__ = ("_flush", "_is_due", "_loop", "_queues")

    def __init__(self, loop: asyncio.AbstractEventLoop, flush: Callable[[], None] = lambda: None) -> None:
        """`flush` writes the output that has been queued (`Outbox.flush`). It is called before each slice: what was
        read before that is answered by then."""
        self._loop = loop
        self._flush = flush
        self._queues: dict[TurnQueue, None] = {}
        """Those in which work waits."""
        self._is_due = False
        """`_next` is scheduled."""

    @property
    def has_work(self) -> bool:
        """Some waits, in one of the queues."""
        return bool(self._queues)

    def queue(self) -> TurnQueue:
        return TurnQueue(self)

    def time(self) -> float:
        """`loop.time()`."""
        return self._loop.time()

    def add(self, queue: TurnQueue) -> None:
        """Work waits in it."""
        self._queues[queue] = None
        self._schedule()

    def discard(self, queue: TurnQueue) -> None:
        """None does any more."""
        self._queues.pop(queue, None)

    def _schedule(self) -> None:
        if self._queues and not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._is_due = False
        self._flush()
        if self._queues:
            queue = next(iter(self._queues))
            del self._queues[queue]
            work = queue.begin()
            self._schedule()
            work()
            queue.since = inf


class TurnQueue:
    """Work of one kind that waits for its turn."""

    __slots__ = ("_turns", "_waiting", "since")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waiting: dict[Callable[[], None], float] = {}
        """And `loop.time()` since which each has always had work left over."""
        self.since = inf
        """The same of the one whose turn it is; `inf` between two turns."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, work: Callable[[], None]) -> None:
        """Call `work` once, when it is its turn. It raises nothing, and may add itself again: it has waited for as long
        as before then."""
        if work not in self._waiting:
            self._waiting[work] = min(self.since, self._turns.time())
        self._turns.add(self)

    def discard(self, work: Callable[[], None]) -> None:
        """Do not call it. Does nothing if it does not wait."""
        self._waiting.pop(work, None)
        if not self._waiting:
            self._turns.discard(self)

    def begin(self) -> Callable[[], None]:
        """The turn of the first, which the caller calls. `since` is its own until the caller says otherwise."""
        work = next(iter(self._waiting))
        self.since = self._waiting.pop(work)
        if self._waiting:
            self._turns.add(self)
        return work
