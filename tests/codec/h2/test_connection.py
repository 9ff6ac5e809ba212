"""Frames found in the input, a slice at a time; how a connection begins and ends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Failed
from meshproxy.codec.h2 import connection, frames
from meshproxy.codec.h2.connection import LOOKED_FRAMES, SLICE_FRAMES, H2Connection
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.h2.frames import DATA, HEADERS, frame
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Talk = Any  # conftest.Talk, made by the fixture `talk`
ThreeWays = Any

# The beginning


def test_what_a_server_says_first() -> None:
    assert H2Connection(Role.SERVER, Limits(), 0.0).take_output() == bytes.fromhex(
        "000018 04 00 00000000 0003 00000400 0004 00040000 0005 00040000 0006 00010000 000004 08 00 00000000 000f0001"
    )


def test_what_a_client_says_first() -> None:
    assert H2Connection(Role.CLIENT, Limits(connection_window=65_535), 0.0).take_output() == (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + bytes.fromhex("000018 04 00 00000000 0002 00000000 0004 00040000 0005 00040000 0006 00010000")
    )


def test_the_preface(talk: Callable[..., Talk], three_ways: ThreeWays) -> None:
    events, output = three_ways(lambda: talk(starts=False), lambda _: frames.PREFACE + frames.settings([]))
    assert events == []
    assert [frame.kind for frame in output] == ["SETTINGS", "WINDOW_UPDATE", "SETTINGS"]


@pytest.mark.parametrize(
    "wire", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", b"\x16\x03\x01", b"X"]
)
def test_what_is_no_preface(talk: Callable[..., Talk], three_ways: ThreeWays, wire: bytes) -> None:
    (event,), output = three_ways(lambda: talk(starts=False), lambda _: wire)
    assert event == Failed(ErrorCode.PROTOCOL_ERROR, "not the HTTP/2 connection preface")
    assert output[-1].kind == "GOAWAY"


# Frames


@pytest.mark.parametrize("kept", [1, 8, 9, 10, 5_000])
def test_a_large_read_finishes_a_frame(talk: Callable[..., Talk], kept: int) -> None:
    server = talk()
    server.opened()
    body = bytes(range(256)) * 64
    wire = server.data(1, body) + server.data(1, body[::-1]) + server.data(1, b"", end=True)
    events = server.say(wire[:kept]) + server.say(wire[kept:])
    assert b"".join(event.data for event in events) == body + body[::-1]
    assert events[-1].end


@pytest.mark.parametrize(("kind", "flags"), [(HEADERS, 0x4), (DATA, 0x8), (0x20, 0)])
def test_a_frame_that_is_read_whole_has_256_kib(talk: Callable[..., Talk], kind: int, flags: int) -> None:
    """However large others may be: each read copies what has come of it."""
    limits = Limits(frame_bytes=1 << 20, stream_window=1 << 20, body_bytes=None)
    server = talk(limits=limits)
    server.opened()
    wire = frame(kind, flags, 3 if kind == HEADERS else 1, bytes(262_145))
    (event,) = server.say(wire[:9])
    assert (event.code, event.reason) == (ErrorCode.ENHANCE_YOUR_CALM, "a frame that is read whole is too large")
    server = talk(limits=limits)
    server.opened()
    assert server.say(server.data(1, bytes(1 << 20))[:9]) == []
    assert server.say(frame(kind, flags, 3 if kind == HEADERS else 1, bytes(262_144))[:9]) == []


# Slices


def test_a_server_processes_so_many_frames_at_once(talk: Callable[..., Talk]) -> None:
    server = talk()
    wire = b"".join(server.head(stream, server.POST, end=True) for stream in range(1, 401, 2))
    codec = server.connection
    found = [codec.receive(wire[:-1], 0.0)]
    while codec.has_more:
        found.append(codec.receive(b"", 0.0))
    assert [len(events) for events in found] == [SLICE_FRAMES] * 6 + [7]
    assert [event.stream for event in codec.receive(wire[-1:], 0.0)] == [399]


@pytest.mark.parametrize("step", [1, 7, 1_000, 100_000])
def test_input_that_comes_in_between_waits(talk: Callable[..., Talk], step: int) -> None:
    server = talk(limits=Limits(stream_window=1 << 20))
    server.opened(1)
    server.opened(3)
    pieces = [bytes([number % 256]) * (number % 3 + 1) for number in range(600)]
    wire = b"".join(server.data(1 + 2 * (number & 1), piece) for number, piece in enumerate(pieces))
    wire += server.data(1, b"l" * 16_384) + server.data(3, b"", end=True) + server.data(1, b"", end=True)
    codec = server.connection
    events = []
    for at in range(0, len(wire), step):
        if codec.has_more:
            codec.postpone(wire[at : at + step])
            events += codec.receive(b"", 0.0)
        else:
            events += codec.receive(wire[at : at + step], 0.0)
    while codec.has_more:
        events += codec.receive(b"", 0.0)
    for stream in (1, 3):
        sent = b"".join(pieces[stream // 2 :: 2]) + (b"l" * 16_384 if stream == 1 else b"")
        assert b"".join(event.data for event in events if event.stream == stream) == sent
    assert [event.stream for event in events if event.end] == [3, 1]


def test_what_is_left_over_ends_although_a_little_comes_each_time(talk: Callable[..., Talk]) -> None:
    server = talk()
    codec = server.connection
    codec.slice_frames = 8
    ping = frames.ping(b"12345678", ack=False)
    codec.receive(ping * 20, 0.0)
    for _ in range(2):
        assert codec.has_more
        codec.postpone(ping)
        codec.receive(b"", 0.0)
    assert not codec.has_more
    assert codec.take_output().count(b"12345678") == 22


def test_what_a_server_says_is_cut_as_well(talk: Callable[..., Talk]) -> None:
    client = talk(Role.CLIENT)
    codec, stream = client.connection, client.asked()
    client.say(client.head(stream, [(b":status", b"200")]))
    found = [codec.receive(client.data(stream, b"x") * 100, 0.0)]
    while codec.has_more:
        found.append(codec.receive(b"", 0.0))
    assert [[event.data for event in events] for events in found] == [[b"x" * SLICE_FRAMES]] * 3 + [[b"x" * 4]]


def test_resets_behind_a_frame_that_was_cut_are_seen(talk: Callable[..., Talk]) -> None:
    """The frame is finished alone, without a copy of all that came with its rest."""
    server = talk()
    server.opened()
    codec = server.connection
    codec.slice_frames = 1
    ping = frames.ping(b"12345678", ack=False)
    data, reset = server.data(1, bytes(20_000)), frames.rst_stream(1, 8)
    assert codec.receive(ping * 2, 0.0) == []
    assert codec.postpone(data[:1_000]) == 0
    while codec.has_more:
        codec.receive(b"", 0.0)
    codec.receive(data[1_000:] + ping + reset, 0.0)
    assert codec.has_more
    assert codec.postpone(reset * 2) == 3
    assert codec.postpone(reset, looks=False) == 0
    assert codec.postpone(reset) == 0, "where a frame begins is not known any more"
    while codec.has_more:
        codec.receive(b"", 0.0)
    codec.receive(ping * 2, 0.0)
    assert codec.postpone(reset) == 1


def test_so_much_of_what_is_postponed_is_looked_at(talk: Callable[..., Talk]) -> None:
    """A read of 96 KiB may have ten thousand frames."""
    server = talk(limits=Limits(control_burst=10**9))
    server.opened()
    codec, ping, reset = server.connection, frames.ping(bytes(8), ack=False), frames.rst_stream(1, ErrorCode.CANCEL)
    many = ping * (SLICE_FRAMES + 1)
    codec.receive(many, 0.0)
    assert codec.postpone(reset + ping * LOOKED_FRAMES) == 1
    assert codec.postpone(reset) == 0, "where a frame begins is not known any more"
    while codec.has_more:
        codec.receive(b"", 0.0)
        codec.take_output()
    codec.receive(many, 0.0)
    assert codec.postpone(reset) == 1


@pytest.mark.parametrize("size", [200_000, 1_000])
def test_what_is_postponed_is_not_there_twice(talk: Callable[..., Talk], size: int) -> None:
    server = talk(limits=Limits(stream_window=1 << 24, connection_window=1 << 24, frame_bytes=1 << 20))
    server.opened()
    codec = server.connection
    wire = server.data(1, bytes(size)) * (8_000_000 // size)
    codec.receive(server.data(1, b"x") * (SLICE_FRAMES + 1), 0.0)
    received = 0
    tracemalloc.start()
    try:
        for at in range(0, len(wire), 50_000):
            codec.postpone(wire[at : at + 50_000])
        while codec.has_more:
            received += sum(len(event.data) for event in codec.receive(b"", 0.0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == 8_000_001
    assert peak < 1.75 * len(wire), "a buffer that shrinks is copied when half of it is left"


@pytest.mark.parametrize("taken", [1, 30, connection.TAKEN])
@given(cuts=st.lists(st.integers(1, 200), min_size=1), turns=st.lists(st.integers(0, 3), min_size=1))
def test_what_is_postponed_comes_to_the_same(taken: int, cuts: list[int], turns: list[int]) -> None:
    """Wherever it is cut, however much is taken up at once, and however many turns there are in between; each reset is
    seen once at most."""
    client = H2Connection(Role.CLIENT, Limits(), 0.0)
    client.receive(frames.settings([]) + frames.SETTINGS_ACK, 0.0)
    for stream in range(1, 61, 2):
        client.send_request(b"GET", b"http", b"x", b"/%d" % stream, (), end=True)
        if stream % 3 == 0:
            client.out.append(frames.ping(b"%08d" % stream, ack=False))
            client.reset(stream, ErrorCode.CANCEL)
    wire = client.take_output()
    whole = H2Connection(Role.SERVER, Limits(), 0.0)
    whole.slice_frames = 1_000
    expected = whole.receive(wire, 0.0)
    sliced = H2Connection(Role.SERVER, Limits(), 0.0)
    sliced.slice_frames = 2
    events, at, seen = [], 0, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "TAKEN", taken)
        for number in range(len(wire)):
            piece = wire[at : at + cuts[number % len(cuts)]]
            at += len(piece)
            if sliced.has_more:
                seen += sliced.postpone(piece) if piece else 0
            elif piece:
                events += sliced.receive(piece, 0.0)
            for _ in range(turns[number % len(turns)] if piece else 10_000):
                if sliced.has_more:
                    events += sliced.receive(b"", 0.0)
            if not piece:
                break
    assert events == expected
    assert sliced.take_output() == whole.take_output()
    assert (sliced.has_more, sliced.pending) == (False, 0)
    assert seen <= sliced.statistics.resets_received == 10


# The end


def test_eof(talk: Callable[..., Talk]) -> None:
    server = talk()
    assert server.connection.receive_eof() == []
    assert server.connection.is_closed
    server = talk()
    server.opened()
    (event,) = server.connection.receive_eof()
    assert event == Failed(ErrorCode.NO_ERROR, "the peer closed the connection", None, True)
    assert server.connection.receive_eof() == []
    assert server.say(server.head(3, server.POST)) == []
    assert server.heard() == []


def test_frames_are_counted(talk: Callable[..., Talk]) -> None:
    server = talk()
    server.opened()
    server.say(server.data(1, b"x"), server.data(1, b"y"), frames.rst_stream(1, 8), frame(0x77, 0, 0, b""))
    counts = dict(zip(frames.NAMES, server.connection.frames_received, strict=True))
    assert counts == {
        **dict.fromkeys(frames.NAMES, 0),
        "SETTINGS": 2,
        "HEADERS": 1,
        "DATA": 2,
        "RST_STREAM": 1,
        "unknown": 1,
    }
