"""How long a drain takes, and what it asks for, on a clock that moves only when the drain waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.sidecar import drain as module
from meshproxy.sidecar.drain import LOOK_PERIOD, QUIET, drain

GRACE = 60.0


class FakeListener:
    def __init__(self) -> None:
        self.is_draining = False
        self.is_quiet = True

    def drain(self) -> None:
        self.is_draining = True


class FakePipeline:
    def __init__(self) -> None:
        self.live: set[object] = set()
        self.served = 0


class FakeDirection:
    def __init__(self) -> None:
        self.listener = FakeListener()
        self.pipeline = FakePipeline()


class FakeHealth:
    is_draining = False

    def drain(self) -> None:
        self.is_draining = True


class Clock:
    """Instead of the event loop's: `sleep` moves it, then `happens` says what has happened meanwhile."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happens: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.happens()
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(get_running_loop=lambda: clock, sleep=clock.sleep))
    return clock


async def test_clients_are_asked_to_leave_and_a_quiet_sidecar_is_done(clock: Clock) -> None:
    directions: Any = [FakeDirection(), FakeDirection()]
    health: Any = FakeHealth()
    await drain(directions, health, GRACE)
    assert [each.listener.is_draining for each in directions] == [True, True]
    assert health.is_draining
    assert QUIET <= clock.now <= QUIET + LOOK_PERIOD


async def test_a_request_in_flight_is_waited_for(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    direction: Any = FakeDirection()
    direction.listener.is_quiet = False

    def end_after_ten_seconds() -> None:
        direction.listener.is_quiet = clock.now >= 10.0

    clock.happens = end_after_ten_seconds
    await drain([direction], None, GRACE)
    # It counts from the last look at which the request was in flight.
    assert 10.0 + QUIET - LOOK_PERIOD <= clock.now <= 10.0 + QUIET + LOOK_PERIOD
    assert caplog.records == []


@pytest.mark.parametrize("period", [LOOK_PERIOD, QUIET - LOOK_PERIOD])
async def test_while_requests_come_the_drain_continues(clock: Clock, period: float) -> None:
    direction: Any = FakeDirection()
    last = [0.0]

    def serve_for_ten_seconds() -> None:
        if clock.now < 10.0 and clock.now - last[0] >= period:
            direction.pipeline.served += 1
            last[0] = clock.now

    clock.happens = serve_for_ten_seconds
    await drain([direction], None, GRACE)
    assert direction.pipeline.served >= 10
    assert last[0] > 9.0
    assert last[0] + QUIET <= clock.now <= last[0] + QUIET + 2 * LOOK_PERIOD


async def test_the_grace_period_ends_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    direction: Any = FakeDirection()
    direction.listener.is_quiet = False
    direction.pipeline.live.add(object())
    await drain([direction], None, GRACE)
    assert clock.now == pytest.approx(GRACE)
    (record,) = caplog.records
    assert record.getMessage() == "drain timeout reached; aborting in-flight requests"
    assert record.__dict__["fields"] == {"in_flight": 1}
