"""How long a drain takes, and what it asks for, on a clock that moves only when the drain waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.sidecar import drain as module
from meshproxy.sidecar.drain import LAST_REQUEST_SECONDS, LOOK_PERIOD, QUIET, REFUSE_SECONDS, drain

GRACE = 60.0


class FakeListener:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_quiet = True
        self.is_announced = True

    def drain(self) -> None:
        self.asked.append("drain")

    def refuse(self, patience: float) -> None:
        self.asked.append("refuse")


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


@pytest.fixture
def direction() -> Any:
    return FakeDirection()


async def test_clients_are_asked_to_leave_and_a_quiet_sidecar_is_done(clock: Clock) -> None:
    directions: Any = [FakeDirection(), FakeDirection()]
    health: Any = FakeHealth()
    await drain(directions, health, GRACE)
    assert [each.listener.asked for each in directions] == [["drain", "refuse"]] * 2
    assert health.is_draining
    assert 2 * QUIET <= clock.now <= 2 * (QUIET + 2 * LOOK_PERIOD)


async def test_a_request_in_flight_is_waited_for(
    clock: Clock, direction: Any, caplog: pytest.LogCaptureFixture
) -> None:
    direction.listener.is_quiet = False

    def end_after_ten_seconds() -> None:
        if clock.now < 10.0:
            assert direction.listener.asked == ["drain"]
        else:
            direction.listener.is_quiet = True

    clock.happens = end_after_ten_seconds
    await drain([direction], None, GRACE)
    # It counts from the last look at which the request was in flight.
    assert 10.0 + 2 * QUIET - LOOK_PERIOD <= clock.now <= 10.0 + 2 * QUIET + 4 * LOOK_PERIOD
    assert caplog.records == []


async def test_as_long_as_requests_come_the_ports_stay_open_until_some_seconds_before_the_end(
    clock: Clock, direction: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers that keep coming must not be cut at the end of the grace period."""
    refused_at = 0.0

    def serve() -> None:
        if not refused_at:
            direction.pipeline.served += 1

    def refuse(patience: float) -> None:
        nonlocal refused_at
        refused_at = clock.now

    clock.happens = serve
    direction.listener.refuse = refuse
    await drain([direction], None, GRACE)
    assert refused_at == pytest.approx(GRACE - REFUSE_SECONDS)
    assert clock.now <= GRACE - REFUSE_SECONDS + QUIET + 2 * LOOK_PERIOD
    assert caplog.records == []


async def test_the_grace_period_ends_it(clock: Clock, direction: Any, caplog: pytest.LogCaptureFixture) -> None:
    direction.listener.is_quiet = False
    direction.pipeline.live.add(object())
    await drain([direction], None, GRACE)
    assert clock.now == pytest.approx(GRACE)
    (record,) = caplog.records
    assert record.getMessage() == "drain timeout reached; aborting in-flight requests"
    assert record.__dict__["fields"] == {"in_flight": 1}


async def test_clients_that_could_not_be_told_have_time_for_another_request(clock: Clock, direction: Any) -> None:
    direction.listener.is_announced = False

    def announce_after_three_seconds() -> None:
        direction.listener.is_announced = clock.now >= 3.0

    clock.happens = announce_after_three_seconds
    await drain([direction], None, GRACE)
    assert direction.listener.asked == ["drain", "refuse"]
    assert 3.0 <= clock.now <= 3.0 + 2 * LOOK_PERIOD


@pytest.mark.parametrize("timeout", [GRACE, 2.0])
async def test_they_do_not_keep_it_for_ever(
    clock: Clock, direction: Any, timeout: float, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is no timeout: nothing was in flight."""
    direction.listener.is_announced = False
    await drain([direction], None, timeout)
    assert clock.now <= min(timeout, QUIET + LAST_REQUEST_SECONDS + 3 * LOOK_PERIOD) + 1e-9
    assert caplog.records == []
