"""The pages of the web port, and for whom they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from meshproxy.audit.lines import Kind, read_line
from meshproxy.control.audit import ControlAudit
from meshproxy.control.orders import USER_HEADER
from meshproxy.control.page_source import PageSource
from meshproxy.control.reporting import ReportService
from meshproxy.control.rollouts import KeepFailed, RolloutController, Shown
from meshproxy.control.status import ControlStatus, is_local, read_status
from meshproxy.control.taps import TapService
from meshproxy.control.web_port import COMMAND_HEADER, web_port
from meshproxy.rollout.steps import Command, CommandRefused, Phase, RolloutStatus
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.telemetry.metrics import PausingRows
from meshproxy.view.page import read_mesh
from meshproxy.web.routes import Page
from tests.audit.trails import line_of
from tests.control.statuses import status
from tests.view.meshes import calls, report


@asynccontextmanager
async def serving(
    metrics: ControlMetrics,
    rollouts: RolloutController | None = None,
    audit: ControlAudit | None = None,
    commands: Callable[[], str] | None = None,
) -> AsyncIterator[aiohttp.ClientSession]:
    async def found() -> ControlStatus:
        return status()

    reports = ReportService(lambda: 1e9)
    reports.mesh.take("spiffe://m.example/ns/a/sa/b", report(calls(count=7)), 5.0, 1e9)
    pages = web_port(
        metrics.registry,
        found,
        lambda: {"models/resnet": {"sidecars": 2}},
        reports.page,
        lambda: reports.findings([]),
        list,
        Page(PageSource(reports.mesh, found, None), is_local),
        TapService(reports, metrics),
        rollouts,
        audit,
        commands,
    )
    runner = web.AppRunner(pages)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


@pytest.fixture
async def pages() -> AsyncIterator[aiohttp.ClientSession]:
    metrics = ControlMetrics()
    metrics.issuances.labels("ok", "").value += 1
    async with serving(metrics) as session:
        yield session


async def test_pages_for_this_host(pages: aiohttp.ClientSession) -> None:
    async with pages.get("/status") as answer:
        assert read_status(await answer.read()) == status()
    async with pages.get("/endpoints") as answer:
        assert await answer.json() == {"models/resnet": {"sidecars": 2}}
    async with pages.get("/mesh?seconds=30") as answer:
        assert read_mesh(await answer.read()).calls[0].calls.codes == {"200": 7}
    async with pages.get("/documents") as answer:
        assert await answer.json() == []
    async with pages.get("/findings") as answer:
        assert (await answer.json())["isComplete"]


async def test_the_page_of_the_mesh(pages: aiohttp.ClientSession) -> None:
    async with pages.get("/certificates") as answer:
        assert "spiffe://m.example/ns/meshproxy/sa/control" in await answer.text()
    async with pages.get("/status") as answer:  # what a browser is told, it is told by all pages
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("seconds", ["x", "nan", "0", "-1", "3601", "inf"])
async def test_a_window_that_there_is_not(pages: aiohttp.ClientSession, seconds: str) -> None:
    async with pages.get("/mesh", params={"seconds": seconds}) as answer:
        assert (answer.status, await answer.text()) == (400, "seconds: expected a number from 1 to 3600\n")


@pytest.mark.parametrize("path", ["/status", "/endpoints", "/mesh", "/findings", "/documents", "/rollouts"])
async def test_they_are_for_nobody_who_was_led_here_by_another_name(pages: aiohttp.ClientSession, path: str) -> None:
    async with pages.get(path, headers={"host": "attacker.example"}) as answer:
        assert (answer.status, await answer.text()) == (
            403,
            "forbidden: use a loopback connection and the host name localhost\n",
        )


async def test_they_are_for_nobody_behind_a_reverse_proxy(pages: aiohttp.ClientSession) -> None:
    for path in ("/status", "/endpoints", "/mesh", "/findings", "/documents", "/rollouts", "/"):
        for header in ("X-Forwarded-For", "forwarded", "Via", "x-real-ip"):
            async with pages.get(path, headers={header: "192.0.2.1"}) as answer:
                assert answer.status == 403, (path, header)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health(pages: aiohttp.ClientSession, path: str) -> None:
    async with pages.get(path, headers={"host": "10.0.0.1:18512"}) as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


@pytest.mark.parametrize(
    ("accept", "kind", "end"),
    [("*/*", "text/plain", "\n"), ("application/openmetrics-text", "application/openmetrics-text", "# EOF\n")],
)
async def test_metrics(pages: aiohttp.ClientSession, accept: str, kind: str, end: str) -> None:
    async with pages.get("/metrics", headers={"accept": accept}) as answer:
        page = await answer.text()
    assert answer.content_type == kind
    assert 'result="ok"' in page
    assert page.endswith(end)


async def test_whatever_else_there_is_to_do_comes_between_the_pieces_of_a_page() -> None:
    loop, turns, seen = asyncio.get_running_loop(), [0], []

    def turn() -> None:
        turns[0] += 1
        loop.call_soon(turn)

    def rows() -> PausingRows:
        for number in range(3):
            seen.append(turns[0])
            yield None
            yield (f"models/{number}",), number

    metrics = ControlMetrics()
    metrics.service_endpoints.read_from(rows)
    async with serving(metrics) as pages:
        loop.call_soon(turn)
        async with pages.get("/metrics") as answer:
            assert 'meshproxy_control_service_endpoints{service="models/2"} 2\n' in await answer.text()
    assert all(before < after for before, after in pairwise(seen))
    assert len(seen) == 3


class Orders:
    """A controller that is told what to do."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str]] = []
        self.who = ""
        self.error: Exception | None = None
        self.status, self.paused = RolloutStatus("r", 1, Phase.ROLLED_BACK), False

    def shown(self) -> list[Shown]:
        steps = (10,), 60.0, "sequential"
        return [Shown("half", "half", "version 1", "version 2", *steps, self.paused, 0, self.status)]

    async def order(self, name: str, command: Command, who: str) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append((name, command.value))
        self.who = who


