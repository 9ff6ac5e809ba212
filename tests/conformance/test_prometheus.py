"""Prometheus scrapes running processes of a mesh: the release of today, and one of years ago that Debian has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from meshproxy.devtools.child import CONTROL
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, document, local_mesh, local_replica, server_of
from tests.collector import collecting
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
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

PROCESSES = ("inbound", "outbound", "supervisor", "worker", "control")
IDS = ("trace_id", "span_id")
MOVING = {
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes", "process_open_fds"),
    *("meshproxy_scaling_concurrency", "meshproxy_scaling_queue_depth"),
    *("meshproxy_scaling_request_rate", "meshproxy_scaling_saturation"),
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


@pytest.mark.parametrize("release", RELEASES)
async def test_exemplars_lead_to_traces_that_are_there(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with collecting() as collector:
        mesh = {"telemetry": {"traces": {"endpoint": collector.url, "ratio": 1}}}
        async with local_replica(tmp_path / "mesh", mesh=mesh) as sidecar:
            async with GrpcClient(sidecar.inbound, sidecar.client) as client:
                for _ in range(5):
                    assert (await client.call(PREDICT, REQUEST)).status == "OK"
            await collector.until(lambda: len(collector.spans) == 10)
            page = await fetch(sidecar.admin, OPENMETRICS)
            assert "trace_id" not in await fetch(sidecar.admin, TEXT)
            jobs = {"sidecar": {"static_configs": [{"targets": [sidecar.admin]}]}}
            started = time.time() - 60
            async with running_prometheus(
                release, tmp_path / "prometheus", jobs, "--enable-feature=exemplar-storage"
            ) as prometheus:
                await prometheus.scraped_after("sidecar")
                found = await prometheus.ask(
                    "query_exemplars",
                    query="meshproxy_request_duration_seconds_bucket",
                    start=str(started),
                    end=str(time.time()),
                )
    shown = {
        (sample.labels["le"], *map(sample.exemplar.labels.get, IDS), sample.exemplar.value)
        for family in parse_openmetrics(page)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None
    }
    stored = {
        (each["seriesLabels"]["le"], *map(exemplar["labels"].get, IDS), float(exemplar["value"]))
        for each in found
        for exemplar in each["exemplars"]
    }
    assert stored == shown != set()
    assert {each["seriesLabels"]["version"] for each in found} == {"2"}  # the newest: the call named none
    spans = {(span.trace_id.hex(), span.span_id.hex()) for span in collector.spans}
    assert {(trace, span) for _, trace, span, _ in shown} <= spans


@pytest.mark.parametrize("release", RELEASES)
async def test_workers_add_up(release: str, tmp_path: Path) -> None:
    calls = 40

    async def call() -> None:
        async with RestClient(sidecar.inbound, sidecar.client) as client:
            for _ in range(5):
                assert (await client.call("POST", PATH, {"instances": [2.0]})).status == "200"

    async with local_replica(tmp_path / "mesh", sidecar={"workers": 2}) as sidecar:
        async with aiohttp.ClientSession(f"http://{sidecar.admin}") as session, session.get("/config") as answer:
            workers = (await answer.json())["workers"]
        jobs = {"sidecar": {"static_configs": [{"targets": [worker["admin"] for worker in workers]}]}}
        async with running_prometheus(release, tmp_path / "prometheus", jobs) as prometheus:

            async def ask(query: str) -> list[float]:
                found = (await prometheus.ask("query", query=query))["result"]
                return [float(each["value"][1]) for each in found]

            await asyncio.gather(*(call() for _ in range(calls)))

            async def is_counted() -> bool:
                return await ask("sum without (instance) (meshproxy_requests_total)") == [5 * calls]

            await until(is_counted)
            assert len(await ask("meshproxy_requests_total > 0")) == 2  # each worker had some
            assert await ask("sum by (model) (meshproxy_request_duration_seconds_count)") == [5 * calls]
            bucket = 'meshproxy_request_duration_seconds_bucket{le="+Inf"}'
            assert await ask(f"sum by (model, le) ({bucket})") == [5 * calls]
            assert await ask("min without (instance) (meshproxy_config_in_sync)") == [1]
