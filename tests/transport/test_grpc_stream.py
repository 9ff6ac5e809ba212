"""Streaming calls: as conversations with a server's codec in memory, then against grpcio over TCP and a UNIX socket."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Data, RequestHead, Reset, ResponseHead
from meshproxy.codec.grpc import frame
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import Credentials, client_context
from meshproxy.identity.mesh_context import identify
from meshproxy.identity.peer import PeerRole
from meshproxy.identity.trust import Trust
from meshproxy.transport.channel import ChannelEvent, H2Channel, Target, own_connections
from meshproxy.transport.client import ClientError, ClientFailure, StatusError
from meshproxy.transport.connect_failures import ConnectError
from meshproxy.transport.connection import ConnectionContext
from meshproxy.transport.connector import PeerSecurity
from meshproxy.transport.grpc_client import call_unary
from meshproxy.transport.grpc_stream import Call, State, open_call
from meshproxy.transport.stream import HeadRefused
from tests.thorough import tries

OK = ((b"grpc-status", b"0"),)


async def opened(server: Any, **options: Any) -> tuple[Call, int]:
    """A call whose server has responded with a head, and the number of its stream."""
    call = await open_call(server, b"/s/M", **options)
    server.run()
    (head,) = server.take(RequestHead)
    server.codec.send_response(head.stream, 200, ((b"x-initial", b"1"),), False)
    server.run()
    return call, head.stream


async def test_both_directions(make_server: Any) -> None:
    server = make_server()
    call = await open_call(server, b"/s/M", metadata=((b"x-own", b"1"),))
    server.run()
    (head,) = server.take(RequestHead)
    assert (head.target, head.authority, head.end) == (b"/s/M", b"10.0.0.1:8500", False)
    assert dict(head.headers).keys() == {b"content-type", b"user-agent", b"x-own"}  # no deadline: no grpc-timeout
    await call.send(b"one")
    server.codec.send_response(head.stream, 200, ((b"x-initial", b"1"),), False)
    server.codec.send_data(head.stream, frame(b"ONE") + frame(b""), False)
    server.run()
    assert [await anext(call), await anext(call)] == [b"ONE", b""]
    await call.send(b"two")
    await call.done_sending()
    await call.done_sending()  # once more: nothing
    server.run()
    assert b"".join(event.data for event in server.take(Data)) == frame(b"one") + frame(b"two")
    server.codec.send_data(head.stream, frame(b"TWO"), False)
    server.codec.send_trailers(head.stream, ((b"x-trailing", b"1"), *OK))
    server.run()
    assert [message async for message in call] == [b"TWO"]
    assert (call.initial_metadata, call.trailing_metadata) == (
        ((b"x-initial", b"1"),),
        ((b"x-trailing", b"1"), *OK),
    )
    assert call.state is State.OVER
    assert server.take(Reset) == []
    assert server.client.streams == {}


async def test_iterating_waits(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    waiting = asyncio.create_task(anext(call))
    await asyncio.sleep(0)
    server.codec.send_data(stream, frame(b"abc")[:6], False)
    server.run()
    await asyncio.sleep(0)
    assert not waiting.done()
    server.codec.send_data(stream, frame(b"abc")[6:], False)
    server.run()
    assert await waiting == b"abc"


@settings(max_examples=tries(50))
@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_messages_cut_anywhere(messages: list[bytes], data: st.DataObject) -> None:
    async def main() -> None:
        call = Call(Nowhere(), HEAD, None, 100)
        stream = OneStream()
        call.acquired(stream)
        call.head_received(ResponseHead(1, 200, (), False))
        body = b"".join(frame(message) for message in messages)
        while body:
            cut = data.draw(st.integers(1, len(body)))
            call.data_received(body[:cut], cut, False)
            body = body[cut:]
        call.trailers_received(OK)
        assert [message async for message in call] == messages

    asyncio.run(main())


# Flow control


async def test_a_reader_that_is_slow_stops_the_server(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    message = bytes(10_000)
    count = 200  # 2 MB through a window of 256 KiB
    is_whole = [server.codec.send_data(stream, frame(message), False) for _ in range(count)]
    assert not all(is_whole)
    server.run()
    assert call._stream.owed <= Limits().stream_window  # type: ignore[union-attr]
    held = len(call._messages)
    assert held == Limits().stream_window // len(frame(message))
    for _ in range(held - 1):
        await anext(call)
    server.run()
    assert len(call._messages) == 1  # no credit before the last of them has been taken
    for taken in range(held - 1, count):
        assert await anext(call) == message
        assert len(call._messages) <= held + 1, taken
        server.run()
    server.codec.send_trailers(stream, OK)
    server.run()
    assert [each async for each in call] == []


async def test_a_message_larger_than_the_window_arrives(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    large = bytes(range(256)) * 8_192  # 2 MiB
    server.codec.send_data(stream, frame(large) + frame(large), False)
    server.run()
    assert await anext(call) == large
    server.run()
    assert await anext(call) == large


async def test_a_server_that_is_slow_stops_the_sender(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    large = bytes(1_000_000)
    sending = asyncio.create_task(call.send(large))
    second = asyncio.create_task(call.send(b"behind it"))
    ending = asyncio.create_task(call.done_sending())
    received = b""
    while len(received) < len(large) + 5:
        assert not sending.done()
        await asyncio.sleep(0)
        server.run()
        for piece in server.take(Data):
            received += piece.data
            server.codec.credit(stream, piece.flow)
        server.run()
    await asyncio.gather(sending, second, ending)
    server.run()
    assert received + b"".join(event.data for event in server.take(Data)) == frame(large) + frame(b"behind it")


async def test_a_sender_that_gives_up_leaves_the_message_whole(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    large = bytes(400_000)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call.send(large)
    behind = asyncio.create_task(call.send(b"next"))
    received = b""
    while len(received) < len(frame(large) + frame(b"next")):
        server.run()
        for piece in server.take(Data):
            received += piece.data
            server.codec.credit(stream, piece.flow)
        server.run()
        await asyncio.sleep(0)
    await behind
    assert received == frame(large) + frame(b"next")


# Ends


async def test_an_error_status_comes_after_the_messages(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    server.codec.send_data(stream, frame(b"last"), False)
    server.codec.send_trailers(stream, ((b"grpc-status", b"14"), (b"grpc-message", b"going%20down")))
    server.run()
    assert await anext(call) == b"last"
    for _ in range(2):
        with pytest.raises(StatusError, match="gRPC status UNAVAILABLE: going down"):
            await anext(call)
    with pytest.raises(StatusError):
        await call.send(b"x")
    assert [reset.code for reset in server.take(Reset)] == [ErrorCode.CANCEL]  # we had not ended our side


async def test_an_end_with_ok_fails_senders_only(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    sending = asyncio.create_task(call.send(bytes(1_000_000)))
    await asyncio.sleep(0)
    server.codec.send_trailers(stream, OK)
    server.run()
    with pytest.raises(ClientError, match="the server has ended the call"):
        await sending
    assert [message async for message in call] == []


async def test_no_message_after_the_last(make_server: Any) -> None:
    call, _ = await opened(make_server())
    await call.done_sending()
    with pytest.raises(RuntimeError):
        await call.send(b"x")


async def test_a_call_that_is_trailers_only(make_server: Any) -> None:
    server = make_server()
    call = await open_call(server, b"/s/M")
    server.run()
    server.codec.send_response(server.take(RequestHead)[0].stream, 200, ((b"grpc-status", b"12"),), True)
    server.run()
    with pytest.raises(StatusError, match="UNIMPLEMENTED"):
        await anext(call)


@pytest.mark.parametrize("end", [True, False])
async def test_a_response_that_is_not_grpc(make_server: Any, end: bool) -> None:
    server = make_server()
    call = await open_call(server, b"/s/M")
    server.run()
    (head,) = server.take(RequestHead)
    server.codec.send_response(head.stream, 503, (), end)
    server.run()
    with pytest.raises(StatusError, match="HTTP status 503"):
        await anext(call)
    assert [reset.stream for reset in server.take(Reset)] == [head.stream]


@pytest.mark.parametrize(
    ("body", "end", "failure", "why"),
    [
        (b"\2\0\0\0\0", None, ClientFailure.PROTOCOL, "compressed-flag"),
        (frame(b"x", compressed=True), None, ClientFailure.PROTOCOL, "compressed although"),
        (b"\0\0\0\4\1", None, ClientFailure.TOO_LARGE, "a message of 1025 bytes exceeds 1024 bytes"),
        (b"\0\xff\xff\xff\xff", None, ClientFailure.TOO_LARGE, "a message of 4294967295 bytes exceeds 1024 bytes"),
        (frame(b"abc")[:-1], OK, ClientFailure.PROTOCOL, "incomplete"),
        (frame(b"abc")[:-1], ((b"grpc-status", b"8"),), ClientFailure.STATUS, "RESOURCE_EXHAUSTED"),
        (b"", (), ClientFailure.STATUS, "missing"),
    ],
)
async def test_bodies_that_break_a_rule(
    make_server: Any, body: bytes, end: Any, failure: ClientFailure, why: str
) -> None:
    server = make_server()
    call, stream = await opened(server, max_message_bytes=1_024)
    server.codec.send_data(stream, body, end == ())
    if end:
        server.codec.send_trailers(stream, end)
    elif end is None:  # more of it, or nothing of its length would have been told
        server.codec.send_data(stream, b"x", False)
    server.run()
    with pytest.raises(ClientError, match=why) as failed:
        await anext(call)
    assert failed.value.failure is failure
    assert [reset.stream for reset in server.take(Reset)] == [stream]


async def test_initial_metadata_beyond_the_limit() -> None:
    call = Call(Nowhere(), HEAD, None, 100)
    stream = OneStream()
    call.acquired(stream)
    call.head_received(ResponseHead(1, 200, ((b"x", bytes(65_536)),), False))
    with pytest.raises(ClientError, match="exceeds 65536 bytes"):
        await anext(call)
    assert stream.resets == [ErrorCode.CANCEL]


async def test_leaving_the_block_cancels(make_server: Any) -> None:
    server = make_server()
    call, stream = await opened(server)
    server.codec.send_data(stream, frame(b"unread"), False)
    server.run()
    async with call:
        pass
    server.run()
    assert [(reset.stream, reset.code) for reset in server.take(Reset)] == [(stream, ErrorCode.CANCEL)]
    with pytest.raises(ClientError, match="cancelled"):
        await anext(call)
    assert server.client.streams == {}


async def test_a_deadline_of_the_whole_call(make_server: Any) -> None:
    server = make_server()
    call = await open_call(server, b"/s/M", timeout=0.01)
    server.run()
    assert dict(server.take(RequestHead)[0].headers)[b"grpc-timeout"] == b"10000000n"
    with pytest.raises(ClientError, match=r"did not answer within 0\.01 s") as failed:
        await anext(call)
    assert failed.value.failure is ClientFailure.TIMEOUT
    server.run()
    assert [reset.code for reset in server.take(Reset)] == [ErrorCode.CANCEL]


async def test_a_connection_that_is_lost_ends_every_call_on_it(make_server: Any) -> None:
    server = make_server()
    calls = [await open_call(server, b"/s/M") for _ in range(3)]
    server.run()
    server.client.connection_lost(None)
    for call in calls:
        with pytest.raises(ClientError) as failed:
            await anext(call)
        assert failed.value.failure is ClientFailure.RESET


class Nowhere:
    """A source without streams."""

    def __init__(self, error: ConnectError | None = None) -> None:
        self.address = "10.0.0.1:8500"
        self.error = error
        self.withdrawn = 0

    def acquire(self, taker: Any) -> None:
        if self.error is not None:
            taker.acquire_failed(self.error)

    def withdraw(self, taker: Any) -> None:
        self.withdrawn += 1


class OneStream:
    """A stream that raises if it is told to."""

    address = "10.0.0.1:8500"

    def __init__(self, error: Exception | None = None) -> None:
        self.sink: Any = None
        self.info: Any = None
        self.error = error
        self.resets: list[int] = []

    def send_request(self, head: RequestHead) -> None:
        if self.error is not None:
            raise self.error

    def send_data(self, data: bytes, end: bool) -> bool:
        return True

    def send_trailers(self, headers: Any) -> bool:
        return True

    def credit(self, size: int) -> None: ...

    def stop_sending(self) -> None: ...

    def reset(self, code: int) -> None:
        self.resets.append(code)


HEAD = RequestHead(0, b"POST", b"x", b"/s/M", (), end=False)


async def test_no_connection() -> None:
    with pytest.raises(ClientError, match="cannot be reached") as failed:
        await open_call(Nowhere(ConnectError("it cannot be reached")), b"/s/M")
    assert failed.value.failure is ClientFailure.CONNECT


async def test_no_stream_in_time() -> None:
    source = Nowhere()
    with pytest.raises(ClientError, match=r"did not accept a request within 0\.01 s"):
        await open_call(source, b"/s/M", timeout=0.01)
    assert source.withdrawn


async def test_opening_that_is_cancelled() -> None:
    source = Nowhere()
    task = asyncio.create_task(open_call(source, b"/s/M"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.withdrawn == 1


@pytest.mark.parametrize(
    ("error", "expected", "resets"),
    [(HeadRefused("too large"), ClientError, []), (KeyError("x"), KeyError, [ErrorCode.CANCEL])],
)
async def test_a_head_that_cannot_be_sent(error: Exception, expected: Any, resets: list[int]) -> None:
    stream = OneStream(error)
    source = Nowhere()
    source.acquire = lambda taker: taker.acquired(stream)  # type: ignore[method-assign]
    with pytest.raises(expected):
        await open_call(source, b"/s/M")
    assert stream.resets == resets


# grpcio


class Service(grpc.GenericRpcHandler):
    """Methods by name; what became of them."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.sent = 0
        self.release = asyncio.Event()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.rpartition("/")[2]
        if method in ("echo", "fail", "slow"):
            return grpc.unary_unary_rpc_method_handler(getattr(self, method))
        if method in ("count", "flood", "forever"):
            return grpc.unary_stream_rpc_method_handler(getattr(self, method))
        return grpc.stream_stream_rpc_method_handler(self.talk) if method == "talk" else None

    async def echo(self, message: bytes, context: Any) -> bytes:
        return message

    async def fail(self, message: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: \u00e9")
        raise AssertionError

    async def slow(self, message: bytes, context: Any) -> bytes:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError

    async def count(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(message)):
            yield b"%d" % number

    async def flood(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        """16 messages of 4 MiB less their prefix."""
        for number in range(16):
            yield bytes([number]) * ((4 << 20) - 16)
            self.sent += 1

    async def forever(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            self.begun.set()
            await self.release.wait()
            yield b"second"
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def talk(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message.upper()


class World:
    """A grpcio server and our channel to it."""

    def __init__(self, server: Any, service: Service, shared: ConnectionContext, target: Target) -> None:
        self.server = server
        self.service = service
        self.events: list[ChannelEvent] = []
        self.going_away = asyncio.Event()
        self.again: Callable[[], Awaitable[tuple[Any, Service, int]]]
        self.channel = H2Channel(shared, target, on_event=self.told)

    def told(self, event: ChannelEvent) -> None:
        self.events.append(event)
        if event is ChannelEvent.GOING_AWAY:
            self.going_away.set()


DOMAIN = "dev.example"
CA = DevelopmentCA.create(DOMAIN)
CONTROL = CA.issue(f"spiffe://{DOMAIN}/ns/mesh/sa/control")
SIDECAR = CA.issue(f"spiffe://{DOMAIN}/ns/models/sa/sidecar")
MTLS = grpc.ssl_server_credentials(
    [(CONTROL.key_pem, CONTROL.certificate_pem)], CA.bundle_pem, require_client_auth=True
)


def security() -> PeerSecurity:
    """As a sidecar speaks to its control plane."""
    context = client_context(Credentials(SIDECAR.certificate_pem, SIDECAR.key_pem, CA.bundle_pem), protocols=("h2",))
    context.trust = Trust({DOMAIN: ()})
    return PeerSecurity(lambda: context, verify)


def verify(tls: ssl.SSLObject) -> Workload:
    workload = identify(tls, time.time(), PeerRole.SERVER)
    assert workload is not None
    return workload


async def started(address: str, *, is_secure: bool) -> tuple[Any, Service, int]:
    service = Service()
    options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
    server = grpc.aio.server(handlers=[service], options=options)
    port = server.add_secure_port(address, MTLS) if is_secure else server.add_insecure_port(address)
    await server.start()
    return server, service, port


@pytest.fixture(params=["TCP", "UNIX", "mTLS"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    address = f"unix:{tmp_path}/s" if request.param == "UNIX" else "127.0.0.1:0"
    is_secure = request.param == "mTLS"
    server, service, port = await started(address, is_secure=is_secure)
    address = address.replace(":0", f":{port}")
    shared = own_connections()
    shared.reaper.start()
    made = World(server, service, shared, Target.parse(address, security() if is_secure else None))
    made.again = partial(started, address, is_secure=is_secure)
    async with made.channel:
        yield made
        await made.server.stop(0)  # before its connection is lost: over TLS grpcio would wait for a second
    shared.reaper.stop()


async def test_unary_with_grpcio(world: World) -> None:
    assert await call_unary(world.channel, b"/s/echo", b"hello", timeout=20) == b"hello"
    large = bytes(range(256)) * 16_000  # 4 MB, both ways
    assert await call_unary(world.channel, b"/s/echo", large, timeout=20) == large
    with pytest.raises(StatusError) as failed:
        await call_unary(world.channel, b"/s/fail", b"", timeout=20)
    assert (failed.value.grpc_status, failed.value.details) == (9, "not now: \u00e9")
    with pytest.raises(StatusError, match="UNIMPLEMENTED"):
        await call_unary(world.channel, b"/s/other", b"", timeout=20)
    assert world.events == [ChannelEvent.CONNECTED]


async def test_a_deadline_with_grpcio(world: World) -> None:
    await call_unary(world.channel, b"/s/echo", b"", timeout=20)  # the connection stands
    for timeout in (0.1, 1.0, 10.0):  # until the server has seen it before the deadline
        with pytest.raises((ClientError, StatusError), match=r"did not answer|DEADLINE_EXCEEDED"):
            await call_unary(world.channel, b"/s/slow", b"", timeout=timeout)
        if world.service.begun.is_set():
            break
    await asyncio.wait_for(world.service.cancelled.wait(), 60)


async def test_server_streaming_with_grpcio(world: World) -> None:
    async with await open_call(world.channel, b"/s/count", timeout=20) as call:
        await call.send(b"1000")
        await call.done_sending()
        assert [int(message) async for message in call] == list(range(1_000))


async def test_bidirectional_with_grpcio(world: World) -> None:
    async def talk(name: bytes) -> None:
        async with await open_call(world.channel, b"/s/talk", timeout=20) as call:
            for number in range(20):
                await call.send(b"%s %d" % (name, number))
                assert await anext(call) == b"%s %d" % (name.upper(), number)
            await call.done_sending()
            assert [message async for message in call] == []

    await asyncio.gather(*(talk(name) for name in (b"a", b"b", b"c", b"d")))
    assert world.events == [ChannelEvent.CONNECTED]  # one connection


async def test_cancelling_with_grpcio(world: World) -> None:
    async with await open_call(world.channel, b"/s/forever") as call:
        await call.send(b"")
        await call.done_sending()
        assert await anext(call) == b"first"
        # Before it goes on, grpcio is what is cancelled, and the generator hears nothing of it.
        await asyncio.wait_for(world.service.begun.wait(), 60)
    await asyncio.wait_for(world.service.cancelled.wait(), 60)


async def test_large_messages_with_grpcio_wait_for_their_reader(world: World) -> None:
    async with await open_call(world.channel, b"/s/flood", timeout=40) as call:
        await call.send(b"")
        await call.done_sending()
        first = await anext(call)
        assert first == bytes(len(first))
        while not call._messages:  # the second is whole: from now on nothing more is credited
            await asyncio.sleep(0.01)
        sent = -1
        while sent != world.service.sent:  # until the server stands still
            sent = world.service.sent
            await asyncio.sleep(0.1)
        assert sent < 10
        assert len(call._messages) == 1
        rest = [message async for message in call]
        assert [message[0] for message in rest] == list(range(1, 16))
        assert all(len(message) == (4 << 20) - 16 for message in rest)


async def test_a_graceful_stop_of_grpcio(world: World) -> None:
    """GOAWAY: the open stream goes on to its end; it is told, and the connection ends with it."""
    async with await open_call(world.channel, b"/s/forever") as call:
        await call.send(b"")
        await call.done_sending()
        assert await anext(call) == b"first"
        stopping = asyncio.create_task(world.server.stop(20))
        await asyncio.wait_for(world.going_away.wait(), 60)
        world.service.release.set()
        assert [message async for message in call] == [b"second"]
        await stopping
    with pytest.raises(ClientError) as failed:
        await call_unary(world.channel, b"/s/echo", b"", timeout=20)
    assert failed.value.failure is ClientFailure.CONNECT
    assert world.events == [ChannelEvent.CONNECTED, ChannelEvent.GOING_AWAY]
    world.server, _, _ = await world.again()
    assert await call_unary(world.channel, b"/s/echo", b"back", timeout=20) == b"back"
    assert world.events[2:] == [ChannelEvent.CONNECTED]


async def test_an_abrupt_stop_of_grpcio(world: World) -> None:
    async with await open_call(world.channel, b"/s/forever") as call:
        await call.send(b"")
        assert await anext(call) == b"first"
        await world.server.stop(0)
        with pytest.raises(ClientError):
            await anext(call)
