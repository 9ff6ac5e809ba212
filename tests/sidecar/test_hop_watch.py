"""The watch over a model server: pages in, metrics and an alarm out."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.config.telemetry import ServerMetrics
from meshproxy.devtools.model_metrics import ModelMetrics
from meshproxy.inference.tfserving_metrics import MOST_LINE_BYTES
from meshproxy.sidecar.hop_watch import HopWatch
from meshproxy.sidecar.server_page import SLICE, NoPage
from meshproxy.telemetry.change_detector import LEAST_READINGS
from meshproxy.telemetry.hop_lag import MOST_SECONDS, MOST_UNEQUAL, CallTime, CallTimes
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.telemetry.conftest import make_exchange as make_exchange

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

PATH = "/monitoring/prometheus/metrics"
SERVER = 0.005
LAG = 0.001


class World:
    """A sidecar, a model server with one endpoint or more, and a clock."""

    def __init__(self, make_exchange: MakeExchange) -> None:
        self._make_exchange = make_exchange
        self.now = 0.0
        self.metrics = SidecarMetrics()
        self.metrics.requests.mention(["m"])
        self.pages: dict[str, ModelMetrics | Exception | bytes] = {"a": ModelMetrics()}
        self.calls = CallTimes("local")
        self.workers: tuple[str, ...] = ()
        self.silent: NoPage | None = None
        """A worker does not tell its calls."""
        self.watch = HopWatch(
            ServerMetrics(),
            "local",
            PATH,
            self._clusters,
            self._calls,
            self.metrics,
            read=self._read,
            clock=lambda: self.now,
        )

    async def _calls(self) -> tuple[tuple[str, ...], dict[str, CallTime]]:
        if self.silent is not None:
            raise self.silent
        return self.workers, self.calls.read()

    def _clusters(self) -> Any:
        endpoints = {key: SimpleNamespace(key=key, name=key) for key in self.pages}
        return [SimpleNamespace(name="other", endpoints={}), SimpleNamespace(name="local", endpoints=endpoints)]

    async def _read(self, endpoint: Any, path: bytes) -> bytes:
        assert path == PATH.encode()
        page = self.pages[endpoint.key]
        if isinstance(page, Exception):
            raise page
        return page if isinstance(page, bytes) else page.page().encode()

    def call(self, times: int, lag: float = LAG, model: str = "m", endpoint: str = "a", through: bool = True) -> None:
        """Calls of a model, `through` the sidecar or beside it."""
        page = self.pages[endpoint]
        assert isinstance(page, ModelMetrics)
        for _ in range(times):
            page.record(model, "OK", "Predict", "GRPC", SERVER)
            if through:
                exchange = self._make_exchange(model=model, server="local")
                exchange.first_byte = exchange.connected + SERVER + lag
                exchange.attempts[-1].ended = exchange.first_byte
                exchange.finished = exchange.first_byte + 0.000_5
                self.calls.observe(exchange)

    async def look(self, seconds: float = 15.0) -> None:
        self.now += seconds
        await self.watch.measure()

    def gauge(self, family: Any, *labels: str) -> float | None:
        series = family.series.get(labels)
        return None if series is None else series.value

    @property
    def lag(self) -> float | None:
        return self.gauge(self.metrics.hop_lag, "m")

    @property
    def alarm(self) -> float | None:
        return self.gauge(self.metrics.hop_lag_alarm, "m")

    @property
    def pages_read(self) -> dict[str, float]:
        return {labels[0]: series.value for labels, series in self.metrics.server_pages.series.items()}


@pytest.fixture
async def world(make_exchange: MakeExchange) -> World:
    made = World(make_exchange)
    made.call(1)
    await made.look()  # the first page is what others are compared with
    return made


async def test_a_reading_is_shown(world: World) -> None:
    world.call(30)
    await world.look()
    assert world.lag == pytest.approx(LAG)
    assert world.gauge(world.metrics.hop_lag_expected, "m") == pytest.approx(LAG)
    assert world.alarm == 0
    shares = {labels[1]: series.value for labels, series in world.metrics.call_time_ratio.series.items()}
    assert shares["network"] == pytest.approx(LAG / (SERVER + LAG + 0.001), rel=0.01)
    assert sum(shares.values()) == pytest.approx(1.0)


async def test_a_rise_raises_the_alarm_and_it_ends(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(LEAST_READINGS):
        world.call(30)
        await world.look()
    assert world.watch.raised == []
    for _ in range(4):
        world.call(30, lag=0.01)
        await world.look()
    assert world.alarm == 1
    assert world.watch.raised == ["m"]
    assert [each.getMessage() for each in caplog.records] == ["hop lag has risen"]
    caplog.set_level("INFO")
    for _ in range(10):
        world.call(30)
        await world.look()
    assert world.alarm == 0
    assert world.watch.raised == []
    assert caplog.records[-1].getMessage() == "hop lag is normal again"


async def test_other_callers_are_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.call(30)
    await world.look()
    for _ in range(2 * MOST_UNEQUAL):
        world.call(30)
        world.call(10, through=False)
        await world.look()
    assert world.lag is None
    assert world.gauge(world.metrics.call_time_ratio, "m", "network") is None
    assert world.gauge(world.metrics.unmatched_calls, "m") == 80
    assert len(caplog.records) == 1
    assert caplog.records[0].__dict__["fields"] == {"model": "m", "surplus": 40}
    world.call(30)
    await world.look()
    assert world.lag == pytest.approx(LAG)


async def test_models_without_a_label_are_not_measured(world: World) -> None:
    world.call(30, model="made-up")
    await world.look()
    world.call(30, model="made-up")
    await world.look()
    assert list(world.metrics.hop_lag.series) == []


async def test_several_endpoints_are_added_up(world: World) -> None:
    world.pages["b"] = ModelMetrics()
    world.call(30, endpoint="b")
    await world.look()
    assert world.lag is None  # the set has changed
    world.call(15, endpoint="a")
    world.call(15, endpoint="b")
    await world.look()
    assert world.lag == pytest.approx(LAG)
    del world.pages["b"]
    await world.look()
    world.call(30)
    await world.look()
    assert world.lag == pytest.approx(LAG)


async def test_a_restart_of_the_model_server_is_no_reading(world: World) -> None:
    world.pages["a"] = ModelMetrics()
    await world.look()
    assert world.lag is None
    world.call(30)
    await world.look()
    assert world.lag == pytest.approx(LAG)


@pytest.mark.parametrize(
    ("page", "result"),
    [
        (NoPage("absent", "there is none"), "absent"),
        (NoPage("failed", "refused"), "failed"),
        (RuntimeError("a bug"), "failed"),
        (b"\n:tensorflow:serving:request_latency_sum{" + b"x" * MOST_LINE_BYTES, "unusable"),
    ],
)
async def test_a_page_that_cannot_be_used(
    world: World, caplog: pytest.LogCaptureFixture, page: Exception | bytes, result: str
) -> None:
    good = world.pages["a"]
    world.pages["a"] = page
    for _ in range(3):
        await world.look()
    assert world.pages_read == {"ok": 1, result: 3}
    said = [each.__dict__["fields"]["server"] for each in caplog.records if "cannot be used" in each.getMessage()]
    assert said == ["local"]
    world.pages["a"] = good
    world.call(30)
    await world.look()
    assert world.lag == pytest.approx(LAG)


async def test_a_worker_that_was_restarted_counts_for_itself(world: World) -> None:
    world.call(30)
    world.workers = ("2:1",)
    await world.look()
    assert world.lag is None
    world.call(30)
    await world.look()
    assert world.lag == pytest.approx(LAG)


async def test_a_worker_that_does_not_tell(world: World) -> None:
    world.silent = NoPage("failed", "it is silent")
    world.call(30)
    await world.look()
    assert world.pages_read == {"ok": 1, "failed": 1}
    world.silent = None
    await world.look()
    assert world.lag == pytest.approx(LAG)


async def test_no_endpoints(world: World) -> None:
    world.pages.clear()
    await world.look()
    assert world.pages_read == {"ok": 1, "failed": 1}


async def test_a_model_that_is_not_called_any_longer(world: World) -> None:
    world.call(30)
    await world.look()
    await world.look(MOST_SECONDS)
    await world.look()
    assert (world.lag, world.alarm) == (None, None)


async def test_nothing_is_left_when_it_ends(world: World) -> None:
    world.call(30)
    await world.look()
    before = world.metrics.registry.lines
    world.watch.forget()
    assert (world.lag, world.alarm) == (None, None)
    assert world.metrics.registry.lines == before - 7


async def test_requests_are_served_while_a_page_is_read(world: World) -> None:
    world.pages["a"] = b"# a comment\n" * 10 * SLICE
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count())
    await world.look()
    task.cancel()
    assert turns >= 10


async def test_it_looks_at_an_interval_with_jitter(
    make_exchange: MakeExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(make_exchange)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
            if len(slept) == 3:
                raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    world.watch._draw = lambda: 1.0
    with pytest.raises(asyncio.CancelledError):
        await world.watch.run()
    assert slept == [pytest.approx(16.5)] * 3
    assert world.pages_read == {"ok": 2}
