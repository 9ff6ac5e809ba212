from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import RequestHead, ResponseHead
from meshproxy.codec.grpc import frame
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull
from meshproxy.upstream.probe import ANSWER_BYTES, Answer, Declined, NotAsked, Unanswered, call, get


class Stream:
    """An upstream stream whose server is a function of the test."""

    def __init__(self, serve: Callable[[Stream], None]) -> None:
        self.address = "10.0.0.1:8500"
        self.sink: Any = None
        self.head: RequestHead | None = None
        self.body = b""
        self.credited = 0
        self.ended = ""
        self.takes_all = True
        self._serve = serve

    def send_request(self, head: RequestHead) -> None:
        self.head = head
        if head.end:
            self._serve(self)

    def send_data(self, data: bytes, end: bool) -> bool:
        assert end
        self.body = data
        self._serve(self)
        return self.takes_all

    def credit(self, size: int) -> None:
        self.credited += size

    def reset(self, code: int) -> None:
        assert code == 8
        self.ended = "reset"

    def stop_sending(self) -> None:
        self.ended = "stopped"

    def say(self, status: int, *pieces: bytes, trailers: Any = None) -> None:
        self.sink.head_received(ResponseHead(1, status, ((b"x", b"head"),), not pieces and trailers is None))
        for i, piece in enumerate(pieces):
            self.sink.data_received(piece, len(piece), trailers is None and i == len(pieces) - 1)
        if trailers is not None:
            self.sink.trailers_received(trailers)


class Pool:
    """Lends one stream, now or never."""

    def __init__(self, serve: Callable[[Stream], None] | None = None, error: ConnectError | None = None) -> None:
        self.address = "10.0.0.1:8500"
        self.stream = Stream(serve) if serve is not None else None
        self.error = error
        self.waiting: list[Any] = []

    def acquire(self, taker: Any) -> None:
        self.waiting.append(taker)
        if self.stream is not None:
            self.waiting.remove(taker)
            taker.acquired(self.stream)
        elif self.error is not None:
            self.waiting.remove(taker)
            taker.acquire_failed(self.error)

    def withdraw(self, taker: Any) -> None:
        if taker in self.waiting:
            self.waiting.remove(taker)


def nothing(stream: Stream) -> None:
    """A server that hangs."""


async def test_a_get_and_its_whole_answer() -> None:
    pool = Pool(lambda stream: stream.say(404, b"ab", b"c"))
    assert await get(pool, b"/x", 1.0) == Answer(404, ((b"x", b"head"),), b"abc")
    assert pool.stream is not None
    head = pool.stream.head
    assert head is not None
    assert (head.method, head.target, head.authority, head.end) == (b"GET", b"/x", b"10.0.0.1:8500", True)
    assert pool.stream.credited == 2
    assert pool.stream.ended == ""


async def test_an_answer_may_come_later_and_after_interim_ones() -> None:
    def serve(stream: Stream) -> None:
        stream.sink.head_received(ResponseHead(1, 100, (), False))
        asyncio.get_running_loop().call_soon(lambda: stream.say(204))

    assert (await get(Pool(serve), b"/", 1.0)).status == 204


async def test_a_socket_has_no_authority_of_its_own() -> None:
    pool = Pool(lambda stream: stream.say(200))
    pool.address = "/run/tfs.sock"
    await get(pool, b"/", 1.0)
    assert pool.stream is not None
    assert pool.stream.head is not None
    assert pool.stream.head.authority == b"localhost"


async def test_a_call_and_the_body_of_its_answer() -> None:
    pool = Pool(lambda stream: stream.say(200, frame(b"abc"), trailers=((b"grpc-status", b"0"),)))
    assert await call(pool, b"/s/M", frame(b"?"), 1.0) == frame(b"abc")
    assert pool.stream is not None
    head = pool.stream.head
    assert head is not None
    assert (head.method, head.target, head.end) == (b"POST", b"/s/M", False)
    assert dict(head.headers)[b"content-type"] == b"application/grpc"
    assert dict(head.headers)[b"grpc-timeout"] == b"1000000u"
    assert pool.stream.body == frame(b"?")


@pytest.mark.parametrize(
    ("status", "trailers", "expected"),
    [
        (200, ((b"grpc-status", b"5"), (b"grpc-message", b"not%20here")), "gRPC status NOT_FOUND: not here"),
        (200, ((b"grpc-status", b"14"),), "gRPC status UNAVAILABLE"),
        (200, ((b"grpc-status", b"99"),), "gRPC status 99"),
        (200, ((b"grpc-status", b"1234567"),), "gRPC status 1234567"),
        (200, ((b"grpc-status", b"x"),), "gRPC status missing"),
        (200, (), "gRPC status missing"),
        (503, ((b"grpc-status", b"0"),), "HTTP status 503"),
        (200, ((b"grpc-status", b"2"), (b"grpc-message", b"x" * 500)), "gRPC status UNKNOWN: " + "x" * 200),
    ],
)
async def test_calls_that_are_declined(status: int, trailers: Any, expected: str) -> None:
    with pytest.raises(Declined) as declined:
        await call(Pool(lambda stream: stream.say(status, trailers=trailers)), b"/", b"x", 1.0)
    assert str(declined.value) == expected


