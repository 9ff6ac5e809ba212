"""Prometheus scrapes running processes of a mesh: the release of today, and one of years ago that Debian has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from meshproxy.devtools.child import CONTROL
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, document, local_mesh, server_of
from tests.conformance.scraping import (
    OPENMETRICS,
    RELEASES,
    TEXT,
    fetch,
    promtool,
    running_prometheus,
    samples,
)
from tests.processes.calls import PATH, PREDICT, REQUEST

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

PROCESSES = ("inbound", "outbound", "supervisor", "worker", "control")
MOVING = {
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds"),
}
"""What changes from one scrape to the next although nobody calls."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def addresses(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Where each kind of process has its page. Calls of every kind went through the sidecars."""
    async with local_mesh(tmp_path_factory.mktemp("scraped") / "mesh") as mesh:
        replica = await mesh.replica()
        several = await mesh.replica(sidecar={"workers": 2})
        assert replica.sidecar is not None
        assert several.sidecar is not None
        gone = document("ModelServer", {"endpoints": [{"rest": "127.0.0.1:9"}]}, "gone")
        route = document("ModelRoute", {"models": ["half_plus_two"], "concurrency": {"limit": 8}}, "half")
        application = await mesh.application([server_of([replica]), gone, route], outbound={"server": "models"})
        control = await mesh.start(
            "the control plane", *CONTROL, "run", "--folder", "control", "--trust-domain", TRUST_DOMAIN,
            "--listen", "127.0.0.1:0", "--web", "127.0.0.1:0",
        )  # fmt: skip
        async with RestClient(application.outbound, None) as rest, GrpcClient(application.outbound, None) as grpc:
            await rest.call("POST", PATH, {"instances": [1.0]})
            await grpc.call(PREDICT, REQUEST)
            await rest.call("POST", "/v1/models/it%22s%5C:predict", {"instances": [1.0]})
            await rest.call("POST", "/v2/models", {})
            await rest.call("POST", PATH, {"instances": [1.0]}, {"x-model-server": "gone"})
        async with (
            aiohttp.ClientSession(f"http://{several.sidecar.admin}") as session,
            session.get("/config") as answer,
        ):
            worker = (await answer.json())["workers"][0]["admin"]
        yield {
            "inbound": replica.sidecar.admin,
            "outbound": application.admin,
            "supervisor": several.sidecar.admin,
            "worker": worker,
            "control": str(control.listening["web"]),
        }


@pytest.mark.parametrize("release", RELEASES)
async def test_promtool_has_nothing_to_say(release: str, addresses: dict[str, str]) -> None:
    for name in PROCESSES:
        page = await fetch(addresses[name], TEXT)
        assert await promtool(release, "check", "metrics", stdin=page) == (0, ""), name


async def test_promtool_would_say_something(addresses: dict[str, str]) -> None:
    page = await fetch(addresses["inbound"], TEXT)
    for release in RELEASES:
        status, said = await promtool(release, "check", "metrics", stdin=page.replace("_requests_total", "_requests"))
        assert (status, "meshproxy_requests" in said) == (3, True)


@asynccontextmanager
async def as_text(address: str) -> AsyncIterator[str]:
    """A server whose page is that of `address` in the text format, whatever it is asked for."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=await fetch(address, TEXT), headers={"content-type": f"{TEXT}; charset=utf-8"})

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])
@pytest.mark.parametrize("release", RELEASES)
async def test_every_series_is_ingested(release: str, accept: str, addresses: dict[str, str], tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        jobs = {}
        for name in PROCESSES:
            target, more = addresses[name], {}
            if accept == TEXT and release == "debian":  # it always asks for OpenMetrics
                target = await stack.enter_async_context(as_text(target))
            elif release != "debian":
                more = {"scrape_protocols": ["PrometheusText0.0.4" if accept == TEXT else "OpenMetricsText1.0.0"]}
            jobs[name] = {"static_configs": [{"targets": [target]}], **more}
        prometheus = await stack.enter_async_context(running_prometheus(release, tmp_path / "prometheus", jobs))
        before = {name: samples(await fetch(addresses[name], accept), accept) for name in PROCESSES}
        await asyncio.gather(*map(prometheus.scraped_after, PROCESSES))
        for name in PROCESSES:
            assert await prometheus.health(name) == ("up", "")
            stored = await prometheus.stored(name)
            after = samples(await fetch(addresses[name], accept), accept)
            assert stored.keys() == before[name].keys() == after.keys()
            still = {series: value for series, value in after.items() if series[0] not in MOVING}
            assert still == {series: before[name][series] for series in still}
            assert still == {series: stored[series] for series in still}
