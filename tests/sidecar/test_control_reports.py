"""Reports to a control plane: the real one in this process, over mTLS on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from meshproxy.control_api import ReportReceipt
from meshproxy.sidecar import control_reports as module
from meshproxy.sidecar import reconnect
from meshproxy.sidecar.control_reports import LEAST, MOST, ControlReports
from meshproxy.transport.client import ClientError
from meshproxy.view.reporters import ReportState
from tests.background import running
from tests.processes.waiting import until
from tests.sidecar.test_enrollment import World, enrollment
from tests.sidecar.test_enrollment import world as world  # a fixture
from tests.sidecar.test_report_queue import World as Calls


@asynccontextmanager
async def reporting(world: World, calls: Calls, page: str = "") -> AsyncIterator[ControlReports]:
    """A sidecar that has a certificate, and reports."""
    world.write_token()
    it = enrollment(world)
    await it.join()
    reports = ControlReports(world.channels[-1], calls.queue, lambda: {0: page})
    async with running(reports.run()):
        yield reports


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "FIRST_RETRY", 0.01)
    monkeypatch.setattr(module, "EVERY", 0.02)


async def test_reports_arrive_and_are_receipted(world: World) -> None:
    calls = Calls()
    calls.call()
    mesh = world.process.reports.mesh
    async with reporting(world, calls) as reports:
        await until(lambda: reports.received)
        assert reports._every == world.process.reports.every
        await until(lambda: not calls.queue._waiting)  # nor does what went while the first receipt was on its way
        (edge,) = mesh.ring.window(60.0, world.process.reports._clock()).tallies
        assert edge.caller.workload == "spiffe://dev.example/ns/a/sa/b"
        calls.call()
        calls.call()
    # The last ones are sent when it stops, and it is not taken for one that is lost.
    await until(lambda: [each.has_stopped for each in mesh.reporters.known.values()] == [True])
    (tally,) = mesh.ring.window(60.0, world.process.reports._clock()).tallies.values()
    assert tally.calls == 3
    assert mesh.reporters.count(0.0)[ReportState.STOPPED] == 1


async def test_what_was_not_receipted_is_sent_again_on_the_next_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls()
    acknowledge = calls.queue.acknowledge
    monkeypatch.setattr(calls.queue, "acknowledge", lambda run, sequence: None)
    mesh = world.process.reports.mesh
    async with reporting(world, calls) as reports:
        reports._every = 0.02
        await until(lambda: mesh.reporters.received)
        calls.call()
        for connection in list(world.process.listener.connections):
            connection.abort()
        await until(lambda: mesh.reporters.repeated)
        monkeypatch.setattr(calls.queue, "acknowledge", acknowledge)
    (tally,) = mesh.ring.window(60.0, world.process.reports._clock()).tallies.values()
    assert (tally.calls, mesh.reporters.lost) == (1, 0)


@pytest.mark.parametrize(("asked", "expected"), [(0.0, 0.02), (0.1, LEAST), (9.0, 9.0), (1e9, MOST)])
async def test_the_control_plane_says_how_often_within_limits(asked: float, expected: float) -> None:
    reports = ControlReports(None, Calls().queue, dict)  # type: ignore[arg-type]
    reports._every = 0.02
    await reports._take(msgspec.json.encode(ReportReceipt("run", 1, asked)))
    assert reports._every == expected


async def test_a_receipt_that_cannot_be_read() -> None:
    reports = ControlReports(None, Calls().queue, dict)  # type: ignore[arg-type]
    with pytest.raises(ClientError, match="receipt"):
        await reports._take(b"{}")
