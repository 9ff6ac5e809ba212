"""Admission control: a concurrency limit and a priority queue before it, one for each route and model.

Calls beyond the limit wait here and not inside the model server, because here higher priorities go first and calls
whose deadline has passed are dropped. A call that would miss its deadline is refused when it arrives, when that costs
least."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from meshproxy.routing.concurrency import Limit

PRIORITIES = 3
"""0 critical, 1 default, 2 sheddable."""
STEP = 1.05
"""The usual duration is a running median: each call moves it by one twentieth, up or down."""
SPARE_TIMES = 64
"""Heap entries of waiters that left are swept when there are this many more of them than of present ones."""


class Entry(Enum):
    """The outcome of `enter`, and of waiting."""

    ADMITTED = "admitted"
    """It may proceed, and must `leave` or be `cancelled`."""
    QUEUED = "queued"
    """It waits, and will be called back."""
    FULL = "full"
    """The queue is full, or its queue timeout is over: retry later."""
    TOO_LATE = "too-late"
    """It would miss its deadline, or has missed it."""

    __hash__ = object.__hash__  # members are single: by identity, in C


class Waiter(Protocol):
    """A call in the queue. One of the methods is called, once, and must not raise: others wait behind it. It may call
    `enter`, `leave` and `withdraw` meanwhile. Hashed by identity."""

    def admitted(self) -> None:
        """Proceed, and `leave` at the end."""

    def rejected(self, why: Entry) -> None:
        """`FULL` or `TOO_LATE`."""


class _QueueEntry:
    """A waiter in the queue."""

    __slots__ = ("deadline", "ends", "priority", "waiter")

    def __init__(self, waiter: Waiter, priority: int, deadline: float, ends: float) -> None:
        self.waiter: Waiter | None = waiter
        """None: it has left the queue."""
        self.priority = priority
        self.deadline = deadline
        self.ends = ends
        """When it is rejected: at its deadline, or at the end of the queue timeout."""


_Queue: TypeAlias = OrderedDict["Waiter", _QueueEntry]


class Admission:
    """A concurrency limit and a bounded queue before it, with priorities and deadlines.

    A call that finds room costs 0.3 us, entering and leaving, with a `FixedLimit`, and 0.45 us with a `GradientLimit`;
    one that waits costs 1.8 us, and one that finds the queue full 0.6 us.
    """

    __slots__ = (
        "_is_handing_out", "_queues", "_reserved", "_size", "_timeout", "_times", "_turn", "_usual", "in_flight",
        "limit", "waiting",
    )  # fmt: skip

    def __init__(self, limit: Limit, queue: int, queue_timeout: float) -> None:
        """
        Args:
            limit: the concurrency limit.
            queue: the length of the queue.
            queue_timeout: the longest wait in seconds.
        """
        self.limit = limit
        self.in_flight = 0
        """Calls in flight."""
        self.waiting = 0
        self._size = queue
        self._timeout = queue_timeout
        self._queues: tuple[_Queue, ...] = tuple(OrderedDict() for _ in range(PRIORITIES))
        self._times: list[tuple[float, int, _QueueEntry]] = []
        """A heap of the ends of places. Entries of waiters that left stay until they come up, or are swept."""
        self._turn = 0
        self._usual = 0.0
        """The median duration of a call in seconds; 0.0: not known."""
        self._reserved = 0
        self._is_handing_out = False

    @property
    def next_expiry(self) -> float:
        """When `expire` has something to do; infinity if no call waits."""
        times = self._times
        while times and times[0][2].waiter is None:
            heappop(times)
        return times[0][0] if times else inf

    def enter(self, waiter: Waiter, priority: int, deadline: float, now: float) -> Entry:
        """Admit `waiter`, queue it, or reject it. It is called back only if the result is `QUEUED`.

        Args:
            waiter: once at a time.
            priority: 0 critical, 1 default, 2 sheddable.
            deadline: when its response must be complete; infinity if it has none.
            now: monotonic seconds.
        """
        if self.in_flight < self.limit.current and deadline > now:
            if not self.waiting:
                self.in_flight += 1
                return Entry.ADMITTED
            self._admit_next(now)  # the limit has grown since a call left
            if self.in_flight < self.limit.current and not self.waiting:
                self.in_flight += 1
                return Entry.ADMITTED
        if deadline <= now:
            return Entry.TOO_LATE
        if not self._size:
            return Entry.FULL
        # Those ahead leave the queue one by one, each time a call in flight ends.
        usual = self._usual
        ahead = sum([len(queue) for queue in self._queues[: priority + 1]])
        wait = (ahead + 1) * usual / self.limit.current
        if now + wait + usual > deadline:
            return Entry.TOO_LATE
        if wait > self._timeout:
            return Entry.FULL
        if self.waiting + self._reserved >= self._size:
            if not self._displace(priority):
                return Entry.FULL
            if self.in_flight < self.limit.current and not self.waiting:  # the evicted waiter may have freed a slot
                self.in_flight += 1
                return Entry.ADMITTED
        ends = min(deadline, now + self._timeout)
        place = _QueueEntry(waiter, priority, deadline, ends)
        self._queues[priority][waiter] = place
        self.waiting += 1
        self._turn += 1
        heappush(self._times, (ends, self._turn, place))
        if len(self._times) > 2 * self.waiting + SPARE_TIMES:
            self._times = [entry for entry in self._times if entry[2].waiter is not None]
            heapify(self._times)
        return Entry.QUEUED

    def leave(self, seconds: float, is_ok: bool, now: float) -> None:
        """An admitted call has ended; admit the next ones.

        Args:
            seconds: how long the model server had it.
            is_ok: False if the server is overloaded: it refused, or did not answer in time. Other errors count as
                answers.
            now: monotonic seconds.
        """
        self.limit.finished(seconds, self.in_flight, is_ok, now)
        usual = self._usual
        if is_ok:
            self._usual = seconds if usual == 0.0 else usual * STEP if seconds > usual else usual / STEP
        self.in_flight -= 1
        if self.waiting:
            self._admit_next(now)

    def cancelled(self, now: float) -> None:
        """An admitted call has ended and says nothing about the server: its client cancelled it, or it was never
        sent."""
        self.in_flight -= 1
        if self.waiting:
            self._admit_next(now)

    def withdraw(self, waiter: Waiter) -> None:
        """Remove `waiter` from the queue without a callback. Nothing happens if it is not queued."""
        for queue in self._queues:
            place = queue.pop(waiter, None)
            if place is not None:
                self._gone(place)
                return

    def expire(self, now: float) -> None:
        """Reject calls whose queue timeout or deadline has passed."""
        while self.next_expiry <= now:
            place = heappop(self._times)[2]
            waiter = place.waiter
            if waiter is not None:
                del self._queues[place.priority][waiter]
                self._gone(place)
                waiter.rejected(Entry.TOO_LATE if place.deadline <= now else Entry.FULL)

    def _gone(self, place: _QueueEntry) -> None:
        place.waiter = None
        self.waiting -= 1

    def _displace(self, priority: int) -> bool:
        """Evict the newest call of the lowest priority below `priority`. Its place stays reserved during the callback:
        the evicted call may enter again at once."""
        for queue in reversed(self._queues[priority + 1 :]):
            if queue:
                waiter, place = queue.popitem(last=True)
                self._gone(place)
                self._reserved += 1
                try:
                    waiter.rejected(Entry.FULL)
                finally:
                    self._reserved -= 1
                return True
        return False

    def _admit_next(self, now: float) -> None:
        """Admit waiting calls up to the limit. A call may leave during its callback and so come back here: the outer
        loop continues then, so that calls do not nest."""
        if self._is_handing_out:
            return
        self._is_handing_out = True
        try:
            while self.waiting and self.in_flight < self.limit.current:
                queue = next(queue for queue in self._queues if queue)
                waiter, place = queue.popitem(last=False)
                self._gone(place)
                if now + self._usual >= place.deadline:
                    waiter.rejected(Entry.TOO_LATE)
                elif now >= place.ends:
                    waiter.rejected(Entry.FULL)
                else:
                    self.in_flight += 1
                    waiter.admitted()
        finally:
            self._is_handing_out = False
