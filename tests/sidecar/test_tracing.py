"""The export of spans while its settings change: who gets which spans, and that nothing stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshproxy.config.telemetry import Keep, Traces
from meshproxy.proxy.exchange import Exchange
from meshproxy.sidecar import span_exporter, tracing
from meshproxy.sidecar.tracing import MOST_LINGERING, Tracing
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.trace import Tracer, record_trace
from meshproxy.transport.channel import own_connections
from tests.collector import Collector, collecting
from tests.sidecar.test_span_export import documents
from tests.telemetry.conftest import make_exchange as make_exchange

PARENT = b"00-%032x-00f067aa0ba902b7-%b"
NOWHERE = Traces(endpoint="http://127.0.0.1:1", ratio=1.0)


class World:
    """An export, what it counts, and the requests that it sees."""

    def __init__(self, make_exchange: Any, **environ: str) -> None:
        self.metrics = SidecarMetrics()
        self.shared = own_connections()
        self.connects = 0
        self.tracing = Tracing({"OTEL_BSP_SCHEDULE_DELAY": "5", **environ}, self._connect, self.metrics, lambda: 1e9)
        self.tracer = Tracer()
        self._make_exchange = make_exchange
        self._traces = 0

    def _connect(self) -> Any:
        self.connects += 1
        return self.shared

    def use(self, traces: Traces | None) -> None:
        """What a reload does."""
        self.tracing.build(documents(traces))
        self.tracer = self.tracing.adopt()

    def begin(self, flags: bytes = b"01", **fields: object) -> Exchange:
        """A request whose head has been read. It makes two spans."""
        self._traces += 1
        carried = self.tracer.carry(PARENT % (self._traces, flags))
        assert carried is not None
        exchange: Exchange = self._make_exchange(**fields)
        exchange.trace = carried[0]
        return exchange

    @property
    def exported(self) -> float:
        return self.metrics.spans_exported.labels().value

    @property
    def dropped(self) -> dict[str, float]:
        return {labels[0]: series.value for labels, series in self.metrics.spans_dropped.series.items()}

    async def settled(self) -> None:
        """Wait until no connection is left. Raises TimeoutError."""
        async with asyncio.timeout(60):
            while len(self.shared.reaper) or exporting():
                await asyncio.sleep(0)


@asynccontextmanager
async def world(make_exchange: Any, **environ: str) -> AsyncIterator[World]:
    it = World(make_exchange, **environ)
    try:
        yield it
    finally:
        await it.tracing.close()
        await it.settled()


def exporting() -> list[str]:
    """The tasks of exports."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(("SpanExporter.", "_Export."))]


def traces_of(collector: Collector) -> Counter[bytes]:
    return Counter(span.trace_id.hex().encode() for span in collector.spans)


def twice(exchanges: Iterable[Exchange]) -> Counter[bytes]:
    """Two spans of each."""
    return Counter({each.trace.trace_id: 2 for each in exchanges if each.trace is not None})


@dataclass(frozen=True)
class Step:
    """A reload, and requests after it."""

    collector: int | None
    """Which; None: no spans are exported."""
    ratio: float
    is_rejected: bool
    """Something else about the documents is wrong."""
    quick: int
    """Requests that end before the next reload."""
    slow: int
    """Requests that end after the last."""


STEPS = st.lists(
    st.builds(
        Step,
        collector=st.sampled_from([None, 0, 1]),
        ratio=st.sampled_from([0.0, 1.0]),
        is_rejected=st.booleans(),
        quick=st.integers(0, 3),
        slow=st.integers(0, 3),
    ),
    max_size=MOST_LINGERING,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_span_goes_where_its_request_began(make_exchange: Any, steps: list[Step]) -> None:
    asyncio.run(_follow(make_exchange, steps))


async def _follow(make_exchange: Any, steps: list[Step]) -> None:
    async with collecting() as first, collecting() as second:
        collectors = first, second
        expected: list[list[Exchange]] = [[], []]
        slow: list[Exchange] = []
        collector: int | None = None
        async with world(make_exchange) as it:
            for step in steps:
                traces = None
                if step.collector is not None:
                    traces = Traces(endpoint=collectors[step.collector].url, ratio=step.ratio)
                if step.is_rejected:
                    it.tracing.build(documents(traces))
                else:
                    it.use(traces)
                    collector = step.collector
                begun = [it.begin() for _ in range(step.quick + step.slow)]
                if collector is not None:
                    expected[collector] += begun
                slow += begun[step.quick :]
                for exchange in begun[: step.quick]:
                    record_trace(exchange)
                await asyncio.sleep(0)
            for exchange in slow:
                record_trace(exchange)
        assert [traces_of(each) for each in collectors] == [twice(each) for each in expected]
        assert it.exported == 2 * sum(map(len, expected))
        assert it.dropped == {}
        assert it.connects <= 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, NOWHERE),
        (NOWHERE, None),
        (NOWHERE, Traces(endpoint="http://127.0.0.1:2", ratio=1.0)),
        (NOWHERE, Traces(endpoint="http://127.0.0.1:1", ratio=0.0)),
        (NOWHERE, Traces(endpoint="http://127.0.0.1:1", ratio=1.0, keep=Keep(errors=False))),
    ],
)
async def test_each_setting_counts_for_the_next_request(
    make_exchange: Any, before: Traces | None, after: Traces | None
) -> None:
    async with world(make_exchange) as it:
        it.use(before)
        tracer = it.tracer
        it.use(before)
        assert it.tracer is tracer  # nothing has changed
        it.use(after)
        assert it.tracer is not tracer
        assert it.tracer.is_recording is (after is not None)
        if after is not None:
            context, _ = it.tracer.begin()
            assert context.sampled is (after.ratio == 1.0)


