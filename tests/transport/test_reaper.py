from __future__ import annotations

import asyncio
from typing import Any

from meshproxy.transport.reaper import Reaper


class Waiting:
    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.expired: list[float] = []

    def expire(self, now: float) -> None:
        self.expired.append(now)


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
