"""Prometheus scrapes a sidecar that has the model server's page at the end of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import document, local_mesh
from tests.conformance.scraping import OPENMETRICS, RELEASES, TEXT, fetch, promtool, running_prometheus
from tests.processes.calls import PATH, PREDICT, REQUEST

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

CALLS = 3


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def address(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a sidecar has both pages. Its model server has answered `CALLS` over REST and over gRPC."""
    scraper = [
        document("ModelRole", {"rules": [{"models": ["*"], "verbs": ["metrics"]}]}, "scrape"),
        document("ModelRoleBinding", {"role": "scrape", "subjects": [{"ipBlocks": ["127.0.0.0/8"]}]}, "scraper"),
    ]
    async with local_mesh(tmp_path_factory.mktemp("relayed") / "mesh") as mesh:
        replica = await mesh.replica(mesh={"telemetry": {"modelServer": {"relay": True}}}, documents=scraper)
        assert replica.sidecar is not None
        inbound = replica.sidecar.inbound
        async with RestClient(inbound, mesh.client) as rest, GrpcClient(inbound, mesh.client) as grpc:
            for _ in range(CALLS):
                await rest.call("POST", PATH, {"instances": [1.0]})
                await grpc.call(PREDICT, REQUEST)
        yield replica.sidecar.admin


@pytest.mark.parametrize("accept", [TEXT, OPENMETRICS], ids=["text", "openmetrics"])
@pytest.mark.parametrize("release", RELEASES)
async def test_both_pages_are_ingested(release: str, accept: str, address: str, tmp_path: Path) -> None:
    more = {}
    if release != "debian":  # which always asks for OpenMetrics
        more = {"scrape_protocols": ["PrometheusText0.0.4" if accept == TEXT else "OpenMetricsText1.0.0"]}
    jobs = {"sidecar": {"static_configs": [{"targets": [address]}], **more}}
    async with running_prometheus(release, tmp_path / "prometheus", jobs) as prometheus:
        await prometheus.scraped_after("sidecar")
        assert await prometheus.health("sidecar") == ("up", "")
        stored = await prometheus.stored("sidecar")
    names = {name for name, _ in stored}
    assert "meshproxy_requests_total" in names
    entries = {
        dict(labels)["entrypoint"]: value
        for (name, labels), value in stored.items()
        if name == ":tensorflow:serving:request_latency_count"
    }
    assert entries == {"GRPC": CALLS, "REST": CALLS}
    buckets = [labels for name, labels in stored if name == ":tensorflow:serving:request_latency_bucket"]
    assert len(buckets) == 2 * 34


@pytest.mark.parametrize("release", RELEASES)
async def test_promtool_complains_of_names_alone(release: str, address: str) -> None:
    """Of TensorFlow Serving's names, which are what users know: no help, no `_total`, no unit, and colons."""
    status, said = await promtool(release, "check", "metrics", stdin=await fetch(address, TEXT))
    assert status == 3, said
    assert {line.split()[0] for line in said.splitlines() if line.startswith((":", "meshproxy"))} == {
        ":tensorflow:serving:request_count",
        ":tensorflow:serving:request_latency",
    }
