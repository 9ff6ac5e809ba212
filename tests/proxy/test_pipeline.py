"""Where requests begin, which snapshot they get, and that all of them end."""

from __future__ import annotations

from typing import Any

from meshproxy.codec.events import Rejected
from meshproxy.refusal import Reason

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
