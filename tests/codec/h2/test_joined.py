"""Messages that are read in one step leave the same behind as those whose frames are read one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Event, Headers, RequestHead, WholeRequest, WholeResponse
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from tests.proxy.express.call_rig import IndexingEncoder, plain, split_frames
from tests.thorough import tries

GRPC: Headers = ((b"content-type", b"application/grpc"),)
OK: Headers = ((b"grpc-status", b"0"),)


def apart(events: list[Event]) -> list[object]:
    found: list[object] = []
    for event in events:
        if isinstance(event, WholeRequest):
            stream = event.head.stream
            found += [event.head, (stream, event.data, event.flow, True)]
        elif isinstance(event, WholeResponse):
            head, _, trailers = event.apart()
            found += [head, (event.stream, event.data, event.flow, False), trailers]
        elif type(event).__name__ == "Data":
            found.append((event.stream, event.data, event.flow, event.end))  # type: ignore[union-attr]
        else:
            found.append(event)
    return found


def whole(events: list[Event]) -> int:
    return sum(isinstance(event, WholeRequest | WholeResponse) for event in events)


class Both:
    """Two connections that receive the same: one reads whole messages in one step."""

    def __init__(self, role: Role, limits: Limits | None = None, peer_limits: Limits | None = None) -> None:
        self.peer = H2Connection(Role.CLIENT if role is Role.SERVER else Role.SERVER, peer_limits or Limits(), 0.0)
        self.joining, self.usual = (H2Connection(role, limits or Limits(), 0.0) for _ in range(2))
        self.joining.joins = True
        self.receive(self.peer.take_output())
        self.settle()

    def settle(self) -> None:
        for each in (self.joining, self.usual):
            said = each.take_output()
        if said:
            self.peer.receive(said, 0.0)
            self.receive(self.peer.take_output())

    def receive(self, data: bytes) -> list[Event]:
        """Both; what the one reads that joins."""
        read = self.joining.receive(data, 1.0)
        assert apart(read) == apart(self.usual.receive(data, 1.0))
        told = [plain(each) for each in (self.joining, self.usual)]
        assert told[0] == told[1]
        streams = [[plain(stream) for stream in each._streams.values()] for each in (self.joining, self.usual)]
        assert streams[0] == streams[1]
        assert self.joining.frames_received == self.usual.frames_received
        assert self.joining.out == self.usual.out
        assert vars_of(self.joining) == vars_of(self.usual)
        return read

    def call(self, number: int, body: bytes = b"body", headers: Headers = GRPC, length: int | None = None) -> bytes:
        fields = (*headers, (b"x-request-id", b"%d" % number))
        stream = self.peer.send_request(b"POST", b"https", b"a", b"/x", fields, False, length)
        self.peer.send_data(stream, body, end=True)
        return self.peer.take_output()

    def ask(self) -> int:
        """Both send the same request."""
        stream = 0
        for each in (self.joining, self.usual):
            stream = each.send_request(b"POST", b"https", b"a", b"/x", GRPC, False)
            each.send_data(stream, b"body", end=True)
        self.settle()
        return stream

    def reply(self, stream: int, body: bytes = b"answer", head: Headers = GRPC, length: int | None = None) -> bytes:
        self.peer.send_response(stream, 200, head, False, length)
        self.peer.send_data(stream, body, False)
        self.peer.send_trailers(stream, OK)
        return self.peer.take_output()


def vars_of(codec: H2Connection) -> dict[str, object]:
    return {**plain(codec._history), **plain(codec.statistics), **plain(codec._control_budget)}


def test_a_request_that_repeats_another_is_one_event() -> None:
    both = Both(Role.SERVER)
    for number in range(3):
        both.receive(both.call(number))
    read = both.receive(both.call(7, b"xyz"))
    assert whole(read) == len(read) == 1
    (request,) = read
    assert isinstance(request, WholeRequest)
    assert (request.data, request.flow, request.head.headers[-1]) == (b"xyz", 3, (b"x-request-id", b"7"))
    read = both.receive(b"".join(both.call(number) for number in range(8, 12)))
    assert whole(read) == len(read) == 4


def test_a_request_of_a_length_is_one_event_if_the_body_has_it() -> None:
    both = Both(Role.SERVER, Limits(body_bytes=10))
    for number in range(3):
        both.receive(both.call(number, length=4))
    assert whole(both.receive(both.call(4, length=4))) == 1
    head, data = split_frames(both.call(5, length=4))
    assert whole(both.receive(head + frames.frame(frames.DATA, 1, 9, data[9:] + b"z"))) == 0


def test_a_response_to_a_request_is_one_event() -> None:
    both = Both(Role.CLIENT)
    for _ in range(2):
        both.receive(both.reply(both.ask()))
    read = both.receive(both.reply(both.ask(), b"xyz"))
    assert whole(read) == len(read) == 1
    streams = [both.ask() for _ in range(4)]
    read = both.receive(b"".join(both.reply(stream) for stream in reversed(streams)))
    assert whole(read) == len(read) == 4
    assert both.joining.is_idle


class Shut:
    """A gate that admits nothing."""

    is_shedding = True
    responses: tuple[Headers, Headers] = ((b"grpc-status", b"8"),), ((b"retry-after", b"1"),)

    def admits(self, client: object) -> bool:
        return False

    def refusal(self, headers: Headers) -> tuple[int, Headers]:
        return (200, self.responses[0]) if headers[:1] == GRPC else (503, self.responses[1])


@pytest.mark.parametrize(("headers", "status"), [(GRPC, 200), (((b"content-type", b"text/plain"),), 503), ((), 503)])
def test_a_request_that_is_not_admitted_is_answered_and_no_event(headers: Headers, status: int) -> None:
    both = Both(Role.SERVER)
    for number in range(3):
        both.receive(both.call(number, headers=headers))
    both.joining.gate = Shut()
    data = b"".join(both.call(number, headers=headers) for number in range(3, 6))
    assert both.joining.receive(data, 1.0) == []
    for event in both.usual.receive(data, 1.0):
        if isinstance(event, RequestHead):
            both.usual.refuse(event.stream, status, Shut.responses[status == 503])
        else:
            both.usual.credit(event.stream, event.flow)  # type: ignore[union-attr]
    assert plain(both.joining) == plain(both.usual)
    assert vars_of(both.joining) == vars_of(both.usual)
    assert b"".join(both.joining.out) == b"".join(both.usual.out)
    heads = both.peer.receive(both.joining.take_output(), 1.0)
    assert [(head.status, head.end) for head in heads] == [(status, True)] * 3  # type: ignore[union-attr]
    both.usual.take_output()
    Shut.is_shedding, before = False, Shut.is_shedding
    try:
        assert whole(both.receive(both.call(7, headers=headers))) == 1
    finally:
        Shut.is_shedding = before


def test_what_is_refused_is_credited() -> None:
    """A connection that is refused a lot can go on."""
    both = Both(Role.SERVER, Limits(connection_window=65_535))
    for number in range(3):
        both.receive(both.call(number))
    both.joining.gate = Shut()
    for number in range(60):
        both.joining.receive(both.call(number, bytes(2_000)), 1.0)
        both.peer.receive(both.joining.take_output(), 1.0)
    assert not both.joining.is_closed


def padded(frame: bytes) -> bytes:
    payload = b"\x03" + frame[9:] + b"\0" * 3
    return len(payload).to_bytes(3, "big") + frame[3:4] + bytes((frame[4] | 8,)) + frame[5:9] + payload


def flags(octet: int) -> Any:
    return lambda frame: frame[:4] + bytes((octet,)) + frame[5:]


def stream(number: int) -> Any:
    return lambda frame: frame[:5] + number.to_bytes(4, "big") + frame[9:]


CHANGES: list[Any] = [
    padded,
    flags(0),
    flags(1),
    flags(4),
    flags(5),
    flags(0x24),
    stream(0),
    stream(1),
    stream(2),
    stream(9),
    stream(0x8000_0007),
    lambda frame: b"",
    lambda frame: frame + frame,
    lambda frame: frame + frames.ping(b"12345678", ack=False),
    lambda frame: b"\0\0\0" + frame[3:9],
    lambda frame: frame[:-1],
    lambda frame: frame[:3] + b"\x03" + frame[4:],
]


@settings(max_examples=tries(60))
@given(
    st.lists(
        st.tuples(
            st.binary(max_size=40) | st.just(b"x" * 5_000),
            st.none() | st.just(4),
            st.none() | st.tuples(st.integers(0, 2), st.sampled_from(CHANGES)),
            st.none() | st.integers(1, 100),
        ),
        max_size=6,
    ),
    st.booleans(),
    st.sampled_from([{}, {"body_bytes": 30}, {"streams": 3}, {"stream_window": 20}, {"header_bytes": 400}]),
)
@pytest.mark.parametrize("role", [Role.SERVER, Role.CLIENT])
def test_the_same_is_left_behind(role: Role, messages: list[Any], indexes: bool, limits: dict[str, Any]) -> None:
    """Whatever comes: other frames, in pieces, beyond limits, and violations."""
    both = Both(role, Limits(**limits))
    if indexes:
        both.peer._encoder = IndexingEncoder()
    for number, (body, length, change, cut) in enumerate(messages):
        if both.peer.is_closed or both.joining.is_closed:
            return
        if role is Role.SERVER:
            if not both.peer.can_open:
                return
            length = length if length == len(body) else None
            data = both.call(number, body, length=length)
        else:
            if not both.joining.can_open:
                return
            asked = both.ask()
            if asked not in both.peer._streams:
                return
            data = both.reply(asked, body, length=length if length == len(body) else None)
        parts = split_frames(data)
        if change is not None:
            at, how = change
            at %= len(parts)
            parts[at] = how(parts[at])
        data = b"".join(parts)
        for piece in (data,) if cut is None else (data[:cut], data[cut:]):
            for event in both.receive(piece):
                head = event.head if isinstance(event, WholeRequest) else event
                if isinstance(head, RequestHead) and number % 2:
                    for each in (both.joining, both.usual):
                        each.send_response(head.stream, 200, GRPC, end=True)
                        each.take_output()
