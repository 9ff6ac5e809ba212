"""Whole messages come to the same as the commands that they stand for, or do nothing."""

from __future__ import annotations

import pytest

from meshproxy.codec.events import Headers
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.whole import PreparedAnswer
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from tests.proxy.express.call_rig import plain

GRPC: Headers = ((b"content-type", b"application/grpc"),)
OK: Headers = ((b"grpc-status", b"0"),)
REQUEST = (b"POST", b"http", b"a", b"/x")


def pair(limits: Limits | None = None, other: Limits | None = None) -> tuple[H2Connection, H2Connection]:
    """A client and a server that have exchanged their settings, and one call."""
    client, server = (
        H2Connection(Role.CLIENT, limits or Limits(), 0.0),
        H2Connection(Role.SERVER, other or Limits(), 0.0),
    )
    stream = client.send_request(*REQUEST, GRPC, True)
    for _ in range(2):
        server.receive(client.take_output(), 0.0)
        client.receive(server.take_output(), 0.0)
    server.refuse(stream, 200, ()) if limits else server.send_response(stream, 200, (*GRPC, *OK), True)
    client.receive(server.take_output(), 0.0)
    return client, server


@pytest.mark.parametrize("size", [1, 511, 512, 16_384])
def test_a_call(size: int) -> None:
    (whole, reader), (usual, _) = pair(), pair()
    body = b"x" * size
    block, head_size = whole.encoder.kept_request(*REQUEST, GRPC, None)
    assert whole.takes_call(head_size, size)
    number = whole.send_call(block, body, len(body))
    assert usual.send_request(*REQUEST, GRPC, False) == number
    usual.send_data(number, body, True)
    assert plain(whole) == plain(usual)
    assert plain(whole._streams[number]) == plain(usual._streams[number])
    written = whole.take_output()
    assert written == usual.take_output()
    assert [type(event).__name__ for event in reader.receive(written, 0.0)] == ["RequestHead", "Data"]


@pytest.mark.parametrize(
    ("limits", "size"),
    [(Limits(stream_window=100), 101), (Limits(frame_bytes=16_384), 16_385), (Limits(header_bytes=200), 1)],
)
def test_a_call_that_the_peer_does_not_take_at_once(limits: Limits, size: int) -> None:
    client, _ = pair(other=limits)
    assert not client.takes_call(300, size)


def test_the_first_head_is_not_one_of_those() -> None:
    assert not H2Connection(Role.CLIENT, Limits(), 0.0).takes_call(1, 1)


def prepare(codec: H2Connection) -> PreparedAnswer:
    return PreparedAnswer(codec.encoder.kept_response(200, GRPC, None), codec.encoder.kept_trailers(OK))


def asked(limits: Limits | None = None, method: bytes = b"POST", end: bool = True) -> tuple[H2Connection, int]:
    """A server that has a request to answer."""
    client, server = pair(limits)
    number = client.send_request(method, *REQUEST[1:], GRPC, end)
    server.receive(client.take_output(), 0.0)
    return server, number


@pytest.mark.parametrize("size", [1, 511, 512, 16_384])
def test_an_answer(size: int) -> None:
    (whole, number), (usual, _) = asked(), asked()
    body = b"x" * size
    assert whole.send_answer(number, prepare(whole), body, len(body))
    usual.send_response(number, 200, GRPC, False)
    usual.send_data(number, body, False)
    usual.send_trailers(number, OK)
    assert plain(whole) == plain(usual)
    assert whole.is_idle
    assert usual.is_idle
    assert whole.take_output() == usual.take_output()


@pytest.mark.parametrize(
    ("server", "size"),
    [
        (asked(Limits(stream_window=100)), 101),
        (asked(Limits(frame_bytes=16_384)), 16_385),
        (asked(Limits(header_bytes=70)), 1),
        (asked(method=b"HEAD"), 1),
        (asked(end=False), 1),
        ((asked()[0], 99), 1),
    ],
)
def test_an_answer_that_the_client_does_not_take_at_once(server: tuple[H2Connection, int], size: int) -> None:
    codec, number = server
    before = plain(codec)
    answer = prepare(codec)
    assert not codec.send_answer(number, answer, b"x" * size, size)
    assert plain(codec) == before
    assert codec.take_output() == b""
