from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshproxy.devtools.load.frames import (
    ACK,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    FramedConnection,
    frame,
    settings,
    small_data,
    window_update,
)

if TYPE_CHECKING:
    from tests.devtools.load.conftest import FakeTransport


class Recording(FramedConnection):
    """Keeps what the hooks are told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []

    def on_headers(self, stream: int, block: bytes, end: bool) -> None:
        self.told.append(("headers", stream, block, end))

    def on_data(self, stream: int, data: bytes, end: bool) -> None:
        self.told.append(("data", stream, data, end))

    def on_reset(self, stream: int, code: int) -> None:
        self.told.append(("reset", stream, code))

    def on_closed(self, reason: str) -> None:
        self.told.append(("closed", reason))


@pytest.fixture
def connection(transport: FakeTransport) -> Recording:
    made = Recording()
    made.connection_made(transport)
    return made


def parse(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Frames as (kind, flags, stream, payload)."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_frames_are_told_however_they_are_cut(connection: Recording, size: int) -> None:
    data = frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, 0, 1, b"ab") + frame(HEADERS, 5, 1, b"t")
    for at in range(0, len(data), size):
        connection.data_received(data[at : at + size])
    assert connection.told == [("headers", 1, b"\x88", False), ("data", 1, b"ab", False), ("headers", 1, b"t", True)]


def test_settings_and_pings_are_answered_together(connection: Recording, transport: FakeTransport) -> None:
    connection.data_received(settings(window=1_000) + frame(PING, 0, 0, b"12345678"))
    assert len(transport.written) == 1
    assert parse(transport.take()) == [(SETTINGS, ACK, 0, b""), (PING, ACK, 0, b"12345678")]


def test_a_large_body_keeps_within_both_windows(connection: Recording, transport: FakeTransport) -> None:
    body = bytes(range(256)) * 400
    connection.send_body(1, body, b"")
    assert sum(len(payload) for *_, payload in parse(transport.take())) == DEFAULT_WINDOW
    connection.data_received(window_update(1, 100_000))
    assert transport.take() == b""
    connection.data_received(window_update(0, 100_000))
    frames = parse(transport.take())
    assert sum(len(payload) for *_, payload in frames) == len(body) - DEFAULT_WINDOW
    assert frames[-1][1] == END_STREAM
    assert max(len(payload) for *_, payload in frames) <= FRAME_BYTES


def test_frames_are_as_large_as_the_peer_takes(connection: Recording, transport: FakeTransport) -> None:
    connection.data_received(settings(frame_bytes=50_000))
    transport.take()
    connection.send_body(1, bytes(60_000), b"")
    assert [len(payload) for *_, payload in parse(transport.take())] == [50_000, 10_000]


def test_what_follows_a_body_is_sent_after_its_last_byte(connection: Recording, transport: FakeTransport) -> None:
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"t")
    connection.send_body(1, b"x" * 20_000, trailers)
    frames = parse(transport.take())
    assert [(kind, flags) for kind, flags, *_ in frames] == [(DATA, 0), (DATA, 0), (HEADERS, 5)]


def test_bodies_of_several_streams_take_turns(connection: Recording, transport: FakeTransport) -> None:
    connection.data_received(window_update(0, 1_000_000))
    connection.pause_writing()
    for stream in (1, 3):
        connection.send_body(stream, b"x" * (2 * FRAME_BYTES), b"")
    assert transport.take() == b""
    connection.resume_writing()
    assert [stream for _, _, stream, _ in parse(transport.take())] == [1, 3, 1, 3]


def test_a_smaller_initial_window_holds_open_streams_back(connection: Recording, transport: FakeTransport) -> None:
    connection.send_body(1, b"x" * 70_000, b"")
    connection.data_received(settings(window=DEFAULT_WINDOW + 100) + window_update(0, 100))
    frames = parse(transport.take())
    assert sum(len(payload) for kind, _, _, payload in frames if kind == DATA) == DEFAULT_WINDOW + 100


def test_a_reset_stream_sends_no_more(connection: Recording, transport: FakeTransport) -> None:
    connection.send_body(1, b"x" * 70_000, b"")
    transport.take()
    connection.data_received(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")) + window_update(0, 100_000))
    assert connection.told == [("reset", 1, 8)]
    assert transport.take() == b""


def test_small_bodies_take_from_the_connection_window_and_wait_their_turn(connection: Recording) -> None:
    assert connection.has_room(16_000)
    assert not connection.has_room(FRAME_BYTES + 1)
    for _ in range(3):
        assert connection.has_room(16_000)
    assert not connection.has_room(16_000)


def test_what_was_received_is_credited_in_halves_of_a_window(connection: Recording, transport: FakeTransport) -> None:
    piece = frame(DATA, 0, 1, b"x" * FRAME_BYTES)
    for _ in range(WINDOW // 2 // FRAME_BYTES):
        connection.data_received(piece)
    assert transport.take() == b""
    connection.data_received(piece)
    size = WINDOW // 2 + FRAME_BYTES
    assert transport.take() == window_update(0, size) + window_update(1, size)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(HEADERS, 0, 1, b"\x88"), "several frames"),
        (frame(GOAWAY, 0, 0, bytes(4) + (11).to_bytes(4, "big") + b"calm"), "GOAWAY with code 11: calm"),
    ],
)
def test_what_it_cannot_go_on_with_ends_the_connection_once(
    connection: Recording, transport: FakeTransport, data: bytes, reason: str
) -> None:
    connection.data_received(data)
    connection.connection_lost(None)
    assert transport.is_aborted
    assert len(connection.told) == 1
    assert reason in str(connection.told[0])
    assert reason in connection.closed_because


def test_a_small_body_is_one_frame_and_a_large_one_none() -> None:
    assert small_data(END_STREAM, b"ab") == frame(DATA, END_STREAM, 0, b"ab")
    assert small_data(0, b"x" * (FRAME_BYTES + 1)) == b""
