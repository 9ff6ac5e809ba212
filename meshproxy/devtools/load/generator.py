"""Drives slots: as fast as they answer (closed loop), or by a schedule that waits for nobody (open loop)."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from meshproxy.devtools.load.schedule import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence

GRACE = 10.0
"""Seconds that requests under way are waited for after the last one began."""


class Slot(Protocol):
    """Room for one request at a time: a keep-alive HTTP/1.1 connection, or a stream of an HTTP/2 connection."""

    begun: float
    """Belongs to the driver: the moment from which the latency of the request under way is counted, in seconds."""

    def begin(self) -> None:
        """Sends a request. The slot's `finished` is called once for it, maybe before this returns."""


Finished = Callable[[Slot, str | None], None]
"""Called with the slot whose request is over and None, or with what went wrong in a few words (few different ones: they
are counted by text)."""


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
        """Requests begin at `starts` (seconds from now on), on whatever slot is free; without one they wait, and their
        latency counts on.

        Raises:
            OSError: the system has no exact timers.
        """
        run = Run(offered=len(starts) / starts[-1] if starts and starts[-1] > 0 else 0.0)
        clock = time.monotonic
        add_latency, add_lag = run.latencies.append, run.lags.append
        free: deque[Slot] = deque(slots)
        backlog: deque[float] = deque()
        over = asyncio.Event()
        under_way = 0
        position, count = 0, len(starts)
        loop = asyncio.get_running_loop()
        timer = Timer()

        def begin(slot: Slot, intended: float) -> None:
            nonlocal under_way
            under_way += 1
            slot.begun = intended
            add_lag(clock() - intended)
            slot.begin()

        def tick() -> None:
            nonlocal position
            timer.clear()
            now = clock()
            while position < count:
                intended = begun + starts[position]
                if intended > now:
                    timer.set(intended)
                    return
                position += 1
                if free:
                    begin(free.popleft(), intended)
                else:
                    backlog.append(intended)
            if under_way == 0:
                over.set()

        def finished(slot: Slot, error: str | None) -> None:
            nonlocal under_way
            if error is None:
                add_latency(clock() - slot.begun)
            else:
                run.errors[error] += 1
            under_way -= 1
            if error is not None:
                # A broken slot would answer everything at once: it takes no more.
                if len(free) == 0 and under_way == 0:
                    over.set()
            elif backlog:
                begin(slot, backlog.popleft())
            else:
                free.append(slot)
            if position == count and under_way == 0:
                over.set()

        self._on_finished = finished
        cpu = _own_cpu()
        begun = clock() + 0.02
        with _no_garbage_collection():
            loop.add_reader(timer.file, tick)
            timer.set(begun)
            try:
                await asyncio.wait_for(over.wait(), (starts[-1] if count else 0.0) + GRACE)
            except TimeoutError:
                pass
            finally:
                loop.remove_reader(timer.file)
                timer.close()
            run.seconds = clock() - begun
        run.unanswered = count - len(run.latencies) - run.errors.total()
        run.own_cpu = _own_cpu() - cpu
        run.done = len(run.latencies)
        self._on_finished = lambda _slot, _error: None
        return run


class _no_garbage_collection:  # noqa: N801  (reads as the statement it is)
    """Collections of a few milliseconds would be measured as latency. Whoever starts a run collects before it."""

    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
