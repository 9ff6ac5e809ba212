"""Messages that come in, both roles: heads, bodies, trailers, and frames on streams in every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Data, Event, Failed, Rejected, RequestHead, Reset, ResponseHead, Trailers
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import CONTINUATION, DATA, HEADERS, frame
from meshproxy.codec.role import Role

Talk = Any  # conftest.Talk, made by the fixture `talk`
ThreeWays = Any
Script = Callable[[Talk], bytes]


# Requests, as a server reads them: name -> script, events.

GRPC = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
GRPC_HEAD = RequestHead(1, b"POST", b"a", b"/", ((b"content-type", b"application/grpc"),), False)


def padded(kind: int, flags: int, stream: int, payload: bytes, padding: int) -> bytes:
    return frame(kind, flags | 0x8, stream, bytes([padding]) + payload + bytes(padding))


REQUESTS: dict[str, tuple[Script, list[Event]]] = {
    "no body": (
        lambda t: t.head(1, t.GET, end=True),
        [RequestHead(1, b"GET", b"a", b"/", (), True)],
    ),
    "a unary call": (
        lambda t: t.head(1, [*t.POST, *GRPC]) + t.data(1, b"\0\0\0\0\5hello", end=True),
        [GRPC_HEAD, Data(1, b"\0\0\0\0\5hello", 10, True)],
    ),
    "an end by itself": (
        lambda t: t.head(1, [*t.POST, *GRPC]) + t.data(1, b"hello") + t.data(1, b"", end=True),
        [GRPC_HEAD, Data(1, b"hello", 5, True)],
    ),
    "trailers": (
        lambda t: t.head(1, [*t.POST, *GRPC]) + t.data(1, b"hello") + t.head(1, [(b"x-sum", b"5")], end=True),
        [GRPC_HEAD, Data(1, b"hello", 5, False), Trailers(1, ((b"x-sum", b"5"),))],
    ),
    "trailers and no body": (
        lambda t: t.head(1, [*t.POST, *GRPC]) + t.head(1, [(b"x-sum", b"5")], end=True),
        [GRPC_HEAD, Trailers(1, ((b"x-sum", b"5"),))],
    ),
    "two at once": (
        lambda t: t.head(1, t.POST) + t.head(3, t.POST) + t.data(3, b"3") + t.data(1, b"1") + t.data(3, b"3", end=True),
        [
            RequestHead(1, b"POST", b"a", b"/", (), False),
            RequestHead(3, b"POST", b"a", b"/", (), False),
            Data(3, b"3", 1, False),
            Data(1, b"1", 1, False),
            Data(3, b"3", 1, True),
        ],
    ),
    "padding": (
        lambda t: (
            padded(HEADERS, 0x4, 1, t.block(t.POST), 10)
            + padded(DATA, 0, 1, b"data", 100)
            + padded(DATA, 0, 1, b"", 5)
            + padded(DATA, 1, 1, b"", 0)
        ),
        [RequestHead(1, b"POST", b"a", b"/", (), False), Data(1, b"data", 106, True)],
    ),
    "priority": (
        lambda t: frame(HEADERS, 0x25, 1, b"\x80\0\0\3\xff" + t.block(t.GET)),
        [RequestHead(1, b"GET", b"a", b"/", (), True)],
    ),
    "a head in pieces": (
        lambda t: (
            frame(HEADERS, 0x1, 1, (block := t.block(t.GET))[:3])
            + frame(CONTINUATION, 0, 1, b"")
            + frame(CONTINUATION, 0, 1, block[3:4])
            + frame(CONTINUATION, 0x4, 1, block[4:])
        ),
        [RequestHead(1, b"GET", b"a", b"/", (), True)],
    ),
    "a declared length": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"5")]) + t.data(1, b"hel") + t.data(1, b"lo", end=True),
        [RequestHead(1, b"POST", b"a", b"/", (), False, 5), Data(1, b"hello", 5, True)],
    ),
    "a declared length and trailers": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"2")]) + t.data(1, b"hi") + t.head(1, [], end=True),
        [RequestHead(1, b"POST", b"a", b"/", (), False, 2), Data(1, b"hi", 2, False), Trailers(1, ())],
    ),
    "a declared length of nothing": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"0")], end=True),
        [RequestHead(1, b"POST", b"a", b"/", (), True, 0)],
    ),
    "an expectation": (
        lambda t: t.head(1, [*t.POST, (b"expect", b"100-continue")]),
        [RequestHead(1, b"POST", b"a", b"/", (), False, None, True)],
    ),
    "ids with gaps": (
        lambda t: t.head(7, t.GET, end=True) + t.head(2**31 - 1, t.GET, end=True),
        [RequestHead(7, b"GET", b"a", b"/", (), True), RequestHead(2**31 - 1, b"GET", b"a", b"/", (), True)],
    ),
    "the reserved bit of an id": (
        lambda t: frame(HEADERS, 0x5, 2**31 + 1, t.block(t.GET)),
        [RequestHead(1, b"GET", b"a", b"/", (), True)],
    ),
    "unknown frames between": (
        lambda t: t.head(1, t.POST) + frame(0xFE, 0, 1, b"x") + t.data(1, b"hi", end=True),
        [RequestHead(1, b"POST", b"a", b"/", (), False), Data(1, b"hi", 2, True)],
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    script, expected = REQUESTS[case]
    assert three_ways(talk, script) == (expected, [])


RESPONSES: dict[str, tuple[Script, list[Event]]] = {
    "a unary call": (
        lambda t: t.head(1, [*t.OK, *GRPC[:1]]) + t.data(1, b"hi") + t.head(1, [(b"grpc-status", b"0")], end=True),
        [
            ResponseHead(1, 200, ((b"content-type", b"application/grpc"),), False),
            Data(1, b"hi", 2, False),
            Trailers(1, ((b"grpc-status", b"0"),)),
        ],
    ),
    "trailers only": (
        lambda t: t.head(1, [*t.OK, (b"grpc-status", b"7")], end=True),
        [ResponseHead(1, 200, ((b"grpc-status", b"7"),), True)],
    ),
    "interim heads": (
        lambda t: (
            t.head(1, [(b":status", b"100")])
            + t.head(1, [(b":status", b"103"), (b"link", b"x")])
            + t.head(1, [*t.OK, (b"content-length", b"2")])
            + t.data(1, b"hi", end=True)
        ),
        [
            ResponseHead(1, 100, (), False),
            ResponseHead(1, 103, ((b"link", b"x"),), False),
            ResponseHead(1, 200, (), False, 2),
            Data(1, b"hi", 2, True),
        ],
    ),
    "304 with a length": (
        lambda t: t.head(1, [(b":status", b"304"), (b"content-length", b"2")], end=True),
        [ResponseHead(1, 304, (), True, 2)],
    ),
}


@pytest.mark.parametrize("case", RESPONSES)
def test_responses(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    def make() -> Talk:
        client = talk(Role.CLIENT)
        client.asked(end=True)
        return client

    script, expected = RESPONSES[case]
    assert three_ways(make, script) == (expected, [])
    client = make()
    client.say(script(client))
    assert client.connection.is_idle


def test_a_response_to_head(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    client.asked(b"HEAD", end=True)
    (event,) = client.say(client.head(1, [*client.OK, (b"content-length", b"5")], end=True))
    assert event == ResponseHead(1, 200, (), True, 5)
    client.asked(b"HEAD", end=True)
    client.say(client.head(3, [*client.OK, (b"content-length", b"5")]))
    (event,) = client.say(client.data(3, b"hello", end=True))
    assert (event.stream, event.code) == (3, ErrorCode.PROTOCOL_ERROR)


def test_an_answer_before_the_question_is_complete(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    client.asked()
    assert client.say(client.head(1, client.OK, end=True)) == [ResponseHead(1, 200, (), True)]
    assert len(client.connection._streams) == 1
    (event,) = client.say(frames.rst_stream(1, 0))
    assert event == Reset(1, 0, "the peer reset the stream", True)


# What a message must not be. Server: name -> (script, code of RST_STREAM, whether the head was seen before).
BROKEN_REQUESTS: dict[str, tuple[Script, ErrorCode, bool]] = {
    "malformed head": (lambda t: t.head(1, [*t.POST, (b"connection", b"x")]), ErrorCode.PROTOCOL_ERROR, False),
    "length and no content": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"5")], end=True),
        ErrorCode.PROTOCOL_ERROR,
        False,
    ),
    "depends on itself": (
        lambda t: frame(HEADERS, 0x24, 1, b"\0\0\0\1\0" + t.block(t.POST)),
        ErrorCode.PROTOCOL_ERROR,
        False,
    ),
    "less than declared": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"5")]) + t.data(1, b"1234", end=True),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "more than declared": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"5")]) + t.data(1, b"123456", end=True),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "more than declared, no end yet": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"5")]) + t.data(1, b"123456"),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "less than declared, then trailers": (
        lambda t: t.head(1, [*t.POST, (b"content-length", b"5")]) + t.head(1, [(b"a", b"b")], end=True),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "trailers without an end (CVE-2026-73513)": (
        lambda t: t.head(1, t.POST) + t.head(1, [(b"a", b"b")]),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "pseudo-header in trailers": (
        lambda t: t.head(1, t.POST) + t.head(1, [(b":path", b"/")], end=True),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "malformed trailers": (
        lambda t: t.head(1, t.POST) + t.head(1, [(b"a", b"b\n")], end=True),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "trailers too large": (
        lambda t: t.head(1, t.POST) + t.head(1, [(b"a", b"b")] * 129, end=True),
        ErrorCode.ENHANCE_YOUR_CALM,
        True,
    ),
    "trailers that depend on their stream": (
        lambda t: t.head(1, t.POST) + frame(HEADERS, 0x24, 1, b"\0\0\0\1\0" + t.block([(b"a", b"b")])),
        ErrorCode.PROTOCOL_ERROR,
        True,
    ),
    "data after the end": (
        lambda t: t.head(1, t.POST) + t.data(1, b"", end=True) + t.data(1, b"x"),
        ErrorCode.STREAM_CLOSED,
        True,
    ),
    "trailers after the end": (
        lambda t: t.head(1, t.POST) + t.data(1, b"", end=True) + t.head(1, [(b"a", b"b")], end=True),
        ErrorCode.STREAM_CLOSED,
        True,
    ),
}


@pytest.mark.parametrize("case", BROKEN_REQUESTS)
def test_broken_requests(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    script, code, was_seen = BROKEN_REQUESTS[case]
    events, output = three_ways(talk, script)
    assert output == [("RST_STREAM", 0, 1, bytes([0, 0, 0, code]))]
    if was_seen:
        assert isinstance(events[-1], Reset)
        assert (events[-1].stream, events[-1].code, events[-1].by_peer) == (1, code, False)
    elif code is ErrorCode.REFUSED_STREAM:
        assert events == []
    else:
        (event,) = events
        assert isinstance(event, Rejected)
        assert (event.stream, event.status, event.is_reset) == (1, 400, True)
        assert event.reason
    # The connection goes on, and its dynamic table is right.
    server = talk()
    server.say(script(server))
    (event,) = server.say(server.head(3, [*server.POST, (b"x-a", b"b")]))
    assert event.headers == ((b"x-a", b"b"),)


BROKEN_RESPONSES: dict[str, Script] = {
    "data first": lambda t: t.data(1, b"x"),
    "interim head with an end": lambda t: t.head(1, [(b":status", b"100")], end=True),
    "no status": lambda t: t.head(1, [(b"a", b"b")]),
    "less than declared": lambda t: t.head(1, [*t.OK, (b"content-length", b"5")]) + t.data(1, b"1", end=True),
    "more than declared": lambda t: t.head(1, [*t.OK, (b"content-length", b"5")]) + t.data(1, b"123456"),
    "length and no content": lambda t: t.head(1, [*t.OK, (b"content-length", b"5")], end=True),
    "204 and content": lambda t: t.head(1, [(b":status", b"204")]) + t.data(1, b"x"),
    "trailers without an end": lambda t: t.head(1, t.OK) + t.head(1, [(b"a", b"b")]),
    "two heads": lambda t: t.head(1, t.OK) + t.head(1, t.OK, end=True),
}


@pytest.mark.parametrize("case", BROKEN_RESPONSES)
def test_broken_responses(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    def make() -> Talk:
        client = talk(Role.CLIENT)
        client.asked()
        return client

    events, output = three_ways(make, BROKEN_RESPONSES[case])
    assert isinstance(events[-1], Reset)
    assert (events[-1].stream, events[-1].code, events[-1].by_peer) == (1, ErrorCode.PROTOCOL_ERROR, False)
    assert output == [("RST_STREAM", 0, 1, b"\0\0\0\1")]


def test_a_response_head_too_large(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    client.asked()
    (event,) = client.say(client.head(1, [*client.OK, *[(b"a", b"b")] * 128]))
    assert event == Reset(1, ErrorCode.ENHANCE_YOUR_CALM, "the head exceeds header_count", False)


# What ends the connection: name -> (script, code).
VIOLATIONS: dict[str, tuple[Script, ErrorCode]] = {
    "DATA on stream 0": (lambda t: t.data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on stream 0": (lambda t: t.head(0, t.POST), ErrorCode.PROTOCOL_ERROR),
    "HEADERS on an even stream": (lambda t: t.head(2, t.POST), ErrorCode.PROTOCOL_ERROR),
    "DATA on an idle stream": (lambda t: t.data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION on an idle stream": (lambda t: frame(CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION on stream 0": (lambda t: frame(CONTINUATION, 4, 0, b""), ErrorCode.PROTOCOL_ERROR),
    "CONTINUATION after END_HEADERS": (
        lambda t: t.head(1, t.POST) + frame(CONTINUATION, 4, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION after END_HEADERS in another": (
        lambda t: frame(HEADERS, 0, 1, t.block(t.POST)) + frame(CONTINUATION, 4, 1, b"") * 2,
        ErrorCode.PROTOCOL_ERROR,
    ),
    "CONTINUATION of another stream": (
        lambda t: frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 4, 3, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS within a block": (
        lambda t: frame(HEADERS, 0, 1, b"") + t.head(3, t.POST),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "PING within a block": (
        lambda t: frame(HEADERS, 0, 1, b"") + frames.ping(bytes(8), ack=False),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "an unknown type within a block": (
        lambda t: frame(HEADERS, 0, 1, b"") + frame(0xFE, 0, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "ids that go back": (lambda t: t.head(5, t.POST) + t.head(3, t.POST), ErrorCode.PROTOCOL_ERROR),
    "DATA on a stream left out": (lambda t: t.head(5, t.POST) + t.data(3, b"x"), ErrorCode.STREAM_CLOSED),
    "DATA padded with more than there is": (
        lambda t: t.head(1, t.POST) + frame(DATA, 0x8, 1, b"\4abc"),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "DATA without its padding length": (
        lambda t: t.head(1, t.POST) + frame(DATA, 0x8, 1, b""),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "HEADERS padded with more than there is": (
        lambda t: frame(HEADERS, 0xC, 1, b"\5" + t.block(t.POST)[:4]),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "HEADERS shorter than its priority": (lambda t: frame(HEADERS, 0x24, 1, b"\0\0\0\3"), ErrorCode.FRAME_SIZE_ERROR),
    "HEADERS whose padding takes its priority": (
        lambda t: frame(HEADERS, 0x2C, 1, b"\3\0\0\0\3\0\0\0"),
        ErrorCode.FRAME_SIZE_ERROR,
    ),
    "a block that is none": (lambda t: frame(HEADERS, 0x4, 1, b"\xff"), ErrorCode.COMPRESSION_ERROR),
    "a frame too large": (lambda t: t.head(1, t.POST) + t.data(1, bytes(262_145)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS too large": (lambda t: frame(frames.SETTINGS, 0, 0, bytes(16_386)), ErrorCode.ENHANCE_YOUR_CALM),
    "HEADERS too large": (lambda t: frame(HEADERS, 0x4, 1, bytes(262_145)), ErrorCode.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_what_ends_the_connection(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    script, code = VIOLATIONS[case]
    events, output = three_ways(talk, script)
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, events[-1].limit) == (code, None)
    assert output[-1].kind == "GOAWAY"


@pytest.mark.parametrize("stream", [0, 1, 2, 3])
def test_a_server_opens_no_streams(talk: Callable[..., Talk], stream: int) -> None:
    client = talk(Role.CLIENT)
    (event,) = client.say(client.head(stream, client.OK))
    assert event.code == ErrorCode.PROTOCOL_ERROR


# (state, frame) pairs of RFC 9113 section 5.1, both roles.

PASTS: dict[str, Callable[[Talk], None]] = {
    "finished": lambda t: finish(t),
    "reset by the peer": lambda t: t.say(frames.rst_stream(1, 8)),
    "reset by us": lambda t: t.connection.reset(1, 8),
}
LATE: dict[str, Script] = {
    "DATA": lambda t: t.data(1, b"x"),
    "DATA with END_STREAM": lambda t: t.data(1, b"", end=True),
    "HEADERS": lambda t: t.head(1, t.POST if t.connection._role is Role.SERVER else t.OK),
    "HEADERS with END_STREAM": lambda t: t.head(1, [(b"a", b"b")], end=True),
}


def finish(talk: Talk) -> None:
    if talk.connection._role is Role.SERVER:
        talk.say(talk.data(1, b"", end=True))
        talk.connection.send_response(1, 204, (), True)
    else:
        talk.connection.send_data(1, b"", True)
        talk.say(talk.head(1, talk.OK, end=True))


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("late", LATE)
def test_frames_on_closed_streams(
    talk: Callable[..., Talk], three_ways: ThreeWays, role: Role, past: str, late: str
) -> None:
    def make() -> Talk:
        peer = talk(role)
        if role is Role.SERVER:
            peer.opened()
        else:
            peer.asked()
        PASTS[past](peer)
        peer.heard()
        return peer

    events, output = three_ways(make, LATE[late])
    if past == "finished":
        assert [(event.code, type(event)) for event in events] == [(ErrorCode.STREAM_CLOSED, Failed)]
    elif past == "reset by the peer":
        assert events == []
        assert output == [("RST_STREAM", 0, 1, b"\0\0\0\5")]
    else:
        assert (events, output) == ([], [])
