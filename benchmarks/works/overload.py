"""Goodput at twice the capacity: calls that come whether or not the last one was answered, of clients that give up.

Served in order, each call waits until its client has left, and the proxy works at full speed for nobody. What counts is
what is answered in time, of what the same proxy carries when clients wait for answers.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, ClassVar, cast

from benchmarks.works.work import Failed, Figures, Load, Pace, Work, sound
from meshproxy.devtools.load.figures import percentiles
from meshproxy.devtools.load.schedule import Timer, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running
    from meshproxy.devtools.load.generator import Slot
    from meshproxy.devtools.load.grpc import GrpcSlot

TIMES = 2.0
"""Offered, of the capacity."""
PATIENCE = 1.0
"""Seconds after which a client gives up, with RST_STREAM or before it has sent anything."""
CLOSED_SLOTS = 64
"""Calls at once of the closed loop that finds the capacity."""
LEAST_SECONDS = 8.0
SETTLED = 4.0
"""Seconds after which a proxy should have noticed."""
AFTERWARDS = 50
"""Calls one after the other, a second after the last of the overload."""
TICK = 0.0005
"""Seconds between two looks at who has come, at least."""


@dataclass(frozen=True, slots=True)
class OverloadWork(Work):
    """The proxy has half of its core, so that load and model server on the other one have time for more than it can
    carry."""

    headline = ("goodput", "goodput_settled", "p99_ms", "refusal_ms", "failed_after")
    is_fresh: ClassVar[bool] = True
    at_most_rounds: ClassVar[int | None] = 3

    @property
    def question(self) -> str:
        return f"goodput at {TIMES:.0f} x capacity, clients give up after {PATIENCE:g} s: {self.traffic}"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        neighbour = context.start_neighbour()
        try:
            async with Load(context, running, self.traffic) as load:
                slots = load.slots
                some = slots[:: max(1, len(slots) // CLOSED_SLOTS)]
                sound(await load.driver.run_closed(some, pace.warm_up))
                capacity = sound(await load.driver.run_closed(some, max(2.0, pace.duration / 2))).achieved
                seconds = max(LEAST_SECONDS, pace.duration)
                crowd = Crowd(cast("Sequence[GrpcSlot]", slots))
                load.driver.hand_to(crowd.finished)
                await crowd.play(uniform(TIMES * capacity, seconds))
                await asyncio.sleep(PATIENCE)
            async with Load(context, running, self.traffic) as load:
                after = await load.driver.run_closed(load.slots[:1], 5.0, at_most=AFTERWARDS)
        finally:
            neighbour.stop()
        if not crowd.answers:
            raise Failed("no call was answered in time")
        settled = sum(1 for due, _ in crowd.answers if due >= SETTLED)
        latencies = [latency for _, latency in crowd.answers]
        figures = {
            "goodput": len(crowd.answers) / seconds / capacity,
            "goodput_settled": settled / (seconds - SETTLED) / capacity,
            "capacity_per_second": capacity,
            "given_up": float(crowd.given_up),
            "refused": float(len(crowd.refusals)),
            "lost": float(crowd.lost),
            "failed_after": float(after.failed),
        }
        figures |= {f"p{share:g}_ms": value * 1e3 for share, value in percentiles(array("d", latencies)).items()}
        if crowd.refusals:
            figures["refusal_ms"] = median(crowd.refusals) * 1e3
        return figures


@dataclass(slots=True)
class Crowd:
    """Clients that come on time, wait for a free stream, and give up `PATIENCE` seconds after they came."""

    slots: Sequence[GrpcSlot]
    answers: list[tuple[float, float]] = field(default_factory=list)
    """When it was due, in seconds from the beginning, and how long it took from then on: of calls answered well."""
    refusals: list[float] = field(default_factory=list)
    """How long those took from when they were sent that were answered, but not well."""
    given_up: int = 0
    lost: int = 0
    """Under way on a connection that the proxy closed; it is not opened again."""
    _free: deque[GrpcSlot] = field(default_factory=deque)
    _waiting: deque[float] = field(default_factory=deque)
    _under_way: dict[GrpcSlot, tuple[float, float]] = field(default_factory=dict)
    """When each was due, and when it was sent; in the order in which they were."""
    _begun: float = 0.0

    def finished(self, slot: Slot, error: str | None) -> None:
        slot = cast("GrpcSlot", slot)
        due, sent = self._under_way.pop(slot)
        now = time.monotonic()
        if error is None:
            self.answers.append((due - self._begun, now - due))
        elif slot.is_open:
            self.refusals.append(now - sent)
        else:
            self.lost += 1
        self._free.append(slot)
        self._fill(now)

    async def play(self, starts: array[float]) -> None:
        """All calls, until the last has been answered or has given up."""
        self._free.extend(self.slots)
        loop = asyncio.get_running_loop()
        timer = Timer()
        over = asyncio.Event()
        position = 0
        self._begun = time.monotonic() + 0.02

        def tick() -> None:
            nonlocal position
            timer.clear()
            now = time.monotonic()
            while position < len(starts) and self._begun + starts[position] <= now:
                self._waiting.append(self._begun + starts[position])
                position += 1
            self._leave(now)
            self._fill(now)
            if position < len(starts):
                timer.set(max(self._begun + starts[position], now + TICK))
            elif self._under_way or self._waiting:
                timer.set(now + TICK)
            else:
                over.set()

        loop.add_reader(timer.file, tick)
        timer.set(self._begun)
        try:
            await over.wait()
        finally:
            loop.remove_reader(timer.file)
            timer.close()

    def _fill(self, now: float) -> None:
        while self._waiting and self._free:
            slot = self._free.popleft()
            if slot.is_open:
                self._under_way[slot] = self._waiting.popleft(), now
                slot.begin()

    def _leave(self, now: float) -> None:
        """Those that have waited for long enough."""
        while self._waiting and now - self._waiting[0] >= PATIENCE:
            self._waiting.popleft()
            self.given_up += 1
        while self._under_way:
            slot = next(iter(self._under_way))
            if now - self._under_way[slot][0] < PATIENCE:
                return
            del self._under_way[slot]
            slot.give_up()
            self.given_up += 1
            self._free.append(slot)
