"""Where requests begin, which snapshot they get, and that all of them end."""

from __future__ import annotations

from typing import Any

import pytest

from meshproxy.codec.events import Rejected, RequestHead
from meshproxy.config.routes import Retries
from meshproxy.inference.grpc_health import ALIVE
from meshproxy.proxy.exchange import Happening
from meshproxy.proxy.headers import B3_FIELDS
from meshproxy.refusal import Reason
from meshproxy.telemetry.b3 import B3Format, B3Propagator
from meshproxy.telemetry.sampling import Sampler
from meshproxy.telemetry.trace import Tracer
from tests.proxy.fakes import ALICE, FakeDownstream

CANCEL = 0x8


def test_a_request_keeps_the_snapshot_it_began_with(world: Any) -> None:
    client = world.rest(body=None, length=4)
    world.use(policy=None, routes=None, clusters={})
    client.receive(b"body", True)
    world.cluster.streams[0].respond()
    assert client.status == 200


def test_what_the_codec_refused_is_answered_and_observed(world: Any, wire: Any) -> None:
    client = wire.client("HTTP/1.1")
    world.pipeline.reject(client, Rejected(1, 431, "the head is too large", "header_bytes"))
    assert client.status == 431
    assert world.finished[0].refusal.limit == "header_bytes"
    assert world.limits_hit == []  # its connection has counted it


def test_a_grpc_request_that_the_codec_refused_gets_trailers_only(world: Any, wire: Any) -> None:
    client = wire.client("HTTP/2")
    world.pipeline.reject(client, Rejected(1, 431, "the head is too large", "header_bytes", is_grpc=True))
    assert (client.status, client.headers[b"content-type"], client.ended) == (200, b"application/grpc", True)
    assert client.headers[b"grpc-status"] == b"8"
    assert world.finished[0].grpc_status == 8


def test_a_malformed_head_that_was_reset_is_logged_and_gets_no_response(world: Any, wire: Any) -> None:
    client = wire.client("HTTP/2")
    world.pipeline.reject(client, Rejected(1, 400, "connection is not allowed here", is_reset=True))
    assert client.heads == []
    (exchange,) = world.finished
    assert (exchange.status, str(exchange.flags), exchange.refusal.reason) == (0, "DPE", Reason.BAD_REQUEST)
    assert exchange.refusal.message == "Bad request: connection is not allowed here."
    assert world.pipeline.live == set()


def alive(world: Any, peer: Any, method: bytes = b"GET") -> FakeDownstream:
    client = FakeDownstream("HTTP/2", peer)
    world.pipeline.serve(client, RequestHead(1, method, b"models", ALIVE, (), end=True))
    return client


def test_whether_it_is_alive_a_sidecar_says_itself(world: Any) -> None:
    """Other sidecars ask each second: what the policy is asked is audited, and most may not ask for the server."""
    client = alive(world, ALICE)
    assert (client.status, client.ended, client.body) == (204, True, b"")
    assert world.cluster.streams == world.policy.asked == []
    (exchange,) = world.finished
    assert (exchange.status, exchange.refusal, exchange.upstream) == (204, None, "")
    world.assert_let_go()


def test_strangers_and_other_methods_are_refused_as_for_any_path(world: Any) -> None:
    for peer, method in ((None, b"GET"), (ALICE, b"POST")):
        assert alive(world, peer, method).status in (403, 404, 405)
    assert all(exchange.refusal is not None for exchange in world.finished)


def test_nothing_of_an_ended_request_is_left(world: Any, wire: Any) -> None:
    world.rest()
    world.cluster.streams[0].respond()
    world.rest(b"/v1/models/closed:predict")
    world.grpc(wire.spec(b"open")).sink.reset_received(CANCEL, "gone")
    assert world.pipeline.live == set()
    assert world.pipeline.served == 3


def test_those_in_flight_are_known(world: Any) -> None:
    world.rest()
    world.rest()
    assert (len(world.pipeline.live), world.pipeline.served) == (2, 0)
    world.cluster.streams[0].respond()
    assert (len(world.pipeline.live), world.pipeline.served) == (1, 1)


