"""How much may come in: windows, streams, sizes, and floods of frames that carry a message or pretend to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Data, Failed, Rejected, RequestHead, Reset, ResponseHead
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import CONTINUATION, DATA, HEADERS, frame
from meshproxy.codec.h2.hpack import write_integer
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Talk = Any  # conftest.Talk, made by the fixture `talk`
ThreeWays = Any
Script = Callable[[Talk], bytes]


def padded(kind: int, flags: int, stream: int, payload: bytes, padding: int) -> bytes:
    return frame(kind, flags | 0x8, stream, bytes([padding]) + payload + bytes(padding))


# Flow control


def test_more_than_a_streams_window(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(stream_window=70_000))
    server.opened()
    assert [event.flow for event in server.say(server.data(1, bytes(14_000)) * 5)] == [70_000]
    (event,) = server.say(server.data(1, b"x"))
    assert event == Reset(1, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window allows", False)


def test_more_than_the_connections_window(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(connection_window=70_000))
    server.opened(1)
    server.opened(3)
    assert len(server.say(server.data(1, bytes(14_000)) * 3, server.data(3, bytes(14_000)) * 2)) == 2
    (event,) = server.say(server.data(1, b"x"))
    assert event == Failed(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window allows")


def test_padding_uses_the_window(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(stream_window=65_535, empty_frames=10_000))
    server.opened()
    (event,) = server.say(padded(DATA, 0, 1, b"x", 255))
    assert event.flow == 257
    # Padding alone is given back at once: it never blocks a stream.
    assert server.say(padded(DATA, 0, 1, b"", 255) * 1_000) == []
    updates = server.heard()
    assert {frame.stream for frame in updates} == {1}
    assert sum(int.from_bytes(frame.payload, "big") for frame in updates) >= 256_000 - 32_768


def test_what_nobody_reads_is_given_back(talk: Callable[..., Talk]) -> None:
    """Data on streams that are reset, rejected or broken must not use up the connection's window."""
    limits = Limits(connection_window=65_535, stream_window=65_535)
    scripts: tuple[Callable[[Talk, int], object], ...] = (
        lambda server, stream: server.connection.reset(stream, 8),
        lambda server, stream: server.say(frames.rst_stream(stream, 8)),
        lambda server, stream: server.say(frames.window_update(stream, 0)),
        lambda server, stream: server.say(server.data(stream, b"", end=True)),
    )
    for script in scripts:
        server = talk(limits=limits)
        for stream in range(1, 201, 2):
            server.opened(stream)
            script(server, stream)
            events = server.say(server.data(stream, bytes(16_384)))
            assert not any(isinstance(event, Data | Failed) for event in events)
            server.connection.reset(stream, 8)
            server.heard()


def test_large_reads_are_one_event(talk: Callable[..., Talk]) -> None:
    """And nothing of a frame waits for its end."""
    server = talk()
    server.opened()
    body = bytes(range(256)) * 64
    wire = server.data(1, body) * 8
    events = server.say(wire[:10_000])
    events += server.say(wire[10_000:60_000])
    events += server.say(wire[60_000:], server.data(1, b"end", end=True))
    assert [(len(event.data), event.flow, event.end) for event in events] == [
        (10_000 - 9, 10_000 - 9, False),
        (50_000 - 3 * 9, 50_000 - 3 * 9, False),
        (16_384 * 8 + 3 - 60_000 + 4 * 9, 16_384 * 8 + 3 - 60_000 + 4 * 9, True),
    ]
    assert b"".join(event.data for event in events) == body * 8 + b"end"


def test_a_piece_within_a_frame_is_passed_on_as_it_came(talk: Callable[..., Talk]) -> None:
    """A body in frames larger than a read is not copied by the codec."""
    server = talk()
    server.opened()
    wire = server.data(1, bytes(200_000), end=True)
    server.say(wire[:90_000])
    piece = wire[90_000:180_000]
    (event,) = server.connection.receive(piece, 0.0)
    assert event.data is piece
    (event,) = server.say(wire[180_000:])
    assert (len(event.data), event.flow, event.end) == (20_009, 20_009, True)


