"""The real pipeline between fakes of a client and of model servers: no sockets, time is a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.config.routes import Retries
from meshproxy.inference.surfaces import SURFACES
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.pipeline import Pipeline
from meshproxy.proxy.snapshot import BodyLimits, Snapshot
from meshproxy.proxy.time_split import split_time, split_time_so_far
from meshproxy.routing.retry import INBOUND_RETRIES, RetryRule
from meshproxy.routing.routes import Route, Routes
from meshproxy.transport.reaper import PERIOD, Reaper
from tests.processor_time import reads_take_no_time  # noqa: F401 - a fixture of every test here
from tests.proxy.fakes import (
    NOW,
    FakeCluster,
    FakeDownstream,
    FakeLoop,
    FakePolicy,
    FakeTracer,
    FakeTraffic,
    FakeUpstream,
    FakeVerifier,
)


def route(server: str = "main", *, retry: RetryRule = INBOUND_RETRIES, **fields: Any) -> Route:
    """A route that sends calls to `server`, which retries only what the server has not seen."""
    return Route(fields.pop("name", "route"), server, retry=retry, **fields)


class World:
    """A pipeline and everything around it."""

    upstream_type = FakeUpstream

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.cluster = FakeCluster()
        self.other = FakeCluster()
        self.policy = FakePolicy()
        self.verifier = FakeVerifier()
        self.finished: list[Exchange] = []
        self.limits_hit: list[str] = []
        self.traffic = FakeTraffic()
        self.chance: list[float] = []
        """What is drawn next; 0.5 when there is none left."""
        self.refreshes: list[tuple[str, Callable[[], None]]] = []
        self.reaper = Reaper(self.loop.real)
        self.surfaces = SURFACES
        self.snapshot = self.make_snapshot()
        self.pipeline = Pipeline(
            loop=self.loop.real,
            now=self.loop.time,
            wall_clock=lambda: NOW,
            reaper=self.reaper,
            snapshot=self.snapshot,
            observer=lambda exchange: self.finished.append(exchange),
            tracer=FakeTracer(),
            refresh_keys=lambda wanted, then: self.refreshes.append((wanted.issuer, then)),
            on_limit=self.limits_hit.append,
            traffic=self.traffic,
            draw=lambda: self.chance.pop(0) if self.chance else 0.5,
            cpu_time=self.loop.time,
        )

    def make_snapshot(self, **changes: Any) -> Snapshot:
        parts: dict[str, Any] = {
            "verifier": self.verifier,
            "policy": self.policy,
            "routes": Routes(
                route(),
                [
                    ("open-elsewhere", (), route("other")),
                    ("open-quick", (), route(timeout=2.0)),
                ],
            ),
            "clusters": {"main": self.cluster, "other": self.other},
            "limits": BodyLimits(scan_buffer=1_000, scan_buffer_total=1_500),
            "forwards_identity": False,
            "forwards_token": False,
            "surfaces": self.surfaces,
        }
        return Snapshot(**{**parts, **changes})

    def use(self, **changes: Any) -> None:
        self.pipeline.snapshot = self.make_snapshot(**changes)

    def serve(self, endpoints: int = 1, *, retries: Retries | None = None, **fields: Any) -> FakeCluster:
        """One route for all calls, to so many endpoints."""
        self.cluster = FakeCluster(endpoints)
        if retries is not None:
            fields["retry"] = RetryRule(retries)
        self.use(routes=Routes(route(**fields)))
        return self.cluster

    def wait(self, seconds: float) -> None:
        """Time passes: timers fire, and the reaper looks."""
        end = self.loop.now + seconds
        while self.loop.now < end:
            self.loop.advance(min(PERIOD, end - self.loop.now))
            self.reaper.sweep(self.loop.now)

    def assert_let_go(self) -> None:
        """Every exchange is over and has left nothing; each endpoint heard once how each attempt went."""
        pipeline = self.pipeline
        assert pipeline.live == set()
        self.assert_times_add_up()
        assert (pipeline.scan_buffer.total, pipeline.replay_bytes, pipeline.response_buffer.total) == (0, 0, 0)
        assert (len(pipeline.scan_buffer), len(pipeline.response_buffer)) == (0, 0)
        assert (pipeline.mirrors.in_flight, pipeline.mirrors.live) == ({}, set())
        assert all((each.in_flight, each.waiting) == (0, 0) for _, _, each in pipeline.admissions.rows())
        assert [timer for timer in self.loop.timers if not timer.is_cancelled] == []
        for endpoint in self.cluster.all + self.other.all:
            began = sum(report.startswith("begin") for report in endpoint.reports)
            assert len(endpoint.reports) == 2 * began, endpoint.reports
            assert endpoint.pool.waiting == []

    def assert_times_add_up(self) -> None:
        """All the time of every exchange went somewhere."""
        for exchange in self.finished:
            parts = [part for part in split_time(exchange) if part is not None]
            assert split_time(exchange) == split_time_so_far(exchange, exchange.finished)
            assert sum(parts) == pytest.approx(exchange.finished - exchange.started, abs=1e-9)
            assert min(parts) >= -1e-9, parts

    def rest(
        self,
        target: bytes = b"/v1/models/open:predict",
        *,
        method: bytes = b"POST",
        headers: Headers = (),
        body: bytes | None = b"{}",
        length: int | None = None,
        client: FakeDownstream | None = None,
        expects_continue: bool = False,
        trace: bytes | None = None,
    ) -> FakeDownstream:
        """Send a REST request; `body` None leaves the body to the test."""
        client = client or FakeDownstream("HTTP/1.1")
        end = method == b"GET"
        if body is not None and not end:
            length = len(body)
        self.pipeline.serve(
            client, RequestHead(1, method, b"host", target, headers, end, length, expects_continue, trace)
        )
        if body is not None and not end:
            client.receive(body, True)
        return client

    def grpc(
        self,
        message: bytes | None,
        *,
        method: bytes = b"/tensorflow.serving.PredictionService/Predict",
        headers: Headers = (),
        client: FakeDownstream | None = None,
    ) -> FakeDownstream:
        """Send a gRPC request of one message; None leaves the body to the test."""
        client = client or FakeDownstream()
        headers = ((b"content-type", b"application/grpc"), *headers)
        self.pipeline.serve(client, RequestHead(1, b"POST", b"host", method, headers, end=False))
        if message is not None:
            body = framed(message)
            client.receive(body, True)
        return client


def framed(message: bytes) -> bytes:
    """A gRPC message with its prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def spec(name: bytes, version: int | None = None) -> bytes:
    """`model_spec { name: ..., version { value: ... } }`, field 1 of a PredictRequest."""
    inner = b"\x0a" + bytes([len(name)]) + name
    if version is not None:
        inner += b"\x12\x02\x08" + bytes([version])
    return b"\x0a" + bytes([len(inner)]) + inner


def tensor(size: int) -> bytes:
    """Field 2 of a PredictRequest, `size` bytes of it."""
    return b"\x12" + varint(size) + b"\x01" * size


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def wire() -> Any:
    """The helpers that make messages, under one name."""

    class Wire:
        pass

    Wire.framed = staticmethod(framed)  # type: ignore[attr-defined]
    Wire.spec = staticmethod(spec)  # type: ignore[attr-defined]
    Wire.tensor = staticmethod(tensor)  # type: ignore[attr-defined]
    Wire.varint = staticmethod(varint)  # type: ignore[attr-defined]
    Wire.client = FakeDownstream  # type: ignore[attr-defined]
    return Wire