class TestTraces:
    """What a request's trace becomes: `telemetry.trace` has what is in it."""

    PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    def record(self, world: Any, ratio: float = 1.0) -> None:
        world.pipeline.tracer = Tracer(Sampler(ratio), lambda exchange: None)

    def test_without_export_the_server_span_is_the_parent_of_every_attempt(self, world: Any) -> None:
        world.pipeline.tracer = Tracer()
        world.serve(2, retries=Retries())
        world.rest(trace=self.PARENT)
        world.cluster.streams[0].respond(status=503)
        first, second = (stream.head.trace for stream in world.cluster.streams)
        assert first == second
        world.cluster.streams[1].respond()
        (exchange,) = world.finished
        assert first == b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + exchange.trace.span_id + b"-01"
        assert [attempt.span_id for attempt in exchange.attempts] == [b"", b""]

    def test_without_export_nothing_is_added(self, world: Any) -> None:
        world.rest()
        assert world.cluster.streams[0].head.trace is None

    def test_each_attempt_has_a_span_of_its_own(self, world: Any) -> None:
        self.record(world)
        world.serve(2, retries=Retries())
        world.rest(trace=self.PARENT, headers=((b"tracestate", b"vendor=1"),))
        world.cluster.streams[0].respond(status=503)
        world.cluster.streams[1].respond()
        (exchange,) = world.finished
        assert exchange.trace.parent_id == b"00f067aa0ba902b7"
        spans = [attempt.span_id for attempt in exchange.attempts]
        assert len({*spans, exchange.trace.span_id}) == 3
        for stream, span in zip(world.cluster.streams, spans, strict=True):
            assert stream.head.trace == b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + span + b"-01"
            assert (b"tracestate", b"vendor=1") in stream.head.headers
        assert [(attempt.status, attempt.grpc_status) for attempt in exchange.attempts] == [(503, None), (200, None)]

    def test_a_request_keeps_what_it_began_with(self, world: Any) -> None:
        """Between two attempts a reload turns the export off, and for another request on."""
        self.record(world)
        world.serve(2, retries=Retries())
        world.rest(trace=self.PARENT)
        world.pipeline.tracer = Tracer()
        world.rest(trace=self.PARENT)
        self.record(world)
        for stream in world.cluster.streams[:2]:
            stream.respond(status=503)
        for stream in world.cluster.streams[2:]:
            stream.respond()
        recorded, other = world.finished
        assert recorded.trace.record is not None
        assert all(attempt.span_id for attempt in recorded.attempts)
        assert other.trace.record is None
        assert [attempt.span_id for attempt in other.attempts] == [b"", b""]

    @pytest.mark.parametrize(("ratio", "flags"), [(1.0, b"01"), (0.0, b"00")])
    @pytest.mark.parametrize("trace", [None, b"malformed"])
    def test_a_trace_begins_here_if_there_is_none(
        self, world: Any, ratio: float, flags: bytes, trace: bytes | None
    ) -> None:
        self.record(world, ratio)
        world.rest(trace=trace)
        world.cluster.streams[0].respond()
        (exchange,) = world.finished
        assert exchange.trace.parent_id == b""
        (attempt,) = exchange.attempts
        sent = world.cluster.streams[0].head.trace
        assert sent == b"00-" + exchange.trace.trace_id + b"-" + attempt.span_id + b"-" + flags

    @pytest.mark.parametrize("name", sorted(B3_FIELDS))
    def test_no_second_trace_begins_beside_one_of_zipkin(self, world: Any, name: bytes) -> None:
        self.record(world)
        world.rest(headers=((name, b"1"),))
        assert world.cluster.streams[0].head.trace is None
        assert (name, b"1") in world.cluster.streams[0].head.headers

    def test_zipkins_trace_goes_on_where_that_is_configured(self, world: Any) -> None:
        """The endpoint sees the attempt as its parent, in both formats, and nothing of what the caller sent."""
        world.pipeline.tracer = Tracer(Sampler(0.0), lambda exchange: None, B3Propagator({B3Format.SINGLE}))
        world.serve(2, retries=Retries())
        trace = b"4bf92f3577b34da6a3ce929d0e0e4736"
        sent = ((b"x-b3-traceid", trace), (b"x-b3-spanid", b"00f067aa0ba902b7"), (b"x-b3-sampled", b"1"))
        world.rest(headers=sent)
        world.cluster.streams[0].respond(status=503)
        world.cluster.streams[1].respond()
        (exchange,) = world.finished
        assert (exchange.trace.trace_id, exchange.trace.parent_id) == (trace, b"00f067aa0ba902b7")
        for stream, attempt in zip(world.cluster.streams, exchange.attempts, strict=True):
            assert stream.head.trace == b"00-" + trace + b"-" + attempt.span_id + b"-01"
            b3 = [field for field in stream.head.headers if field[0] in B3_FIELDS]
            assert b3 == [(b"b3", trace + b"-" + attempt.span_id + b"-1")]

    def test_traceparent_comes_before_zipkins_fields(self, world: Any) -> None:
        world.pipeline.tracer = Tracer(Sampler(0.0), lambda exchange: None, B3Propagator({B3Format.MULTI}))
        world.rest(trace=self.PARENT, headers=((b"b3", b"1" * 32 + b"-" + b"2" * 16 + b"-0"),))
        world.cluster.streams[0].respond()
        (exchange,) = world.finished
        assert exchange.trace.trace_id == self.PARENT[3:35]
        (attempt,) = exchange.attempts
        assert [field for field in world.cluster.streams[0].head.headers if field[0] in B3_FIELDS] == [
            (b"x-b3-traceid", self.PARENT[3:35]),
            (b"x-b3-spanid", attempt.span_id),
            (b"x-b3-sampled", b"1"),
        ]

    def test_a_head_that_was_refused_has_a_trace_of_its_own(self, world: Any, wire: Any) -> None:
        """Nothing is known of it, so nothing of it is in the span."""
        self.record(world, 0.0)
        world.pipeline.reject(wire.client("HTTP/1.1"), Rejected(1, 400, "the head is malformed"))
        (exchange,) = world.finished
        assert (exchange.trace.parent_id, exchange.trace.record is not None) == (b"", True)
        world.pipeline.tracer = Tracer()
        world.pipeline.reject(wire.client("HTTP/1.1"), Rejected(1, 400, "the head is malformed"))
        assert world.finished[1].trace is None

    def test_endpoints_that_are_skipped_are_noted_for_spans(self, world: Any) -> None:
        """For sampled traces, and for others once something has gone wrong: it takes a look at each endpoint."""
        world.serve(3, retries=Retries()).out = {"endpoint-1"}
        world.rest(trace=self.PARENT)
        self.record(world)
        world.rest(trace=self.PARENT)
        world.rest(trace=self.PARENT[:-1] + b"0")
        world.cluster.streams[2].respond(status=503)
        for stream in (*world.cluster.streams[:2], world.cluster.streams[3]):
            stream.respond()
        skipped = (Happening.ENDPOINTS_SKIPPED, (("circuit_open", 1),))
        assert [[note[1:] for note in exchange.notes] for exchange in world.finished] == [[], [skipped], [skipped]]

    def test_no_endpoint_at_all_is_noted_too(self, world: Any) -> None:
        world.cluster.out = {"endpoint-0"}
        self.record(world, 0.0)
        world.rest()
        assert [note.what for note in world.finished[0].notes] == [Happening.ENDPOINTS_SKIPPED]

    def test_a_retry_that_is_not_made_is_noted(self, world: Any) -> None:
        world.serve(2, retries=Retries(attempts=2))
        world.rest()
        for stream in world.cluster.streams:
            stream.respond(status=503)
        (note,) = world.finished[0].notes
        facts = ("reason", "gateway-error"), ("skip", "attempts")
        assert note == (world.loop.now, Happening.RETRY_SKIPPED, facts)

    def test_what_a_call_over_grpc_ended_with(self, world: Any, wire: Any) -> None:
        self.record(world)
        world.grpc(wire.spec(b"open"))
        world.cluster.streams[0].fail_grpc(b"5")
        (exchange,) = world.finished
        assert [(attempt.status, attempt.grpc_status) for attempt in exchange.attempts] == [(200, 5)]
