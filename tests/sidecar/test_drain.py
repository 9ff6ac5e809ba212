"""How long a drain takes, and what it asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshproxy.sidecar import drain as module
from meshproxy.sidecar.drain import drain


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


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.02)
    monkeypatch.setattr(module, "LOOK_PERIOD", 0.001)


async def test_clients_are_asked_to_leave_and_a_quiet_sidecar_is_done() -> None:
    directions: Any = [FakeDirection(), FakeDirection()]
    health: Any = FakeHealth()
    await asyncio.wait_for(drain(directions, health, 60), 10)
    assert [each.listener.asked for each in directions] == [["drain", "refuse"]] * 2
    assert health.is_draining


async def test_a_request_in_flight_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    direction: Any = FakeDirection()
    direction.listener.is_quiet = False
    task = asyncio.ensure_future(drain([direction], None, 60))
    done, _ = await asyncio.wait((task,), timeout=0.1)
    assert not done
    assert direction.listener.asked == ["drain"]
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


async def test_new_connections_are_refused_before_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """Callers that keep coming must not be cut at the end of the grace period."""
    loop = asyncio.get_running_loop()
    direction: Any = FakeDirection()
    direction.listener.is_quiet = False
    direction.pipeline.live.add(object())
    refused_at = 0.0

    def refuse(patience: float) -> None:
        nonlocal refused_at
        refused_at = loop.time()
        direction.listener.is_quiet = True  # what was in flight completes in time
        direction.pipeline.live.clear()

    direction.listener.refuse = refuse
    began = loop.time()
    await asyncio.wait_for(drain([direction], None, 1.0), 10)
    assert refused_at - began >= 0.8
    assert caplog.records == []


async def test_clients_that_could_not_be_told_have_time_for_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_REQUEST_SECONDS", 60.0)
    direction: Any = FakeDirection()
    direction.listener.is_announced = False
    task = asyncio.ensure_future(drain([direction], None, 600))
    done, _ = await asyncio.wait((task,), timeout=0.2)
    assert not done
    assert direction.listener.asked == ["drain", "refuse"]
    direction.listener.is_announced = True
    await asyncio.wait_for(task, 10)


@pytest.mark.parametrize(("last_request", "timeout"), [(0.1, 600), (600, 0.1)])
async def test_they_do_not_keep_it_for_ever(
    last_request: float, timeout: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is no timeout: nothing was in flight."""
    monkeypatch.setattr(module, "LAST_REQUEST_SECONDS", last_request)
    direction: Any = FakeDirection()
    direction.listener.is_announced = False
    await asyncio.wait_for(drain([direction], None, timeout), 10)
    assert caplog.records == []