async def test_what_is_kept_is_decided_by_the_settings_of_the_beginning(make_exchange: Any) -> None:
    async with collecting() as collector:
        async with world(make_exchange) as it:
            it.use(Traces(endpoint=collector.url))
            old = it.begin(b"00", grpc_status=13)
            it.use(Traces(endpoint=collector.url, keep=Keep(errors=False)))
            record_trace(it.begin(b"00", grpc_status=13))
            record_trace(old)
        assert traces_of(collector) == twice([old])


async def test_documents_that_are_rejected_change_nothing(make_exchange: Any) -> None:
    async with world(make_exchange) as it:
        it.use(NOWHERE)
        running, tracer = len(exporting()), it.tracer
        it.tracing.build(documents(None))
        it.tracing.build(documents(NOWHERE))
        assert it.tracing.adopt() is tracer
        await asyncio.sleep(0)
        assert len(exporting()) == running


async def test_an_export_that_was_replaced_ends_by_itself(make_exchange: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """LINGER_SECONDS, CLOSE_SECONDS; its collector is silent."""
    monkeypatch.setattr(tracing, "LINGER_SECONDS", 0.05)
    monkeypatch.setattr(span_exporter, "CLOSE_SECONDS", 0.05)
    async with collecting() as collector:
        collector.is_silent = True
        async with world(make_exchange) as it:
            it.use(Traces(endpoint=collector.url))
            late = it.begin()
            record_trace(it.begin())
            await collector.until(lambda: collector.tries == 1)
            record_trace(it.begin())
            it.use(None)
            await it.settled()
            assert sum(it.dropped.values()) == 4
            record_trace(late)
            assert sum(it.dropped.values()) == 6
            assert set(it.dropped) <= {"shutdown", "failed"}
            assert it.exported == 0


async def test_many_changes_keep_few_exports(make_exchange: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MOST_LINGERING. Nothing is lost without being counted."""
    monkeypatch.setattr(tracing, "LINGER_SECONDS", 3_600.0)
    async with collecting() as collector:
        async with world(make_exchange) as it:
            slow = []
            for change in range(20):
                it.use(Traces(endpoint=collector.url, ratio=change / 20))
                slow.append(it.begin())
                record_trace(it.begin())
            async with asyncio.timeout(60):
                while exporting().count("_Export.end") > MOST_LINGERING:
                    await asyncio.sleep(0)
            for exchange in slow:
                record_trace(exchange)
        late = 20 - 1 - MOST_LINGERING
        assert it.dropped == {"shutdown": 2 * late}
        assert len(collector.spans) == it.exported == 2 * (40 - late)
        assert twice(slow[late:]).keys() <= traces_of(collector).keys()


async def test_an_export_that_fails_is_told_and_ends_nothing(
    make_exchange: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: object) -> None:
        raise RuntimeError("bug")

    async with world(make_exchange) as it:
        monkeypatch.setattr(span_exporter.SpanExporter, "run", fail)
        it.use(NOWHERE)
        async with asyncio.timeout(60):
            while "an export of spans has failed" not in caplog.text:
                await asyncio.sleep(0)
        it.use(None)


async def test_the_environment_comes_first(make_exchange: Any) -> None:
    async with world(make_exchange, OTEL_SDK_DISABLED="true") as it:
        it.use(NOWHERE)
        assert not it.tracer.is_recording
