"""The `h2` package at the other end: each reads what the other writes, and their flow control counts like ours."""

from __future__ import annotations

import contextlib

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Data, Event, GoneAway, Pong, RequestHead, Reset, ResponseHead, Trailers, Writable
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from tests.thorough import tries

GRPC = ((b"content-type", b"application/grpc"), (b"x-trace", b"1"))
OK = ((b"content-type", b"application/grpc"),)
STATUS = ((b"grpc-status", b"0"), (b"grpc-message", b""))


class Pair:
    """Ours and theirs, and the bytes between them."""

    def __init__(self, role: Role, limits: Limits | None = None) -> None:
        self.ours = H2Connection(role, limits or Limits(), 0.0)
        self.theirs = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=role is Role.SERVER, header_encoding=False)
        )
        self.theirs.initiate_connection()
        self.exchange()

    def exchange(self) -> tuple[list[Event], list[h2.events.Event]]:
        """Carry bytes to and fro until nobody has anything to say."""
        our_events: list[Event] = []
        their_events: list[h2.events.Event] = []
        while True:
            from_us = self.ours.take_output()
            if from_us:
                their_events += self.theirs.receive_data(from_us)
            from_them = self.theirs.data_to_send()
            if from_them:
                our_events += self.ours.receive(from_them, 0.0)
            if not from_us and not from_them:
                return our_events, their_events


def headers(event: h2.events.Event) -> list[tuple[bytes, bytes]]:
    assert isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived | h2.events.TrailersReceived)
    return [(bytes(name), bytes(value)) for name, value in event.headers]


def test_settings_arrive() -> None:
    pair = Pair(Role.SERVER, Limits(streams=7, stream_window=70_000, connection_window=80_000, header_table_bytes=100))
    assert pair.theirs.remote_settings.max_concurrent_streams == 7
    assert pair.theirs.remote_settings.initial_window_size == 70_000
    assert pair.theirs.remote_settings.header_table_size == 100
    assert pair.theirs.outbound_flow_control_window == 80_000
    pair = Pair(Role.CLIENT)
    assert pair.theirs.remote_settings.enable_push == 0


def test_a_unary_call_to_our_server() -> None:
    pair = Pair(Role.SERVER)
    request = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b":authority", b"a"), *GRPC]
    for stream in (1, 3, 5):  # the first inserts into the dynamic table, the others refer to it
        pair.theirs.send_headers(stream, [*request, (b"te", b"trailers")])
        pair.theirs.send_data(stream, b"question", end_stream=True)
        events, _ = pair.exchange()
        assert events == [
            RequestHead(stream, b"POST", b"a", b"/s/m", GRPC, False),
            Data(stream, b"question", 8, True),
        ]
        pair.ours.send_response(stream, 200, OK, False)
        pair.ours.send_data(stream, b"answer", False)
        pair.ours.send_trailers(stream, STATUS)
        _, seen = pair.exchange()
        assert [type(event) for event in seen] == [
            h2.events.ResponseReceived,
            h2.events.DataReceived,
            h2.events.TrailersReceived,
            h2.events.StreamEnded,
        ]
        assert headers(seen[0]) == [(b":status", b"200"), *OK]
        assert isinstance(seen[1], h2.events.DataReceived)
        assert seen[1].data == b"answer"
        assert headers(seen[2]) == list(STATUS)
    assert pair.ours.is_idle


def test_a_unary_call_of_our_client() -> None:
    pair = Pair(Role.CLIENT)
    for expected in (1, 3, 5):
        stream = pair.ours.send_request(b"POST", b"http", b"a:1", b"/s/m", GRPC, False, 8)
        assert stream == expected
        pair.ours.send_data(stream, b"question", True)
        _, seen = pair.exchange()
        assert headers(seen[0]) == [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/s/m"),
            (b":authority", b"a:1"),
            (b"content-length", b"8"),
            *GRPC,
            (b"te", b"trailers"),
        ]
        pair.theirs.send_headers(stream, [(b":status", b"103"), (b"link", b"x")])
        pair.theirs.send_headers(stream, [(b":status", b"200"), *OK])
        pair.theirs.send_data(stream, b"answer", pad_length=20)
        pair.theirs.send_headers(stream, STATUS, end_stream=True)
        events, _ = pair.exchange()
        assert events == [
            ResponseHead(stream, 103, ((b"link", b"x"),), False),
            ResponseHead(stream, 200, OK, False),
            Data(stream, b"answer", 27, False),
            Trailers(stream, STATUS),
        ]
    assert pair.ours.is_idle


@pytest.mark.parametrize("role", Role)
def test_resets_pings_and_goodbyes(role: Role) -> None:
    pair = Pair(role)
    if role is Role.CLIENT:
        for _ in range(2):
            pair.ours.send_request(b"POST", b"http", b"a", b"/", (), False)
    else:
        for stream in (1, 3):
            fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
            pair.theirs.send_headers(stream, fields)
    pair.exchange()
    pair.ours.reset(1, 8)
    pair.theirs.reset_stream(3, 7)
    pair.ours.ping(b"12345678")
    pair.theirs.ping(b"abcdefgh")
    events, seen = pair.exchange()
    assert Reset(3, 7, "the peer reset the stream", True) in events
    assert Pong(b"12345678") in events
    assert [event.error_code for event in seen if isinstance(event, h2.events.StreamReset)] == [8]
    assert [event.ping_data for event in seen if isinstance(event, h2.events.PingAckReceived)] == [b"abcdefgh"]
    pair.ours.go_away(final=True)
    _, seen = pair.exchange()
    assert isinstance(seen[-1], h2.events.ConnectionTerminated)
    pair = Pair(role)
    pair.theirs.close_connection(last_stream_id=5, additional_data=b"bye")
    events, _ = pair.exchange()
    assert events == [GoneAway(5, 0, "bye")]


