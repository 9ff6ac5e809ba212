"""Both codecs have the same events: what one reads, the other can send. A trace context is a field of its own."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Data, RequestHead, ResponseHead, Trailers
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.frames import HEADERS, PREFACE, frame, settings
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = b"00-11111111111111111111111111111111-2222222222222222-00"
Fields = list[tuple[bytes, bytes]]
FIELD_NAMES = st.sampled_from([b"accept", b"x-a", b"x-b", b"user-agent", b"authorization"])
FIELD_VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
FIELDS = st.lists(st.tuples(FIELD_NAMES, FIELD_VALUES), max_size=5).map(tuple)
HOP_BY_HOP = (
    b"connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n"
    b"proxy-connection: keep-alive\r\nte: trailers\r\n"
)


def over_h1(fields: Fields) -> RequestHead:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    (head,) = H1Connection(Role.SERVER, Limits()).receive(b"GET / HTTP/1.1\r\nhost: a\r\n" + lines + b"\r\n")
    assert isinstance(head, RequestHead)
    return head


def over_h2(fields: Fields) -> RequestHead:
    pseudo = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    block = hpack.Encoder().encode([*pseudo, *fields])
    connection = H2Connection(Role.SERVER, Limits(), 0.0)
    (head,) = connection.receive(PREFACE + settings([]) + frame(HEADERS, 0x5, 1, block), 0.0)
    assert isinstance(head, RequestHead)
    return head


@pytest.mark.parametrize("read", [over_h1, over_h2])
@pytest.mark.parametrize(
    ("values", "trace"),
    [
        ([], None),
        ([PARENT], PARENT),
        ([b""], b""),
        ([b"not valid"], b"not valid"),
        ([PARENT, PARENT], None),
        ([PARENT, OTHER], None),
        ([b"", PARENT], None),
        ([PARENT, b"x", OTHER], None),
    ],
)
def test_one_trace_counts_and_several_are_none(
    read: Callable[[Fields], RequestHead], values: list[bytes], trace: bytes | None
) -> None:
    for place in range(2):
        fields = [(b"traceparent", value) for value in values]
        fields.insert(len(fields) if place else 0, (b"x", b"y"))
        head = read(fields)
        assert head.trace == trace
        assert head.headers == ((b"x", b"y"),)


def test_a_trace_of_one_connection_is_not_passed_on() -> None:
    head = over_h1([(b"connection", b"traceparent"), (b"traceparent", PARENT)])
    assert (head.headers, head.trace) == ((), None)


@pytest.mark.parametrize("trace", [None, PARENT, b"", b"other"])
def test_a_trace_that_is_sent_is_received(trace: bytes | None) -> None:
    for _ in range(2):
        sent = H1Connection(Role.CLIENT, Limits()).send_request(b"GET", b"/", b"a", ((b"x", b"y"),), True, trace=trace)
        (head,) = H1Connection(Role.SERVER, Limits()).receive(sent)
        assert isinstance(head, RequestHead)
        assert (head.headers, head.trace) == (((b"x", b"y"),), trace)
        client = H2Connection(Role.CLIENT, Limits(), 0.0)
        client.send_request(b"GET", b"http", b"a", b"/", ((b"x", b"y"),), True, trace=trace)
        (head,) = H2Connection(Role.SERVER, Limits(), 0.0).receive(client.take_output(), 0.0)
        assert isinstance(head, RequestHead)
        assert (head.headers, head.trace) == (((b"x", b"y"),), trace)


def test_elsewhere_a_traceparent_is_a_field_like_any_other() -> None:
    field = (b"traceparent", PARENT)
    h1 = H1Connection(Role.CLIENT, Limits())
    h1.send_request(b"GET", b"/", b"a", (), True)
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n%b\r\n0\r\n%b\r\n"
    line = b"traceparent: " + PARENT + b"\r\n"
    head, trailers = h1.receive(answer % (line, line))
    assert isinstance(head, ResponseHead)
    assert isinstance(trailers, Trailers)
    assert head.headers == trailers.headers == (field,)

    client, server = H2Connection(Role.CLIENT, Limits(), 0.0), H2Connection(Role.SERVER, Limits(), 0.0)
    client.send_request(b"GET", b"http", b"a", b"/", (), True)
    server.receive(client.take_output(), 0.0)
    server.send_response(1, 200, (field,), False)
    server.send_trailers(1, (field,))
    head, trailers = client.receive(server.take_output(), 0.0)
    assert isinstance(head, ResponseHead)
    assert isinstance(trailers, Trailers)
    assert head.headers == trailers.headers == (field,)


def h2_pair() -> tuple[H2Connection, H2Connection]:
    """A client and a server that have exchanged their settings."""
    client, server = (H2Connection(role, Limits(), 0.0) for role in (Role.CLIENT, Role.SERVER))
    server.receive(client.take_output(), 0.0)
    client.receive(server.take_output(), 0.0)
    return client, server


def header_lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in headers)


def message(head: RequestHead) -> tuple[object, ...]:
    """The parts of a request head that do not depend on the HTTP version."""
    return head.method, head.authority, head.target, head.headers, head.length, head.end


@given(headers=FIELDS, body=st.binary(min_size=1, max_size=50))
def test_a_request_is_the_same_after_each_codec(headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
    text = b"POST /v1/models/m:predict?a=b HTTP/1.1\r\nhost: models:18500\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
        HOP_BY_HOP,
        len(body),
        header_lines(headers),
        body,
    )
    first, data = H1Connection(Role.SERVER, Limits()).receive(text)
    assert isinstance(first, RequestHead)
    assert isinstance(data, Data)
    assert first.headers == headers

    client, server = h2_pair()
    head = first
    stream = client.send_request(head.method, b"http", head.authority, head.target, head.headers, head.end, head.length)
    client.send_data(stream, data.data, data.end)
    second, data = (event for event in server.receive(client.take_output(), 0.0))
    assert isinstance(second, RequestHead)
    assert isinstance(data, Data)
    assert message(second) == message(first)
    assert (data.data, data.end) == (body, True)

    sender, receiver = H1Connection(Role.CLIENT, Limits()), H1Connection(Role.SERVER, Limits())
    head = second
    again = sender.send_request(head.method, head.target, head.authority, head.headers, head.end, head.length)
    back, data = receiver.receive(again + sender.send_data(data.data, data.end))
    assert isinstance(back, RequestHead)
    assert message(back) == message(first)


@given(headers=FIELDS, status=st.sampled_from([200, 404, 503]))
def test_a_response_is_the_same_after_each_codec(headers: tuple[tuple[bytes, bytes], ...], status: int) -> None:
    client = H1Connection(Role.CLIENT, Limits())
    client.send_request(b"GET", b"/", b"a", (), True)
    text = b"HTTP/1.1 %d Any\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n%b\r\n" % (status, header_lines(headers))
    first = client.receive(text)[0]
    assert isinstance(first, ResponseHead)
    assert (first.status, first.headers, first.length) == (status, headers, 0)

    asking, answering = h2_pair()
    stream = asking.send_request(b"GET", b"http", b"a", b"/", (), True)
    answering.receive(asking.take_output(), 0.0)
    answering.send_response(stream, first.status, first.headers, True, first.length)
    (second,) = asking.receive(answering.take_output(), 0.0)
    assert isinstance(second, ResponseHead)
    assert (second.status, second.headers, second.length) == (status, headers, 0)
