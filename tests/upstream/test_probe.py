"""What each failure of the transport's client means to a health check, over a pool that is a function of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead, ResponseHead
from meshproxy.codec.grpc import frame
from meshproxy.transport.client import Response
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.upstream.pool import PoolFull
from meshproxy.upstream.probe import ANSWER_BYTES, ProbeFailed, Skipped, Unanswered, call, get


class Pool:
    """A source of one stream, which is its own server: `serve` answers when the request is complete."""

    def __init__(self, serve: Callable[[Any], None] | None = None, error: ConnectError | None = None) -> None:
        self.address = "10.0.0.1:8500"
        self.sink: Any = None
        self.head: RequestHead
        self.body = b""
        self._serve = serve
        self._error = error

    def acquire(self, taker: Any) -> None:
        if self._error is not None:
            taker.acquire_failed(self._error)
        elif self._serve is not None:
            taker.acquired(self)

    def withdraw(self, taker: Any) -> None: ...

    def send_request(self, head: RequestHead) -> None:
        self.head = head
        if head.end and self._serve is not None:
            self._serve(self.sink)

    def send_data(self, data: bytes, end: bool) -> bool:
        assert end
        assert self._serve is not None
        self.body = data
        self._serve(self.sink)
        return True

    def credit(self, size: int) -> None: ...

    def reset(self, code: int) -> None: ...


def says(status: int, body: bytes = b"", trailers: Any = None) -> Callable[[Any], None]:
    def serve(sink: Any) -> None:
        sink.head_received(ResponseHead(1, status, ((b"x", b"head"),), not body and trailers is None))
        if body:
            sink.data_received(body, len(body), trailers is None)
        if trailers is not None:
            sink.trailers_received(trailers)

    return serve


async def test_a_get_whatever_its_status() -> None:
    pool = Pool(says(404, b"abc"))
    assert await get(pool, b"/x", 1.0) == Response(404, ((b"x", b"head"),), b"abc")
    head = pool.head
    assert (head.method, head.target, head.authority, head.end) == (b"GET", b"/x", b"10.0.0.1:8500", True)


async def test_a_call() -> None:
    pool = Pool(says(200, frame(b"abc"), ((b"grpc-status", b"0"),)))
    assert await call(pool, b"/s/M", frame(b"?"), 1.0) == frame(b"abc")
    head = pool.head
    assert (head.method, head.target, head.end) == (b"POST", b"/s/M", False)
    assert dict(head.headers)[b"content-type"] == b"application/grpc"
    assert dict(head.headers)[b"grpc-timeout"] == b"1000000u"
    assert pool.body == frame(b"?")


@pytest.mark.parametrize(
    ("serve", "message", "status"),
    [
        (says(200, b"", ((b"grpc-status", b"5"), (b"grpc-message", b"a%20b"))), "gRPC status NOT_FOUND: a b", 5),
        (says(200, b"", ()), "gRPC status missing", None),
        (says(503, b"", ((b"grpc-status", b"0"),)), "HTTP status 503", None),
    ],
)
async def test_a_call_that_fails(serve: Any, message: str, status: int | None) -> None:
    with pytest.raises(ProbeFailed) as failed:
        await call(Pool(serve), b"/", b"x", 1.0)
    assert (str(failed.value), failed.value.status) == (message, status)


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (Pool(error=ConnectError("10.0.0.1:8500 cannot be reached")), "cannot be reached"),
        (Pool(lambda sink: sink.reset_received(2, "an error")), "the response broke off: an error"),
        (Pool(says(200, bytes(ANSWER_BYTES + 1))), "exceeds 65536 bytes"),
        (Pool(lambda sink: None), r"10\.0\.0\.1:8500 did not answer within 0\.01 s"),
        (Pool(), r"10\.0\.0\.1:8500 did not accept a request within 0\.01 s"),
    ],
    ids=["no connection", "reset", "too large", "no response", "no stream"],
)
async def test_no_response_is_the_endpoints(pool: Pool, message: str) -> None:
    with pytest.raises(Unanswered, match=message):
        await get(pool, b"/", 0.01)


async def test_a_pool_that_clients_use_up_says_nothing() -> None:
    pool = Pool(error=PoolFull("5 requests wait"))
    with pytest.raises(Skipped):
        await get(pool, b"/", 1.0)
    with pytest.raises(Skipped):
        await call(pool, b"/", b"x", 1.0)
