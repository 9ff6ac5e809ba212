"""What a server may answer and what it may not, as a table. A response that two parsers may read differently fails the
connection: the next client on it would get somebody else's answer.

Every row is read whole, byte by byte, in pieces, cut around every line end, and with another response behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.codec.events import Data, Event, Failed, ResponseHead, Trailers
from meshproxy.codec.h1.connection import MAX_INTERIM, H1Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Agree = Callable[[Callable[[], H1Connection], bytes], list[Event]]

BEHIND = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
NO_CONTROL = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]


def client(method: bytes = b"GET") -> H1Connection:
    """A connection on which a request has been sent whole."""
    connection = H1Connection(Role.CLIENT, Limits(header_count=32, body_bytes=2_000_000))
    connection.send_request(method, b"/", b"a", (), True)
    return connection


# Refused: name -> wire. Nothing of a final response is told before.
HEADS: dict[str, bytes] = {
    # The status line (llhttp test/response/invalid.md).
    "line-lf": b"HTTP/1.1 200 OK\ncontent-length: 0\r\n\r\n",
    "line-lf-all": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "line-cr": b"HTTP/1.1 200 O\rK\r\ncontent-length: 0\r\n\r\n",
    "line-blank-before": b"\r\n" + OK + b"content-length: 0\r\n\r\n",
    "line-space-before": b" " + OK + b"content-length: 0\r\n\r\n",
    "line-no-http": b"HTP/1.1 200 OK\r\n\r\n",
    "line-other-protocol": b"ICY 200 OK\r\n\r\n",
    "line-rtsp": b"RTSP/1.1 200 OK\r\n\r\n",
    "line-httper": b"HTTPER/1.1 200 OK\r\n\r\n",
    "line-lower": b"http/1.1 200 OK\r\n\r\n",
    "line-none": b"<html>hello</html>",
    "line-request": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "line-tls-alert": b"\x15\x03\x01\x00\x02\x02\x16",
    "line-version-20": b"HTTP/2.0 200 OK\r\n\r\n",
    "line-version-12": b"HTTP/1.2 200 OK\r\n\r\n",
    "line-version-digits": b"HTTP/01.1 200 OK\r\n\r\n",
    "line-version-more-digits": b"HTTP/1.01 200 OK\r\n\r\n",
    "line-two-spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "line-tab": b"HTTP/1.1\t200 OK\r\n\r\n",
    "line-status-none": b"HTTP/1.1 OK\r\n\r\n",
    "line-status-one-digit": b"HTTP/1.1 2 OK\r\n\r\n",
    "line-status-two-digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "line-status-four-digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "line-status-plus": b"HTTP/1.1 +20 OK\r\n\r\n",
    "line-status-000": b"HTTP/1.1 000 OK\r\n\r\n",
    "line-status-099": b"HTTP/1.1 099 OK\r\n\r\n",
    "line-status-600": b"HTTP/1.1 600 OK\r\n\r\n",
    "line-status-arabic": "HTTP/1.1 \u0662\u0660\u0660 OK\r\n\r\n".encode(),
    "line-status-behind": b"HTTP/1.1 200OK\r\n\r\n",
    "line-phrase-nul": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    # Framing (proxy_extra_data.t and its kin; CVE-2020-10109 seen from the other side).
    "cl-and-te": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te-and-cl": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "cl-twice-same": OK + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    "cl-twice-different": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "cl-list": OK + b"content-length: 5, 5\r\n\r\nhello",
    "cl-empty": OK + b"content-length:\r\n\r\n",
    "cl-plus": OK + b"content-length: +5\r\n\r\nhello",
    "cl-minus": OK + b"content-length: -1\r\n\r\n",
    "cl-hex": OK + b"content-length: 0x5\r\n\r\nhello",
    "cl-underscore": OK + b"content-length: 1_0\r\n\r\n0123456789",
    "cl-2^63": OK + b"content-length: 9223372036854775808\r\n\r\n",
    "cl-name-space": OK + b"content-length : 5\r\n\r\nhello",
    "te-empty": OK + b"transfer-encoding:\r\n\r\nhello",
    "te-identity": OK + b"transfer-encoding: identity\r\n\r\nhello",
    "te-gzip-chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te-chunked-deflate": OK + b"transfer-encoding: chunked, deflate\r\n\r\nWorld",
    "te-two-lines": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\nWorld",
    "te-chunkedchunked": OK + b"transfer-encoding: chunkedchunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n",
    "te-folded": OK + b"transfer-encoding: chunked\r\n  abc\r\n\r\n5\r\nWorld\r\n0\r\n\r\n",
    "te-http10": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "204-with-length": b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
    "204-chunked": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "connection-names-length": OK + b"connection: content-length\r\ncontent-length: 5\r\n\r\nhello",
    "connection-no-list": OK + b"connection: a b\r\ncontent-length: 5\r\n\r\nhello",
    # Fields.
    "field-lf": OK + b"x: y\nset-cookie: z\r\ncontent-length: 0\r\n\r\n",
    "field-cr": OK + b"x: y\rz: w\r\ncontent-length: 0\r\n\r\n",
    "field-folded": OK + b"x: y\r\n z\r\ncontent-length: 0\r\n\r\n",
    "field-folded-first": OK + b" x: y\r\ncontent-length: 0\r\n\r\n",
    "field-no-colon": OK + b"x\r\ncontent-length: 0\r\n\r\n",
    "field-empty-name": OK + b": y\r\ncontent-length: 0\r\n\r\n",
    "field-name-space": OK + b"x : y\r\ncontent-length: 0\r\n\r\n",
    # Interim responses.
    "101": b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
    "1xx-with-length": b"HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\nhello",
    "1xx-chunked": b"HTTP/1.1 103 Early Hints\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
}
for byte in NO_CONTROL:
    HEADS[f"ctl-{byte:02x}-value"] = OK + b"x: a" + bytes((byte,)) + b"\r\ncontent-length: 0\r\n\r\n"
    HEADS[f"ctl-{byte:02x}-name"] = OK + b"x" + bytes((byte,)) + b": a\r\ncontent-length: 0\r\n\r\n"
    HEADS[f"ctl-{byte:02x}-phrase"] = b"HTTP/1.1 200 O" + bytes((byte,)) + b"K\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("name", HEADS)
def test_a_head_fails_the_connection(name: str, agree: Agree) -> None:
    wire = HEADS[name]
    for behind in (b"", BEHIND):
        events = agree(client, wire + behind)
        assert len(events) == 1
        (failed,) = events
        assert isinstance(failed, Failed)
        assert (failed.code, failed.limit, failed.by_peer) == (1, None, False)
        assert failed.reason
        assert failed.reason.isascii()
    connection = client()
    connection.receive(wire)
    assert connection.must_close
    assert not connection.is_idle
    assert connection.receive(BEHIND) == []
    assert connection.receive_eof() == []


LIMITS: dict[str, tuple[bytes, str]] = {
    "fields": (OK + b"x: y\r\n" * 33 + b"\r\n", "header_count"),
    "head": (OK + b"x: " + b"y" * 70_000, "header_bytes"),
    "line": (OK[:-2] + b"y" * 70_000, "header_bytes"),
    "name": (OK + b"x" * 257 + b": y\r\n\r\n", "header_name_bytes"),
    "length": (OK + b"content-length: 2000001\r\n\r\n", "body_bytes"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_head_exceeds_a_limit(name: str, agree: Agree) -> None:
    wire, limit = LIMITS[name]
    (failed,) = agree(client, wire)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.limit) == (11, limit)


# Refused after the head: name -> (wire behind the head of CHUNKED, what is passed on before).
BODIES: dict[str, tuple[bytes, bytes]] = {
    "chunk-size-space-behind": (b"25  \r\nhello\r\n", b""),
    "chunk-size-0x": (b"0x5\r\nhello\r\n", b""),
    "chunk-size-bare-lf": (b"5\nhello\r\n", b""),
    "chunk-size-2^64": (b"10000000000000000\r\n", b""),
    "chunk-data-no-crlf": (b"5\r\nhelloXX0\r\n\r\n", b"hello"),
    "chunk-data-bare-lf": (b"5\r\nhello\n0\r\n\r\n", b"hello"),
    "chunk-ext-unbalanced": (b'5;a="b; c\r\nhello\r\n', b""),
    "chunk-ext-no-semicolon": (b"2 erfrferferf\r\naa\r\n", b""),
    "chunk-ext-17k": (b"5;" + b"a" * 17_000 + b"\r\nhello\r\n", b""),
    "chunk-last-bare-lf": (b"5\r\nhello\r\n0\r\n\n", b"hello"),
    "trailer-no-colon": (b"5\r\nhello\r\n0\r\nx\r\n\r\n", b"hello"),
    "trailer-lf": (b"5\r\nhello\r\n0\r\nx: y\n\r\n", b"hello"),
    "trailer-many": (b"0\r\n" + b"x: y\r\n" * 33 + b"\r\n", b""),
    "body-too-large": (b"200000\r\n", b""),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_fails_the_connection(name: str, agree: Agree) -> None:
    body, passed = BODIES[name]
    for behind in (b"", BEHIND):
        head, *middle, failed = agree(client, CHUNKED + body + behind)
        assert head == ResponseHead(1, 200, (), False)
        assert middle == ([Data(1, passed, len(passed), False)] if passed else [])
        assert isinstance(failed, Failed)
        assert not failed.by_peer


def response(
    data: bytes, *, headers: tuple[tuple[bytes, bytes], ...] = (), length: int | None = None, status: int = 200
) -> list[Event]:
    return [ResponseHead(1, status, headers, False, length), Data(1, data, len(data), True)]


# Accepted: name -> (method, wire, events, whether the connection may be used again).
ACCEPTED: dict[str, tuple[bytes, bytes, list[Event], bool]] = {
    "ok-length": (b"GET", OK + b"Content-Length: 5\r\n\r\nhello", response(b"hello", length=5), True),
    "ok-length-zero": (b"GET", OK + b"content-length: 0\r\n\r\n", [ResponseHead(1, 200, (), True, 0)], True),
    "ok-fields": (
        b"GET",
        OK + b"Date: now\r\nSet-Cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\nX-$: \xff \r\n\r\n",
        [
            ResponseHead(
                1,
                200,
                ((b"date", b"now"), (b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"x-$", b"\xff")),
                True,
                0,
            )
        ],
        True,
    ),
    "ok-phrase-none": (b"GET", b"HTTP/1.1 301\r\ncontent-length: 0\r\n\r\n", [ResponseHead(1, 301, (), True, 0)], True),
    "ok-phrase-empty": (
        b"GET",
        b"HTTP/1.1 301 \r\ncontent-length: 0\r\n\r\n",
        [ResponseHead(1, 301, (), True, 0)],
        True,
    ),
    "ok-phrase-any": (
        b"GET",
        b"HTTP/1.1 599  \tO: \xe9\r\ncontent-length: 0\r\n\r\n",
        [ResponseHead(1, 599, (), True, 0)],
        True,
    ),
    "ok-chunked": (b"GET", CHUNKED + b"5\r\nhello\r\n6;x\r\n world\r\n0\r\n\r\n", response(b"hello world"), True),
    "ok-trailers": (
        b"GET",
        CHUNKED + b"5\r\nhello\r\n0\r\ngrpc-status: 0\r\nset-cookie: x\r\n\r\n",
        [
            ResponseHead(1, 200, (), False),
            Data(1, b"hello", 5, False),
            Trailers(1, ((b"grpc-status", b"0"),)),
        ],
        True,
    ),
    "ok-hop-by-hop-dropped": (
        b"GET",
        OK + b"connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\nupgrade: h2c\r\ncontent-length: 0\r\n\r\n",
        [ResponseHead(1, 200, (), True, 0)],
        True,
    ),
    "ok-close": (
        b"GET",
        OK + b"Connection: Close\r\ncontent-length: 5\r\n\r\nhello",
        response(b"hello", length=5),
        False,
    ),
    "ok-close-and-keep-alive": (
        b"GET",
        OK + b"connection: keep-alive\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
        response(b"hello", length=5),
        False,
    ),
    "ok-http10": (b"GET", b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", response(b"hello", length=5), False),
    "ok-http10-keep-alive": (
        b"GET",
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        response(b"hello", length=5),
        True,
    ),
    "ok-head": (
        b"HEAD",
        OK + b"content-length: 5\r\n\r\n",
        [ResponseHead(1, 200, (), True, 5)],
        True,
    ),
    "ok-head-chunked": (b"HEAD", CHUNKED, [ResponseHead(1, 200, (), True)], True),
    "ok-head-without-framing": (b"HEAD", OK + b"\r\n", [ResponseHead(1, 200, (), True)], True),
    "ok-204": (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", [ResponseHead(1, 204, (), True)], True),
    "ok-204-length-zero": (
        b"GET",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        [ResponseHead(1, 204, (), True)],
        True,
    ),
    "ok-304": (
        b"GET",
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
        [ResponseHead(1, 304, (), True, 5)],
        True,
    ),
    "ok-304-chunked": (
        b"GET",
        b"HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n",
        [ResponseHead(1, 304, (), True)],
        True,
    ),
    "ok-interim": (
        b"GET",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
        [
            ResponseHead(1, 100, (), False),
            ResponseHead(1, 103, ((b"link", b"x"),), False),
            ResponseHead(1, 200, (), True, 0),
        ],
        True,
    ),
    "ok-interim-length-zero": (
        b"GET",
        b"HTTP/1.1 102 Processing\r\ncontent-length: 0\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
        [ResponseHead(1, 102, (), False), ResponseHead(1, 200, (), True, 0)],
        True,
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_response_is_accepted(name: str, agree: Agree) -> None:
    method, wire, expected, is_reusable = ACCEPTED[name]
    assert agree(lambda: client(method), wire) == expected
    connection = client(method)
    connection.receive(wire)
    assert connection.is_idle is is_reusable
    assert connection.must_close is not is_reusable
    assert connection.receive_eof() == []


@pytest.mark.parametrize("name", ACCEPTED)
def test_bytes_behind_a_response_belong_to_nobody(name: str, agree: Agree) -> None:
    """A queue of answers that slipped by one gives every client the answer of another."""
    method, wire, expected, is_reusable = ACCEPTED[name]
    events = agree(lambda: client(method), wire + BEHIND)
    if is_reusable:
        *events, failed = events
        assert failed == Failed(1, "data was received after the end of the response")
    assert events == expected
    connection = client(method)
    connection.receive(wire + BEHIND)
    assert connection.must_close
    assert not connection.is_idle


@pytest.mark.parametrize("start", [OK, OK + b"connection: keep-alive\r\n", b"HTTP/1.0 200 OK\r\n"])
def test_a_body_ends_with_its_connection(start: bytes, agree: Agree) -> None:
    wire = start + b"\r\nHTTP/1.1 200 OK\r\n\r\n"
    assert agree(client, wire) == [ResponseHead(1, 200, (), False), Data(1, b"HTTP/1.1 200 OK\r\n\r\n", 19, False)]
    connection = client()
    connection.receive(wire)
    assert connection.must_close
    assert connection.receive_eof() == [Data(1, b"", 0, True)]
    assert connection.receive_eof() == []
    assert not connection.is_idle


def test_a_body_that_ends_with_its_connection_is_bounded(agree: Agree) -> None:
    def make() -> H1Connection:
        connection = H1Connection(Role.CLIENT, Limits(body_bytes=10))
        connection.send_request(b"GET", b"/", b"a", (), True)
        return connection

    events = agree(make, OK + b"\r\n" + b"x" * 30)
    assert events[1:] == [
        Data(1, b"x" * 10, 10, False),
        Failed(11, "the body is larger than 10 bytes", "body_bytes"),
    ]


def test_interim_responses_without_end(agree: Agree) -> None:
    events = agree(client, b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INTERIM + 3) + BEHIND)
    assert events == [ResponseHead(1, 103, (), False)] * MAX_INTERIM + [Failed(11, "more than 8 interim responses")]


# Cut off: name -> (wire, what is told of it).
CUT: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "line": (b"HTTP/1.1 2", []),
    "head": (OK + b"content-length: 5\r\n", []),
    "behind-interim": (b"HTTP/1.1 100 Continue\r\n\r\n", [ResponseHead(1, 100, (), False)]),
    "length": (OK + b"content-length: 5\r\n\r\nhell", [ResponseHead(1, 200, (), False, 5), Data(1, b"hell", 4, False)]),
    "chunk-size": (CHUNKED + b"5", [ResponseHead(1, 200, (), False)]),
    "chunk": (CHUNKED + b"5\r\nhell", [ResponseHead(1, 200, (), False), Data(1, b"hell", 4, False)]),
    "chunk-without-last": (
        CHUNKED + b"5\r\nhello\r\n",
        [ResponseHead(1, 200, (), False), Data(1, b"hello", 5, False)],
    ),
    "last-chunk-without-end": (CHUNKED + b"0\r\n", [ResponseHead(1, 200, (), False)]),
    "trailers": (CHUNKED + b"0\r\nx: y\r\n", [ResponseHead(1, 200, (), False)]),
}


@pytest.mark.parametrize("name", CUT)
def test_a_response_that_is_cut_off_is_never_complete(name: str) -> None:
    wire, expected = CUT[name]
    connection = client()
    assert connection.receive(wire) == expected
    (failed,) = connection.receive_eof()
    assert isinstance(failed, Failed)
    assert failed.by_peer
    assert connection.must_close
    assert not connection.is_idle
    assert connection.receive_eof() == []