def test_large_heads() -> None:
    pair = Pair(Role.CLIENT)
    large = ((b"x-large", b"v" * 40_000), *[(b"x-%d" % number, b"w" * 100) for number in range(100)])
    pair.ours.send_request(b"GET", b"http", b"a", b"/", large, True)
    _, seen = pair.exchange()
    assert headers(seen[0])[4:] == list(large)
    pair.theirs.send_headers(1, [(b":status", b"200"), *large], end_stream=True)
    events, _ = pair.exchange()
    assert events == [ResponseHead(1, 200, large, True)]


def test_a_peer_without_a_dynamic_table() -> None:
    pair = Pair(Role.SERVER)
    pair.theirs.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 0})
    fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    pair.theirs.send_headers(1, fields, end_stream=True)
    pair.exchange()
    pair.ours.send_response(1, 200, OK, True)
    _, seen = pair.exchange()
    assert headers(seen[0]) == [(b":status", b"200"), *OK]


@settings(max_examples=tries(150))
@given(
    role=st.sampled_from(Role),
    window=st.sampled_from([100, 16_384, 65_535, 300_000]),
    sizes=st.lists(st.integers(0, 60_000), min_size=1, max_size=6),
    theirs_first=st.booleans(),
)
def test_bodies_both_ways(role: Role, window: int, sizes: list[int], theirs_first: bool) -> None:
    """Their flow control raises if we overrun a window, and counts like ours to the last byte."""
    pair = Pair(role, Limits(stream_window=max(window, 20_000), connection_window=65_535, control_burst=10**9))
    pair.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    pair.exchange()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
    if role is Role.CLIENT:
        pair.ours.send_request(b"POST", b"http", b"a", b"/", (), False)
        pair.exchange()
        pair.theirs.send_headers(1, [(b":status", b"200")])
    else:
        pair.theirs.send_headers(1, fields)
        pair.exchange()
        pair.ours.send_response(1, 200, (), False)
    pair.exchange()

    body = b"".join(bytes([number]) * size for number, size in enumerate(sizes, 1))
    for number, size in enumerate(sizes, 1):
        pair.ours.send_data(1, bytes([number]) * size, number == len(sizes))
    to_send = body
    taken, seen_body, writable = b"", b"", 0
    for _ in range(10_000):
        room = min(pair.theirs.local_flow_control_window(1), pair.theirs.max_outbound_frame_size, len(to_send))
        if to_send and room > 0 and (theirs_first or seen_body):
            pair.theirs.send_data(1, to_send[:room], end_stream=room == len(to_send))
            to_send = to_send[room:]
        events, seen = pair.exchange()
        for event in events:
            if isinstance(event, Data):
                taken += event.data
                pair.ours.credit(1, event.flow)
            else:
                assert isinstance(event, Writable)
                writable += 1
        for theirs in seen:
            if isinstance(theirs, h2.events.DataReceived):
                seen_body += theirs.data
                pair.theirs.acknowledge_received_data(theirs.flow_controlled_length, 1)
        if len(seen_body) == len(body) and (not to_send or not theirs_first):
            break
    pair.exchange()
    assert seen_body == body
    if theirs_first:
        assert taken == body
    assert writable <= 1
    assert pair.ours._window == pair.theirs.inbound_flow_control_window


@pytest.mark.parametrize("read", [100, 16_384, 65_536])
def test_an_update_for_every_frame_of_large_downloads(read: int) -> None:
    """Three at once over the default windows, by a client that extends both windows by what each DATA frame brought.
    Framed update by update, what is held back falls into ever smaller pieces, until the updates look like a flood."""
    pair = Pair(Role.SERVER)
    size, piece = 20_000_000, bytes(65_536)
    for stream in (1, 3, 5):
        fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")]
        pair.theirs.send_headers(stream, fields, end_stream=True)
    pair.exchange()
    to_send = dict.fromkeys((1, 3, 5), size)

    def send(stream: int) -> None:
        is_framed = True
        while is_framed and to_send[stream]:
            count = min(len(piece), to_send[stream])
            to_send[stream] -= count
            is_framed = pair.ours.send_data(stream, piece[:count], not to_send[stream])

    for stream in to_send:
        pair.ours.send_response(stream, 200, (), False, size)
        send(stream)
    taken = frames_taken = 0
    while output := pair.ours.take_output():
        for event in pair.theirs.receive_data(output):
            if isinstance(event, h2.events.DataReceived) and event.data:
                frames_taken += 1
                taken += len(event.data)
                pair.theirs.increment_flow_control_window(len(event.data))
                with contextlib.suppress(h2.exceptions.StreamClosedError):  # it was the last frame
                    pair.theirs.increment_flow_control_window(len(event.data), event.stream_id)
        updates = pair.theirs.data_to_send()
        for at in range(0, len(updates), read):
            for ours in pair.ours.receive(updates[at : at + read], 0.0):
                assert isinstance(ours, Writable), ours
                send(ours.stream)
    assert taken == 3 * size
    assert frames_taken < 2 * 3 * size / 16_384
