from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshproxy.devtools.load.rest import PIECE, Head, RestConnection, chunks_end, read_head, read_request_length

if TYPE_CHECKING:
    from tests.devtools.load.conftest import FakeTransport, Finishes

REQUEST = b"POST /v1/models/m:predict HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"


def make(transport: FakeTransport, finishes: Finishes, request: bytes = REQUEST) -> RestConnection:
    connection = RestConnection(request, finishes)
    connection.connection_made(transport)
    return connection


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("answer", [ANSWER, CHUNKED])
def test_an_answer_is_read_however_it_is_cut(
    transport: FakeTransport, finishes: Finishes, answer: bytes, size: int
) -> None:
    connection = make(transport, finishes)
    for _ in range(2):
        connection.begin()
        assert transport.take() == REQUEST
        for at in range(0, len(answer), size):
            assert len(finishes.errors) == 0 or at == 0
            connection.data_received(answer[at : at + size])
        assert finishes.errors == [None]
        finishes.errors.clear()


def test_an_interim_answer_is_not_the_answer(transport: FakeTransport, finishes: Finishes) -> None:
    connection = make(transport, finishes)
    connection.begin()
    connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER)
    assert finishes.errors == [None]


def test_a_refusal_is_named(transport: FakeTransport, finishes: Finishes) -> None:
    connection = make(transport, finishes)
    connection.begin()
    head = b"HTTP/1.1 403 Forbidden\r\nx-meshproxy-refusal: permission-denied\r\ncontent-length: 0\r\n\r\n"
    connection.data_received(head)
    assert finishes.errors == ["status 403, refused by meshproxy: permission-denied"]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"nonsense\r\n\r\n", "not an HTTP/1.1 response"),
        (ANSWER + b"x", "more bytes than the declared body"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "bad chunk"),
    ],
)
def test_a_broken_answer_ends_the_connection(
    transport: FakeTransport, finishes: Finishes, data: bytes, error: str
) -> None:
    connection = make(transport, finishes)
    connection.begin()
    connection.data_received(data)
    assert transport.is_aborted
    assert error in finishes.errors[0]
    connection.begin()
    assert error in finishes.errors[1]


def test_bytes_that_nobody_asked_for_end_the_connection(transport: FakeTransport, finishes: Finishes) -> None:
    connection = make(transport, finishes)
    connection.data_received(ANSWER)
    assert transport.is_aborted


def test_a_connection_that_is_lost_fails_its_request_and_later_ones(
    transport: FakeTransport, finishes: Finishes
) -> None:
    connection = make(transport, finishes)
    connection.begin()
    connection.connection_lost(None)
    connection.begin()
    assert finishes.errors == ["closed by the peer", "closed by the peer"]


def test_an_answer_without_a_length_ends_with_the_connection(transport: FakeTransport, finishes: Finishes) -> None:
    connection = make(transport, finishes)
    connection.begin()
    connection.data_received(b"HTTP/1.0 200 OK\r\n\r\nsome")
    assert finishes.errors == []
    connection.connection_lost(None)
    assert finishes.errors == [None]


def test_a_large_request_waits_while_the_socket_is_full(transport: FakeTransport, finishes: Finishes) -> None:
    request = b"x" * (3 * PIECE + 5)
    connection = make(transport, finishes, request)
    transport.fills_up = connection.pause_writing
    connection.begin()
    assert [len(piece) for piece in transport.written] == [PIECE]
    for _ in range(3):
        connection.resume_writing()
    assert transport.take() == request


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 12", Head(200, 12, None)),
        (b"HTTP/1.1 204 No Content", Head(204, 0, None)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked", Head(200, -2, None)),
    ],
)
def test_heads(head: bytes, expected: Head) -> None:
    assert read_head(head) == expected


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (REQUEST, 2),
        (b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", -2),
    ],
)
def test_request_heads(head: bytes, length: int) -> None:
    assert read_request_length(head) == length


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b"0\r\n\r\n", 5),
        (b"1\r\na\r\n0\r\nx: y\r\n\r\n", 17),
        (b"1\r\na\r\n0\r\nx: y\r\n", -1),
        (b"5\r\nab", -1),
        (b"", -1),
    ],
)
def test_chunked_bodies(body: bytes, end: int) -> None:
    assert chunks_end(body) == end
