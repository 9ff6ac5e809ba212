from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshproxy.codec.events import Data, RequestHead, Reset
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.devtools.load.grpc import GrpcConnection, call_blocks, describe, grpc_message

if TYPE_CHECKING:
    from tests.devtools.load.conftest import FakeTransport, Finishes

METADATA = ((b"authorization", b"Bearer abc"),)
BLOCKS = call_blocks(b"/tensorflow.serving.PredictionService/Predict", b"models:443", METADATA)


class Peer:
    """Our own server codec at the other end of the fake transport."""

    def __init__(self, connection: GrpcConnection, transport: FakeTransport) -> None:
        self.connection = connection
        self.transport = transport
        self.codec = H2Connection(Role.SERVER, Limits(), 0.0)
        self.events: list[object] = []

    def exchange(self) -> None:
        """Carries bytes both ways until there are none."""
        while True:
            said = self.transport.take()
            if said:
                self.events += self.codec.receive(said, 0.0)
            answer = self.codec.take_output()
            if answer:
                self.connection.data_received(answer)
            if not said and not answer:
                return

    def heads(self) -> list[RequestHead]:
        return [event for event in self.events if isinstance(event, RequestHead)]

    def answer(
        self, stream: int, message: bytes | None, status: bytes = b"0", extra: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        kind = ((b"content-type", b"application/grpc"),)
        if message is None:
            self.codec.send_response(stream, 200, (*kind, (b"grpc-status", status), *extra), True)
        else:
            self.codec.send_response(stream, 200, kind, False)
            self.codec.send_data(stream, grpc_message(message), False)
            self.codec.send_trailers(stream, ((b"grpc-status", status), *extra))
        self.exchange()


async def opened(
    transport: FakeTransport, finishes: Finishes, message: bytes = b"m", streams: int = 2
) -> tuple[GrpcConnection, Peer]:
    connection = GrpcConnection(BLOCKS, message, streams, finishes)
    connection.connection_made(transport)
    peer = Peer(connection, transport)
    peer.exchange()
    assert connection.has_settings.done()
    return connection, peer


async def test_the_first_call_and_the_later_ones_say_the_same(transport: FakeTransport, finishes: Finishes) -> None:
    connection, peer = await opened(transport, finishes)
    for _ in range(3):
        connection.slots[0].begin()
        peer.exchange()
        peer.answer(peer.heads()[-1].stream, b"answer")
    first, second, third = peer.heads()
    assert (first.stream, second.stream, third.stream) == (1, 3, 5)
    assert first.headers == second.headers == third.headers
    assert first.target == b"/tensorflow.serving.PredictionService/Predict"
    assert first.authority == b"models:443"
    assert dict(first.headers)[b"authorization"] == b"Bearer abc"
    assert finishes.errors == [None, None, None]


async def test_later_blocks_are_indices_but_for_the_token() -> None:
    first, later = BLOCKS
    assert len(later) == 8 + len(b"\0\x0dauthorization\x0aBearer abc")
    assert len(first) > 100


async def test_a_large_message_follows_its_head_in_frames(transport: FakeTransport, finishes: Finishes) -> None:
    message = b"x" * 50_000
    connection, peer = await opened(transport, finishes, message)
    connection.slots[0].begin()
    peer.exchange()
    pieces = [event for event in peer.events if isinstance(event, Data)]
    assert b"".join(piece.data for piece in pieces) == grpc_message(message)
    assert pieces[-1].end


@pytest.mark.parametrize(
    ("status", "message", "extra", "error"),
    [
        (b"7", None, ((b"x-meshproxy-refusal", b"permission-denied"),), "PERMISSION_DENIED, refused by meshproxy"),
        (b"14", None, ((b"grpc-message", b"no%20server"),), "UNAVAILABLE: no server"),
        (b"13", b"half an answer", (), "INTERNAL"),
        (b"0", None, (), "ended with OK, but without a message"),
        (b"99", None, (), "gRPC status b'99'"),
    ],
)
async def test_a_call_that_fails_says_why(
    transport: FakeTransport,
    finishes: Finishes,
    status: bytes,
    message: bytes | None,
    extra: tuple[tuple[bytes, bytes], ...],
    error: str,
) -> None:
    connection, peer = await opened(transport, finishes)
    connection.slots[0].begin()
    peer.exchange()
    peer.answer(1, message, status, extra)
    assert error in finishes.errors[0]


async def test_a_reset_call_fails_alone(transport: FakeTransport, finishes: Finishes) -> None:
    connection, peer = await opened(transport, finishes)
    for slot in connection.slots:
        slot.begin()
    peer.exchange()
    peer.codec.reset(1, 8)
    peer.exchange()
    peer.answer(3, b"answer")
    assert finishes.errors == ["RST_STREAM with code 8", None]


async def test_a_lost_connection_fails_all_calls_and_later_ones(transport: FakeTransport, finishes: Finishes) -> None:
    connection, _ = await opened(transport, finishes)
    for slot in connection.slots:
        slot.begin()
    connection.connection_lost(None)
    connection.slots[0].begin()
    assert finishes.errors == ["closed by the peer"] * 3


async def test_a_connection_that_closes_before_its_settings_cannot_be_used(
    transport: FakeTransport, finishes: Finishes
) -> None:
    connection = GrpcConnection(BLOCKS, b"m", 1, finishes)
    connection.connection_made(transport)
    connection.connection_lost(None)
    with pytest.raises(ConnectionError, match="closed by the peer"):
        await connection.has_settings


def test_an_answer_that_is_no_grpc_is_named() -> None:
    assert describe(503, ()) == "HTTP status 503 without a gRPC status"
    assert describe(200, ()) == "ended without a gRPC status"


async def test_a_call_that_is_given_up_is_reset(transport: FakeTransport, finishes: Finishes) -> None:
    connection, peer = await opened(transport, finishes)
    gone, other = connection.slots
    gone.begin()
    gone.give_up()
    gone.give_up()
    other.begin()
    peer.exchange()
    resets = [event for event in peer.events if isinstance(event, Reset)]
    assert [(event.stream, event.code) for event in resets] == [(1, ErrorCode.CANCEL)]
    assert finishes.errors == []
    gone.begin()
    peer.exchange()
    for head in peer.heads()[1:]:
        peer.answer(head.stream, b"answer")
    assert finishes.errors == [None, None]
