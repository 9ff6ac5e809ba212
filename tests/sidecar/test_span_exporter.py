"""The export of spans: to a small collector, to one that refuses, and to none."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from meshproxy.config.telemetry import Keep
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.proxy.exchange import TraceContext
from meshproxy.sidecar import span_exporter
from meshproxy.sidecar.http_get import FetchError, trusting
from meshproxy.sidecar.span_exporter import LONGEST_WAIT, SpanExporter, backoff, retry_after
from meshproxy.telemetry.otlp_settings import ExportSettings, OwnFiles
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.span_record import SpanRecord, record_of
from meshproxy.transport.channel import own_connections
from tests.collector import TAKEN, collecting
from tests.processes.waiting import until
from tests.telemetry.conftest import make_exchange as make_exchange

TRACE = TraceContext(b"1" * 32, b"2" * 16, b"3" * 16, True)


@pytest.fixture
def record(make_exchange: Any) -> SpanRecord:
    """Of an exchange that makes two spans."""
    return record_of(make_exchange(), TRACE)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(span_exporter, "FIRST_WAIT", 0.001)


class Export:
    """An exporter and its counters."""

    def __init__(self, url: str, **settings: Any) -> None:
        values = {"delay": 0.01, "timeout": 5.0, **settings}
        self.metrics = SidecarMetrics()
        self.exporter = SpanExporter(
            ExportSettings(f"{url}/v1/traces", Sampler(1.0), Keep(), **values),
            own_connections(),
            exported=self.metrics.spans_exported,
            dropped=self.metrics.spans_dropped,
            offset=lambda: 1e9,
            new_id=lambda: b"9" * 16,
        )

    @property
    def exported(self) -> float:
        return self.metrics.spans_exported.labels().value

    def dropped(self, reason: str) -> float:
        return self.metrics.spans_dropped.labels(reason).value

    async def settled(self, spans: int) -> None:
        """Wait until it is known what became of so many."""
        await until(lambda: self.exported + sum(map(self.dropped, ("failed", "rejected", "internal"))) >= spans)


@asynccontextmanager
async def running(export: Export) -> AsyncIterator[None]:
    """It exports beside the test, and what is left at its end."""
    task = asyncio.ensure_future(export.exporter.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await export.exporter.close()


async def test_records_become_requests(record: SpanRecord) -> None:
    async with collecting() as collector:
        export = Export(collector.url, resource=(("service.name", "a"),), headers=((b"x-tenant", b"7"),))
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        ((headers, request),) = collector.requests
        assert int({name.lower(): value for name, value in headers.items()}["content-length"]) > 100
        (resource,) = request.resource_spans
        assert [(each.key, each.value.string_value) for each in resource.resource.attributes] == [("service.name", "a")]
        assert headers["X-Tenant" if "X-Tenant" in headers else "x-tenant"] == "7"
        assert resource.scope_spans[0].scope.name == "meshproxy"
        assert export.exported == 2


async def test_a_full_batch_does_not_wait(record: SpanRecord) -> None:
    async with collecting() as collector:
        export = Export(collector.url, delay=3_600.0, max_batch=20)
        async with running(export):
            for _ in range(39):
                export.exporter.take(record)
            await collector.until(lambda: len(collector.spans) == 40)
            export.exporter.take(record)
            await collector.until(lambda: len(collector.spans) == 80)
        assert [len(request.resource_spans[0].scope_spans[0].spans) for _, request in collector.requests] == [40, 40]


async def test_a_record_says_whether_its_spans_are_on_their_way(record: SpanRecord) -> None:
    """Exemplars name no trace that nobody will find."""
    export = Export("http://127.0.0.1:9/v1/traces", max_queue=1)
    taken, lost = (record._replace(trace=TraceContext(b"a" * 32, b"", b"c" * 16, True)) for _ in range(2))
    assert not taken.trace.is_exported
    for each in (taken, lost):
        export.exporter.take(each)
    assert (taken.trace.is_exported, lost.trace.is_exported) == (True, False)


async def test_batches_are_bounded_in_bytes(record: SpanRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """BATCH_BYTES: a collector refuses requests above 20 MiB, gateways smaller ones."""
    monkeypatch.setattr(span_exporter, "BATCH_BYTES", 2_000)
    async with collecting() as collector:
        export = Export(collector.url, delay=3_600.0, max_batch=30)
        async with running(export):
            for _ in range(30):
                export.exporter.take(record)
            await collector.until(lambda: bool(collector.requests))
        assert len(collector.requests) > 1
        assert max(request.ByteSize() for _, request in collector.requests) < 4_000


async def test_what_is_left_is_exported_in_the_end(record: SpanRecord) -> None:
    async with collecting() as collector:
        export = Export(collector.url, delay=3_600.0)
        async with running(export):
            export.exporter.take(record)
        assert len(collector.spans) == 2


async def test_bodies_are_compressed_if_asked(record: SpanRecord) -> None:
    async with collecting() as collector:
        export = Export(collector.url, is_compressed=True)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        headers, _ = collector.requests[0]
        assert {name.lower(): value for name, value in headers.items()}["content-encoding"] == "gzip"


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize("headers", [{}, {"retry-after": "0"}], ids=["", "retry-after"])
async def test_some_refusals_are_tried_again(record: SpanRecord, status: int, headers: dict[str, str]) -> None:
    async with collecting() as collector:
        collector.answers += [(status, headers, b""), (status, headers, b"")]
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        assert collector.tries == 3
        assert (export.exported, export.dropped("failed")) == (2, 0)


@pytest.mark.parametrize("status", [301, 307, 308, 400, 401, 404, 408, 413, 500, 501])
async def test_others_are_not_and_are_counted(record: SpanRecord, status: int) -> None:
    async with collecting() as collector:
        collector.answers.append((status, {"location": "/v1/traces"}, b""))
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        assert (export.exported, export.dropped("failed")) == (0, 2)
        assert collector.spans == []


async def test_a_wait_beyond_the_time_limit_is_not_begun(record: SpanRecord) -> None:
    async with collecting() as collector:
        collector.answers.append((503, {"retry-after": "60"}, b""))
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        assert (collector.tries, export.dropped("failed")) == (1, 2)


async def test_a_page_of_something_else_is_no_success(record: SpanRecord) -> None:
    async with collecting() as collector:
        collector.answers.append((200, {}, b"<html>welcome</html>"))
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        assert (export.exported, export.dropped("failed")) == (0, 2)


@pytest.mark.parametrize(("rejected", "exported", "dropped"), [(1, 1, 1), (2, 0, 2), (1_000, 0, 2), (0, 2, 0)])
async def test_a_partial_success_is_read(record: SpanRecord, rejected: int, exported: int, dropped: int) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=rejected, error_message="too old")
    async with collecting() as collector:
        body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
        collector.answers.append((200, {}, body))
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        assert (export.exported, export.dropped("rejected")) == (exported, dropped)


async def test_a_queue_is_bounded_while_a_collector_is_silent(record: SpanRecord) -> None:
    """max_queue. What is sent is given up after its time limit, and nothing that takes a record waits for it."""
    async with collecting() as collector:
        collector.is_silent = True
        export = Export(collector.url, max_queue=10, max_batch=10, timeout=0.2)
        async with running(export):
            for _ in range(10):
                export.exporter.take(record)
            await collector.until(lambda: collector.tries == 1)
            for _ in range(15):
                export.exporter.take(record)
            assert export.dropped("queue-full") == 2 * 5
            await export.settled(40)
            assert export.dropped("failed") == 40
            collector.is_silent = False
            export.exporter.take(record)
            await export.settled(42)
        assert len(collector.spans) == 2


async def test_a_batch_on_its_way_is_not_lost_when_the_process_ends(record: SpanRecord) -> None:
    async with collecting() as collector:
        collector.answers.append((503, {}, b""))
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await collector.until(lambda: collector.tries == 1)
        assert (export.exported, export.dropped("shutdown")) == (2, 0)


async def test_a_collector_that_is_not_there_costs_its_spans(record: SpanRecord) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    export = Export(f"http://127.0.0.1:{port}", timeout=0.05)
    async with running(export):
        export.exporter.take(record)
        await export.settled(2)
    assert (export.exported, export.dropped("failed")) == (0, 2)


async def test_one_that_comes_back_gets_what_waited(record: SpanRecord) -> None:
    async with collecting() as collector:
        collector.answers += [(500, {}, b""), (200, {}, TAKEN)]
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
            export.exporter.take(record)
            await export.settled(4)
        assert (export.exported, export.dropped("failed")) == (2, 2)


async def test_what_cannot_be_encoded_costs_nothing_else(record: SpanRecord, caplog: pytest.LogCaptureFixture) -> None:
    bad = record._replace(authority=cast("bytes", None))
    async with collecting() as collector:
        export = Export(collector.url)
        async with running(export):
            export.exporter.take(bad)
            export.exporter.take(record)
            await export.settled(4)
        assert export.dropped("internal") == 2
    assert "could not be encoded" in caplog.text


async def test_a_bug_in_the_export_ends_no_sidecar(
    record: SpanRecord, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with collecting() as collector:
        export = Export(collector.url)
        with monkeypatch.context() as patch:
            patch.setattr(span_exporter, "exchange", None)
            export.exporter.take(record)
            task = asyncio.ensure_future(export.exporter.run())
            await export.settled(2)
        assert export.dropped("internal") == 2
        assert "spans were not exported" in caplog.text
        export.exporter.take(record)
        await export.settled(4)
        assert (export.exported, task.done()) == (2, False)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await export.exporter.close()


async def test_the_end_of_a_process_is_not_put_off(record: SpanRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOSE_SECONDS."""
    monkeypatch.setattr(span_exporter, "CLOSE_SECONDS", 0.05)
    async with collecting() as collector:
        collector.is_silent = True
        export = Export(collector.url, delay=3_600.0, max_batch=1)
        for _ in range(3):
            export.exporter.take(record)
        await export.exporter.close()
        assert export.dropped("failed") + export.dropped("shutdown") == 6


