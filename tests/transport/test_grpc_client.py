"""Unary calls, and how any call ends, as conversations with a server's codec."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshproxy.codec.events import Data, RequestHead
from meshproxy.codec.grpc import frame
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.client import ClientError, ClientFailure, StatusError
from meshproxy.transport.grpc_client import call_unary, check_status

OK = ((b"grpc-status", b"0"),)


async def called(server: Any, **changed: Any) -> tuple[asyncio.Task[bytes], RequestHead]:
    task = asyncio.create_task(call_unary(server, b"/s/M", b"question", **{"timeout": 1.0, **changed}))
    await asyncio.sleep(0)
    server.run()
    (head,) = server.take(RequestHead)
    return task, head


async def test_a_call(make_server: Any) -> None:
    server = make_server()
    task, head = await called(server, metadata=((b"workload.spiffe.io", b"true"),))
    assert (head.method, head.target, head.authority) == (b"POST", b"/s/M", b"10.0.0.1:8500")
    assert head.headers == (
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"meshproxy"),
        (b"workload.spiffe.io", b"true"),
        (b"grpc-timeout", b"1000000u"),
    )
    assert [(event.data, event.end) for event in server.take(Data)] == [(frame(b"question"), True)]
    server.codec.send_response(head.stream, 200, ((b"content-type", b"application/grpc"),), False)
    server.codec.send_data(head.stream, frame(b"answer"), False)
    server.codec.send_trailers(head.stream, OK)
    server.run()
    assert await task == b"answer"


async def test_a_status_may_stand_in_the_head(make_server: Any) -> None:
    server = make_server()
    task, head = await called(server)
    server.codec.send_response(head.stream, 200, ((b"grpc-status", b"12"), (b"grpc-message", b"no%20such")), True)
    server.run()
    with pytest.raises(StatusError) as failed:
        await task
    assert failed.value.grpc_status == GrpcStatus.UNIMPLEMENTED
    assert failed.value.details == "no such"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not one gRPC message"),
        (frame(b"a")[:-1], "not one gRPC message"),
        (frame(b"a") + frame(b"b"), "not one gRPC message"),
        (frame(b"a") + b"\0", "not one gRPC message"),
        (b"\2\0\0\0\0", "not one gRPC message"),
        (frame(b"a", compressed=True), "compressed although no encoding was offered"),
    ],
)
async def test_bodies_that_are_not_one_message(make_server: Any, body: bytes, why: str) -> None:
    server = make_server()
    task, head = await called(server)
    server.codec.send_response(head.stream, 200, (), False)
    server.codec.send_data(head.stream, body, False)
    server.codec.send_trailers(head.stream, OK)
    server.run()
    with pytest.raises(ClientError, match=why) as failed:
        await task
    assert failed.value.failure is ClientFailure.PROTOCOL


@pytest.mark.parametrize("size", [100, 101])
async def test_the_limit_of_a_message(make_server: Any, size: int) -> None:
    server = make_server()
    task, head = await called(server, max_message_bytes=100)
    server.codec.send_response(head.stream, 200, (), False)
    server.codec.send_data(head.stream, frame(bytes(size)), False)
    server.codec.send_trailers(head.stream, OK)
    server.run()
    if size == 100:
        assert await task == bytes(100)
    else:
        with pytest.raises(ClientError) as failed:
            await task
        assert failed.value.failure is ClientFailure.TOO_LARGE


@pytest.mark.parametrize(
    ("http_status", "trailers", "message", "status"),
    [
        (200, ((b"grpc-status", b"5"), (b"grpc-message", b"not%20here")), "gRPC status NOT_FOUND: not here", 5),
        (200, ((b"grpc-status", b"14"),), "gRPC status UNAVAILABLE", 14),
        (200, ((b"grpc-status", b"99"),), "gRPC status 99", 99),
        (200, ((b"grpc-status", b"00"),), "gRPC status OK", 0),
        (200, ((b"grpc-status", b"1234567890"),), "gRPC status malformed", None),
        (200, ((b"grpc-status", b"x"),), "gRPC status malformed", None),
        (200, ((b"grpc-status", "\u0662".encode()),), "gRPC status malformed", None),
        (200, (), "gRPC status missing", None),
        (503, ((b"grpc-status", b"0"),), "HTTP status 503", None),
        (200, ((b"grpc-status", b"2"), (b"grpc-message", b"x" * 500)), "gRPC status UNKNOWN: " + "x" * 200, 2),
    ],
)
def test_ends_that_are_not_well(http_status: int, trailers: Any, message: str, status: int | None) -> None:
    with pytest.raises(StatusError) as failed:
        check_status(http_status, trailers)
    error = failed.value
    assert (str(error), error.http_status, error.grpc_status) == (message, http_status, status)
    assert error.failure is ClientFailure.STATUS


def test_an_end_that_is_well() -> None:
    check_status(200, ((b"x", b"y"), *OK))
