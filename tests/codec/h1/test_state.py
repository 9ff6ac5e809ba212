"""The tables of `codec.h1.state`, row by row: the state of both sides after each event of an exchange."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.h1.state import BODY, BROKEN, DONE, HEAD, IDLE, State
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Step = tuple[Callable[[H1Connection], object], State, State]
"""What happens, then `theirs` and `ours`."""


def received(data: bytes) -> Callable[[H1Connection], object]:
    return lambda connection: connection.receive(data)


def eof(connection: H1Connection) -> object:
    return connection.receive_eof()


def asked(*, end: bool) -> Callable[[H1Connection], object]:
    """A client sends the head of its request, with a body of two bytes unless it ends there."""
    return lambda connection: connection.send_request(b"POST", b"/", b"a", (), end, None if end else 2)


def answered(status: int = 200, *, end: bool) -> Callable[[H1Connection], object]:
    """A server sends a response head, with a body of two bytes unless it ends there."""
    return lambda connection: connection.send_response(status, (), end, None if end or status < 200 else 2)


def body(connection: H1Connection) -> object:
    return connection.send_data(b"hi", True)


GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
UNTIL_EOF = b"HTTP/1.1 200 OK\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

AS_SERVER: dict[str, list[Step]] = {
    "a request and a response with bodies": [
        (received(POST), BODY, HEAD),
        (received(b"h"), BODY, HEAD),
        (received(b"i"), DONE, HEAD),
        (answered(end=False), DONE, BODY),
        (body, HEAD, IDLE),
        (received(GET), DONE, HEAD),
    ],
    "heads without bodies skip BODY": [(received(GET), DONE, HEAD), (answered(end=True), HEAD, IDLE)],
    "an interim head is not the final one": [
        (received(POST), BODY, HEAD),
        (answered(100, end=False), BODY, HEAD),
        (answered(end=True), BODY, DONE),
    ],
    "a response before the end of its request": [
        (received(POST), BODY, HEAD),
        (answered(end=True), BODY, DONE),
        (received(b"hi"), HEAD, IDLE),
    ],
    "a head that is incomplete": [(received(POST[:20]), HEAD, IDLE), (received(POST[20:]), BODY, HEAD)],
    "a violation may be answered": [(received(b"GET /\r\n\r\n"), BROKEN, HEAD), (answered(end=True), BROKEN, DONE)],
    "EOF between messages": [(eof, BROKEN, BROKEN)],
    "EOF inside a message": [(received(POST), BODY, HEAD), (eof, BROKEN, HEAD)],
    "EOF after their message": [
        (received(GET), DONE, HEAD),
        (eof, DONE, HEAD),
        (answered(end=True), BROKEN, BROKEN),
    ],
    "the last exchange": [(received(LAST_GET), DONE, HEAD), (answered(end=True), BROKEN, BROKEN)],
}
AS_CLIENT: dict[str, list[Step]] = {
    "a request and a response with bodies": [
        (asked(end=False), HEAD, BODY),
        (body, HEAD, DONE),
        (received(OK), BODY, DONE),
        (received(b"hi"), IDLE, HEAD),
        (asked(end=True), HEAD, DONE),
    ],
    "heads without bodies skip BODY": [(asked(end=True), HEAD, DONE), (received(EMPTY), IDLE, HEAD)],
    "an interim head is not the final one": [(asked(end=True), HEAD, DONE), (received(CONTINUE), HEAD, DONE)],
    "a response before the end of its request": [
        (asked(end=False), HEAD, BODY),
        (received(EMPTY), DONE, BODY),
        (body, IDLE, HEAD),
    ],
    "a violation": [(asked(end=True), HEAD, DONE), (received(b"HTTP/9\r\n\r\n"), BROKEN, BROKEN)],
    "EOF between messages": [(eof, BROKEN, BROKEN)],
    "EOF inside a message": [(asked(end=True), HEAD, DONE), (received(OK), BODY, DONE), (eof, BROKEN, BROKEN)],
    "EOF ends a close-delimited body": [
        (asked(end=False), HEAD, BODY),
        (received(UNTIL_EOF), BODY, BODY),
        (eof, DONE, BODY),
        (body, BROKEN, BROKEN),
    ],
}


def follow(connection: H1Connection, steps: list[Step]) -> None:
    for number, (act, theirs, ours) in enumerate(steps):
        act(connection)
        assert (connection._theirs, connection._ours) == (theirs, ours), f"after step {number}"


@pytest.mark.parametrize("name", AS_SERVER)
def test_a_server_reads_requests_and_writes_responses(name: str) -> None:
    connection = H1Connection(Role.SERVER, Limits())
    assert (connection._theirs, connection._ours) == (HEAD, IDLE)
    follow(connection, AS_SERVER[name])


@pytest.mark.parametrize("name", AS_CLIENT)
def test_a_client_writes_requests_and_reads_responses(name: str) -> None:
    connection = H1Connection(Role.CLIENT, Limits())
    assert (connection._theirs, connection._ours) == (IDLE, HEAD)
    follow(connection, AS_CLIENT[name])


def test_broken_is_final() -> None:
    connection = H1Connection(Role.CLIENT, Limits())
    follow(connection, AS_CLIENT["a violation"])
    assert connection.receive(OK) == []
    assert connection.receive_eof() == []
    assert (connection._theirs, connection._ours) == (BROKEN, BROKEN)
