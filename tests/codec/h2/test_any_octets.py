"""Any octets at all, as wild as hypothesis can think of them: events or `Failed`, never anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Data, Event, Failed, Rejected, RequestHead, Reset, ResponseHead, Trailers
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.frames import DATA, HEADERS, frame
from meshproxy.codec.role import LocalProtocolError, Role
from tests.thorough import tries

Talk = Any  # conftest.Talk, made by the fixture `talk`
Merge = Callable[[list[Event]], list[Event]]

STREAMS = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 9])
BLOCKS = st.sampled_from(
    [
        b"\x82\x86\x84\x01\x01a",  # a request
        b"\x83\x86\x84\x41\x01a\x0f\x0d\x015",  # with a content-length; inserts
        b"\x83\x86\x84\xbe",  # refers to what was inserted
        b"\x88",  # a response
        b"\x00\x01a\x01b",  # trailers
        b"\x82\x82",
        b"\x83\x86\x84\x01\x01a\x0f\x14\x01x",  # asks for a miracle
    ]
)
GOOD = st.one_of(
    st.builds(lambda stream, block, end: frame(HEADERS, 4 | end, stream, block), STREAMS, BLOCKS, st.booleans()),
    st.builds(
        lambda stream, data, end: frame(DATA, int(end), stream, data), STREAMS, st.binary(max_size=9), st.booleans()
    ),
    st.builds(lambda stream: frame(DATA, 9, stream, b"\3hello\0\0\0"), STREAMS),
    st.builds(frames.rst_stream, STREAMS, st.integers(0, 20)),
    st.builds(frames.window_update, st.one_of(st.just(0), STREAMS), st.sampled_from([0, 1, 100, 2**31 - 1])),
    st.builds(lambda value: frames.settings([(4, value)]), st.sampled_from([0, 10, 100_000, 2**31 - 1])),
    st.builds(lambda last, code: frames.goaway(last, code, "x"), STREAMS, st.sampled_from([0, 0, 1])),
    st.just(frames.ping(b"12345678", ack=False)),
)
BAD = st.builds(
    frame,
    st.integers(0, 11),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x25, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 2**31 - 1]),
    st.one_of(st.binary(max_size=12), BLOCKS),
)
WIRE = st.lists(st.one_of(GOOD, GOOD, GOOD, GOOD, BAD, st.binary(max_size=30)), max_size=15).map(b"".join)
COMMANDS: list[Callable[[Any, int], object]] = [
    lambda connection, stream: connection.send_response(stream, 200, (), False),
    lambda connection, stream: connection.send_response(stream, 204, (), True),
    lambda connection, stream: connection.send_data(stream, b"x" * 40_000, False),
    lambda connection, stream: connection.send_data(stream, b"x" * 20, True),
    lambda connection, stream: connection.send_trailers(stream, ()),
    lambda connection, stream: connection.reset(stream, 8),
    lambda connection, stream: connection.credit(stream, 1),
    lambda connection, stream: connection.go_away(final=True),
    lambda connection, stream: connection.send_request(b"GET", b"http", b"a", b"/", (), stream > 3),
]


def start(talk: Callable[..., Talk], role: Role) -> Talk:
    peer = talk(role)
    if role is Role.CLIENT:
        peer.asked()
        peer.asked(end=True)
    return peer


@settings(max_examples=tries(200))
@given(role=st.sampled_from(Role), wire=WIRE, cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_any_octets_mean_the_same_however_cut(
    talk: Callable[..., Talk], merge: Merge, role: Role, wire: bytes, cuts: list[int]
) -> None:
    peer = start(talk, role)
    whole = merge(peer.say(wire))
    check_order(whole, role)
    other = start(talk, role)
    events, at = [], 0
    while at < len(wire):
        size = cuts[at % len(cuts)]
        events += other.say(wire[at : at + size])
        at += size
    assert merge(events) == whole
    assert other.heard() == peer.heard()


@settings(max_examples=tries(200))
@given(
    role=st.sampled_from(Role),
    steps=st.lists(st.tuples(GOOD, st.sampled_from(COMMANDS), STREAMS), max_size=15),
)
def test_commands_in_between_fail_only_for_mistakes_of_ours(
    talk: Callable[..., Talk], merge: Merge, role: Role, steps: list[tuple[bytes, Callable[[Any, int], object], int]]
) -> None:
    peer = start(talk, role)
    wire = peer.connection.take_output()
    events = []
    for said, command, stream in steps:
        events += peer.say(said)
        try:
            command(peer.connection, stream)
        except LocalProtocolError:
            pass
        wire += peer.connection.take_output()
    resets = [event.stream for event in events if isinstance(event, Reset)]
    assert len(resets) == len(set(resets))
    assert len([event for event in events if isinstance(event, Failed)]) <= 1
    # What was written can be read, up to the rules for order that the peer alone has broken.
    reader = start(talk, Role.SERVER if role is Role.CLIENT else Role.CLIENT)
    for event in reader.say(wire):
        assert not isinstance(event, Failed) or event.by_peer or event.code in (1, 5), event


def check_order(events: list[Event], role: Role) -> None:
    """Head, data, trailers; nothing after an end or a reset but a reset, and nothing at all after a failure."""
    states: dict[int, str] = {} if role is Role.SERVER else {1: "asked", 3: "asked"}
    for event in events:
        assert "failed" not in states.values()
        if isinstance(event, RequestHead | Rejected):
            assert event.stream not in states
            states[event.stream] = "ended" if isinstance(event, Rejected) or event.end else "body"
        elif isinstance(event, ResponseHead):
            assert states[event.stream] == "asked"
            if event.status >= 200:
                states[event.stream] = "ended" if event.end else "body"
        elif isinstance(event, Data):
            assert states[event.stream] == "body"
            assert event.data or event.end
            if event.end:
                states[event.stream] = "ended"
        elif isinstance(event, Trailers):
            assert states[event.stream] == "body"
            states[event.stream] = "ended"
        elif isinstance(event, Reset):
            assert states[event.stream] != "reset"
            states[event.stream] = "reset"
        elif isinstance(event, Failed):
            states[0] = "failed"
