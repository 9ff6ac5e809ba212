from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.transport.reaper import PERIOD, RESOLUTION, SHORTEST_PERIOD, Reaper


class Waiting:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.expired: list[float] = []

    def expire(self, now: float) -> None:
        self.expired.append(now)


class Once(Waiting):
    def expire(self, now: float) -> None:
        super().expire(now)
        self.deadline = 0.0


def test_only_deadlines_that_have_passed_expire(loop: Any) -> None:
    reaper = Reaper(loop)
    late, early, never, gone = Waiting(99.9), Waiting(100.1), Waiting(0.0), Waiting(1.0)
    for member in (late, early, never, gone):
        reaper.add(member)
    reaper.discard(gone)
    reaper.sweep(100.0)
    assert late.expired == [100.0]
    assert early.expired == never.expired == gone.expired == []
    assert len(reaper) == 3


def test_a_member_may_leave_while_it_expires(loop: Any) -> None:
    reaper = Reaper(loop)

    class Leaving(Waiting):
        def expire(self, now: float) -> None:
            super().expire(now)
            reaper.discard(self)

    members = [Leaving(1.0) for _ in range(3)]
    for member in members:
        reaper.add(member)
    reaper.sweep(2.0)
    assert [member.expired for member in members] == [[2.0]] * 3
    assert len(reaper) == 0


def test_a_crowd_is_looked_at_as_it_is_then(loop: Any) -> None:
    reaper = Reaper(loop)
    crowd: set[Waiting] = set()
    reaper.watch(crowd)
    late, early, alone = Waiting(1.0), Waiting(3.0), Waiting(1.5)
    crowd.update((late, early))
    reaper.add(alone)
    reaper.sweep(2.0)
    assert (late.expired, early.expired, alone.expired) == ([2.0], [], [2.0])
    crowd.remove(late)
    reaper.sweep(4.0)
    assert (late.expired, early.expired) == ([2.0], [4.0])


class TimerLoop:
    """Time that passes when told to, with timers."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., None], *args: Any) -> Any:
        entry = (when, callback, args)
        self.timers.append(entry)
        return SimpleNamespace(cancel=lambda: self.timers.remove(entry) if entry in self.timers else None)

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> Any:
        return self.call_at(self.now + delay, callback, *args)

    def advance(self, until: float) -> None:
        while due := [entry for entry in self.timers if entry[0] <= until]:
            entry = min(due, key=itemgetter(0))
            self.timers.remove(entry)
            self.now = entry[0]
            entry[1](*entry[2])
        self.now = until


def test_limits_longer_than_a_period_are_late_by_the_resolution_only() -> None:
    loop = TimerLoop()
    reaper = Reaper(loop)  # type: ignore[arg-type]
    deadlines = [100.0 + PERIOD + number / 100 for number in range(1, 101)]
    members = [Once(deadline) for deadline in deadlines]
    for member in members:
        reaper.add(member)
    reaper.start()
    loop.advance(102.0)
    reaper.stop()
    assert loop.timers == []
    for member, deadline in zip(members, deadlines, strict=True):
        (at,) = member.expired
        assert deadline < at <= deadline + 2 * RESOLUTION


@given(limit=st.floats(1e-9, 1.0), begun=st.floats(0.0, 1.0))
def test_with_a_shorter_limit_it_looks_more_often(limit: float, begun: float) -> None:
    loop = TimerLoop()
    reaper = Reaper(loop)  # type: ignore[arg-type]
    reaper.keep(limit)
    reaper.start()
    loop.advance(100.0 + begun)
    member = Once(loop.now + limit)
    reaper.add(member)
    loop.advance(103.0)
    reaper.stop()
    (at,) = member.expired
    assert 0.0 < at - begun - 100.0 - limit <= RESOLUTION + max(0.0, SHORTEST_PERIOD - limit)


def test_it_looks_no_less_often_than_its_own_period_and_can_be_told_again() -> None:
    loop = TimerLoop()
    reaper = Reaper(loop)  # type: ignore[arg-type]
    for shortest, period in ((60.0, PERIOD), (0.1, 0.1), (0.0, SHORTEST_PERIOD), (PERIOD, PERIOD)):
        reaper.keep(shortest)
        assert reaper.period == period


def test_what_was_discarded_or_moved_meanwhile_does_not_expire() -> None:
    loop = TimerLoop()
    reaper = Reaper(loop)  # type: ignore[arg-type]
    gone, moved, stays = Once(100.3), Once(100.3), Once(100.4)
    for member in (gone, moved, stays):
        reaper.add(member)
    reaper.start()
    loop.advance(100.26)
    reaper.discard(gone)
    moved.deadline = 200.0
    loop.advance(100.6)
    reaper.stop()
    assert gone.expired == moved.expired == []
    assert stays.expired[0] <= 100.4 + 2 * RESOLUTION


async def test_it_looks_until_it_is_stopped() -> None:
    loop = asyncio.get_running_loop()
    reaper = Reaper(loop)
    expired = asyncio.Event()

    class Signalling(Waiting):
        def expire(self, now: float) -> None:
            super().expire(now)
            expired.set()

    member = Signalling(loop.time())
    reaper.add(member)
    reaper.start()
    await expired.wait()
    reaper.stop()
    reaper.stop()
    assert member.expired
