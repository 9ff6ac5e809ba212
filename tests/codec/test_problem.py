from __future__ import annotations

import pytest

from meshproxy.codec.events import Event, Failed, Rejected
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import HEADERS, PREFACE, frame, rst_stream, settings
from meshproxy.codec.h2.hpack import encode_field
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

LIMITS = Limits(target_bytes=10)
Fields = list[tuple[bytes, bytes]]


def h1(target: bytes, fields: Fields) -> Event:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    (event,) = H1Connection(Role.SERVER, LIMITS).receive(b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (target, lines))
    return event


def h2(target: bytes, fields: Fields) -> tuple[list[Event], bytes]:
    head = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", target), (b":authority", b"a"), *fields]
    block = b"".join(encode_field(*field) for field in head)
    connection = H2Connection(Role.SERVER, LIMITS, 0.0)
    events = connection.receive(PREFACE + settings([]) + frame(HEADERS, 0x5, 1, block), 0.0)
    return events, connection.take_output()


@pytest.mark.parametrize(
    ("target", "fields", "status", "limit"),
    [
        (b"/" + b"x" * 10, [], 414, "target_bytes"),
        (b"/", [(b"expect", b"later")], 417, None),
        (b"/", [(b"expect", b"100-continue")] * 2, 417, None),
        (b"/", [(b"x", b"")] * (LIMITS.header_count + 1), 431, "header_count"),
    ],
)
def test_what_is_unacceptable_is_answered_in_both_versions(
    target: bytes, fields: Fields, status: int, limit: str | None
) -> None:
    for event in (h1(target, fields), *h2(target, fields)[0]):
        assert isinstance(event, Rejected)
        assert (event.status, event.limit) == (status, limit)


@pytest.mark.parametrize(
    "fields", [[(b"content-length", b"-1")], [(b"host", b"a b")], [(b"x", b"\x01")], [(b"content-length", b"1")] * 2]
)
def test_what_is_malformed_is_400_in_one_and_a_stream_error_in_the_other(fields: Fields) -> None:
    answered = h1(b"/", fields)
    assert isinstance(answered, Rejected)
    assert answered.status == 400
    (reset,), output = h2(b"/", fields)
    assert isinstance(reset, Rejected)
    assert (reset.status, reset.is_reset) == (400, True)
    assert output.endswith(rst_stream(1, ErrorCode.PROTOCOL_ERROR))


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"HTTP/1.1 200 OK\r\nbad\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 500 + b"\r\n", ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_a_problem_of_a_response_ends_the_connection(head: bytes, code: int) -> None:
    client = H1Connection(Role.CLIENT, LIMITS)
    client.send_request(b"GET", b"/", b"a", (), True)
    (event,) = client.receive(head)
    assert isinstance(event, Failed)
    assert event.code == code
