"""Served calls: without sockets, then called by our own client and by grpcio."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Headers, Rejected, RequestHead
from meshproxy.codec.grpc import frame
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.channel import H2Channel, Target, own_connections
from meshproxy.transport.client import ClientError, StatusError
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.grpc_client import call_unary
from meshproxy.transport.grpc_server import CallFailed, GrpcServer, Method, ServerCall
from meshproxy.transport.grpc_stream import open_call
from meshproxy.transport.listener import Listener, Security
from tests.thorough import tries

GRPC: Headers = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))


class FakeStream:
    """A client's stream: what it was sent."""

    def __init__(self) -> None:
        self.info = ConnectionInfo(direction="control", protocol="HTTP/2", remote="10.0.0.1:1", local="")
        self.sink: Any = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.trailers: dict[bytes, bytes] | None = None
        self.ended = False
        self.has_stopped = False
        self.credited = 0
        self.is_full = False

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        self.status, self.headers, self.ended = status, dict(headers), end

    def send_data(self, data: bytes, end: bool) -> bool:
        self.body += data
        return not self.is_full

    def send_trailers(self, headers: Headers) -> bool:
        self.trailers = dict(headers)
        self.ended = True
        return True

    def credit(self, size: int) -> None:
        self.credited += size

    unread = 0

    def stop_receiving(self) -> None:
        self.has_stopped = True

    def reset(self, code: int) -> None:
        raise AssertionError("calls end with a status")

    def close_connection(self) -> None: ...

    @property
    def grpc_status(self) -> GrpcStatus:
        fields = self.trailers if self.trailers is not None else self.headers
        return GrpcStatus(int(fields[b"grpc-status"]))

    @property
    def message(self) -> str:
        fields = self.trailers if self.trailers is not None else self.headers
        return fields.get(b"grpc-message", b"").decode()


def head(path: bytes = b"/s/M", headers: Headers = GRPC, method: bytes = b"POST") -> RequestHead:
    return RequestHead(1, method, b"control", path, headers, False)


def serve(method: Method, *, headers: Headers = GRPC, **options: Any) -> tuple[GrpcServer, FakeStream]:
    server = GrpcServer({b"/s/M": method}, **options)
    return server, another(server, headers)


def another(server: GrpcServer, headers: Headers = GRPC) -> FakeStream:
    """One more call."""
    stream = FakeStream()
    server.serve(stream, head(headers=headers))
    return stream


async def turns() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def echo(call: ServerCall) -> None:
    async for message in call:
        await call.send(message.upper())


async def unary(call: ServerCall) -> None:
    await call.send(await call.only_message())


# Messages


async def test_a_conversation() -> None:
    _, stream = serve(echo)
    stream.sink.data_received(frame(b"one"), 8, False)
    await turns()
    assert (stream.status, stream.headers, stream.body) == (
        200,
        {b"content-type": b"application/grpc"},
        frame(b"ONE"),
    )
    stream.sink.data_received(frame(b"two")[:3], 3, False)
    stream.sink.data_received(frame(b"two")[3:], 5, True)
    await turns()
    assert stream.body == frame(b"ONE") + frame(b"TWO")
    assert (stream.grpc_status, stream.trailers, stream.has_stopped) == (GrpcStatus.OK, {b"grpc-status": b"0"}, True)
    assert stream.credited == 16


@settings(max_examples=tries(50))
@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_messages_cut_anywhere(messages: list[bytes], data: st.DataObject) -> None:
    received: list[bytes] = []

    async def collect(call: ServerCall) -> None:
        received.extend([message async for message in call])

    async def main() -> None:
        _, stream = serve(collect)
        body = b"".join(frame(message) for message in messages)
        total = len(body)
        while body:
            cut = data.draw(st.integers(1, len(body)))
            stream.sink.data_received(body[:cut], cut, False)
            body = body[cut:]
            if data.draw(st.booleans()):
                await turns()
        stream.sink.trailers_received(())
        await turns()
        assert stream.grpc_status is GrpcStatus.OK
        assert stream.credited == total

    asyncio.run(main())
    assert received == messages


