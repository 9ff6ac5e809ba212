"""gRPC between the official client and the official server with a sidecar in between: what gRPC promises must survive.

The cases are those of gRPC's interoperability tests (grpc/grpc, doc/interop-test-descriptions.md), as far as they
need no credentials of Google's. The service is none of TensorFlow Serving's, so its bodies pass unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from meshproxy.devtools import messages
from meshproxy.devtools.clients import GrpcClient, refusal_of
from meshproxy.devtools.local_mesh import LocalSidecar, environment, local_sidecar, permissive_documents
from meshproxy.devtools.models import predict_request

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVICE = "/meshproxy.conformance.Interop/"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
UNICODE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
MIB = 1 << 20


class Interop(grpc.GenericRpcHandler):
    """A service of bytes.

    Attributes:
        cancelled: set when a handler that waits has been cancelled.
        remaining: seconds until the deadline, as the last call of `Deadline` saw it; None: it saw no deadline.
        metadata: what the last call of `Echo` was sent.
    """

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.waiting = asyncio.Event()
        self.remaining: float | None = None
        self.metadata: dict[str, str | bytes] = {}
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Deadline": grpc.unary_unary_rpc_method_handler(self.deadline),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "Emit": grpc.unary_stream_rpc_method_handler(self.emit),
            "Talk": grpc.stream_stream_rpc_method_handler(self.talk),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        service, _, method = handler_call_details.method.rpartition("/")
        return self._handlers.get(method) if service + "/" == SERVICE else None

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        await context.send_initial_metadata([("x-initial", "from the server"), ("x-initial-bin", b"\x00\xff\x01")])
        context.set_trailing_metadata(
            [("x-trailing-bin", self.metadata.get("x-custom-bin", b"")), ("x-trailing", "end")]
        )
        return request

    async def fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode(tuple(s.value for s in grpc.StatusCode)[request[0]]), UNICODE)
        raise AssertionError("unreachable")

    async def deadline(self, request: bytes, context: Any) -> bytes:
        self.remaining = context.time_remaining()
        return b""

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    async def collect(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return str([len(request) async for request in requests]).encode()

    async def emit(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for size in request.split(b","):
            yield bytes(int(size))

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]
        yield b"that was all"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def interop() -> AsyncIterator[tuple[Interop, str]]:
    service = Interop()
    server = grpc.aio.server(handlers=[service], options=UNLIMITED)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service, address
    await server.stop(0)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def channel(interop: tuple[Interop, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """A channel with mTLS through a sidecar to the service."""
    documents = environment(grpc=interop[1]) + permissive_documents()
    async with (
        local_sidecar(tmp_path_factory.mktemp("interop"), documents) as running,
        GrpcClient(running.inbound, running.client) as client,
    ):
        yield client.channel


@pytest.fixture
def service(interop: tuple[Interop, str]) -> Interop:
    fresh = interop[0]
    fresh.cancelled.clear()
    fresh.waiting.clear()
    return fresh


async def test_empty_unary(channel: Any) -> None:
    assert await channel.unary_unary(SERVICE + "Echo")(b"") == b""


async def test_large_unary(channel: Any) -> None:
    request = bytes(range(256)) * 1024
    assert await channel.unary_unary(SERVICE + "Echo")(request) == request


async def test_100_mib_both_ways(channel: Any) -> None:
    request = bytes(range(256)) * (100 * MIB // 256)
    answer = await channel.unary_unary(SERVICE + "Echo")(request, timeout=100)
    assert len(answer) == len(request)
    assert answer == request


async def test_client_streaming(channel: Any) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for size in (27182, 8, 1828, 45904):
            yield bytes(size)

    assert await channel.stream_unary(SERVICE + "Collect")(requests()) == b"[27182, 8, 1828, 45904]"


async def test_server_streaming(channel: Any) -> None:
    call = channel.unary_stream(SERVICE + "Emit")(b"31415,9,2653,58979")
    assert [len(answer) async for answer in call] == [31415, 9, 2653, 58979]


async def test_ping_pong(channel: Any) -> None:
    """Each answer is read before the next request is written: nothing may be held back to be sent together."""
    call = channel.stream_stream(SERVICE + "Talk")()
    for size in (27182, 8, 1828, 45904):
        await call.write(b"a" + bytes(size))
        assert await call.read() == bytes(size) + b"a"
    await call.done_writing()
    assert await call.read() == b"that was all"
    assert await call.read() is grpc.aio.EOF


async def test_empty_stream(channel: Any) -> None:
    call = channel.stream_stream(SERVICE + "Talk")()
    await call.done_writing()
    assert [answer async for answer in call] == [b"that was all"]
    assert await call.code() is grpc.StatusCode.OK


async def test_half_close_leaves_the_other_direction_open(channel: Any) -> None:
    call = channel.stream_stream(SERVICE + "Talk")()
    await call.write(b"abc")
    await call.done_writing()
    assert [answer async for answer in call] == [b"cba", b"that was all"]


async def test_metadata_both_ways(channel: Any, service: Interop) -> None:
    call = channel.unary_unary(SERVICE + "Echo")(
        b"", metadata=[("x-custom", "a, b"), ("x-custom-bin", b"\xab\xab\xab\x00")]
    )
    await call
    assert service.metadata["x-custom"] == "a, b"
    assert service.metadata["x-custom-bin"] == b"\xab\xab\xab\x00"
    assert dict(await call.initial_metadata())["x-initial-bin"] == b"\x00\xff\x01"
    assert dict(await call.initial_metadata())["x-initial"] == "from the server"
    assert dict(await call.trailing_metadata())["x-trailing-bin"] == b"\xab\xab\xab\x00"
    assert dict(await call.trailing_metadata())["x-trailing"] == "end"


@pytest.mark.parametrize("number", range(1, 17))
async def test_every_status_and_its_message(channel: Any, number: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(SERVICE + "Fail")(bytes([number]))
    assert caught.value.code().value[0] == number
    assert caught.value.details() == UNICODE
    assert refusal_of(caught.value) is None


async def test_unimplemented_method_is_the_servers_to_say(channel: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(SERVICE + "Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refusal_of(caught.value) is None


async def test_the_deadline_reaches_the_server(channel: Any, service: Interop) -> None:
    await channel.unary_unary(SERVICE + "Deadline")(b"", timeout=30)
    assert service.remaining is not None
    assert 25 < service.remaining < 31  # the client rounds up what it writes into grpc-timeout


async def test_a_deadline_that_passes_ends_both_sides(channel: Any, service: Interop) -> None:
    call = channel.unary_unary(SERVICE + "Wait")(b"", timeout=3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert service.waiting.is_set(), "3 s were not enough for the call to reach the server"
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(service.cancelled.wait(), 60)


async def test_the_server_sees_a_cancellation(channel: Any, service: Interop) -> None:
    call = channel.unary_unary(SERVICE + "Wait")(b"")
    reading = asyncio.ensure_future(call)
    await asyncio.wait_for(service.waiting.wait(), 60)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.wait_for(service.cancelled.wait(), 60)


async def test_cancel_after_the_first_answer(channel: Any) -> None:
    call = channel.stream_stream(SERVICE + "Talk")()
    await call.write(b"abc")
    assert await call.read() == b"cba"
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    # The connection is none the worse.
    assert await channel.unary_unary(SERVICE + "Echo")(b"after") == b"after"


async def test_many_calls_share_a_connection(channel: Any) -> None:
    call = channel.unary_unary(SERVICE + "Echo")
    requests = [str(number).encode() * 50 for number in range(500)]
    assert await asyncio.gather(*(call(request) for request in requests)) == requests


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_pass(channel: Any, compression: grpc.Compression) -> None:
    request = b"compress me " * 10_000
    assert await channel.unary_unary(SERVICE + "Echo")(request, compression=compression) == request


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_the_model_is_found_in_compressed_messages(strict: LocalSidecar, compression: grpc.Compression) -> None:
    async with GrpcClient(strict.inbound, strict.client) as client:
        request = predict_request("half_plus_two", [2.0] * 5_000, version=1).SerializeToString()
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(PREDICT)
        answer = await call(request, compression=compression)
        assert list(messages.PredictResponse.FromString(answer).outputs["y"].float_val) == [3.0] * 5_000


async def test_tensorflow_servings_own_errors_pass(strict: LocalSidecar) -> None:
    async with GrpcClient(strict.inbound, strict.client) as client:
        answer = await client.call(PREDICT, predict_request("none", [1.0]).SerializeToString())
        assert (answer.status, answer.refusal) == ("NOT_FOUND", None)
        assert answer.body == "Servable not found for request: Latest(none)"


async def test_metadata_with_white_space_around_it_arrives(channel: Any, service: Interop) -> None:
    await channel.unary_unary(SERVICE + "Echo")(b"", metadata=(("x-spaced", "  a b "),))
    assert service.metadata["x-spaced"] == "a b"


async def test_a_target_of_several_addresses(
    interop: tuple[Interop, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The official client sends all of them, with the comma, as `:authority`."""
    documents = environment(grpc=interop[1], mtls="disabled")
    async with local_sidecar(tmp_path_factory.mktemp("several"), documents) as running:
        target = f"ipv4:{running.inbound},{running.inbound}"
        async with grpc.aio.insecure_channel(target) as several:
            call: Any = several.unary_unary(PREDICT)(predict_request("a", [1.0]).SerializeToString(), timeout=60)
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            assert await call.details() == "Method not found!"  # the model server's answer
