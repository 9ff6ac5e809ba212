"""The pages of the web port, and for whom they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import aiohttp
import pytest
from aiohttp import web

from meshproxy.control.status import ControlStatus, read_status
from meshproxy.control.web_port import web_port
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.telemetry.metrics import PausingRows
from tests.control.statuses import status


@asynccontextmanager
async def serving(metrics: ControlMetrics) -> AsyncIterator[aiohttp.ClientSession]:
    async def found() -> ControlStatus:
        return status()

    runner = web.AppRunner(web_port(metrics.registry, found, lambda: {"models/resnet": {"sidecars": 2}}))
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


@pytest.mark.parametrize("path", ["/status", "/endpoints"])
async def test_they_are_for_nobody_who_was_led_here_by_another_name(pages: aiohttp.ClientSession, path: str) -> None:
    async with pages.get(path, headers={"host": "attacker.example"}) as answer:
        assert (answer.status, await answer.text()) == (
            403,
            "forbidden: use a loopback connection and the host name localhost\n",
        )


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
