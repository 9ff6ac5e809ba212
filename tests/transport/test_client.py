"""One exchange as a conversation: the other end is a codec, or a stream that is its own server."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Data, RequestHead, Reset, ResponseHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.transport.client import HEAD_BYTES, ClientError, ClientFailure, Response, exchange
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.listener import PeerRejected
from meshproxy.transport.stream import HeadRefused

GET = RequestHead(0, b"GET", b"", b"/x", ((b"accept", b"*/*"),), end=True)
POST = RequestHead(0, b"POST", b"models.example", b"/x", (), end=False)


def ask(source: Any, head: RequestHead = GET, body: bytes = b"", **changed: Any) -> asyncio.Task[Response]:
    limits = {"timeout": 10.0, "max_body_bytes": 1_000, **changed}
    return asyncio.create_task(exchange(source, head, body, **limits))


async def asked(source: Any, head: RequestHead = GET, body: bytes = b"", **changed: Any) -> tuple[Any, int]:
    """The task, once its request has come, and the number of its stream."""
    task = ask(source, head, body, **changed)
    await asyncio.sleep(0)
    source.run()
    (received,) = source.take(RequestHead)
    return task, received.stream


async def failure(task: asyncio.Task[Response]) -> ClientError:
    with pytest.raises(ClientError) as failed:
        await task
    return failed.value


async def test_a_response_with_everything(make_server: Any) -> None:
    server = make_server()
    task = ask(server)
    await asyncio.sleep(0)
    server.run()
    (head,) = server.take(RequestHead)
    assert (head.method, head.target, head.authority, head.end) == (b"GET", b"/x", b"10.0.0.1:8500", True)
    server.codec.send_response(head.stream, 103, ((b"link", b"</a>"),), False)
    server.codec.send_response(head.stream, 404, ((b"x", b"y"),), False)
    server.codec.send_data(head.stream, b"ab", False)
    server.codec.send_data(head.stream, b"c", False)
    server.codec.send_trailers(head.stream, ((b"z", b"1"),))
    server.run()
    assert await task == Response(404, ((b"x", b"y"),), b"abc", ((b"z", b"1"),))
    assert server.take(Reset) == []
    assert server.client.streams == {}


async def test_a_request_with_a_body_and_an_authority(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server, POST, b"question")
    assert [event.data for event in server.take(Data)] == [b"question"]
    server.codec.send_response(stream, 204, (), True)
    server.run()
    assert (await task).status == 204


async def test_several_exchanges_on_one_connection_do_not_mix(make_server: Any) -> None:
    server = make_server()
    tasks = [ask(server) for _ in range(5)]
    await asyncio.sleep(0)
    server.run()
    streams = [head.stream for head in server.take(RequestHead)]
    for stream in reversed(streams):
        server.codec.send_response(stream, 200, (), False)
        server.codec.send_data(stream, b"%d" % stream, True)
    server.run()
    assert [(await task).body for task in tasks] == [b"%d" % stream for stream in streams]


async def test_a_body_larger_than_every_window_is_sent_as_the_server_reads(make_server: Any) -> None:
    server = make_server()
    body = bytes(range(256)) * 8_000  # 2 MB
    task, stream = await asked(server, POST, body)
    received = b""
    while len(received) < len(body):
        pieces = server.take(Data)
        assert 0 < sum(len(piece.data) for piece in pieces) <= Limits().stream_window
        for piece in pieces:
            received += piece.data
            server.codec.credit(stream, piece.flow)
        server.run()
    assert received == body
    server.codec.send_response(stream, 200, (), True)
    server.run()
    assert (await task).status == 200


async def test_a_response_before_the_request_has_been_sent_stops_the_rest(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server, POST, bytes(1_000_000))
    server.codec.send_response(stream, 413, (), True)
    server.run()
    assert (await task).status == 413
    (reset,) = server.take(Reset)
    assert (reset.stream, reset.code) == (stream, ErrorCode.CANCEL)


# What goes wrong


@pytest.mark.parametrize("declares", [True, False])
async def test_a_body_beyond_the_limit(make_server: Any, declares: bool) -> None:
    server = make_server()
    task, stream = await asked(server)
    server.codec.send_response(stream, 200, (), False, 1_001 if declares else None)
    if not declares:
        server.codec.send_data(stream, bytes(1_001), False)
    server.run()
    error = await failure(task)
    assert (error.failure, str(error)) == (ClientFailure.TOO_LARGE, "the response body exceeds 1000 bytes")
    assert [reset.code for reset in server.take(Reset)] == [ErrorCode.CANCEL]


async def test_a_body_of_exactly_the_limit(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server)
    server.codec.send_response(stream, 200, (), False, 1_000)
    server.codec.send_data(stream, bytes(1_000), True)
    server.run()
    assert len((await task).body) == 1_000


@pytest.mark.parametrize("where", ["head", "trailers"])
async def test_fields_beyond_the_limit(make_server: Any, where: str) -> None:
    server = make_server()
    task, stream = await asked(server, max_head_bytes=100)
    large = ((b"x", b"y" * 68),)  # 101 bytes
    server.codec.send_response(stream, 200, large if where == "head" else (), False)
    if where == "trailers":
        server.codec.send_trailers(stream, large)
    server.run()
    error = await failure(task)
    assert (error.failure, str(error)) == (ClientFailure.TOO_LARGE, f"the response {where} exceeds 100 bytes")


async def test_a_stream_that_the_server_resets(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server)
    server.codec.send_response(stream, 200, (), False)
    server.codec.reset(stream, ErrorCode.INTERNAL_ERROR)
    server.run()
    error = await failure(task)
    assert (error.failure, error.code) == (ClientFailure.RESET, ErrorCode.INTERNAL_ERROR)
    assert "broke off: the peer reset the stream" in str(error)


async def test_a_server_that_goes_away_has_not_processed_the_request(make_server: Any) -> None:
    server = make_server()
    task = ask(server)
    await asyncio.sleep(0)
    server.codec.go_away(final=True)  # before it has read the request
    server.run()
    error = await failure(task)
    assert (error.failure, error.code) == (ClientFailure.RESET, ErrorCode.REFUSED_STREAM)


async def test_a_connection_that_is_lost(make_server: Any) -> None:
    server = make_server()
    task, _ = await asked(server)
    server.client.connection_lost(ConnectionResetError("reset by peer"))
    error = await failure(task)
    assert (error.failure, str(error)) == (ClientFailure.RESET, "the response broke off: reset by peer")


async def test_a_response_that_is_malformed(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server)
    server.codec.send_response(stream, 200, (), False, 5)
    server.codec.out.append(b"\0\0\1\0\1" + stream.to_bytes(4, "big") + b"x")  # a body of 1 byte, with END_STREAM
    server.run()
    error = await failure(task)
    assert (error.failure, error.code) == (ClientFailure.PROTOCOL, ErrorCode.PROTOCOL_ERROR)
    assert "content-length" in str(error)


async def test_a_response_that_does_not_come(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server, timeout=0.01)
    error = await failure(task)
    assert (error.failure, str(error)) == (ClientFailure.TIMEOUT, "10.0.0.1:8500 did not answer within 0.01 s")
    server.run()
    assert [(reset.stream, reset.code) for reset in server.take(Reset)] == [(stream, ErrorCode.CANCEL)]


async def test_a_response_in_the_same_turn_as_the_deadline(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server, timeout=0.01)
    server.codec.send_response(stream, 204, (), True)
    time.sleep(0.02)  # the timer is due when the loop looks next
    server.run()
    assert (await task).status == 204


async def test_cancelling_resets_the_stream(make_server: Any) -> None:
    server = make_server()
    task, stream = await asked(server)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.run()
    assert [reset.stream for reset in server.take(Reset)] == [stream]


async def test_a_head_that_the_server_does_not_accept(make_server: Any) -> None:
    server = make_server(Limits(header_bytes=200))
    error = await failure(ask(server, RequestHead(0, b"GET", b"", b"/" + b"x" * 300, (), end=True)))
    assert error.failure is ClientFailure.TOO_LARGE
    assert "10.0.0.1:8500 does not accept the request head: " in str(error)
    assert server.client.streams == {}


# Sources of streams


class Source:
    """Does with a taker what the test says."""

    def __init__(self, action: Callable[[Any], None], address: str = "10.0.0.1:8500") -> None:
        self.address = address
        self.withdrawn: list[Any] = []
        self._action = action

    def acquire(self, taker: Any) -> None:
        self._action(taker)

    def withdraw(self, taker: Any) -> None:
        self.withdrawn.append(taker)


class Broken:
    """A stream that raises."""

    address = "10.0.0.1:8500"

    def __init__(self, error: Exception) -> None:
        self.sink: Any = None
        self.error = error
        self.resets: list[int] = []

    def send_request(self, head: RequestHead) -> None:
        self.head = head
        raise self.error

    def reset(self, code: int) -> None:
        self.resets.append(code)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (ConnectionRefusedError(), ClientFailure.CONNECT),
        (ssl.SSLError(), ClientFailure.TLS),
        (PeerRejected(), ClientFailure.TLS),
        (TimeoutError(), ClientFailure.TIMEOUT),
        (None, ClientFailure.CONNECT),
    ],
)
async def test_no_connection(cause: Exception | None, expected: ClientFailure) -> None:
    refused = ConnectError("10.0.0.1:8500 cannot be reached")
    refused.__cause__ = cause
    error = await failure(ask(Source(lambda taker: taker.acquire_failed(refused))))
    assert (error.failure, str(error)) == (expected, "10.0.0.1:8500 cannot be reached")
    assert error.__cause__ is refused


async def test_no_stream_in_time() -> None:
    source = Source(lambda taker: None)
    error = await failure(ask(source, timeout=0.01))
    assert (error.failure, str(error)) == (
        ClientFailure.TIMEOUT,
        "10.0.0.1:8500 did not accept a request within 0.01 s",
    )
    assert len(source.withdrawn) == 1


async def test_a_bug_does_not_reach_the_source() -> None:
    stream = Broken(KeyError("x"))
    with pytest.raises(KeyError):
        await ask(Source(lambda taker: taker.acquired(stream)))
    assert stream.resets == [ErrorCode.CANCEL]


async def test_the_authority_of_a_unix_socket() -> None:
    stream = Broken(HeadRefused())
    await failure(ask(Source(lambda taker: taker.acquired(stream), "unix:/run/tfs.sock")))
    assert stream.head.authority == b"localhost"
    assert stream.resets == []


async def test_a_complete_response_beyond_the_limit_leaves_the_connection_alone() -> None:
    """On HTTP/1.1 it may be carrying the next exchange by then."""

    class Complete(Broken):
        def send_request(self, head: RequestHead) -> None:
            self.sink.head_received(ResponseHead(1, 200, (), False))
            self.sink.data_received(bytes(1_001), 1_001, True)

    stream = Complete(KeyError())
    assert (await failure(ask(Source(lambda taker: taker.acquired(stream))))).failure is ClientFailure.TOO_LARGE
    assert stream.resets == []


def test_the_default_limit_is_the_codecs() -> None:
    assert Limits().header_bytes == HEAD_BYTES