async def test_orders_for_rollouts() -> None:
    controller = Orders()
    taker: Any = controller
    async with serving(ControlMetrics(), taker) as session:
        async with session.get("/rollouts") as answer:
            assert [each["name"] for each in await answer.json(content_type=None)] == ["half"]
        with_header = {COMMAND_HEADER: "1"}
        async with session.post("/rollouts/half/abort") as answer:
            assert answer.status == 403  # a form of a page in a browser
        async with session.post("/rollouts/half/abort", headers=with_header | {"host": "attacker.example"}) as answer:
            assert answer.status == 403
        assert controller.taken == []
        async with session.post("/rollouts/half/abort", headers=with_header) as answer:
            text = await answer.text()
            assert (answer.status, text) == (200, "half is rolled-back, its candidate has 0 %\n")
        assert controller.taken == [("half", "abort")]
        controller.status, controller.paused = RolloutStatus("r", 1, Phase.PROGRESSING, weight=10), True
        async with session.post("/rollouts/half/pause", headers=with_header) as answer:
            assert await answer.text() == "half is progressing, paused, its candidate has 10 %\n"
        async with session.post("/rollouts/half/dance", headers=with_header) as answer:
            assert (answer.status, "pause, resume" in await answer.text()) == (404, True)
        for error, status in ((CommandRefused("it is over"), 409), (KeepFailed("the API server is away"), 503)):
            controller.error = error
            async with session.post("/rollouts/half/abort", headers=with_header) as answer:
                assert (answer.status, str(error) in await answer.text()) == (status, True)


async def test_orders_are_in_the_trail_or_not_taken() -> None:
    controller, bodies = Orders(), list[bytes]()
    taker: Any = controller
    missing = ""
    audit = ControlAudit(bodies.append, lambda: 1e9, lambda: missing)

    async def order(session: aiohttp.ClientSession, word: str) -> int:
        headers = {COMMAND_HEADER: "1", USER_HEADER: "alice@laptop"}
        async with session.post(f"/rollouts/half/{word}", headers=headers) as answer:
            return answer.status

    async with serving(ControlMetrics(), taker, audit) as session:
        assert await order(session, "promote") == 200
        assert controller.who.startswith("alice@laptop (user ")
        controller.error = CommandRefused("it is over")
        assert await order(session, "pause") == 409
        controller.error, missing = None, "No space left on device"
        assert await order(session, "promote") == 503
        assert controller.taken == [("half", "promote")]
        assert await order(session, "abort") == 200  # what takes calls away from a candidate does not wait
    refused = [read_line(line_of(body)) for body in bodies]
    assert [(each.kind, each.reason) for each in refused] == [
        (Kind.ROLLOUT_REFUSED, "pause"),
        (Kind.ROLLOUT_REFUSED, "promote"),
    ]
    assert all((each.by or "").startswith("alice@laptop") for each in refused)


async def test_without_documents_there_are_no_rollouts(pages: aiohttp.ClientSession) -> None:
    async with pages.get("/rollouts") as answer:
        assert await answer.read() == b"[]"
    async with pages.post("/rollouts/half/abort", headers={COMMAND_HEADER: "1"}) as answer:
        assert answer.status == 404


async def test_where_people_log_in_commands_have_a_port_of_their_own() -> None:
    """Whatever a reverse proxy on this host passes on: what comes through it arrives at the web port."""
    address = ["127.0.0.1:1"]
    pages = ("/status", "/endpoints", "/mesh", "/findings", "/documents", "/rollouts", "/tap")
    orders = {COMMAND_HEADER: "1"}
    async with serving(ControlMetrics(), commands=lambda: address[0]) as session:
        for path in pages:
            async with session.get(path, headers=orders) as answer:
                assert answer.status == 403
                assert "commands use 127.0.0.1:1" in await answer.text()
        async with session.post("/rollouts/r/abort", headers=orders) as answer:
            assert answer.status == 403
        async with session.get("/livez") as answer:
            assert answer.status == 200
        address[0] = ""  # the web port is open first
        for path in pages:
            async with session.get(path, headers=orders) as answer:
                assert answer.status == 403
                assert "not open yet" in await answer.text()
        # The port of commands itself.
        address[0] = str(session._base_url).removeprefix("http://").rstrip("/")
        for path in ("/status", "/mesh"):
            async with session.get(path) as answer:
                assert answer.status == 200
            async with session.get(path, headers={"x-forwarded-for": "10.0.0.1"}) as answer:
                assert answer.status == 403
