"""Frames that carry no message: what each may look like, what it does, and how many there may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshproxy.codec.events import Failed, GoneAway, Pong, Reset
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.control import PATIENCE, our_settings
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import frame
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Talk = Any  # conftest.Talk, made by the fixture `talk`
ThreeWays = Any

FINISHED, BY_PEER, BY_US, OPEN, SKIPPED, IDLE = 1, 3, 5, 9, 7, 11
PAST = {FINISHED: "finished", BY_PEER: "reset by the peer", BY_US: "reset by us", OPEN: "open"}


def with_a_past(talk: Callable[..., Talk]) -> Talk:
    """A server that knows a stream in every state."""
    server = talk()
    server.say(server.head(FINISHED, server.GET, end=True))
    server.connection.send_response(FINISHED, 204, (), True)
    server.say(server.head(BY_PEER, server.POST), frames.rst_stream(BY_PEER, 8))
    server.say(server.head(BY_US, server.POST))
    server.connection.reset(BY_US, 8)
    server.say(server.head(OPEN, server.POST))
    server.heard()
    return server


# Frames that end the connection: name -> (frame, code).
VIOLATIONS: dict[str, tuple[bytes, ErrorCode]] = {
    "PRIORITY on stream 0": (frame(frames.PRIORITY, 0, 0, b"\0\0\0\3\0"), ErrorCode.PROTOCOL_ERROR),
    "PRIORITY of 4 bytes on an idle stream": (frame(frames.PRIORITY, 0, IDLE, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "an idle stream that depends on itself": (
        frame(frames.PRIORITY, 0, IDLE, bytes([0x80, 0, 0, IDLE, 0])),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "RST_STREAM on stream 0": (frames.rst_stream(0, 8), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM of 3 bytes": (frame(frames.RST_STREAM, 0, OPEN, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "RST_STREAM on an idle stream": (frames.rst_stream(IDLE, 8), ErrorCode.PROTOCOL_ERROR),
    "RST_STREAM on an even stream": (frames.rst_stream(2, 8), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS on a stream": (frame(frames.SETTINGS, 0, OPEN, b""), ErrorCode.PROTOCOL_ERROR),
    "SETTINGS of 5 bytes": (frame(frames.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "SETTINGS with ACK and a payload": (frame(frames.SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "ENABLE_PUSH 2": (frames.settings([(2, 2)]), ErrorCode.PROTOCOL_ERROR),
    "INITIAL_WINDOW_SIZE 2^31": (frames.settings([(4, 2**31)]), ErrorCode.FLOW_CONTROL_ERROR),
    "MAX_FRAME_SIZE 16383": (frames.settings([(5, 16_383)]), ErrorCode.PROTOCOL_ERROR),
    "MAX_FRAME_SIZE 2^24": (frames.settings([(5, 2**24)]), ErrorCode.PROTOCOL_ERROR),
    "a bad value between good ones": (frames.settings([(4, 5), (4, 2**31), (4, 5)]), ErrorCode.FLOW_CONTROL_ERROR),
    "PUSH_PROMISE": (frame(frames.PUSH_PROMISE, 4, OPEN, b"\0\0\0\2\x82"), ErrorCode.PROTOCOL_ERROR),
    "PING on a stream": (frame(frames.PING, 0, OPEN, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "PING of 7 bytes": (frame(frames.PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "PING with ACK of 9 bytes": (frame(frames.PING, 1, 0, bytes(9)), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY on a stream": (frame(frames.GOAWAY, 0, OPEN, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "GOAWAY of 7 bytes": (frame(frames.GOAWAY, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
    "GOAWAY that takes back another": (
        frames.goaway(2, 0, "") + frames.goaway(4, 0, ""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "WINDOW_UPDATE of 3 bytes": (frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of nothing": (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE of nothing but the reserved bit": (frames.window_update(0, 2**31), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond 2^31-1": (frames.window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "WINDOW_UPDATE of nothing on a closed stream": (frames.window_update(FINISHED, 0), ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE on an idle stream": (frames.window_update(IDLE, 5), ErrorCode.PROTOCOL_ERROR),
    "a window of a stream beyond 2^31-1 by SETTINGS": (
        frames.window_update(OPEN, 2**31 - 1 - 65_535) + frames.settings([(4, 65_536)]),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_what_ends_the_connection(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    wire, code = VIOLATIONS[case]
    events, output = three_ways(lambda: with_a_past(talk), lambda _: wire)
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, events[-1].limit, events[-1].by_peer) == (code, None, False)
    goodbye = output[-1]
    assert (goodbye.kind, goodbye.stream) == ("GOAWAY", 0)
    assert goodbye.payload[:8] == bytes([0, 0, 0, OPEN, 0, 0, 0, code])
    assert goodbye.payload[8:].decode() == events[-1].reason


# Frames that end a stream: name -> (frame, stream, code).
STREAM_ERRORS: dict[str, tuple[bytes, int, ErrorCode]] = {
    "PRIORITY of 6 bytes": (frame(frames.PRIORITY, 0, OPEN, bytes(6)), OPEN, ErrorCode.FRAME_SIZE_ERROR),
    "a stream that depends on itself": (
        frame(frames.PRIORITY, 0, OPEN, bytes([0, 0, 0, OPEN, 0])),
        OPEN,
        ErrorCode.PROTOCOL_ERROR,
    ),
    "WINDOW_UPDATE of nothing": (frames.window_update(OPEN, 0), OPEN, ErrorCode.PROTOCOL_ERROR),
    "WINDOW_UPDATE beyond 2^31-1": (frames.window_update(OPEN, 2**31 - 1), OPEN, ErrorCode.FLOW_CONTROL_ERROR),
}


@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_what_ends_a_stream(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    wire, stream, code = STREAM_ERRORS[case]
    (event,), output = three_ways(lambda: with_a_past(talk), lambda _: wire)
    assert isinstance(event, Reset)
    assert (event.stream, event.code, event.by_peer) == (stream, code, False)
    assert output == [("RST_STREAM", 0, stream, bytes([0, 0, 0, code]))]


IGNORED = {
    "PRIORITY on an idle stream": frame(frames.PRIORITY, 0, IDLE, bytes(5)),
    "PRIORITY on an open stream": frame(frames.PRIORITY, 0, OPEN, bytes(5)),
    **{f"PRIORITY: {past}": frame(frames.PRIORITY, 0, stream, bytes(5)) for stream, past in PAST.items()},
    **{f"RST_STREAM: {past}": frames.rst_stream(stream, 8) for stream, past in PAST.items() if stream != OPEN},
    **{f"WINDOW_UPDATE: {past}": frames.window_update(stream, 5) for stream, past in PAST.items()},
    "RST_STREAM on a stream left out": frames.rst_stream(SKIPPED, 8),
    "WINDOW_UPDATE on a stream left out": frames.window_update(SKIPPED, 5),
    "WINDOW_UPDATE with the reserved bit": frames.window_update(0, 2**31 + 5),
    "SETTINGS with ACK once more": frames.SETTINGS_ACK,
    "an unknown type": frame(0xFE, 0xFF, OPEN, b"whatever"),
    "an unknown type on an idle stream": frame(10, 0, IDLE, b""),
    "flags that mean nothing": frame(frames.WINDOW_UPDATE, 0xFF, 0, b"\0\0\0\1"),
}


@pytest.mark.parametrize("case", IGNORED)
def test_what_is_ignored(talk: Callable[..., Talk], three_ways: ThreeWays, case: str) -> None:
    assert three_ways(lambda: with_a_past(talk), lambda _: IGNORED[case]) == ([], [])


def test_settings_are_acknowledged(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    values = [(1, 0), (2, 0), (3, 5), (4, 2**31 - 1), (5, 16_384), (5, 2**24 - 1), (6, 5), (0x99, 2**32 - 1)]
    wire = frames.settings(values)
    assert three_ways(talk, lambda _: wire) == ([], [("SETTINGS", 1, 0, b"")])


def test_ping_is_answered(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    assert three_ways(talk, lambda _: frames.ping(b"12345678", ack=False)) == ([], [("PING", 1, 0, b"12345678")])


def test_pong(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    assert three_ways(talk, lambda _: frames.ping(b"12345678", ack=True)) == ([Pong(b"12345678")], [])


def test_reset_by_the_peer(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    def script(server: Talk) -> bytes:
        return bytes(server.head(1, server.POST) + frames.rst_stream(1, 0xDEAD))

    (_, event), output = three_ways(talk, script)
    assert event == Reset(1, 0xDEAD, "the peer reset the stream", True)
    assert output == []


def test_the_first_frame_is_settings(talk: Callable[..., Talk]) -> None:
    for first in (frames.ping(bytes(8), ack=False), frames.SETTINGS_ACK, frame(0xFE, 0, 0, b"")):
        for role, preface in ((Role.SERVER, frames.PREFACE), (Role.CLIENT, b"")):
            peer = talk(role, starts=False)
            (event,) = peer.say(preface, first)
            assert isinstance(event, Failed)
            assert event.code == ErrorCode.PROTOCOL_ERROR


def test_a_server_that_pushes(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT, starts=False)
    (event,) = client.say(frames.settings([(frames.ENABLE_PUSH, 1)]))
    assert event.code == ErrorCode.PROTOCOL_ERROR
    client = talk(Role.CLIENT)
    client.asked()
    (event,) = client.say(frame(frames.PUSH_PROMISE, 4, 1, b"\0\0\0\2\x82"))
    assert event.code == ErrorCode.PROTOCOL_ERROR


def test_goaway(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    def make() -> Talk:
        client = talk(Role.CLIENT)
        for _ in range(3):
            client.asked()
        return client

    events, output = three_ways(make, lambda _: frames.goaway(2**31 - 1, 0, "") + frames.goaway(3, 0, "a\nb\xff"))
    assert events == [GoneAway(2**31 - 1, 0, ""), GoneAway(3, 0, "a?b??")]
    assert output == []
    client = make()
    client.say(frames.goaway(3, 0, ""))
    assert len(client.connection._streams) == 2
    assert not client.connection.can_open
    client.connection.send_data(5, b"x", True)
    client.connection.reset(5, 8)
    assert client.heard() == [], "the server has never seen stream 5"
    assert client.say(client.head(5, client.OK)) == []
    assert len(client.say(client.head(3, client.OK))) == 1


def test_goaway_with_an_error(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    events, output = three_ways(lambda: talk(Role.CLIENT), lambda _: frames.goaway(0, 11, "too_many_pings"))
    assert events == [GoneAway(0, 11, "too_many_pings"), Failed(11, "too_many_pings", None, True)]
    assert output == []


def test_goaway_with_an_unknown_code_is_nothing_special(talk: Callable[..., Talk]) -> None:
    server = talk()
    assert server.say(frames.goaway(0, 0xFF, ""), frames.ping(bytes(8), ack=False)) == [GoneAway(0, 0xFF, "")]
    assert server.heard() == [("PING", 1, 0, bytes(8))]


def test_a_reset_that_crossed_ours_ends_what_ours_excused(talk: Callable[..., Talk]) -> None:
    server = with_a_past(talk)
    assert server.say(server.data(BY_US, b"x"), frames.rst_stream(BY_US, 8)) == []
    assert server.heard() == []
    assert server.say(server.head(BY_US, [(b"a", b"b")])) == []
    assert server.heard() == [("RST_STREAM", 0, BY_US, b"\0\0\0\5")]


def test_the_text_of_a_goaway_is_bounded(talk: Callable[..., Talk]) -> None:
    (event,) = talk(Role.CLIENT).say(frames.goaway(0, 0, "x" * 10_000))
    assert event == GoneAway(0, 0, "x" * 128)


def test_our_settings() -> None:
    assert dict(our_settings(Role.SERVER, Limits())) == {3: 1_024, 4: 262_144, 5: 262_144, 6: 65_536}
    assert dict(our_settings(Role.CLIENT, Limits())) == {2: 0, 4: 262_144, 5: 262_144, 6: 65_536}
    limits = Limits(header_table_bytes=0, frame_bytes=20_000, stream_window=65_535, header_bytes=1, streams=7)
    assert dict(our_settings(Role.SERVER, limits)) == {1: 0, 3: 7, 5: 20_000, 6: 1}


def test_a_smaller_window_counts_from_its_acknowledgement(talk: Callable[..., Talk]) -> None:
    """RFC 9113 section 6.5.3: until then the peer may use the default."""
    server = talk(limits=Limits(stream_window=1_000), starts=False)
    server.say(frames.PREFACE, frames.settings([]), server.head(1, server.POST), server.head(3, server.POST))
    (event,) = server.say(server.data(1, b"x" * 16_000))
    assert not isinstance(event, Failed)
    server.say(frames.SETTINGS_ACK)
    (event,) = server.say(server.data(3, b"x" * 1_001))
    assert (event.stream, event.code) == (3, ErrorCode.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("consumed", [0, 30_000])
def test_a_body_that_waits_for_the_larger_window_is_asked_for(talk: Callable[..., Talk], consumed: int) -> None:
    """Ruby's http-2 holds it, whatever SETTINGS say, until a WINDOW_UPDATE. It gives out nothing beyond the window."""
    window = 4 * frames.DEFAULT_WINDOW
    server = talk(limits=Limits(stream_window=window, connection_window=4 * window), starts=False)
    server.say(frames.PREFACE, frames.settings([]), server.head(1, server.POST), server.head(3, server.POST))
    server.say(*[server.data(1, bytes(13_107))] * 5, *[server.data(3, bytes(13_106))] * 5)  # 3 may send more
    server.connection.credit(1, consumed)
    server.heard()
    server.say(frames.SETTINGS_ACK)
    (update,) = server.heard()
    assert update == ("WINDOW_UPDATE", 0, 1, max(consumed, 1).to_bytes(4, "big"))

    server.connection.credit(1, window // 2 - (1 if consumed else 0))
    assert [frame for frame in server.heard() if frame.stream] == []
    server.connection.credit(1, 1)
    assert [frame.payload for frame in server.heard() if frame.stream] == [(window // 2).to_bytes(4, "big")]
    left = window - 5 * 13_107 + max(consumed, 1) + window // 2
    more = [server.data(1, bytes(min(10_000, left - sent))) for sent in range(0, left, 10_000)]
    assert not any(isinstance(event, Failed) for event in server.say(*more))
    (event,) = server.say(server.data(1, b"x"))
    assert (event.stream, event.code) == (1, ErrorCode.FLOW_CONTROL_ERROR)


def test_a_smaller_table_counts_from_its_acknowledgement(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(header_table_bytes=0), starts=False)
    server.say(frames.PREFACE, frames.settings([]))
    assert len(server.say(server.head(1, server.POST))) == 1
    server.say(frames.SETTINGS_ACK)
    (event,) = server.say(server.head(3, server.POST))
    assert event.code == ErrorCode.COMPRESSION_ERROR


# Floods: name -> (frame, how many are let through at once). No time passes, and nothing explains them.
FLOODS = {
    "PING (CVE-2019-9512)": frames.ping(bytes(8), ack=False),
    "PING with ACK": frames.ping(bytes(8), ack=True),
    "SETTINGS (CVE-2019-9515)": frames.settings([]),
    "SETTINGS with ACK": frames.SETTINGS_ACK,
    "PRIORITY (CVE-2019-9513)": frame(frames.PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": frames.window_update(0, 1),
    "WINDOW_UPDATE on a closed stream": frames.window_update(BY_PEER, 1),
    "RST_STREAM on a closed stream": frames.rst_stream(FINISHED, 8),
    "GOAWAY": frames.goaway(0, 0, ""),
    "unknown": frame(0xFE, 0, 0, b""),
}


@pytest.mark.parametrize("case", FLOODS)
def test_floods_of_control_frames(talk: Callable[..., Talk], case: str) -> None:
    server = with_a_past(talk)
    events = server.say(FLOODS[case] * 1_100)
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert (failed.code, failed.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "control_rate")
    assert server.heard()[-1].kind == "GOAWAY"
    assert server.say(FLOODS[case] * 10) == []


def test_time_and_data_explain_control_frames(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(control_burst=50, control_rate=10.0))
    server.opened()
    for _ in range(100):
        server.now += 1.0
        assert server.say(frames.ping(bytes(8), ack=False) * 10) == []
        server.heard()
    server.connection.send_response(1, 200, (), False)
    for _ in range(1_000):
        server.connection.send_data(1, b"x" * 1_000, False)
        assert server.say(frames.window_update(0, 1_000), frames.window_update(1, 1_000)) == []
    server.heard()


def test_dribbled_data_explains_nothing(talk: Callable[..., Talk]) -> None:
    """CVE-2019-9511: a byte for every WINDOW_UPDATE."""
    server = talk(settings=[(frames.INITIAL_WINDOW_SIZE, 0)], limits=Limits(control_burst=50))
    server.opened()
    server.connection.send_response(1, 200, (), False)
    assert not server.connection.send_data(1, b"x" * 10_000, True)
    events = [event for _ in range(100) for event in server.say(frames.window_update(1, 1))]
    assert [(event.code, event.limit) for event in events] == [(ErrorCode.ENHANCE_YOUR_CALM, "control_rate")]


def test_answers_that_are_not_read(talk: Callable[..., Talk]) -> None:
    """CVE-2019-9512: PINGs are sent, nothing is read."""
    server = talk(limits=Limits(control_burst=10**9, output_bytes=1_000))
    for _ in range(10):
        assert server.say(frames.ping(bytes(8), ack=False) * 50) == []
        server.heard()
    assert server.say(frames.ping(bytes(8), ack=False) * 50) == []
    (failed,) = server.say(frames.ping(bytes(8), ack=False) * 50)
    assert (failed.code, failed.limit) == (ErrorCode.ENHANCE_YOUR_CALM, "output_bytes")


def test_output_taken_piece_by_piece_is_read(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(control_burst=10**9, output_bytes=1_000))
    for _ in range(10):
        assert server.say(frames.ping(bytes(8), ack=False) * 50) == []
        server.connection.out.clear()


def test_ids_that_are_left_out_are_no_requests(talk: Callable[..., Talk]) -> None:
    """Or a client that gives up all that it sends would seem patient."""
    server = talk()
    for stream in range(1, 20_001, 200):
        server.say(server.head(stream, server.POST), frames.rst_stream(stream, 8))
    connection = server.connection
    assert connection.requests == 100
    assert connection.patience is not None
    assert connection.patience.is_short(connection.requests, 0.0)


def test_rapid_reset(talk: Callable[..., Talk]) -> None:
    """CVE-2023-44487."""
    server = talk()
    events = []
    for stream in range(1, 4_001, 2):
        events += server.say(server.head(stream, server.POST), frames.rst_stream(stream, 8))
    assert isinstance(events[-1], Failed)
    assert (events[-1].code, events[-1].limit) == (ErrorCode.ENHANCE_YOUR_CALM, "resets_rate")
    assert server.connection.statistics.resets_received == 1_501


# What makes us reset: CVE-2025-8671 (MadeYouReset), each on a stream that was just opened.
MADE_YOU_RESET: dict[str, Callable[[Talk, int], bytes]] = {
    "WINDOW_UPDATE of nothing": lambda _, stream: frames.window_update(stream, 0),
    "WINDOW_UPDATE beyond 2^31-1": lambda _, stream: frames.window_update(stream, 2**31 - 1),
    "PRIORITY of 4 bytes": lambda _, stream: frame(frames.PRIORITY, 0, stream, bytes(4)),
    "a stream that depends on itself": lambda _, stream: frame(
        frames.PRIORITY, 0, stream, stream.to_bytes(4, "big") + b"\0"
    ),
    "HEADERS without END_STREAM": lambda server, stream: server.head(stream, [(b"a", b"b")]),
    "DATA after END_STREAM": lambda server, stream: server.data(stream, b"", end=True) + server.data(stream, b"x"),
    "HEADERS after END_STREAM": lambda server, stream: (
        server.data(stream, b"", end=True) + server.head(stream, [(b"a", b"b")], end=True)
    ),
    "malformed head": lambda server, stream: server.head(stream + 2, [*server.POST, (b"connection", b"close")]),
}


@pytest.mark.parametrize("case", MADE_YOU_RESET)
def test_made_you_reset(talk: Callable[..., Talk], case: str) -> None:
    server = talk()
    events = []
    for stream in range(1, 8_001, 4):
        events += server.say(server.head(stream, server.POST), MADE_YOU_RESET[case](server, stream))
        server.connection.reset(stream, 8)
        server.heard()
    assert isinstance(events[-1], Failed)
    assert events[-1].limit == "resets_rate"
    assert 1_500 <= server.connection.statistics.resets_sent <= 3_010


def test_resets_that_take_their_time(talk: Callable[..., Talk]) -> None:
    server = talk(limits=Limits(resets_burst=10, resets_rate=4.0))
    for stream in range(1, 401, 2):
        server.now += 0.25
        events = server.say(server.head(stream, server.POST), frames.rst_stream(stream, 8))
        assert not isinstance(events[-1], Failed)


def test_clients_that_wait_before_they_leave_are_not_counted(talk: Callable[..., Talk]) -> None:
    """A thousand calls a second whose deadline passes."""
    server = talk(limits=Limits(resets_burst=10, resets_rate=4.0))
    for first in range(1, 20_001, 200):
        streams = range(first, first + 200, 2)
        heads = [server.head(stream, server.POST) for stream in streams]
        assert len(server.say(*heads)) == 100
        server.now += 1.1 * PATIENCE
        events = server.say(*(frames.rst_stream(stream, 8) for stream in streams))
        assert [type(event) for event in events] == [Reset] * 100


def test_resets_of_a_server_and_of_our_own_are_not_counted(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    for _ in range(1_000):
        (event,) = client.say(frames.rst_stream(client.asked(), 7))
        assert isinstance(event, Reset)
    server = talk()
    for stream in range(1, 2_001, 2):
        server.opened(stream)
        server.connection.reset(stream, 8)
        server.heard()
    assert not server.connection.is_closed