async def test_a_method_that_does_not_read_stops_the_client() -> None:
    release = asyncio.Event()

    async def slow(call: ServerCall) -> None:
        await release.wait()
        async for _ in call:
            pass

    _, stream = serve(slow)
    stream.sink.data_received(frame(bytes(1_000)) * 2, 2_010, False)
    await turns()
    assert stream.credited == 0
    release.set()
    await turns()
    assert stream.credited == 2_010


async def test_a_client_that_does_not_read_stops_the_method() -> None:
    sent: list[int] = []

    async def flood(call: ServerCall) -> None:
        for number in range(3):
            await call.send(bytes(1_000))
            sent.append(number)

    server = GrpcServer({b"/s/M": flood})
    stream = FakeStream()
    stream.is_full = True
    server.serve(stream, head())
    await turns()
    assert sent == []
    stream.sink.data_received(b"", 0, False)  # wakes nobody for nothing
    stream.sink.drained()
    await turns()
    assert sent == [0]
    stream.is_full = False
    stream.sink.drained()
    await turns()
    assert (sent, stream.grpc_status) == ([0, 1, 2], GrpcStatus.OK)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (frame(b""), GrpcStatus.OK, ""),
        (b"", GrpcStatus.UNIMPLEMENTED, "expected one message, got none"),
        (frame(b"1") * 2, GrpcStatus.UNIMPLEMENTED, "expected one message, got another"),
        (frame(b"1")[:-1], GrpcStatus.INTERNAL, "the last message of the request is incomplete"),
        (b"\x02\0\0\0\0", GrpcStatus.INTERNAL, "the compressed-flag of a gRPC message is neither 0 nor 1"),
        (frame(b"1", compressed=True), GrpcStatus.UNIMPLEMENTED, "compressed"),
        (frame(bytes(101)), GrpcStatus.RESOURCE_EXHAUSTED, "a message of 101 bytes exceeds 100 bytes"),
        (frame(bytes(101))[:6], GrpcStatus.RESOURCE_EXHAUSTED, "a message of 101 bytes exceeds 100 bytes"),
    ],
)
async def test_requests_of_a_unary_method(body: bytes, status: GrpcStatus, message: str) -> None:
    _, stream = serve(unary, max_message_bytes=100)
    stream.sink.data_received(body, len(body), True)
    await turns()
    assert stream.grpc_status is status
    assert message in stream.message
    assert stream.credited == len(body)


async def test_a_unary_method_does_not_wait_for_the_end_of_many_messages() -> None:
    _, stream = serve(unary)
    stream.sink.data_received(frame(b"1"), 6, False)
    stream.sink.data_received(frame(b"2"), 6, False)
    await turns()
    assert (stream.grpc_status, stream.message) == (GrpcStatus.UNIMPLEMENTED, "expected one message, got another")


