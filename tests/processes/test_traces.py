"""Spans of real processes: two hops with a retry are one tree, and what is kept although nobody sampled it."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc.aio
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import (
    Document,
    LocalSidecar,
    document,
    local_replica,
    replace_documents,
)
from tests.collector import collecting
from tests.processes.calls import PATH, PREDICT, REQUEST
from tests.processes.two_hops import PARENT, attributes, by_parent, post, two_hops
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

TRACES = "4bf92f3577b34da6a3ce929d0e0e4736", "4bf92f3577b34da6a3ce929d0e0e4737"


async def test_two_hops_with_a_retry_are_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with collecting() as collector:
        route = document("ModelRoute", {"models": ["half_plus_two"], "server": "models", "retries": {"attempts": 3}})
        async with two_hops(tmp_path, collector.url, route) as application:
            for trace in TRACES:
                headers = {"traceparent": f"00-{trace}-{PARENT}-01", "tracestate": "vendor=1"}
                assert await post(application.outbound, PATH, headers) == 200

            def whole() -> list[Span]:
                """Of one call that was tried nowhere before: the first or the second one was, or both."""
                traces = ([span for span in collector.spans if span.trace_id.hex() == trace] for trace in TRACES)
                return next((spans for spans in traces if len(spans) == 5), [])

            await collector.until(lambda: bool(whole()))
            spans = whole()
    assert {span.trace_state for span in spans} == {"vendor=1"}
    (root,) = by_parent(spans, PARENT)
    assert (root.kind, root.name) == (Span.SPAN_KIND_SERVER, "POST /v1/models/{model}:predict")
    assert [event.name for event in root.events] == ["meshproxy.retry"]
    failed, sent = by_parent(spans, root.span_id.hex())
    assert (failed.kind, sent.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_CLIENT)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert attributes(failed)["error.type"] == "connect-failure"
    assert attributes(sent)["http.request.resend_count"] == 1
    (inbound,) = by_parent(spans, sent.span_id.hex())
    assert inbound.kind == Span.SPAN_KIND_SERVER
    assert attributes(inbound)["meshproxy.direction"] == "inbound"
    assert attributes(inbound)["meshproxy.model.name"] == "half_plus_two"
    (model,) = by_parent(spans, inbound.span_id.hex())
    assert model.kind == Span.SPAN_KIND_CLIENT
    assert attributes(model)["http.response.status_code"] == 200
    assert root.start_time_unix_nano <= failed.start_time_unix_nano <= sent.start_time_unix_nano
    assert root.end_time_unix_nano >= sent.end_time_unix_nano


async def test_what_fails_is_kept_and_what_is_well_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with collecting() as collector:
        route = document("ModelRoute", {"models": ["half_plus_two"], "server": "models", "retries": {"attempts": 3}})
        async with two_hops(tmp_path, collector.url, route) as application:
            parent = f"00-{TRACES[0]}-{PARENT}-00"
            assert await post(application.outbound, PATH, {"traceparent": parent}) == 200
            assert await post(application.outbound, "/v1/models/half_plus_two/nothing:of", {}) == 400
            await collector.until(lambda: bool(collector.spans))
        (root,) = collector.spans
    assert root.trace_id.hex() not in TRACES
    assert not root.parent_span_id
    assert root.flags & 1 == 0
    assert [event.name for event in root.events] == ["meshproxy.refusal"]


async def test_a_call_over_grpc_is_one_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with collecting() as collector:
        route = document("ModelRoute", {"models": ["half_plus_two"], "server": "models", "retries": {"attempts": 3}})
        async with two_hops(tmp_path, collector.url, route) as application:
            async with grpc.aio.insecure_channel(application.outbound) as channel:
                metadata = (("traceparent", f"00-{TRACES[0]}-{PARENT}-01"),)
                assert await channel.unary_unary(PREDICT)(REQUEST, metadata=metadata)

            def chain_of() -> list[Span]:
                """The spans of what went well, from the caller's on, as far as they have come."""
                chain: list[Span] = []
                while found := by_parent(collector.spans, chain[-1].span_id.hex() if chain else PARENT):
                    chain.append(found[-1])  # an attempt that failed is the one before it
                return chain

            await collector.until(lambda: len(chain_of()) == 4)
            chain = chain_of()
    server, client = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT
    assert [span.kind for span in chain] == [server, client, server, client]
    assert {span.name for span in chain} == {PREDICT.removeprefix("/")}
    assert [attributes(span)["rpc.status_code"] for span in chain] == ["OK"] * 4
    assert attributes(chain[2])["meshproxy.model.name"] == "half_plus_two"


async def change(sidecar: LocalSidecar, traces: Document | None) -> None:
    """Another `telemetry.traces` in its MeshConfig, in force."""
    documents = sidecar.documents
    (mesh,) = [each for each in documents if each["kind"] == "MeshConfig"]
    mesh["spec"]["telemetry"] = {"traces": traces} if traces is not None else {}
    before = len(sidecar.said("configuration applied"))
    replace_documents(sidecar.path, documents)
    sidecar.child.signal(signal.SIGHUP)
    await until(lambda: len(sidecar.said("configuration applied")) > before)
    assert sidecar.said("configuration rejected; keeping the previous one") == []


async def test_a_change_of_the_mesh_counts_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On, to another collector, off, and on again; each request is told to the collector of its time."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    async with collecting() as first, collecting() as second, local_replica(tmp_path / "mesh") as running:

        async def ask(trace: int) -> None:
            headers = {"traceparent": f"00-{trace:032x}-{PARENT}-01"}
            async with RestClient(running.inbound, running.client) as client:
                assert (await client.call("POST", PATH, {"instances": [1.0]}, headers)).status == "200"

        await ask(1)
        await change(running, {"endpoint": first.url})
        await ask(2)
        await change(running, {"endpoint": second.url})
        await ask(3)
        await change(running, None)
        await ask(4)
        await change(running, {"endpoint": first.url, "ratio": 1.0})
        await ask(5)
        await first.until(lambda: len(first.spans) >= 4)
        await second.until(lambda: len(second.spans) >= 2)
        assert {int(span.trace_id.hex(), 16) for span in first.spans} == {2, 5}
        assert {int(span.trace_id.hex(), 16) for span in second.spans} == {3}

        async def are_counted() -> bool:
            return await running.total("meshproxy_spans_exported_total") == 6

        await until(are_counted)
        assert await running.total("meshproxy_spans_dropped_total") == 0
        assert await running.total("meshproxy_config_in_sync") == 1
