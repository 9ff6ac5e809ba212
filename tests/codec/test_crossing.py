"""One vocabulary: what one codec reads can be sent by the other as it stands, and is read the same there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Data, RequestHead, ResponseHead
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

NAMES = st.sampled_from([b"accept", b"x-a", b"x-b", b"user-agent", b"authorization"])
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(str.encode)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(tuple)
HOP_BY_HOP = (
    b"connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n"
    b"proxy-connection: keep-alive\r\nte: trailers\r\n"
)


def h2_pair() -> tuple[H2Connection, H2Connection]:
    """A client and a server that have exchanged their settings."""
    client, server = (H2Connection(role, Limits(), 0.0) for role in (Role.CLIENT, Role.SERVER))
    server.receive(client.take_output(), 0.0)
    client.receive(server.take_output(), 0.0)
    return client, server


def written(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in headers)


def message(head: RequestHead) -> tuple[object, ...]:
    """What of a request is the same whatever version it came over."""
    return head.method, head.authority, head.target, head.headers, head.length, head.end


@given(headers=HEADERS, body=st.binary(min_size=1, max_size=50))
def test_a_request_crosses_from_one_version_to_the_other_and_back(
    headers: tuple[tuple[bytes, bytes], ...], body: bytes
) -> None:
    text = b"POST /v1/models/m:predict?a=b HTTP/1.1\r\nhost: models:18500\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
        HOP_BY_HOP,
        len(body),
        written(headers),
        body,
    )
    over_h1, data = H1Connection(Role.SERVER, Limits()).receive(text)
    assert isinstance(over_h1, RequestHead)
    assert isinstance(data, Data)
    assert over_h1.headers == headers

    client, server = h2_pair()
    head = over_h1
    stream = client.send_request(head.method, b"http", head.authority, head.target, head.headers, head.end, head.length)
    client.send_data(stream, data.data, data.end)
    over_h2, data = (event for event in server.receive(client.take_output(), 0.0))
    assert isinstance(over_h2, RequestHead)
    assert isinstance(data, Data)
    assert message(over_h2) == message(over_h1)
    assert (data.data, data.end) == (body, True)

    sender, receiver = H1Connection(Role.CLIENT, Limits()), H1Connection(Role.SERVER, Limits())
    head = over_h2
    again = sender.send_request(head.method, head.target, head.authority, head.headers, head.end, head.length)
    back, data = receiver.receive(again + sender.send_data(data.data, data.end))
    assert isinstance(back, RequestHead)
    assert message(back) == message(over_h1)


@given(headers=HEADERS, status=st.sampled_from([200, 404, 503]))
def test_so_does_a_response(headers: tuple[tuple[bytes, bytes], ...], status: int) -> None:
    client = H1Connection(Role.CLIENT, Limits())
    client.send_request(b"GET", b"/", b"a", (), True)
    text = b"HTTP/1.1 %d Any\r\nkeep-alive: timeout=5\r\ncontent-length: 0\r\n%b\r\n" % (status, written(headers))
    over_h1 = client.receive(text)[0]
    assert isinstance(over_h1, ResponseHead)
    assert (over_h1.status, over_h1.headers, over_h1.length) == (status, headers, 0)

    asking, answering = h2_pair()
    stream = asking.send_request(b"GET", b"http", b"a", b"/", (), True)
    answering.receive(asking.take_output(), 0.0)
    answering.send_response(stream, over_h1.status, over_h1.headers, True, over_h1.length)
    (over_h2,) = asking.receive(answering.take_output(), 0.0)
    assert isinstance(over_h2, ResponseHead)
    assert (over_h2.status, over_h2.headers, over_h2.length) == (status, headers, 0)
