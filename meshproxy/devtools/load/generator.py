"""Drives slots: as fast as they answer (closed loop), or by a schedule that does not wait for answers (open loop)."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from meshproxy.devtools.load.schedule import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence

GRACE = 10.0
"""Seconds without a single answer after which requests in flight are given up, once the last one was due."""


class Slot(Protocol):
    """Room for one request at a time: a keep-alive HTTP/1.1 connection, or a stream of an HTTP/2 connection."""

    begun: float
    """Belongs to the driver: the time from which the latency of the request in flight is counted, in seconds."""

    def begin(self) -> None:
        """Sends a request. The slot's `finished` is called once for it, maybe before this returns."""


Finished = Callable[[Slot, str | None], None]
"""Called with the slot whose request is over and None, or a short error. Errors are counted by text: there must be few
different ones."""


@dataclass(slots=True)
class Run:
    """What one run measured. Times are seconds; `latencies` has one entry per answered request, in that order."""

    offered: float | None
    """Requests per second that the schedule asked for, up to its last one; None in a closed loop."""
    seconds: float = 0.0
    """From the first start to the last answer (closed loop: to the deadline)."""
    latencies: array[float] = field(default_factory=lambda: array("d"))
    """From the intended start (open loop) or from the start (closed loop) to the last byte of the answer."""
    lags: array[float] = field(default_factory=lambda: array("d"))
    """Open loop: how late requests started, from waiting for a free slot or for this process."""
    done: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    own_cpu: float = 0.0
    """CPU seconds that the generator itself took."""

    @property
    def achieved(self) -> float:
        """Answered requests per second."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """Requests that ended in an error, or were not answered."""
        return self.errors.total() + self.unanswered

    @property
    def is_clean(self) -> bool:
        """There were calls, and every one was answered well."""
        return self.done > 0 and not self.failed


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Driver:
    """Fills slots for one run. The slots' `finished` must be `finished` of this object, set by `attach`."""

    def __init__(self) -> None:
        self._on_finished: Finished = lambda _slot, _error: None

    def finished(self, slot: Slot, error: str | None) -> None:
        """What slots call."""
        self._on_finished(slot, error)

    def hand_to(self, finished: Finished) -> None:
        """Somebody else fills the slots, and is called from now on."""
        self._on_finished = finished

    async def run_closed(self, slots: Sequence[Slot], duration: float, at_most: int | None = None) -> Run:
        """Every slot begins again as soon as it is answered, for `duration` seconds or until `at_most` requests (but at
        least one for each slot) have been."""
        run = Run(offered=None)
        clock = time.monotonic
        add = run.latencies.append
        over = asyncio.Event()
        busy = len(slots)
        left = at_most - len(slots) if at_most is not None else 1 << 62

        def finished(slot: Slot, error: str | None) -> None:
            nonlocal busy, left
            now = clock()
            if error is None:
                add(now - slot.begun)
            else:
                run.errors[error] += 1
            if now < deadline and left > 0 and error is None:
                left -= 1
                slot.begun = now
                slot.begin()
            else:
                busy -= 1
                if busy == 0:
                    over.set()

        self._on_finished = finished
        cpu = _own_cpu()
        begun = clock()
        deadline = begun + duration
        with _no_garbage_collection():
            for slot in slots:
                slot.begun = clock()
                slot.begin()
            try:
                await asyncio.wait_for(over.wait(), duration + GRACE)
            except TimeoutError:
                run.unanswered = busy
            run.seconds = clock() - begun
        run.own_cpu = _own_cpu() - cpu
        run.done = len(run.latencies)
        self._on_finished = lambda _slot, _error: None
        return run

    async def run_open(self, slots: Sequence[Slot], starts: array[float]) -> Run:
        """Requests begin at `starts` (seconds from now) on a free slot; while none is free they wait, which counts as
        latency.

        Raises:
            OSError: the system has no exact timers.
        """
        schedule = _Schedule(slots, starts)
        run = schedule.run
        self._on_finished = schedule.finished
        cpu = _own_cpu()
        begun = time.monotonic() + 0.02
        with _no_garbage_collection():
            await schedule.play(begun)
            run.seconds = time.monotonic() - begun
        run.unanswered = len(starts) - len(run.latencies) - run.errors.total()
        run.own_cpu = _own_cpu() - cpu
        run.done = len(run.latencies)
        self._on_finished = lambda _slot, _error: None
        return run


class _Schedule:
    """The requests of an open loop: which begin when, on which slot, and which wait for one."""

    def __init__(self, slots: Sequence[Slot], starts: array[float]) -> None:
        self.run = Run(offered=len(starts) / starts[-1] if starts and starts[-1] > 0 else 0.0)
        self._starts = starts
        self._position = 0
        """How many have begun or wait in the backlog."""
        self._free: deque[Slot] = deque(slots)
        self._backlog: deque[float] = deque()
        """When each waiting request should have begun."""
        self._in_flight = 0
        self._timer = Timer()
        self._begun = 0.0
        self._over = asyncio.Event()

    async def play(self, begun: float) -> None:
        """Begins all requests, relative to `begun`, and returns when the last is finished, or when nothing more is: a
        machine that is slower than the schedule only takes longer."""
        loop = asyncio.get_running_loop()
        self._begun = begun
        loop.add_reader(self._timer.file, self._tick)
        self._timer.set(begun)
        due = begun + (self._starts[-1] if self._starts else 0.0)
        before = -1
        try:
            while not self._over.is_set() and (self._count() > before or time.monotonic() < due):
                before = self._count()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), GRACE)
        finally:
            loop.remove_reader(self._timer.file)
            self._timer.close()

    def _count(self) -> int:
        """How many are finished."""
        return len(self.run.latencies) + self.run.errors.total()

    def _tick(self) -> None:
        self._timer.clear()
        now = time.monotonic()
        starts, count = self._starts, len(self._starts)
        while self._position < count:
            intended = self._begun + starts[self._position]
            if intended > now:
                self._timer.set(intended)
                return
            self._position += 1
            if self._free:
                self._begin(self._free.popleft(), intended)
            else:
                self._backlog.append(intended)
        if self._in_flight == 0:
            self._over.set()

    def _begin(self, slot: Slot, intended: float) -> None:
        self._in_flight += 1
        slot.begun = intended
        self.run.lags.append(time.monotonic() - intended)
        slot.begin()

    def finished(self, slot: Slot, error: str | None) -> None:
        self._in_flight -= 1
        if error is not None:
            # The slot is not used again: a broken one would fail everything at once.
            self.run.errors[error] += 1
            if not self._free and self._in_flight == 0:
                self._over.set()
        else:
            self.run.latencies.append(time.monotonic() - slot.begun)
            if self._backlog:
                self._begin(slot, self._backlog.popleft())
            else:
                self._free.append(slot)
        if self._position == len(self._starts) and self._in_flight == 0:
            self._over.set()


class _no_garbage_collection:  # noqa: N801  (reads as the statement it is)
    """Collections of a few milliseconds would be measured as latency. The caller collects before a run."""

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
