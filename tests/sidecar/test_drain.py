"""How long a drain takes, and what it asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshproxy.sidecar import drain as module
from meshproxy.sidecar.drain import drain


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


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.02)
    monkeypatch.setattr(module, "LOOK_PERIOD", 0.001)


async def test_clients_are_asked_to_leave_and_a_quiet_sidecar_is_done() -> None:
    directions: Any = [FakeDirection(), FakeDirection()]
    health: Any = FakeHealth()
    await asyncio.wait_for(drain(directions, health, 60), 10)
    assert [each.listener.is_draining for each in directions] == [True, True]
    assert health.is_draining


async def test_a_request_in_flight_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    direction: Any = FakeDirection()
    direction.listener.is_quiet = False
    task = asyncio.ensure_future(drain([direction], None, 60))
    done, _ = await asyncio.wait((task,), timeout=0.1)
    assert not done
    direction.listener.is_quiet = True
    await asyncio.wait_for(task, 10)
    assert caplog.records == []


async def test_as_long_as_requests_come_it_goes_on() -> None:
    direction: Any = FakeDirection()
    task = asyncio.ensure_future(drain([direction], None, 60))
    for _ in range(20):
        direction.pipeline.served += 1
        done, _ = await asyncio.wait((task,), timeout=0.005)
        assert not done
    await asyncio.wait_for(task, 10)


async def test_the_grace_period_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    direction: Any = FakeDirection()
    direction.listener.is_quiet = False
    direction.pipeline.live.add(object())
    await asyncio.wait_for(drain([direction], None, 0.03), 10)
    (record,) = caplog.records
    assert record.getMessage() == "drain timeout reached; aborting in-flight requests"
    assert record.__dict__["fields"] == {"in_flight": 1}
