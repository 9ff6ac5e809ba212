"""A connection under test and the raw frames that go in and out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import hpack
import pytest

from meshproxy.codec.events import Data, Event, Failed
from meshproxy.codec.h2 import frames
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Fields = Iterable[tuple[bytes, bytes]]


class Frame(NamedTuple):
    """A frame that the connection wrote."""

    kind: str
    flags: int
    stream: int
    payload: bytes


def split(output: bytes) -> list[Frame]:
    """Take written frames apart, the client's preface left out. Independent of `frames.FRAME_HEADER`."""
    output = output.removeprefix(frames.PREFACE)
    found = []
    while output:
        length = int.from_bytes(output[:3], "big")
        stream = int.from_bytes(output[5:9], "big")
        assert len(output) >= 9 + length, "an unfinished frame was written"
        found.append(Frame(frames.NAMES[output[3]], output[4], stream, output[9 : 9 + length]))
        output = output[9 + length :]
    return found


def _merge(events: Iterable[Event]) -> list[Event]:
    """Join the pieces of bodies, which may be cut anywhere."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, Data) and isinstance(last, Data) and last.stream == event.stream and not last.end:
            merged[-1] = Data(last.stream, last.data + event.data, last.flow + event.flow, event.end)
        else:
            merged.append(event)
    return merged


class Talk:
    """One connection under test; the peer is the test, speaking frames."""

    GET: Fields = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"))
    POST: Fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a"))
    OK: Fields = ((b":status", b"200"),)

    def __init__(
        self,
        role: Role = Role.SERVER,
        limits: Limits | None = None,
        *,
        settings: list[tuple[int, int]] | None = None,
        starts: bool = True,
    ) -> None:
        self.limits = limits or Limits()
        self.connection = H2Connection(role, self.limits, 0.0)
        self.now = 0.0
        self.encoder = hpack.Encoder()
        if starts:
            preface = frames.PREFACE if role is Role.SERVER else b""
            assert self.say(preface, frames.settings(settings or []), frames.SETTINGS_ACK) == []
            self.connection.take_output()

    def say(self, *wire: bytes) -> list[Event]:
        """The peer writes. However much it is, all of it is processed."""
        events = self.connection.receive(b"".join(wire), self.now)
        while self.connection.has_more:
            events += self.connection.receive(b"", self.now)
        return events

    def heard(self) -> list[Frame]:
        """What the peer reads."""
        return split(self.connection.take_output())

    def block(self, fields: Fields) -> bytes:
        """A header block as an encoder with a dynamic table and Huffman codes writes it."""
        return self.encoder.encode(list(fields))

    def head(self, stream: int, fields: Fields, *, end: bool = False) -> bytes:
        """HEADERS in one frame."""
        return frames.frame(frames.HEADERS, 0x4 | end, stream, self.block(fields))

    @staticmethod
    def data(stream: int, data: bytes, *, end: bool = False) -> bytes:
        """DATA in one frame."""
        return frames.frame(frames.DATA, int(end), stream, data)

    def opened(self, stream: int = 1, *, end: bool = False, fields: Fields = POST) -> int:
        """The peer has opened a stream (server)."""
        assert len(self.say(self.head(stream, fields, end=end))) == 1
        return stream

    def asked(self, method: bytes = b"POST", *, end: bool = False, length: int | None = None) -> int:
        """We have opened a stream (client)."""
        stream = self.connection.send_request(method, b"http", b"a", b"/", (), end, length)
        self.connection.take_output()
        return stream


ThreeWays = Callable[[Callable[[], Talk], Callable[[Talk], bytes]], tuple[list[Event], list[Frame]]]


def _three_ways(make: Callable[[], Talk], script: Callable[[Talk], bytes]) -> tuple[list[Event], list[Frame]]:
    """Feed a script to fresh connections: whole, byte by byte, in pieces, with the start of another frame behind it,
    and with a PING behind it. All must mean the same; returns what."""
    talk = make()
    whole = _merge(talk.say(script(talk))), talk.heard()
    for size in (1, 7, 1_000):
        talk = make()
        wire = script(talk)
        events = [event for at in range(0, len(wire), size) for event in talk.say(wire[at : at + size])]
        assert (_merge(events), talk.heard()) == whole, size
    talk = make()
    events = talk.say(script(talk), b"\0\0\x08\x06\0")
    assert (_merge(events), talk.heard()) == whole
    talk = make()
    events = talk.say(script(talk), frames.ping(b"trailing", ack=False))
    assert _merge(events) == whole[0]
    has_failed = any(isinstance(event, Failed) for event in events)
    assert talk.heard() == whole[1] + ([] if has_failed else [Frame("PING", 1, 0, b"trailing")])
    return whole


@pytest.fixture(scope="session")
def talk() -> type[Talk]:
    """Makes a connection under test."""
    return Talk


@pytest.fixture(scope="session")
def merge() -> Callable[[Iterable[Event]], list[Event]]:
    """Joins the pieces of bodies."""
    return _merge


@pytest.fixture(scope="session")
def three_ways() -> ThreeWays:
    """Runs a script however it is cut."""
    return _three_ways
