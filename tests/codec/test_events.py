"""What both codecs say alike: a trace context is a field of its own, never one of `headers`."""

from __future__ import annotations

from collections.abc import Callable

import hpack
import pytest

from meshproxy.codec.events import RequestHead, ResponseHead, Trailers
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.h2.frames import HEADERS, PREFACE, frame, settings
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = b"00-11111111111111111111111111111111-2222222222222222-00"
Fields = list[tuple[bytes, bytes]]


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
