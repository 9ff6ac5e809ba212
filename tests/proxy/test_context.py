"""What all requests of a pipeline share."""

from __future__ import annotations

from msgspec.structs import replace

from meshproxy.codec.events import RequestHead
from meshproxy.proxy.client_side import REFUSAL_SECONDS, REFUSING
from meshproxy.proxy.context import ProxyContext
from meshproxy.refusal import Reason, Refusal
from meshproxy.transport.reaper import Reaper
from tests.proxy.fakes import NOW, FakeDownstream, FakeTracer, FakeTraffic, RecordedRequest, Surroundings

HEAD = RequestHead(1, b"POST", b"host", b"/", (), False, 10)


def test_the_reaper_looks_at_every_exchange_in_flight() -> None:
    around = Surroundings()
    reaper = Reaper(around.loop.real)
    context = ProxyContext(
        loop=around.loop.real,
        now=around.loop.time,
        wall_clock=lambda: NOW,
        reaper=reaper,
        snapshot=around.context.snapshot,
        observer=lambda exchange: around.finished.append(exchange),
        tracer=FakeTracer(),
        refresh_keys=lambda issuer, then: None,
        on_limit=around.limits_hit.append,
        traffic=FakeTraffic(),
    )
    request = RecordedRequest(context, FakeDownstream("HTTP/1.1"), HEAD)
    request.refuse(Refusal(Reason.PERMISSION_DENIED, "no"))
    assert (request.answer, context.live) == (REFUSING, {request})
    reaper.sweep(around.loop.now + REFUSAL_SECONDS + 0.1)
    assert around.finished == [request]
    assert (context.live, context.served) == (set(), 1)


def test_its_chance_and_clocks_are_real_unless_a_test_says_otherwise() -> None:
    around = Surroundings()
    context = ProxyContext(
        loop=around.loop.real,
        now=around.loop.time,
        wall_clock=lambda: NOW,
        reaper=Reaper(around.loop.real),
        snapshot=around.context.snapshot,
        observer=lambda exchange: None,
        tracer=FakeTracer(),
        refresh_keys=lambda issuer, then: None,
        on_limit=around.limits_hit.append,
        traffic=FakeTraffic(),
    )
    draws = {context.draw() for _ in range(10)}
    assert len(draws) > 1
    assert all(0.0 <= each < 1.0 for each in draws)
    began = context.cpu_time()
    assert sum(range(10_000))
    assert context.cpu_time() >= began


def test_a_request_keeps_the_snapshot_that_was_there_when_it_began() -> None:
    around = Surroundings()
    context, old = around.context, around.context.snapshot
    first = RecordedRequest(context, FakeDownstream(), HEAD)
    context.snapshot = new = replace(old, server="other")
    second = RecordedRequest(context, FakeDownstream(), HEAD)
    assert (first.snapshot, second.snapshot) == (old, new)
