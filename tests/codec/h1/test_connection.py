"""Conversations: who may say what, and when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Data, Event, Failed, Headers, Rejected, RequestHead, ResponseHead, Trailers
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import LocalProtocolError, Role
from tests.thorough import tries

Merge = Callable[[Iterable[Event]], list[Event]]
Agree = Callable[[Callable[[], H1Connection], bytes], list[Event]]

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"
HTTP10 = b"GET / HTTP/1.0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


def server(wire: bytes = b"", **limits: int) -> H1Connection:
    connection = H1Connection(Role.SERVER, Limits(**limits))
    connection.receive(wire)
    return connection


def client() -> H1Connection:
    return H1Connection(Role.CLIENT, Limits())


# The server's side


def test_a_connection_is_kept_alive() -> None:
    connection = server()
    for number in range(1, 4):
        assert connection.is_idle
        assert connection.is_over
        assert connection.receive(GET) == [RequestHead(number, b"GET", b"a", b"/", (), True)]
        assert not connection.is_idle
        assert not connection.is_over
        head = connection.send_response(200, ((b"x", b"y"),), False, 2)
        assert head == b"HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 2\r\n\r\n"
        assert connection.send_data(b"hi", True) == b"hi"
        assert not connection.must_close


def test_it_is_fresh_between_two_requests_only() -> None:
    connection = server()
    assert connection.is_fresh
    connection.receive(b"\r\n")
    assert not connection.is_fresh
    connection.receive(GET)
    assert not connection.is_fresh
    connection.send_response(200, (), True)
    assert connection.is_fresh
    connection.receive(GET[:3])
    assert not connection.is_fresh


def test_an_exchange_that_passed_it_by_is_counted() -> None:
    connection = server()
    connection.number += 1
    assert connection.receive(GET) == [RequestHead(2, b"GET", b"a", b"/", (), True)]


@pytest.mark.parametrize("step", [1, 2, 4, 5, 100])
def test_a_body_of_a_length_that_comes_in_pieces(step: int) -> None:
    connection = server(POST)
    wire = b"hello" + GET
    events = [event for at in range(0, len(wire), step) for event in connection.receive(wire[at : at + step])]
    pieces = [event for event in events if isinstance(event, Data)]
    assert pieces == events
    assert b"".join([piece.data for piece in pieces]) == b"hello"
    assert [piece.end for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [piece.flow for piece in pieces] == [len(piece.data) for piece in pieces]
    assert connection.held == GET


def test_a_block_of_nothing_but_body_is_not_copied() -> None:
    block = bytes(100_000)
    connection = server(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n")
    for is_last in (False, True):
        (piece,) = connection.receive(block)
        assert isinstance(piece, Data)
        assert piece.data is block
        assert piece.end is is_last


def test_requests_that_come_together_are_taken_one_by_one() -> None:
    connection = server()
    events = connection.receive(GET + POST + b"hello" + GET[:10])
    assert [type(event) for event in events] == [RequestHead]
    assert connection.held
    assert connection.next_message() == []
    connection.send_response(200, (), True)
    assert connection.is_over
    assert not connection.is_idle
    # The exchange is over; what comes waits behind what is held.
    assert connection.receive(GET[10:]) == []
    assert connection.next_message() == [RequestHead(2, b"POST", b"a", b"/", (), False, 5), Data(2, b"hello", 5, True)]
    assert connection.held
    connection.send_response(200, (), True)
    assert connection.next_message() == [RequestHead(3, b"GET", b"a", b"/", (), True)]
    assert not connection.held
    connection.send_response(200, (), True)
    assert connection.next_message() == []
    assert connection.is_idle


def test_half_a_request_that_was_held_is_not_idle() -> None:
    connection = server(GET + GET[:5])
    connection.send_response(200, (), True)
    assert connection.next_message() == []
    assert not connection.held
    assert not connection.is_idle
    assert connection.receive(GET[5:]) == [RequestHead(2, b"GET", b"a", b"/", (), True)]


def test_what_is_wrong_with_a_held_request_is_told_in_its_turn() -> None:
    connection = server(GET + b"GET / HTTP/3.0\r\n\r\n")
    connection.send_response(200, (), True)
    (rejected,) = connection.next_message()
    assert isinstance(rejected, Rejected)
    assert (rejected.stream, rejected.status) == (2, 505)
    assert connection.send_response(505, (), True).endswith(b"connection: close\r\n\r\n")


def test_a_request_may_be_answered_before_its_end() -> None:
    connection = server(POST + b"he")
    connection.send_response(403, (), True)
    assert not connection.is_idle
    assert not connection.is_over
    assert connection.receive(b"llo" + GET) == [Data(1, b"llo", 3, True)]
    assert connection.is_over
    assert connection.next_message() == [RequestHead(2, b"GET", b"a", b"/", (), True)]


def test_the_framing_of_responses() -> None:
    def respond(request: bytes, status: int, end: bool, length: int | None = None) -> bytes:
        return server(request).send_response(status, ((b"x", b"y"),), end, length).partition(b"x: y\r\n")[2]

    assert respond(GET, 200, True) == b"content-length: 0\r\n\r\n"
    assert respond(GET, 200, True, 0) == b"content-length: 0\r\n\r\n"
    assert respond(GET, 200, False, 7) == b"content-length: 7\r\n\r\n"
    assert respond(GET, 200, False) == b"transfer-encoding: chunked\r\n\r\n"
    assert respond(GET, 204, True) == b"\r\n"
    assert respond(GET, 204, True, 0) == b"\r\n"
    assert respond(GET, 304, True) == b"\r\n"
    assert respond(GET, 304, True, 7) == b"content-length: 7\r\n\r\n"
    assert respond(HEAD, 200, True) == b"\r\n"
    assert respond(HEAD, 200, True, 7) == b"content-length: 7\r\n\r\n"
    assert respond(HEAD, 200, False, 7) == b"content-length: 7\r\n\r\n"
    assert respond(HTTP10, 200, False) == b"connection: close\r\n\r\n"
    assert respond(HTTP10, 200, False, 7) == b"content-length: 7\r\nconnection: close\r\n\r\n"


def test_bodies_of_responses() -> None:
    def respond(request: bytes, status: int, *pieces: bytes, length: int | None = None) -> bytes:
        connection = server(request)
        connection.send_response(status, (), False, length)
        out = b"".join([connection.send_data(piece, False) for piece in pieces]) + connection.send_data(b"", True)
        assert connection.is_over
        return out

    assert respond(GET, 200, b"hello", b"", b" world") == b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    assert respond(GET, 200, b"hello", length=5) == b"hello"
    assert respond(GET, 200, length=0) == b""
    assert respond(HTTP10, 200, b"hello") == b"hello"
    # What has no body has none, whoever says so: the answers that we make ourselves need not know.
    assert respond(HEAD, 403, b"hello", length=5) == b""
    assert respond(GET, 204, b"hello") == b""
    assert respond(GET, 304, b"hello") == b""


def test_trailers_of_responses() -> None:
    trailers = ((b"grpc-status", b"0"), (b"content-length", b"5"), (b"set-cookie", b"x"))
    connection = server(GET)
    connection.send_response(200, (), False)
    assert connection.send_trailers(trailers) == b"0\r\ngrpc-status: 0\r\n\r\n"
    assert connection.is_idle
    connection = server(HTTP10)
    connection.send_response(200, (), False)
    assert connection.send_trailers(trailers) == b""
    connection = server(GET)
    connection.send_response(200, (), False, 2)
    assert connection.send_data(b"hi", False) == b"hi"
    assert connection.send_trailers(trailers) == b""
    assert connection.is_idle


def test_interim_responses() -> None:
    connection = server(POST)
    assert connection.send_response(100, (), False) == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.send_response(103, ((b"link", b"x"),), False) == b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
    assert connection.send_response(200, (), True) == OK
    # HTTP/1.0 would take it for the answer.
    assert server(HTTP10).send_response(100, (), False) == b""


EXPECT = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"


def test_a_client_that_waits_in_vain_is_not_read_further() -> None:
    """Its next bytes may be the body or the next request (RFC 9110 section 10.1.1)."""
    connection = server(EXPECT)
    assert connection.send_response(403, (), True).endswith(b"connection: close\r\n\r\n")
    assert connection.must_close


@pytest.mark.parametrize("came", [b"h", b"hello"])
def test_a_client_that_does_not_wait_keeps_its_connection(came: bytes) -> None:
    connection = server(EXPECT + came)
    assert b"close" not in connection.send_response(403, (), True)
    assert not connection.must_close


def test_a_client_that_was_told_to_go_on_keeps_its_connection() -> None:
    connection = server(EXPECT)
    connection.send_response(100, (), False)
    assert b"close" not in connection.send_response(200, (), True)
    assert connection.receive(b"hello") == [Data(1, b"hello", 5, True)]
    assert connection.is_idle


def test_http10_is_closed_unless_it_asks() -> None:
    connection = server(HTTP10 + GET)
    assert not connection.held
    assert connection.must_close
    assert connection.send_response(200, (), True).endswith(b"content-length: 0\r\nconnection: close\r\n\r\n")
    assert connection.is_over
    assert connection.next_message() == []
    assert connection.receive(GET) == []

    connection = server(b"GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n")
    assert not connection.must_close
    assert connection.send_response(200, (), True).endswith(b"content-length: 0\r\nconnection: keep-alive\r\n\r\n")
    assert connection.receive(GET) == [RequestHead(2, b"GET", b"a", b"/", (), True)]
    # HTTP/1.1 needs no such word, even behind an HTTP/1.0 request.
    assert connection.send_response(200, (), True) == OK


def test_a_client_asks_to_close() -> None:
    connection = server(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n" + GET)
    assert connection.must_close
    assert not connection.held
    assert connection.send_response(200, (), False, 0).endswith(b"connection: close\r\n\r\n")
    assert not connection.is_over
    connection.send_data(b"", True)
    assert connection.is_over
    assert not connection.is_idle
    assert connection.receive(GET) == []
    assert connection.receive_eof() == []


def test_we_ask_to_close() -> None:
    connection = server(GET + GET)
    connection.close_after_message()
    assert connection.send_response(200, (), True).endswith(b"connection: close\r\n\r\n")
    assert connection.must_close
    # The held request was not taken, and its client knows: nothing behind `close` is answered.
    assert not connection.held
    assert connection.next_message() == []

    connection = server()
    connection.close_after_message()
    assert connection.must_close
    assert connection.receive(GET) == [RequestHead(1, b"GET", b"a", b"/", (), True)]
    assert connection.send_response(200, (), True).endswith(b"connection: close\r\n\r\n")


def test_a_rejection_forgets_the_request_before_it() -> None:
    connection = server(b"HEAD / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    connection.send_response(200, (), True)
    connection.receive(b"x\r\n")
    assert connection.send_response(400, (), False).endswith(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
    assert connection.send_data(b"hi", True) == b"2\r\nhi\r\n0\r\n\r\n"


def test_a_blank_line_before_each_request() -> None:
    connection = server()
    for number in range(1, 4):
        assert connection.receive(b"\r\n" + GET) == [RequestHead(number, b"GET", b"a", b"/", (), True)]
        connection.send_response(200, (), True)


def test_a_rejection_can_still_be_answered_once_the_answer_has_begun() -> None:
    connection = server(CHUNKED)
    connection.send_response(200, (), False)
    (rejected,) = connection.receive(b"x\r\n")
    assert isinstance(rejected, Rejected)
    assert connection.must_close
    assert connection.send_data(b"hi", True) == b"2\r\nhi\r\n0\r\n\r\n"
    assert not connection.is_idle


@pytest.mark.parametrize("framing", [b"content-length: 11\r\n\r\n", b"transfer-encoding: chunked\r\n\r\nb\r\n"])
def test_a_body_exceeds_its_limit(framing: bytes) -> None:
    (*_, rejected) = server(body_bytes=10).receive(b"POST / HTTP/1.1\r\nhost: a\r\n" + framing)
    assert rejected == Rejected(1, 413, "the body is larger than 10 bytes", "body_bytes")


@pytest.mark.parametrize("size", [1, 4])
def test_a_body_in_chunks_exceeds_its_limit(size: int, agree: Agree) -> None:
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    for count in range(8, 14):
        events = agree(lambda: server(body_bytes=10), CHUNKED + chunk * count + b"0\r\n\r\n")
        if count * size <= 10:
            assert events[1:] == [Data(1, b"x" * size * count, size * count, True)]
        else:
            passed = 10 // size * size
            assert events[1:] == [
                Data(1, b"x" * passed, passed, False),
                Rejected(1, 413, "the body is larger than 10 bytes", "body_bytes"),
            ]


def test_a_head_is_not_waited_for_any_longer() -> None:
    connection = server(GET[:12])
    assert connection.give_up_head(408, "too slow", "head_time") == [Rejected(1, 408, "too slow", "head_time")]
    assert connection.send_response(408, (), True).endswith(b"connection: close\r\n\r\n")
    assert connection.receive(GET) == []


@pytest.mark.parametrize("wire", [b"", b"\r\n", GET, GET + GET[:5]])
def test_there_is_no_head_to_give_up(wire: bytes) -> None:
    assert server(wire).give_up_head(408, "too slow", "head_time") == []
    assert client().give_up_head(408, "too slow", "head_time") == []


# The end of what the client sends


@pytest.mark.parametrize("wire", [b"", b"\r", b"\r\n"])
def test_eof_between_requests(wire: bytes) -> None:
    connection = server(GET)
    connection.send_response(200, (), True)
    assert connection.receive(wire) == []
    assert connection.receive_eof() == []
    assert connection.must_close
    assert not connection.is_idle
    assert connection.receive(GET) == []


@pytest.mark.parametrize("wire", [b"G", GET[:-1], b"\r\nG", POST, POST + b"hell", CHUNKED + b"5\r\nhello\r\n0\r\n"])
def test_eof_inside_a_request(wire: bytes) -> None:
    connection = server(wire)
    (failed,) = connection.receive_eof()
    assert isinstance(failed, Failed)
    assert failed.by_peer
    assert connection.must_close
    assert not connection.is_idle
    assert connection.receive_eof() == []
    assert connection.receive(GET) == []


def test_eof_behind_a_request_leaves_it_its_answer() -> None:
    connection = server(GET)
    assert connection.receive_eof() == []
    assert connection.must_close
    assert connection.send_response(200, (), True).endswith(b"connection: close\r\n\r\n")
    assert connection.is_over


def test_eof_behind_held_requests_leaves_them_their_answers() -> None:
    connection = server(GET + GET)
    assert connection.receive_eof() == []
    assert connection.send_response(200, (), True) == OK
    assert connection.receive_eof() == []
    assert connection.next_message() == [RequestHead(2, b"GET", b"a", b"/", (), True)]
    assert connection.must_close
    assert connection.send_response(200, (), True).endswith(b"connection: close\r\n\r\n")

    connection = server(GET + GET[:5])
    connection.receive_eof()
    connection.send_response(200, (), True)
    (failed,) = connection.next_message()
    assert isinstance(failed, Failed)
    assert failed.by_peer


# The client's side


def test_requests_and_their_framing() -> None:
    def request(method: bytes, end: bool, length: int | None = None) -> bytes:
        return client().send_request(method, b"/p?q", b"a:1", ((b"x", b"y"),), end, length)

    start = b" /p?q HTTP/1.1\r\nhost: a:1\r\nx: y\r\n"
    assert request(b"GET", True) == b"GET" + start + b"\r\n"
    assert request(b"GET", True, 0) == b"GET" + start + b"content-length: 0\r\n\r\n"
    assert request(b"POST", True) == b"POST" + start + b"content-length: 0\r\n\r\n"
    assert request(b"PUT", False, 3) == b"PUT" + start + b"content-length: 3\r\n\r\n"
    assert request(b"GET", False) == b"GET" + start + b"transfer-encoding: chunked\r\n\r\n"


def test_a_client_asks_again_and_again() -> None:
    connection = client()
    for number in range(1, 4):
        assert connection.is_idle
        connection.send_request(b"POST", b"/", b"a", (), False, 2)
        assert not connection.is_idle
        assert connection.send_data(b"hi", True) == b"hi"
        assert connection.receive(OK) == [ResponseHead(number, 200, (), True, 0)]
        assert not connection.must_close


def test_a_response_before_the_request_was_sent() -> None:
    connection = client()
    connection.send_request(b"POST", b"/", b"a", (), False, 5)
    connection.send_data(b"he", False)
    assert connection.receive(OK) == [ResponseHead(1, 200, (), True, 0)]
    assert not connection.is_idle
    assert connection.send_data(b"llo", True) == b"llo"
    assert connection.is_idle
    connection.send_request(b"GET", b"/", b"a", (), True)


def test_bytes_behind_an_early_response() -> None:
    connection = client()
    connection.send_request(b"POST", b"/", b"a", (), False, 5)
    head, failed = connection.receive(OK + OK)
    assert isinstance(head, ResponseHead)
    assert isinstance(failed, Failed)
    # The request's data and the failure may have crossed.
    assert connection.send_data(b"hello", True) == b""
    assert connection.send_trailers(()) == b""


def test_an_early_response_that_closes() -> None:
    connection = client()
    connection.send_request(b"POST", b"/", b"a", (), False, 5)
    connection.receive(b"HTTP/1.1 503 No\r\nconnection: close\r\n\r\nbusy")
    assert connection.receive_eof() == [Data(1, b"", 0, True)]
    assert connection.must_close
    assert not connection.is_idle
    assert connection.send_data(b"hello", True) == b"hello"
    assert not connection.is_idle


def test_bytes_that_nobody_asked_for() -> None:
    connection = client()
    assert connection.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n") == [
        Failed(1, "data was received after the end of the response")
    ]
    with pytest.raises(LocalProtocolError):
        connection.send_request(b"GET", b"/", b"a", (), True)


def test_eof_on_an_idle_client() -> None:
    connection = client()
    assert connection.receive_eof() == []
    assert connection.must_close
    assert not connection.is_idle
    with pytest.raises(LocalProtocolError):
        connection.send_request(b"GET", b"/", b"a", (), True)


def test_what_was_cut_says_whether_an_answer_had_begun() -> None:
    """A request whose answer had not may be tried again elsewhere."""
    reasons = []
    for wire in (b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:17] + b"content-length: 5\r\n\r\n"):
        connection = client()
        connection.send_request(b"GET", b"/", b"a", (), True)
        connection.receive(wire)
        (failed,) = connection.receive_eof()
        assert isinstance(failed, Failed)
        reasons.append(failed.reason)
    assert reasons == [
        "the connection was closed before the response began",
        "the connection was closed in the middle of a head",
        "the connection was closed in the middle of a head",
        "the connection was closed in the middle of a body",
    ]


def test_a_client_says_that_it_will_close() -> None:
    connection = client()
    connection.close_after_message()
    assert connection.send_request(b"GET", b"/", b"a", (), True).endswith(b"connection: close\r\n\r\n")
    connection.receive(OK)
    assert connection.must_close
    assert not connection.is_idle


def test_the_count_of_interim_responses_begins_anew() -> None:
    connection = client()
    for _ in range(3):
        connection.send_request(b"GET", b"/", b"a", (), True)
        events = connection.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 8 + OK)
        assert isinstance(events[-1], ResponseHead)
        assert len(events) == 9


# Commands out of order are our own bug, and loud

MISUSE: dict[str, Callable[[], object]] = {
    "request-by-server": lambda: server().send_request(b"GET", b"/", b"a", (), True),
    "request-twice": lambda: _asked().send_request(b"GET", b"/", b"a", (), True),
    "request-connect": lambda: client().send_request(b"CONNECT", b"/", b"a", (), True),
    "request-length-without-body": lambda: client().send_request(b"POST", b"/", b"a", (), True, 5),
    "request-target-space": lambda: client().send_request(b"GET", b"/ HTTP/1.1\r\nx: y", b"a", (), True),
    "request-target-two-words": lambda: client().send_request(b"GET", b"/a b", b"a", (), True),
    "request-authority-lf": lambda: client().send_request(b"GET", b"/", b"a\nx: y", (), True),
    "request-data-behind-end": lambda: _asked().send_data(b"x", True),
    "request-trailers-behind-end": lambda: _asked().send_trailers(()),
    "data-before-request": lambda: client().send_data(b"x", True),
    "response-by-client": lambda: client().send_response(200, (), True),
    "response-unasked": lambda: server().send_response(200, (), True),
    "response-to-half-a-head": lambda: server(GET[:9]).send_response(408, (), True),
    "response-twice": lambda: _answered(server(POST)).send_response(200, (), True),
    "response-to-nothing-more": lambda: _answered(server(GET)).send_response(200, (), True),
    "response-101": lambda: server(GET).send_response(101, (), False),
    "response-interim-end": lambda: server(GET).send_response(100, (), True),
    "response-interim-length": lambda: server(GET).send_response(103, (), False, 0),
    "response-status-99": lambda: server(GET).send_response(99, (), False),
    "response-status-600": lambda: server(GET).send_response(600, (), True),
    "response-length-without-body": lambda: server(GET).send_response(200, (), True, 5),
    "response-data-before-head": lambda: server(GET).send_data(b"x", True),
    "response-data-behind-end": lambda: _answered(server(POST)).send_data(b"x", True),
    "field-lf": lambda: server(GET).send_response(200, ((b"x", b"y\nz: w"),), True),
    "field-cr": lambda: server(GET).send_response(200, ((b"x", b"y\rz"),), True),
    "field-nul": lambda: server(GET).send_response(200, ((b"x", b"\0"),), True),
    "field-frames": lambda: server(GET).send_response(200, ((b"content-length", b"5"),), True),
    "field-name-lf": lambda: server(GET).send_response(200, ((b"x\n", b""),), True),
}


def _asked() -> H1Connection:
    connection = client()
    connection.send_request(b"GET", b"/", b"a", (), True)
    return connection


def _answered(connection: H1Connection) -> H1Connection:
    connection.send_response(200, (), True)
    return connection


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        MISUSE[name]()


@pytest.mark.parametrize("pieces", [[b"hell"], [b"hello!"], [b"hel", b"lo!"], [b"hel", b"l"]])
def test_a_body_is_as_long_as_declared(pieces: list[bytes]) -> None:
    connection = client()
    connection.send_request(b"POST", b"/", b"a", (), False, 5)
    *first, last = pieces
    for piece in first:
        connection.send_data(piece, False)
    with pytest.raises(LocalProtocolError):
        connection.send_data(last, True)


def test_a_command_that_raised_changed_nothing() -> None:
    connection = server(GET)
    with pytest.raises(LocalProtocolError):
        connection.send_response(200, ((b"x", b"\n"),), True)
    assert connection.send_response(500, (), True).startswith(b"HTTP/1.1 500 ")
    connection = client()
    with pytest.raises(LocalProtocolError):
        connection.send_request(b"GET", b"/", b"a", ((b"x", b"\n"),), True)
    assert connection.is_idle


# Whatever comes


def feed(connection: H1Connection, pieces: Iterable[bytes]) -> list[Event]:
    """As a transport would that answers at once."""
    events: list[Event] = []
    for piece in pieces:
        came = connection.receive(piece)
        while came:
            events += came
            came = []
            try:
                if any(isinstance(event, (RequestHead, Rejected)) for event in events[-4:]):
                    connection.send_response(200, (), True)
            except LocalProtocolError:
                pass
            came = connection.next_message()
    return events + connection.receive_eof()


TOKENS = [
    *(b"GET ", b"POST ", b"HEAD ", b"/", b"* ", b" HTTP/1.1", b" HTTP/1.0", b"HTTP/1.1 ", b"200 OK", b"100 ", b"204 "),
    *(b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t", b":", b": ", b";", b",", b"\0", b"\x80", b"%", b"0", b"1", b"5"),
    *(b"host: a\r\n", b"content-length: ", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"0\r\n\r\n"),
    *(
        b"connection: close\r\n",
        b"connection: ",
        b"keep-alive",
        b"expect: 100-continue\r\n",
        b"1\r\nx\r\n",
        b"x: y\r\n",
    ),
    *(GET, POST, CHUNKED, OK, b"hello", b"5\r\nhello\r\n"),
]
WIRES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from(TOKENS), max_size=20).map(b"".join),
    st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=3)), max_size=20).map(b"".join),
    st.lists(st.sampled_from(TOKENS), max_size=8).map(lambda tokens: CHUNKED + b"".join(tokens)),
    st.lists(st.sampled_from(TOKENS), max_size=8).map(lambda tokens: GET[:-2] + b"".join(tokens)),
    st.lists(st.sampled_from(TOKENS), max_size=8).map(lambda tokens: OK[:17] + b"".join(tokens)),
)


@settings(max_examples=tries(200))
@given(wire=WIRES, cuts=st.lists(st.integers(0, 300), max_size=6), role=st.sampled_from(Role))
def test_any_bytes_mean_the_same_however_cut(wire: bytes, cuts: list[int], role: Role, merge: Merge) -> None:
    def make() -> H1Connection:
        connection = H1Connection(role, Limits(header_count=4, target_bytes=20, body_bytes=30, chunk_extension_bytes=8))
        if role is Role.CLIENT:
            connection.send_request(b"GET", b"/", b"a", (), True)
        return connection

    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    whole = merge(feed(make(), [wire]))
    assert merge(feed(make(), [wire[start:end] for start, end in pairwise(places)])) == whole
    assert merge(feed(make(), [wire[i : i + 1] for i in range(len(wire))])) == whole
    ends = [event for event in whole if isinstance(event, (Rejected, Failed))]
    assert len(ends) <= 1 or (isinstance(ends[0], Rejected) and len(ends) == 1)
    assert not ends or whole[-1] is ends[-1]


NAMES = st.sampled_from([b"x", b"content-type", b"authorization", b"x-request-id", b"accept"])
VALUES = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f", exclude_categories=["Cc"]),
    max_size=20,
).map(lambda text: text.encode("latin-1"))
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(tuple)
PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=6)
MESSAGES = st.tuples(HEADERS, PIECES, st.sampled_from(["length", "chunked", "end"]), HEADERS)


def send(
    connection: H1Connection,
    head: Callable[[bool, int | None], bytes],
    pieces: list[bytes],
    way: str,
    trailers: Headers,
) -> bytes:
    if way == "end":
        return head(True, None)
    out = head(False, sum(map(len, pieces)) if way == "length" else None)
    out += b"".join([connection.send_data(piece, False) for piece in pieces])
    return out + (connection.send_trailers(trailers) if trailers else connection.send_data(b"", True))


def told(events: list[Event]) -> tuple[bytes, Headers]:
    body = b"".join([event.data for event in events if isinstance(event, Data)])
    return body, next((event.headers for event in events if isinstance(event, Trailers)), ())


@settings(max_examples=tries(150))
@given(exchanges=st.lists(st.tuples(MESSAGES, MESSAGES), min_size=1, max_size=3), step=st.integers(1, 500))
def test_what_one_codec_writes_the_other_reads(
    exchanges: list[tuple[tuple[Headers, list[bytes], str, Headers], ...]], step: int, merge: Merge
) -> None:
    ours = H1Connection(Role.CLIENT, Limits())
    theirs = H1Connection(Role.SERVER, Limits())

    def carry(wire: bytes, reader: H1Connection) -> list[Event]:
        return merge([event for i in range(0, len(wire), step) for event in reader.receive(wire[i : i + step])])

    for number, (request, response) in enumerate(exchanges, 1):
        headers, pieces, way, trailers = request

        def ask(end: bool, length: int | None, headers: Headers = headers) -> bytes:
            return ours.send_request(b"POST", b"/v1/models/m:predict", b"a:1", headers, end, length)

        head, *rest = carry(send(ours, ask, pieces, way, trailers), theirs)
        assert isinstance(head, RequestHead)
        assert (head.stream, head.method, head.target, head.headers) == (
            number,
            b"POST",
            b"/v1/models/m:predict",
            headers,
        )
        body, kept = told(rest)
        assert body == (b"" if way == "end" else b"".join(pieces))
        if way == "chunked":
            assert kept == tuple([field for field in trailers if field[0] not in (b"content-type", b"authorization")])

        headers, pieces, way, trailers = response

        def answer(end: bool, length: int | None, headers: Headers = headers) -> bytes:
            return theirs.send_response(200, headers, end, length)

        reply, *rest = carry(send(theirs, answer, pieces, way, trailers), ours)
        assert isinstance(reply, ResponseHead)
        assert (reply.stream, reply.status, reply.headers) == (number, 200, headers)
        assert told(rest)[0] == (b"" if way == "end" else b"".join(pieces))
        assert ours.is_idle
        assert theirs.is_idle
