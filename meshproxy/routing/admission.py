"""Who may call now, who waits, and who is told at once that it would be in vain: one for each route and model.

Calls beyond the limit wait here and not inside the model server, because here the important ones can go first and those
that come too late can be left out. Whoever would not be served in time is told so when it comes: an early no costs
nobody anything.
"""

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
"""The usual time of a call is a running median: each call moves it by one twentieth, up or down."""
SPARE_TIMES = 64
"""Times of waiters that are gone are swept when there are more than so many beyond those of who is there."""


class Entry(Enum):
    """What became of somebody who wanted to enter."""

    ADMITTED = "admitted"
    """It may go on, and must leave."""
    QUEUED = "queued"
    """It waits, and will be told."""
    FULL = "full"
    """Too many wait, or it has waited as long as one may: come back later."""
    TOO_LATE = "too-late"
    """It would not be, or was not, served before its deadline."""

    __hash__ = object.__hash__  # members are single: by identity, in C


class Waiter(Protocol):
    """Whoever waits. It is told once, one or the other, and must not raise: others wait behind it. It may enter, leave
    and withdraw while it is told. Hashed by identity."""

    def admitted(self) -> None:
        """Go on, and leave in the end."""

    def turned_away(self, why: Entry) -> None:
        """`FULL` or `TOO_LATE`."""


class _Place:
    """A waiter in the queue."""

    __slots__ = ("deadline", "ends", "priority", "waiter")

    def __init__(self, waiter: Waiter, priority: int, deadline: float, ends: float) -> None:
        self.waiter: Waiter | None = waiter
        """None: no longer there."""
        self.priority = priority
        self.deadline = deadline
        self.ends = ends
        """When it is sent away: at its deadline, or when it has waited as long as one may."""


_Queue: TypeAlias = OrderedDict["Waiter", _Place]


class Admission:
    """A limit, and a queue before it: bounded, by priority, aware of deadlines.

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
            limit: how many may be under way.
            queue: how many may wait.
            queue_timeout: seconds that one waits at most.
        """
        self.limit = limit
        self.in_flight = 0
        """Calls under way."""
        self.waiting = 0
        self._size = queue
        self._timeout = queue_timeout
        self._queues: tuple[_Queue, ...] = tuple(OrderedDict() for _ in range(PRIORITIES))
        self._times: list[tuple[float, int, _Place]] = []
        """A heap of when places end. Those of waiters that are gone stay until they come up, or are swept."""
        self._turn = 0
        self._usual = 0.0
        """Seconds that a call is under way, about half of the calls; 0.0: not known."""
        self._reserved = 0
        self._is_handing_out = False

    @property
    def next_expiry(self) -> float:
        """When `expire` has something to do; infinity if nobody waits."""
        times = self._times
        while times and times[0][2].waiter is None:
            heappop(times)
        return times[0][0] if times else inf

    def enter(self, waiter: Waiter, priority: int, deadline: float, now: float) -> Entry:
        """Let `waiter` in, let it wait, or turn it away. It is called back only if the answer is `QUEUED`.

        Args:
            waiter: once at a time.
            priority: 0 critical, 1 default, 2 sheddable.
            deadline: when its answer must be there; infinity if it has none.
            now: monotonic seconds.
        """
        if self.in_flight < self.limit.current and deadline > now:
            if not self.waiting:
                self.in_flight += 1
                return Entry.ADMITTED
            self._hand_out(now)  # the limit has grown since somebody left
            if self.in_flight < self.limit.current and not self.waiting:
                self.in_flight += 1
                return Entry.ADMITTED
        if deadline <= now:
            return Entry.TOO_LATE
        if not self._size:
            return Entry.FULL
        # Those ahead leave the queue one by one, each time that one of the calls under way ends.
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
            if self.in_flight < self.limit.current and not self.waiting:  # whoever was told may have made room
                self.in_flight += 1
                return Entry.ADMITTED
        ends = min(deadline, now + self._timeout)
        place = _Place(waiter, priority, deadline, ends)
        self._queues[priority][waiter] = place
        self.waiting += 1
        self._turn += 1
        heappush(self._times, (ends, self._turn, place))
        if len(self._times) > 2 * self.waiting + SPARE_TIMES:
            self._times = [entry for entry in self._times if entry[2].waiter is not None]
            heapify(self._times)
        return Entry.QUEUED

    def leave(self, seconds: float, is_ok: bool, now: float) -> None:
        """A call that was admitted is over; whoever is next may go on.

        Args:
            seconds: how long the model server had it.
            is_ok: False if the server has too much to do: it said so, or did not answer in time. Other errors are
                answers like any other.
            now: monotonic seconds.
        """
        self.limit.finished(seconds, self.in_flight, is_ok, now)
        usual = self._usual
        if is_ok:
            self._usual = seconds if usual == 0.0 else usual * STEP if seconds > usual else usual / STEP
        self.in_flight -= 1
        if self.waiting:
            self._hand_out(now)

    def cancelled(self, now: float) -> None:
        """A call that was admitted is over and says nothing about the server: its client went away, or it was never
        sent."""
        self.in_flight -= 1
        if self.waiting:
            self._hand_out(now)

    def withdraw(self, waiter: Waiter) -> None:
        """`waiter` waits no longer, and will not be told. Nothing happens if it does not wait."""
        for queue in self._queues:
            place = queue.pop(waiter, None)
            if place is not None:
                self._gone(place)
                return

    def expire(self, now: float) -> None:
        """Turn away those that have waited too long, or whose deadline has come."""
        while self.next_expiry <= now:
            place = heappop(self._times)[2]
            waiter = place.waiter
            if waiter is not None:
                del self._queues[place.priority][waiter]
                self._gone(place)
                waiter.turned_away(Entry.TOO_LATE if place.deadline <= now else Entry.FULL)

    def _gone(self, place: _Place) -> None:
        place.waiter = None
        self.waiting -= 1

    def _displace(self, priority: int) -> bool:
        """Send away whoever is less important than `priority` and has waited least. The place is kept while it is told:
        it may come back at once."""
        for queue in reversed(self._queues[priority + 1 :]):
            if queue:
                waiter, place = queue.popitem(last=True)
                self._gone(place)
                self._reserved += 1
                try:
                    waiter.turned_away(Entry.FULL)
                finally:
                    self._reserved -= 1
                return True
        return False

    def _hand_out(self, now: float) -> None:
        """Give what is free to those that wait. Whoever is told may leave at once, and so come back here: the one who
        is already handing out goes on, so that it does not nest."""
        if self._is_handing_out:
            return
        self._is_handing_out = True
        try:
            while self.waiting and self.in_flight < self.limit.current:
                queue = next(queue for queue in self._queues if queue)
                waiter, place = queue.popitem(last=False)
                self._gone(place)
                if now + self._usual >= place.deadline:
                    waiter.turned_away(Entry.TOO_LATE)
                elif now >= place.ends:
                    waiter.turned_away(Entry.FULL)
                else:
                    self.in_flight += 1
                    waiter.admitted()
        finally:
            self._is_handing_out = False
