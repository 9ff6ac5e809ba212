"""Conversations of the HTTP/2 drivers: our client and our server on two ends of a wire without sockets."""

from __future__ import annotations

import logging
from typing import Any

import hpack
import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h2 import MOST_UNREAD, UNREAD_BUDGET


def test_an_exchange(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    asked.stream.send_data(b"body", end=True)
    wire.settle()
    (request,) = served.requests
    assert (request.head.target, request.head.headers, request.body) == (b"/p", ((b"a", b"b"),), b"body")
    assert request.ended
    request.stream.send_response(200, ((b"c", b"d"),), end=False)
    request.stream.send_data(b"answer", end=False)
    request.stream.send_trailers(((b"grpc-status", b"0"),))
    wire.settle()
    assert asked.heads[0].status == 200
    assert (asked.body, asked.trailers) == (b"answer", ((b"grpc-status", b"0"),))
    assert wire.server.is_idle
    assert wire.client.streams == {}
    assert wire.pool.freed_streams == 1


def test_streams_do_not_wait_for_each_other(wire: Any, served: Any, make_sink: Any) -> None:
    asked = [wire.ask(make_sink) for _ in range(3)]
    wire.settle()
    for request in reversed(served.requests):
        request.stream.send_response(200, (), end=True)
    wire.settle()
    assert [sink.heads[0].status for sink in asked] == [200, 200, 200]


@pytest.mark.parametrize("answers", [False, True], ids=["a request", "a response"])
def test_a_reader_that_gives_no_credit_holds_the_writer(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext, answers: bool
) -> None:
    window = shared.limits.stream_window
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    (request,) = served.requests
    if answers:
        request.stream.send_response(200, (), end=False)
        wire.settle()
    writer, reader = (request, asked) if answers else (asked, request)
    reader.holds = True
    # The client's window is HTTP/2's own until our SETTINGS are known, which `settle` has seen to.
    assert not writer.stream.send_data(b"x" * (window + 5), end=True)
    wire.settle()
    assert len(reader.body) == window
    assert writer.drains == 0
    assert not reader.ended
    reader.stream.credit(reader.owed)
    wire.settle()
    assert len(reader.body) == window + 5
    assert reader.ended
    assert writer.drains == 1


def test_a_held_answer_keeps_its_stream(wire: Any, served: Any, make_sink: Any, shared: ConnectionContext) -> None:
    asked = wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    asked.holds = True
    request.stream.send_response(200, (), end=False)
    request.stream.send_data(b"x" * (shared.limits.stream_window + 1), end=False)
    request.stream.send_trailers(((b"a", b"b"),))
    wire.settle()
    assert not wire.server.is_idle
    asked.stream.credit(asked.owed)
    wire.settle()
    assert wire.server.is_idle
    assert (request.drains, asked.trailers) == (1, ((b"a", b"b"),))


def test_a_full_socket_holds_the_writer(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    wire.client.pause_writing()
    assert not asked.stream.send_data(b"x", end=False)
    assert asked.drains == 0
    wire.client.resume_writing()
    assert asked.drains == 1
    wire.settle()
    assert served.requests[0].body == b"x"


def test_a_reset_reaches_the_other_end(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    asked.stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert served.requests[0].reset[0] == ErrorCode.CANCEL
    assert asked.reset is None
    assert wire.server.is_idle

    other = wire.ask(make_sink)
    wire.settle()
    served.requests[1].stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert other.reset[0] == ErrorCode.CANCEL


def test_a_request_whose_client_has_left_is_not_served(wire: Any, served: Any, make_sink: Any) -> None:
    """The reset was read together with the request, as happens when there is too much to do."""
    left, other = wire.ask(make_sink, end=False), wire.ask(make_sink)
    left.stream.send_data(b"body", end=False)
    left.stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert len(served.requests) == 1
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert other.heads[0].status == 200
    assert wire.server.is_idle


def test_an_early_answer_stops_the_request(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(403, (), end=True)
    stream.stop_receiving()
    wire.settle()
    assert asked.heads[0].status == 403
    assert wire.server.is_idle
    assert wire.client.streams == {}
    assert asked.reset == (
        ErrorCode.NO_ERROR,
        "the peer reset the stream",
    )  # behind the answer: it says to send no more


def test_a_lost_socket_ends_every_stream(wire: Any, served: Any, make_sink: Any) -> None:
    asked = [wire.ask(make_sink), wire.ask(make_sink)]
    wire.settle()
    wire.client.connection_lost(ConnectionResetError("reset by peer"))
    wire.server.eof_received()
    assert [sink.reset for sink in asked] == [(ErrorCode.CANCEL, "reset by peer")] * 2
    assert [request.reset[0] for request in served.requests] == [ErrorCode.CANCEL] * 2
    assert wire.pool.is_gone


def test_draining_lets_everything_finish(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink)
    wire.settle()
    wire.server.drain()
    wire.settle()
    assert wire.pool.is_retired
    assert not wire.client.can_open
    served.requests[0].stream.send_response(200, (), end=True)
    wire.settle()
    assert asked.heads[0].status == 200
    assert wire.client_socket.ended == "closed"


def test_a_refused_head_is_answered(wire: Any, served: Any, make_sink: Any, limits_hit: list[str]) -> None:
    stream = wire.client.open()
    stream.sink = asked = make_sink(stream)
    stream.send_request(RequestHead(0, b"GET", b"x", b"/" + b"a" * 9_000, (), end=True))
    wire.settle()
    assert asked.heads[0].status == 414
    assert served.rejected[0].limit == "target_bytes"
    assert limits_hit == ["target_bytes"]


def test_nonsense_ends_the_connection(wire: Any, served: Any, make_sink: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.data_received(b"\x00\x00\x04\x06\x00\x00\x00\x00\x00abcd")
    assert served.requests[0].reset is not None
    assert wire.server_socket.ended == "closed"
    assert b"\x07" in wire.server_socket.take()  # GOAWAY


def test_what_is_owed_when_a_stream_ends_is_forgiven(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext
) -> None:
    """Or the connection's window would shrink with every call that is broken off."""
    for ends in ("answer", "reset", "cancel") * 10:
        asked = wire.ask(make_sink, end=False)
        wire.settle()
        request = served.requests[-1]
        request.holds = True
        asked.stream.send_data(b"x" * 200_000, end=ends == "answer")
        wire.settle()
        assert len(request.body) == 200_000, ends
        if ends == "answer":
            request.stream.send_response(200, (), end=True)
        elif ends == "reset":
            request.stream.reset(ErrorCode.CANCEL)
        else:
            asked.stream.reset(ErrorCode.CANCEL)
        wire.settle()


def test_a_client_that_takes_no_heads_hurts_nobody_else(wire: Any, served: Any, make_sink: Any) -> None:
    wire.server.codec.receive(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x01", 0.0)
    wire.ask(make_sink)
    wire.settle()
    (request,) = served.requests
    request.stream.send_response(200, ((b"a", b"b"),), end=False)
    assert request.reset is not None
    request.stream.send_data(b"x", end=True)
    assert wire.server.streams == {}


def test_a_client_that_never_reads_is_left(
    wire: Any, served: Any, make_sink: Any, shared: ConnectionContext, limits_hit: list[str]
) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.pause_writing()
    wire.server_socket.unsent = MOST_UNREAD + 1
    served.requests[0].stream.send_response(200, (), end=True)
    wire.loop.turn()
    assert limits_hit == ["unread_bytes"]
    assert wire.server_socket.ended == "aborted"


def test_a_body_over_the_limit_is_its_readers_to_answer(
    shared: ConnectionContext,
    loop: Any,
    info: ConnectionInfo,
    served: Any,
    make_wire: Any,
    make_transport: Any,
    make_sink: Any,
) -> None:
    shared.limits = Limits(body_bytes=10)
    wire = make_wire(shared, loop, info, served, [make_transport(), make_transport()])
    wire.settle()
    asked = wire.ask(make_sink, end=False)
    asked.stream.send_data(b"x" * 11, end=False)
    wire.settle()
    (request,) = served.requests
    assert [rejected.status for rejected in request.rejections] == [413]
    assert served.rejected == []
    request.stream.send_response(413, (), end=True)
    wire.settle()
    assert asked.heads[0].status == 413
    assert wire.server.is_idle


def test_an_idle_connection_is_closed(wire: Any, shared: ConnectionContext, loop: Any) -> None:
    shared.reaper.sweep(loop.now + shared.times.idle + 1)
    assert wire.server_socket.ended == "closed"


def test_a_busy_connection_is_not(wire: Any, served: Any, make_sink: Any, shared: ConnectionContext, loop: Any) -> None:
    wire.ask(make_sink)
    wire.settle()
    shared.reaper.sweep(loop.now + shared.times.idle + 1)
    assert not wire.server_socket.ended
    assert not wire.client_socket.ended


def test_commands_on_a_dead_stream_do_nothing(wire: Any, served: Any, make_sink: Any) -> None:
    asked = wire.ask(make_sink, end=False)
    wire.settle()
    asked.stream.reset(ErrorCode.CANCEL)
    wire.settle()
    stream = served.requests[0].stream
    stream.send_response(200, (), end=False)
    stream.send_data(b"x", end=False)
    stream.send_trailers(())
    stream.credit(1)
    stream.reset(ErrorCode.CANCEL)
    wire.settle()
    assert asked.heads == []
    assert not wire.client_socket.ended


def raw_request(number: int, *fields: tuple[bytes, bytes]) -> bytes:
    """HEADERS that end a GET."""
    block = hpack.Encoder().encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/p"), *fields])
    return len(block).to_bytes(3, "big") + b"\x01\x05" + number.to_bytes(4, "big") + block


def test_a_malformed_head_is_reported_once_and_its_line_is_suppressed_for_a_while(
    wire: Any, served: Any, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.settle()
    with caplog.at_level(logging.INFO):
        for number in (1, 3):
            wire.server.data_received(raw_request(number, (b":authority", b"a"), (b"connection", b"close")))
        assert [(rejected.is_reset, rejected.status) for rejected in served.rejected] == [(True, 400)] * 2
        loop.now += 10.0
        wire.server.data_received(raw_request(5))
        wire.server.data_received(raw_request(7, (b":authority", b"a"), (b"connection", b"close")))
    line = (
        "reset an HTTP/2 stream from 127.0.0.1:40000: the client broke the protocol (%s): correct or update the client"
    )
    suppressed = " (lines suppressed before: 1)"
    assert caplog.messages == [
        line % "connection is not allowed here",
        line % "neither :authority nor host" + suppressed,
        line % "connection is not allowed here",
    ]
    loop.turn()
    assert wire.server_socket.take().count(b"\x00\x00\x04\x03\x00\x00\x00\x00") == 4  # RST_STREAM
    assert wire.server.is_idle
    assert wire.server.codec.statistics.heads_malformed == 4


def test_a_violation_that_ends_the_connection_is_reported(
    wire: Any, loop: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wire.settle()
    with caplog.at_level(logging.INFO):
        wire.server.data_received(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00")  # DATA on stream 0
    (record,) = caplog.records
    assert "closed the HTTP/2 connection from 127.0.0.1:40000" in record.getMessage()
    assert "DATA on stream 0" in record.getMessage()
    assert wire.server.codec.statistics.connections_failed == 1


def test_a_client_that_does_not_read_gets_no_further_streams_until_it_does(
    wire: Any, served: Any, make_sink: Any, limits_hit: list[str]
) -> None:
    wire.ask(make_sink)
    wire.settle()
    wire.server.pause_writing()
    wire.server_socket.unsent = UNREAD_BUDGET + 1
    refused = wire.ask(make_sink)
    wire.settle()
    assert refused.reset == (ErrorCode.REFUSED_STREAM, "the peer reset the stream")
    assert limits_hit == ["unread_bytes"]
    wire.server_socket.unsent = 0
    wire.server.resume_writing()
    wire.ask(make_sink)
    wire.settle()
    assert len(served.requests) == 2


def test_as_many_streams_as_envoy_takes(wire: Any, served: Any, make_sink: Any) -> None:
    wire.settle()
    asked = [wire.ask(make_sink) for _ in range(1_024)]
    wire.settle()
    assert len(served.requests) == 1_024
    for sink in asked:
        sink.stream.reset(ErrorCode.CANCEL)  # all at once, which is no attack
    wire.settle()
    assert not wire.server.is_closing
    assert wire.server.is_idle
