"""The relay: who gets the model server's page, and what happens when there is none."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.sidecar.server_page import NoPage
from meshproxy.sidecar.server_relay import SECONDS_BETWEEN_MESSAGES, ServerRelay
from meshproxy.telemetry.relayed_page import RelayedPage
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

PAGE = b"# TYPE :a counter\n:a 1\n"
SCRAPER = "10.0.0.1:40000"


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.metrics = SidecarMetrics()
        self.endpoints = ["a"]
        self.found: bytes | Exception = PAGE
        self.reads = 0
        self.ready = asyncio.Event()
        self.ready.set()
        self.relay = ServerRelay(
            "local",
            "/metrics",
            self._clusters,
            lambda remote: remote == SCRAPER,
            self.metrics.server_relays,
            read=self._read,
            clock=lambda: self.now,
        )

    def _clusters(self) -> Any:
        return [SimpleNamespace(name="local", endpoints={key: SimpleNamespace(key=key) for key in self.endpoints})]

    async def _read(self, endpoint: Any, path: bytes, timeout: float) -> bytes:
        assert (endpoint.key, path) == ("a", b"/metrics")
        self.reads += 1
        await self.ready.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    @property
    def results(self) -> dict[str, float]:
        return {labels[0]: series.value for labels, series in self.metrics.server_relays.series.items()}


def text(page: RelayedPage | None) -> bytes | None:
    return None if page is None else b"".join(page.render(openmetrics=False))


async def test_whoever_may_read_it_gets_it() -> None:
    world = World()
    assert text(await world.relay.page(SCRAPER)) == PAGE
    assert world.results == {"ok": 1}


async def test_nobody_else_does_and_nothing_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    assert await world.relay.page("10.0.0.2:1") is None
    assert world.reads == 0
    assert world.results == {"denied": 1}
    assert caplog.records[0].__dict__["fields"]["problem"] == "no binding permits the verb metrics to 10.0.0.2"


async def test_several_scrapers_share_one_request() -> None:
    world = World()
    world.ready.clear()
    waiting = [asyncio.create_task(world.relay.page(SCRAPER)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    world.ready.set()
    assert [text(page) for page in await asyncio.gather(*waiting[1:])] == [PAGE, PAGE]
    assert world.reads == 1
    await world.relay.page(SCRAPER)
    assert world.reads == 2


@pytest.mark.parametrize(
    ("found", "result"),
    [
        (NoPage("absent", "none"), "absent"),
        (NoPage("failed", "refused"), "failed"),
        (RuntimeError("a bug"), "failed"),
        (b"<html>", "unusable"),
    ],
)
async def test_without_a_page_there_is_none(
    found: bytes | Exception, result: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    world.found = found
    assert await world.relay.page(SCRAPER) is None
    assert await world.relay.page(SCRAPER) is None
    assert world.results == {result: 2}
    assert len(caplog.records) == 1
    world.now = SECONDS_BETWEEN_MESSAGES
    await world.relay.page(SCRAPER)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("endpoints", [[], ["a", "b"]])
async def test_only_one_endpoint_has_a_page_that_can_be_relayed(endpoints: list[str]) -> None:
    world = World()
    world.endpoints = endpoints
    assert await world.relay.page(SCRAPER) is None
    assert world.results == {"failed": 1}
