"""A real OpenTelemetry Collector gets what sidecars export."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status, TracesData

from meshproxy.devtools.child import free_port
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import LocalSidecar, document, local_replica
from meshproxy.telemetry import otlp
from tests.conformance.otel_collector import otel_collector, program
from tests.processes.calls import PATH
from tests.processes.two_hops import PARENT, attributes, by_parent, post, two_hops
from tests.processes.waiting import until
from tests.telemetry.test_otlp import attribute_lists, spans

pytestmark = [pytest.mark.asyncio(loop_scope="function")]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
ROUTE = document("ModelRoute", {"models": ["half_plus_two"], "server": "models", "retries": {"attempts": 3}})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


class Node:
    """A span, and those whose parent it is, in the order of their beginnings."""

    def __init__(self, span: Span, among: Iterable[Span]) -> None:
        self.kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        self.name = span.name
        self.attributes = attributes(span)
        self.events = [
            (event.name, {each.key: each.value.string_value for each in event.attributes}) for event in span.events
        ]
        self.has_failed = span.status.code == Status.STATUS_CODE_ERROR
        self.children = [Node(child, among) for child in by_parent(among, span.span_id.hex())]


async def test_two_hops_with_a_retry_are_one_tree(tmp_path: Path) -> None:
    """As the collector passes it on: parents, names, attributes and events."""
    async with otel_collector(tmp_path) as collector, two_hops(tmp_path, collector.url, ROUTE) as application:
        calls = (TRACE, TRACE[:-1] + "7")
        for trace in calls:
            headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
            assert await post(application.outbound, PATH, headers) == 200
        found = await collector.until_spans(9)
        # The first or the second call was tried nowhere before, or both.
        whole = max(([span for span in found if span.trace_id.hex() == trace] for trace in calls), key=len)
        exports = collector.traces()
    assert len(whole) == 5
    (root,) = (Node(span, whole) for span in by_parent(whole, PARENT))
    name = "POST /v1/models/{model}:predict"
    assert (root.kind, root.name, root.has_failed, root.events) == (
        "SERVER", name, False, [("meshproxy.retry", {"meshproxy.reason": "connect-failure"})],
    )  # fmt: skip
    port = int(application.outbound.rpartition(":")[2])
    server = {"server.address": "127.0.0.1", "server.port": port}
    call = {"meshproxy.verb": "predict", "meshproxy.model.name": "half_plus_two"}
    request = {"http.request.method": "POST", "http.route": "/v1/models/{model}:predict", "url.path": PATH}
    del root.attributes["network.peer.port"]
    assert root.attributes == {
        **request,
        **server,
        **call,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "network.peer.address": "127.0.0.1",
        "http.response.status_code": 200,
        "meshproxy.direction": "outbound",
        "meshproxy.route": "local",
        "meshproxy.server": "models",
    }
    failed, answered = root.children
    attempt = {
        **server,
        "http.request.method": "POST",
        "url.full": f"https://127.0.0.1:{port}{PATH}",
        "url.template": "/v1/models/{model}:predict",
        "network.peer.address": "127.0.0.1",
    }
    for node in (failed, answered):
        assert (node.kind, node.name) == ("CLIENT", name)
        assert isinstance(node.attributes.pop("network.peer.port"), int)
    assert (failed.has_failed, failed.events, failed.children) == (True, [], [])
    assert failed.attributes == {**attempt, "error.type": "connect-failure"}
    assert (answered.has_failed, answered.events) == (
        False, [("meshproxy.request.sent", {}), ("meshproxy.response.begun", {})],
    )  # fmt: skip
    assert answered.attributes == {**attempt, "http.request.resend_count": 1, "http.response.status_code": 200}
    (inbound,) = answered.children
    assert (inbound.kind, inbound.name, inbound.has_failed, inbound.events) == ("SERVER", name, False, [])
    del inbound.attributes["network.peer.port"]
    caller = inbound.attributes.pop("meshproxy.caller.spiffe_id")
    assert str(caller).startswith("spiffe://")
    assert inbound.attributes.pop("meshproxy.rule")
    assert inbound.attributes == {
        **request,
        **server,
        **call,
        "url.scheme": "https",
        "network.protocol.version": "2",
        "network.peer.address": "127.0.0.1",
        "http.response.status_code": 200,
        "meshproxy.direction": "inbound",
        "meshproxy.server": "local",
    }
    (model,) = inbound.children
    assert (model.kind, model.name, model.children) == ("CLIENT", name, [])
    assert model.attributes["url.full"] == f"http://127.0.0.1:{port}{PATH}"
    assert [event[0] for event in model.events] == ["meshproxy.request.sent", "meshproxy.response.begun"]
    resources = [resource for traces in exports for resource in traces.resource_spans]
    assert {resource.schema_url for resource in resources} == {"https://opentelemetry.io/schemas/1.45.0"}


@asynccontextmanager
async def exporting(tmp_path: Path, url: str) -> AsyncIterator[LocalSidecar]:
    """A sidecar that exports a trace of each request."""
    async with local_replica(
        tmp_path / "mesh", mesh={"telemetry": {"traces": {"endpoint": url, "ratio": 1.0}}}
    ) as running:
        yield running


async def call(running: LocalSidecar, count: int = 1) -> None:
    async with RestClient(running.inbound, running.client) as client:
        for _ in range(count):
            assert (await client.call("POST", PATH, {"instances": [1.0]})).status == "200"


async def until_total(running: LocalSidecar, name: str, *labels: str, least: float) -> None:
    async def is_reached() -> bool:
        return await running.total(name, *labels) >= least

    await until(is_reached)


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize(
    "refuse",
    [
        {"times": 1, "code": 8},
        {"times": 1, "code": 14},
        {"times": 2, "code": 14, "retry_after": "1s"},
        {"times": 1, "code": 8, "retry_after": "2s"},
    ],
    ids=["429", "503", "503 with Retry-After", "429 with Retry-After"],
)
async def test_what_is_refused_for_now_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, refuse: dict[str, Any]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    async with otel_collector(tmp_path, **refuse) as collector, exporting(tmp_path, collector.url) as running:
        await call(running)
        assert len(await collector.until_spans(2)) == 2
        # The response is a partial success of nothing, in two bytes.
        await until_total(running, "meshproxy_spans_exported_total", least=2)
        assert await running.total("meshproxy_spans_dropped_total") == 0


async def test_what_is_refused_for_good_is_counted(tmp_path: Path) -> None:
    async with otel_collector(tmp_path, times=1, code=3) as collector, exporting(tmp_path, collector.url) as running:
        await call(running)
        await until_total(running, "meshproxy_spans_dropped_total", '"failed"', least=2)
        await until(lambda: running.said("spans lost"))
        (said,) = running.said("spans lost")
        assert "400" in said["problem"]
        await call(running)
        assert len(await collector.until_spans(2)) == 2


async def test_one_that_comes_later_gets_what_waits(tmp_path: Path) -> None:
    """Requests do not wait for a collector that is not there."""
    port = free_port()
    async with exporting(tmp_path, f"http://127.0.0.1:{port}") as running:
        await call(running, 20)
        async with otel_collector(tmp_path, port) as collector:
            assert len(await collector.until_spans(40)) == 40
            await until_total(running, "meshproxy_spans_exported_total", least=40)
        assert await running.total("meshproxy_spans_dropped_total") == 0


async def test_one_that_answers_late_costs_spans_and_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
    async with otel_collector(tmp_path, delay="60s") as collector, exporting(tmp_path, collector.url) as running:
        await asyncio.wait_for(call(running, 100), 60)
        await until_total(running, "meshproxy_spans_dropped_total", '"queue-full"', least=1)
        await until_total(running, "meshproxy_spans_dropped_total", least=200)
        assert collector.spans() == []


async def test_the_configuration_beside_the_compose_file_is_valid() -> None:
    file = Path(__file__).parents[2] / "deploy" / "compose" / "collector.yaml"
    process = await asyncio.create_subprocess_exec(program(), "validate", "--config", str(file))
    assert await process.wait() == 0


async def test_it_reads_every_span_as_the_official_messages_do(tmp_path: Path) -> None:
    """And passes it on as it came."""
    bodies: list[bytes] = []

    @settings(max_examples=200, database=None)
    @given(st.lists(spans, min_size=1, max_size=3), attribute_lists)
    def collect(some: list[otlp.Span], resource: otlp.Attributes) -> None:
        encoded = otlp.encode_attributes(1, resource), otlp.encode_scope("meshproxy", "1")
        bodies.append(otlp.encode_request(*encoded, map(otlp.encode_span, some)))

    collect()
    headers = {"content-type": "application/x-protobuf"}
    async with otel_collector(tmp_path) as collector, aiohttp.ClientSession() as session:
        for body in bodies:
            async with session.post(f"{collector.url}/v1/traces", data=body, headers=headers) as response:
                assert (response.status, otlp.read_response(await response.read())) == (200, otlp.PartialSuccess(0, ""))
        await until(lambda: len(collector.traces()) >= len(bodies))
        received = [each for traces in collector.traces() for each in traces.resource_spans]
    sent = [each for body in bodies for each in TracesData.FromString(body).resource_spans]
    for span in (span for resource in sent for scope in resource.scope_spans for span in scope.spans):
        span.status.SetInParent()  # it says an unset status, too
        for name in ("trace_id", "span_id", "parent_span_id"):
            if not any(getattr(span, name)):  # zeros are no id
                span.ClearField(name)
    assert received == sent