async def test_messages_that_do_not_end_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that began first is refused; a message that ends, and a call that does, makes room."""
    monkeypatch.setattr("meshproxy.transport.grpc_server.RECEIVED_BYTES", 250)
    server, first = serve(unary)
    part = frame(bytes(200))[:105]  # of the message, 100 bytes
    first.sink.data_received(part, len(part), False)
    others = [another(server) for _ in range(3)]
    others[0].sink.data_received(part, len(part), False)
    others[0].sink.data_received(bytes(100), 100, True)
    others[1].sink.data_received(part, len(part), False)
    others[1].sink.reset_received(8, "cancelled")
    others[2].sink.data_received(part, len(part), False)
    await turns()
    assert not first.ended
    others.append(another(server))
    others[3].sink.data_received(part, len(part), False)
    await turns()
    assert (first.grpc_status, first.credited) == (GrpcStatus.RESOURCE_EXHAUSTED, len(part))
    assert others[0].grpc_status is GrpcStatus.OK
    for each in others[2:]:
        each.sink.data_received(bytes(100), 100, True)
    await turns()
    assert [each.grpc_status for each in others[2:]] == [GrpcStatus.OK] * 2


async def test_what_comes_after_a_refusal_is_ignored() -> None:
    _, stream = serve(unary, max_message_bytes=10)
    stream.sink.data_received(frame(bytes(11)), 16, False)
    await turns()
    assert stream.grpc_status is GrpcStatus.RESOURCE_EXHAUSTED
    stream.sink.data_received(frame(b"more"), 9, True)
    assert stream.credited == 25


# Ends


async def test_how_a_method_ends(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(call: ServerCall) -> None:
        raise CallFailed(GrpcStatus.NOT_FOUND, "no ä")

    async def late(call: ServerCall) -> None:
        raise CallFailed(GrpcStatus.ABORTED, await _sent(call))

    async def crash(call: ServerCall) -> None:
        raise RuntimeError("a secret")

    async def timeout(call: ServerCall) -> None:
        raise TimeoutError  # of something that it waited for

    _, stream = serve(fail)
    await turns()
    assert (stream.status, stream.grpc_status, stream.message) == (200, GrpcStatus.NOT_FOUND, "no %C3%A4")
    assert stream.ended  # trailers-only
    _, stream = serve(late)
    await turns()
    assert (stream.body, stream.trailers) == (frame(b"x"), {b"grpc-status": b"10", b"grpc-message": b"sent"})
    for method in (crash, timeout):
        caplog.clear()
        _, stream = serve(method)
        await turns()
        assert (stream.grpc_status, stream.message) == (
            GrpcStatus.INTERNAL,
            "the server has a defect: see its log",
        )
        assert [record.message for record in caplog.records] == ["a method failed"]


async def _sent(call: ServerCall) -> str:
    await call.send(b"x")
    return "sent"


async def test_a_client_that_leaves_ends_its_method() -> None:
    ended = asyncio.Event()

    async def wait(call: ServerCall) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    _, stream = serve(wait)
    await turns()
    stream.sink.reset_received(8, "cancelled")
    await asyncio.wait_for(ended.wait(), 60)
    await turns()
    assert stream.status == 0  # nothing is sent to a stream that is gone


@pytest.mark.parametrize("more", [(), ((b"grpc-timeout", b"5S"),)])
async def test_a_client_that_leaves_at_once(more: Headers) -> None:
    """Python warns of a coroutine that nobody awaits, and here warnings are errors."""
    begun: list[bool] = []

    async def method(call: ServerCall) -> None:
        begun.append(True)

    _, stream = serve(method, headers=(*GRPC, *more))
    stream.sink.reset_received(8, "cancelled")
    await turns()
    gc.collect()
    assert (begun, stream.status) == ([], 0)


@pytest.mark.parametrize("body", [frame(b"message"), b"\1" + frame(b"message")[1:]], ids=["refused", "unreadable"])
async def test_a_call_that_was_refused_goes_at_once(body: bytes) -> None:
    """And its message with it: some of 64 KiB would wait for the next collection otherwise."""

    async def refuse(call: ServerCall) -> None:
        message = await anext(call)
        raise CallFailed(GrpcStatus.PERMISSION_DENIED, f"no, not {len(message)} bytes")

    gc.collect()
    gc.disable()
    try:
        _, stream = serve(refuse)
        stream.sink.data_received(body, len(body), False)
        await turns()
        assert stream.ended
        assert stream.grpc_status is not GrpcStatus.OK
        stream.sink = None  # as the stream of a connection has it
        assert [each for each in gc.get_objects() if isinstance(each, ServerCall)] == []
    finally:
        gc.enable()


async def test_the_deadline_of_a_call() -> None:
    async def wait(call: ServerCall) -> None:
        await asyncio.Event().wait()

    _, stream = serve(wait, headers=(*GRPC, (b"grpc-timeout", b"10m")))
    async with asyncio.timeout(60):
        while not stream.ended:
            await asyncio.sleep(0.005)
    assert stream.grpc_status is GrpcStatus.DEADLINE_EXCEEDED


async def test_a_server_that_closes() -> None:
    async def wait(call: ServerCall) -> None:
        await asyncio.Event().wait()

    server, stream = serve(wait)
    await turns()
    await server.close()
    assert (stream.grpc_status, stream.message) == (GrpcStatus.UNAVAILABLE, "the server stops")


# Requests that are no calls


async def test_paths_and_content_types() -> None:
    server = GrpcServer({b"/s/M": echo})
    stream = FakeStream()
    server.serve(stream, head(b"/s/Other"))
    assert (stream.grpc_status, stream.message) == (GrpcStatus.UNIMPLEMENTED, "no such method: /s/Other")
    stream.sink.data_received(b"rest", 4, True)
    assert stream.credited == 4
    for other in (head(headers=()), head(headers=((b"content-type", b"application/json"),)), head(method=b"PUT")):
        stream = FakeStream()
        server.serve(stream, other)
        assert (stream.status, stream.ended) == (415, True)
        stream.sink.data_received(b"rest", 4, True)
        stream.sink.trailers_received(())
        stream.sink.reset_received(8, "")
        stream.sink.drained()
        assert stream.credited == 4


async def test_requests_that_the_codec_rejects() -> None:
    server = GrpcServer({b"/s/M": echo})
    stream = FakeStream()
    server.reject(stream, Rejected(1, 431, "headers too large"))
    assert (stream.status, stream.ended) == (431, True)
    stream.sink.rejected(Rejected(1, 400, ""))
    stream = FakeStream()
    server.reject(stream, Rejected(1, 400, "malformed", is_reset=True))
    assert stream.status == 0
    _, stream = serve(echo)
    stream.sink.rejected(Rejected(1, 400, "the body is malformed"))
    await turns()
    assert (stream.grpc_status, stream.message) == (GrpcStatus.INTERNAL, "the body is malformed")


# Over a socket


class Port:
    """A listener for methods, on a free port. `peer`: who calls them."""

    def __init__(self, methods: Mapping[bytes, Method], peer: object = None) -> None:
        self.shared = own_connections()
        self.server = GrpcServer(methods)
        self.listener = Listener(
            direction="control",
            shared=self.shared,
            serve=self.server.serve,
            reject=self.server.reject,
            events=self,
            security=Security.PLAINTEXT,
            context=None,
            identify=lambda der: peer,
            max_connections=10,
        )
        self.listener.listen("127.0.0.1", 0)
        self.shared.reaper.start()

    async def close(self) -> None:
        self.listener.stop_accepting()
        await self.server.close()
        await self.listener.close()
        self.shared.reaper.stop()

    def handshake(self, result: str, reason: str) -> None: ...
    def connected(self, info: ConnectionInfo) -> None: ...
    def disconnected(self, info: ConnectionInfo) -> None: ...
    def limit(self, name: str) -> None: ...


async def fail(call: ServerCall) -> None:
    raise CallFailed(GrpcStatus.NOT_FOUND, "nothing here")


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port({b"/s/Unary": unary, b"/s/Echo": echo, b"/s/Fail": fail})
    yield port
    await port.close()


async def test_our_own_client(port: Port) -> None:
    async with H2Channel(port.shared, Target(port.listener.address)) as channel:
        large = bytes(range(256)) * 4_000
        assert await call_unary(channel, b"/s/Unary", large, timeout=10) == large
        async with await open_call(channel, b"/s/Echo") as call:
            for message in (b"one", b"", b"two"):
                await call.send(message)
                assert await anext(call) == message.upper()
            await call.done_sending()
            assert [message async for message in call] == []
        with pytest.raises(StatusError, match="NOT_FOUND: nothing here"):
            await call_unary(channel, b"/s/Fail", b"", timeout=10)
        with pytest.raises(ClientError, match="UNIMPLEMENTED: no such method"):
            await call_unary(channel, b"/s/Other", b"", timeout=10)


async def test_grpcio(port: Port) -> None:
    async with grpc.aio.insecure_channel(port.listener.address) as channel:
        large = bytes(range(256)) * 8_000
        methods: Any = channel
        assert await methods.unary_unary("/s/Unary")(large, timeout=10) == large
        both = methods.stream_stream("/s/Echo")(timeout=10)
        for message in (b"one", b"two"):
            await both.write(message)
            assert await both.read() == message.upper()
        await both.done_writing()
        assert await both.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await methods.unary_unary("/s/Fail")(b"", timeout=10)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "nothing here")
