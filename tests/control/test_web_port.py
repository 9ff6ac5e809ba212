"""The pages of the web port, and for whom they are."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from meshproxy.control.status import ControlStatus, read_status
from meshproxy.control.web_port import web_port
from meshproxy.telemetry.control_metrics import ControlMetrics
from tests.control.statuses import status


@pytest.fixture
async def pages() -> AsyncIterator[aiohttp.ClientSession]:
    async def found() -> ControlStatus:
        return status()

    metrics = ControlMetrics()
    metrics.issuances.labels("ok", "").value += 1
    runner = web.AppRunner(web_port(metrics.registry, found, lambda: {"models/resnet": {"sidecars": 2}}))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


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