async def test_kept_ones_beyond_their_limit_are_counted(record: SpanRecord) -> None:
    export = Export("http://127.0.0.1:1")
    export.exporter.limited(record)
    assert export.dropped("keep-limit") == 2
    await export.exporter.close()


async def test_authorities_that_cannot_be_read_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"authorities file .*none\.pem cannot be read"):
        Export("https://127.0.0.1:1", certificate=str(tmp_path / "none.pem"))


async def test_a_collector_that_asks_for_our_certificate(record: SpanRecord, tmp_path: Path) -> None:
    """The files are read for each connection: they may come late, and change."""
    authority = DevelopmentCA.create("dev.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "collector"))
    context.load_verify_locations(cadata=authority.bundle_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    own = OwnFiles(tmp_path / "own.pem", tmp_path / "own-key.pem")
    async with collecting(tls=context) as collector:
        export = Export(collector.url, certificate=str(authority.write(tmp_path)), own=own, timeout=0.2)
        async with running(export):
            export.exporter.take(record)
            await until(lambda: export.dropped("failed") == 2)
            authority.issue(dns=["sidecar"]).write(tmp_path, "own")
            export.exporter.take(record)
            await until(lambda: export.exported == 2)


async def test_a_collector_of_another_authority(
    record: SpanRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What names its authority is a variable, no field of a document."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = DevelopmentCA.create("dev.example").issue(dns=["localhost"])
    context.load_cert_chain(*issued.write(tmp_path, "collector"))
    other = DevelopmentCA.create("dev.example").write(tmp_path)
    async with collecting(tls=context) as collector:
        export = Export(collector.url, certificate=str(other), timeout=0.2)
        async with running(export):
            export.exporter.take(record)
            await until(lambda: export.dropped("failed") == 2)
    (lost,) = (each for each in caplog.records if each.message == "spans lost")
    problem = vars(lost)["fields"]["problem"]
    assert "is not issued by a trusted authority: let OTEL_EXPORTER_OTLP_CERTIFICATE name a file" in problem


async def test_our_certificate_is_for_the_collector_only(tmp_path: Path) -> None:
    """Others that the system's authorities are for, such as issuers, share a context."""
    own = OwnFiles(tmp_path / "own.pem", tmp_path / "own-key.pem")
    assert span_exporter._context_of(ExportSettings("https://a", Sampler(1.0), Keep()))() is trusting(None)
    DevelopmentCA.create("dev.example").issue(dns=["sidecar"]).write(tmp_path, "own")
    assert span_exporter._context_of(ExportSettings("https://a", Sampler(1.0), Keep(), own=own))() is not trusting(None)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_waits_grow_within_bounds(tries: int, chance: float) -> None:
    wait = backoff(tries, lambda: chance)
    middle = min(LONGEST_WAIT, span_exporter.FIRST_WAIT * 2.0 ** min(tries, 10))
    assert 0.8 * middle <= wait < 1.2 * middle + 1e-9


NOW = 1_796_000_400.0
"""Mon, 30 Nov 2026 01:00:00 GMT"""


@pytest.mark.parametrize(("values", "seconds"), [([], None), ([b"7"], 7.0), ([b"1", b"2"], None), ([b"\xff"], None)])
def test_retry_after(values: list[bytes], seconds: float | None) -> None:
    assert retry_after(tuple((b"retry-after", value) for value in values), NOW) == seconds


@given(st.binary(max_size=64))
def test_whatever_it_says_is_a_wait_or_none(value: bytes) -> None:
    wait = retry_after(((b"retry-after", value),), NOW)
    assert wait is None or wait >= 0


async def test_no_wait_at_all_is_not_taken_at_its_word(record: SpanRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_exporter, "FIRST_WAIT", 0.2)
    async with collecting() as collector:
        collector.answers += [(503, {"retry-after": "0"}, b"")] * 100
        export = Export(collector.url, timeout=0.5)
        async with running(export):
            export.exporter.take(record)
            await export.settled(2)
        assert collector.tries <= 3