async def test_a_status_may_stand_in_the_head() -> None:
    def serve(stream: Stream) -> None:
        stream.sink.head_received(ResponseHead(1, 200, ((b"grpc-status", b"12"),), True))

    with pytest.raises(Declined, match="UNIMPLEMENTED"):
        await call(Pool(serve), b"/", b"x", 1.0)


async def test_no_connection() -> None:
    with pytest.raises(Unanswered, match="cannot be reached"):
        await get(Pool(error=ConnectError("it cannot be reached")), b"/", 1.0)


async def test_no_connection_because_our_own_calls_have_them_all() -> None:
    with pytest.raises(NotAsked):
        await get(Pool(error=PoolFull("5 requests wait")), b"/", 1.0)


async def test_no_connection_in_time() -> None:
    pool = Pool()
    with pytest.raises(Unanswered, match=r"10\.0\.0\.1:8500 did not take the question within 0\.01 s"):
        await get(pool, b"/", 0.01)
    assert pool.waiting == []


async def test_no_answer_in_time() -> None:
    pool = Pool(nothing)
    with pytest.raises(Unanswered, match=r"10\.0\.0\.1:8500 did not answer within 0\.01 s"):
        await get(pool, b"/", 0.01)
    assert pool.stream is not None
    assert pool.stream.ended == "reset"


async def test_who_is_not_waited_for_any_more_is_given_up() -> None:
    pool = Pool(nothing)
    task = asyncio.create_task(get(pool, b"/", 60.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.stream is not None
    assert pool.stream.ended == "reset"


async def test_an_answer_that_breaks_off() -> None:
    def serve(stream: Stream) -> None:
        stream.sink.head_received(ResponseHead(1, 200, (), False))
        stream.sink.reset_received(2, "the server is unwell")

    pool = Pool(serve)
    with pytest.raises(Unanswered, match="the answer broke off: the server is unwell"):
        await get(pool, b"/", 1.0)
    assert pool.stream is not None
    assert pool.stream.ended == ""


@pytest.mark.parametrize("is_last", [True, False])
async def test_an_answer_without_end(is_last: bool) -> None:
    def serve(stream: Stream) -> None:
        stream.sink.head_received(ResponseHead(1, 200, (), False))
        stream.sink.data_received(b"x" * ANSWER_BYTES, ANSWER_BYTES, False)
        stream.sink.data_received(b"x", 1, is_last)

    pool = Pool(serve)
    with pytest.raises(Unanswered, match="longer than 65536 bytes"):
        await get(pool, b"/", 1.0)
    assert pool.stream is not None
    assert pool.stream.ended == ("" if is_last else "reset")


async def test_an_answer_before_the_question_is_sent() -> None:
    def serve(stream: Stream) -> None:
        asyncio.get_running_loop().call_soon(lambda: stream.say(200, trailers=((b"grpc-status", b"0"),)))

    pool = Pool(serve)
    assert pool.stream is not None
    pool.stream.takes_all = False
    await call(pool, b"/", b"x", 1.0)
    assert pool.stream.ended == "stopped"


async def test_a_question_that_is_sent_later() -> None:
    def serve(stream: Stream) -> None:
        def later() -> None:
            stream.sink.drained()
            stream.say(200, trailers=((b"grpc-status", b"0"),))

        asyncio.get_running_loop().call_soon(later)

    pool = Pool(serve)
    assert pool.stream is not None
    pool.stream.takes_all = False
    await call(pool, b"/", b"x", 1.0)
    assert pool.stream.ended == ""


async def test_a_head_that_the_server_does_not_take() -> None:
    def serve(stream: Stream) -> None:
        raise HeadRefused("it is too large")

    pool = Pool(serve)
    with pytest.raises(Unanswered, match="cannot be asked: it is too large"):
        await get(pool, b"/", 1.0)
    assert pool.stream is not None
    assert pool.stream.ended == ""


async def test_a_mistake_of_ours_is_not_the_pools_to_bear() -> None:
    def serve(stream: Stream) -> None:
        raise KeyError("x")

    pool = Pool(serve)
    with pytest.raises(KeyError):
        await get(pool, b"/", 1.0)
    assert pool.stream is not None
    assert pool.stream.ended == "reset"