def test_the_begin_of_a_frame_that_is_small_so_far_waits(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    wire = server.data(1, bytes(200_000))
    assert server.say(wire[:4_000]) == []
    (event,) = server.say(wire[4_000:5_000])
    assert len(event.data) == 5_000 - 9


def test_a_padded_frame_waits_for_its_end(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    wire = padded(DATA, 0, 1, bytes(50_000), 9)
    assert server.say(wire[:40_000]) == []
    (event,) = server.say(wire[40_000:])
    assert (len(event.data), event.flow) == (50_000, 50_010)


def test_a_frame_is_checked_when_it_begins(talk: Callable[..., Talk]) -> None:
    """What is wrong with it as a whole is not found out by what was passed on; and its rest is no frame."""
    server = talk(limits=Limits(stream_window=65_535, connection_window=2**20))
    server.opened()
    wire = server.data(1, bytes(70_000))
    (event,) = server.say(wire[:10_000])
    assert (type(event), event.code) == (Reset, ErrorCode.FLOW_CONTROL_ERROR)
    assert server.say(wire[10_000:50_000]) == []
    (event,) = server.say(wire[50_000:] + server.head(3, server.POST))
    assert (type(event), event.stream) == (RequestHead, 3)
    assert server.connection._room + server.connection._owed == 2**20


def test_the_rest_of_a_frame_on_a_stream_that_is_gone(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    wire = server.data(1, bytes(200_000), end=True)
    (event,) = server.say(wire[:100_000])
    server.connection.credit(1, event.flow)
    server.connection.reset(1, 8)
    assert server.say(wire[100_000:], server.head(3, server.POST))[0].stream == 3
    assert server.connection._room + server.connection._owed == Limits().connection_window


def test_a_declared_length_holds_for_a_frame_that_is_on_its_way(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened(fields=[*server.POST, (b"content-length", b"100000")])
    (event,) = server.say(server.data(1, bytes(200_000), end=True)[:50_000])
    assert (type(event), event.code) == (Reset, ErrorCode.PROTOCOL_ERROR)


# Limits


def test_refused_streams(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    def script(server: Talk) -> bytes:
        heads = [server.head(stream, server.POST) for stream in (1, 3, 5)]
        return b"".join([*heads, server.data(5, b"x"), server.head(5, [(b"x-a", b"b")], end=True)])

    events, output = three_ways(lambda: talk(limits=Limits(streams=2)), script)
    assert [event.stream for event in events] == [1, 3]
    assert output == [("RST_STREAM", 0, 5, b"\0\0\0\7")]
    server = talk(limits=Limits(streams=2))
    server.say(script(server))
    assert server.connection.statistics.streams_refused == 1
    server.connection.reset(1, 8)
    (event,) = server.say(server.head(7, [*server.POST, (b"x-a", b"b")]))
    assert event.headers == ((b"x-a", b"b"),)


def test_a_flood_of_refused_streams(talk: Callable[..., Talk]) -> None:
    """CVE-2026-47244."""
    server = talk()
    events = []
    for stream in range(1, 20_001, 2):
        events += server.say(server.head(stream, server.POST))
        server.heard()
    assert len(events) == 1_025
    assert events[-1].limit == "resets_rate"


REJECTED: dict[str, tuple[list[tuple[bytes, bytes]], int, str | None]] = {
    "header_count": ([(b"a", b"b")] * 128, 431, "header_count"),
    "header_bytes": ([(b"a", b"b" * 4_000)] * 17, 431, "header_bytes"),
    "header_name_bytes": ([(b"a" * 257, b"")], 431, "header_name_bytes"),
    "expect": ([(b"expect", b"miracles")], 417, None),
    "content-length": ([(b"content-length", b"1001")], 413, "body_bytes"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejected_requests_can_be_answered(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    fields, status, limit = REJECTED[case]

    def make() -> Talk:
        return talk(limits=Limits(body_bytes=1_000))

    def script(server: Talk) -> bytes:
        return bytes(server.head(1, [*server.POST, *fields]) + server.data(1, b"x" * 100))

    (event,), output = three_ways(make, script)
    assert isinstance(event, Rejected)
    assert (event.stream, event.status, event.limit) == (1, status, limit)
    assert output == []
    server = make()
    server.say(script(server))
    server.connection.send_response(1, status, (), False)
    server.connection.send_data(1, b"no", True)
    kinds = [(frame.kind, frame.flags, frame.payload[-1:]) for frame in server.heard()]
    assert kinds == [("HEADERS", 4, kinds[0][2]), ("DATA", 1, b"o"), ("RST_STREAM", 0, b"\0")]
    assert server.connection.is_idle
    assert server.say(server.data(1, b"x"), server.head(1, [(b"a", b"b")], end=True)) == []
    (event,) = server.say(server.head(3, [*server.POST, (b"a", b"b")]))
    assert event.headers == ((b"a", b"b"),)


def test_a_rejected_request_that_ends_is_not_reset(talk: Callable[..., Talk]) -> None:
    for end in ("head", "data", "trailers"):
        server = talk()
        server.say(server.head(1, [*server.POST, (b"expect", b"x")], end=end == "head"))
        if end == "data":
            server.say(server.data(1, b"x", end=True))
        elif end == "trailers":
            server.say(server.head(1, [(b"a", b"b")], end=True))
        server.connection.send_response(1, 417, (), True)
        assert [frame.kind for frame in server.heard()] == ["HEADERS"]
        assert server.connection.is_idle


def test_connect_is_not_offered(talk: Callable[..., Talk]) -> None:
    server = talk()
    (event,) = server.say(server.head(1, [(b":method", b"CONNECT"), (b":authority", b"a:1")]))
    assert event == Rejected(1, 501, "CONNECT is not supported")


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ((b"expect", b"x"), 417),
        ((b"content-length", b"11"), 413),
        ((b"a", b"b" * 2_000), 431),
        ((b"b" * 257, b""), 431),
    ],
)
def test_a_rejected_grpc_request_is_known_as_one(
    talk: Callable[..., Talk], field: tuple[bytes, bytes], status: int
) -> None:
    for content_type, is_grpc in ((b"application/grpc+proto", True), (b"application/json", False)):
        server = talk(limits=Limits(body_bytes=10, header_bytes=1_024))
        (event,) = server.say(server.head(1, [*server.POST, (b"content-type", content_type), field]))
        assert isinstance(event, Rejected)
        assert (event.status, event.is_grpc, event.is_reset) == (status, is_grpc, False)


def test_a_body_too_large(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(body_bytes=10))
    server.opened()
    events = server.say(server.data(1, b"0123456789"), server.data(1, b"a"), server.data(1, b"b"))
    assert events == [
        Data(1, b"0123456789", 10, False),
        Rejected(1, 413, "the body is larger than 10 bytes", "body_bytes"),
    ]
    server.connection.send_response(1, 413, (), True)
    assert [frame.kind for frame in server.heard()] == ["HEADERS", "RST_STREAM"]
    client = talk(Role.CLIENT, limits=Limits(body_bytes=10))
    client.asked()
    (_, event) = client.say(client.head(1, client.OK), client.data(1, b"01234567890"))
    assert (event.stream, event.code) == (1, ErrorCode.ENHANCE_YOUR_CALM)


def test_a_body_too_large_behind_a_complete_answer(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(body_bytes=10))
    server.opened()
    server.connection.send_response(1, 200, (), True)
    server.heard()
    assert [type(event) for event in server.say(server.data(1, b"01234567890"))] == [Rejected]
    assert [frame.kind for frame in server.heard()] == ["RST_STREAM"]
    assert server.connection.is_idle


@pytest.mark.parametrize("fragment", [b"", b"\x82"])
def test_continuation_flood(talk: Callable[..., Talk], fragment: bytes) -> None:
    """CVE-2024-27316; empty ones: CVE-2026-33871."""
    server = talk()
    assert server.say(frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, fragment) * 16) == []
    (event,) = server.say(frame(CONTINUATION, 0, 1, fragment))
    assert (event.code, event.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "continuation_frames")
    server = talk()
    large = frame(CONTINUATION, 0, 1, bytes(200_000))
    (event,) = server.say(frame(HEADERS, 0, 1, b"") + large + large)
    assert (event.code, event.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "continuation_frames")
    server = talk()
    (event,) = server.say(frame(HEADERS, 0, 1, bytes(200_000)) + frame(CONTINUATION, 0, 1, bytes(80_000)))
    assert (event.code, event.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "continuation_frames")
    server = talk()
    block = server.block(server.GET)
    head = frame(HEADERS, 1, 1, b"") + frame(CONTINUATION, 0, 1, b"") * 15 + frame(CONTINUATION, 4, 1, block)
    assert len(server.say(head)) == 1


@pytest.mark.parametrize("state", ["open", "rejected", "reset"])
def test_empty_data_flood(talk: Callable[..., Talk], state: str) -> None:
    """CVE-2019-9518."""
    server = talk()
    if state == "rejected":
        server.say(server.head(1, [*server.POST, (b"expect", b"x")]))
    else:
        server.opened()
        if state == "reset":
            server.connection.reset(1, 8)
    assert server.say(server.data(1, b"") * 10) == []
    (event,) = server.say(server.data(1, b""))
    assert (event.code, event.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "empty_frames")


@pytest.mark.parametrize("state", ["rejected", "reset"])
def test_late_ends_are_no_flood_of_empty_data(talk: Callable[..., Talk], state: str) -> None:
    """Node sends a body and its END_STREAM in two frames. The second one may come after the answer, and the RST_STREAM
    behind it, on many streams at once; on each it comes once."""
    server = talk()
    streams = range(1, 101, 2)
    for stream in streams:
        expects = [(b"expect", b"x")] if state == "rejected" else []
        server.say(server.head(stream, [*server.POST, *expects]))
        if state == "reset":
            server.connection.reset(stream, 0)
    for stream in streams:
        assert server.say(server.data(stream, b"", end=True)) == []
    server.heard()
    again = server.say(server.data(1, b"", end=True))
    if state == "rejected":
        assert [frame.kind for frame in server.heard()] == ["RST_STREAM"]  # a stream error, which has its own budget
    else:
        assert [event.code for event in again] == [ErrorCode.STREAM_CLOSED]


def test_empty_data_between_data(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    for _ in range(100):
        assert len(server.say(server.data(1, b"") * 10, server.data(1, b"x"))) == 1


def test_interim_head_flood(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT, limits=Limits(control_burst=20))
    client.asked()
    wire = b"".join(client.head(1, [(b":status", b"103")]) for _ in range(1_000))
    *heads, failed = client.say(wire)
    assert [type(event) for event in heads] == [ResponseHead] * 20
    assert (failed.code, failed.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "control_rate")


@pytest.mark.parametrize("state", ["reset", "rejected", "going away"])
def test_flood_of_heads_that_nobody_reads(talk: Callable[..., Talk], state: str) -> None:
    """HEADERS that open nothing and end nothing explain nothing: 9 bytes each, 2 us."""
    server = talk(limits=Limits(control_burst=20))
    if state == "rejected":
        server.say(server.head(1, [*server.POST, (b"expect", b"x")]))
        flood = frame(HEADERS, 4, 1, b"") * 1_000
    elif state == "reset":
        server.opened()
        server.connection.reset(1, 8)
        flood = frame(HEADERS, 4, 1, b"") * 1_000
    else:
        server.connection.go_away(final=True)
        flood = b"".join(frame(HEADERS, 4, stream, b"") for stream in range(1, 2_001, 2))
    (failed,) = server.say(flood)
    assert (failed.code, failed.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "control_rate")
    assert server.connection.frames_received[HEADERS] < 40


# Heads that are decoded for nothing

RAW_POST = b"\x83\x86\x84\x01\x01a"
"""The pseudo-headers of a request, without an entry of the dynamic table."""
BOMBS = {
    "references (CVE-2016-6581)": RAW_POST + b"\x82" * 2_100,
    "crumbs": RAW_POST + b"\xbe" * 120,
    "large values": RAW_POST + b"\xbe" * 100,
}


def with_an_entry(talk: Callable[..., Talk], name: bytes, size: int, **limits: Any) -> Talk:
    """A server whose table has one entry, of index 62."""
    server = talk(limits=Limits(**limits))
    entry = b"\x40" + bytes([len(name)]) + name + write_integer(size, 0x7F, 0) + b"v" * size
    server.say(frame(HEADERS, 4 | 1, 1, RAW_POST + entry))
    server.connection.reset(1, 8)
    server.heard()
    return server


@pytest.mark.parametrize(("case", "most"), [("references (CVE-2016-6581)", 8), ("crumbs", 140), ("large values", 170)])
def test_bombs_of_references_end_the_connection(talk: Callable[..., Talk], case: str, most: int) -> None:
    server = with_an_entry(talk, b"cookie" if case == "crumbs" else b"a", 4_000)
    for number in range(1, 200):
        (event,) = server.say(frame(HEADERS, 4 | 1, 2 * number + 1, BOMBS[case]))
        if isinstance(event, Failed):
            break
        assert (event.status, event.limit) in ((431, "header_bytes"), (431, "header_count"))
        server.connection.reset(event.stream, 8)
    assert isinstance(event, Failed)
    assert (event.code, event.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "refused_fields_rate")
    assert most / 2 < number <= most
    assert server.heard()[-1].kind == "GOAWAY"


def test_bombs_in_trailers_do_too(talk: Callable[..., Talk]) -> None:
    server = with_an_entry(talk, b"a", 4_000, refused_fields_burst=500)
    for stream in (3, 5, 7, 9, 11):
        server.say(frame(HEADERS, 4, stream, RAW_POST))
        event = server.say(frame(HEADERS, 4 | 1, stream, b"\xbe" * 120))[-1]
    assert (event.code, event.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "refused_fields_rate")


def test_and_on_streams_that_are_not_read(talk: Callable[..., Talk]) -> None:
    server = with_an_entry(talk, b"a", 4_000, refused_fields_burst=5_000)
    events = server.say(frame(HEADERS, 4 | 1, 1, b"\xbe" * 1_500) * 4)
    assert (events[-1].code, events[-1].limit) == (ErrorCode.ENHANCE_YOUR_CALM, "refused_fields_rate")


def test_a_client_with_a_head_that_is_too_large_may_try_again(talk: Callable[..., Talk]) -> None:
    """A token of 70 KiB, a hundred times a second, beside other requests."""
    server = talk(limits=Limits(continuation_frames=16))
    value = b"\x00\x01a" + write_integer(66_000, 0x7F, 0) + b"v" * 66_000
    for number in range(300):
        server.now += 0.01
        block = server.block(server.POST) + b"\x00\x01b\x01c" * 10 + value
        parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
        wire = frame(HEADERS, 1, 2 * number + 1, parts[0])
        wire += b"".join(frame(CONTINUATION, 0, 2 * number + 1, part) for part in parts[1:-1])
        (event,) = server.say(wire + frame(CONTINUATION, 4, 2 * number + 1, parts[-1]))
        assert (event.status, event.limit) == (431, "header_bytes")
        server.connection.reset(event.stream, 8)
    assert not server.connection.is_closed
