"""Bytes cut in many ways must mean the same: what every table of this folder is run through."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from meshproxy.codec.events import Data, Event
from meshproxy.codec.h1.connection import H1Connection

Cuts = Callable[[bytes], list[list[bytes]]]
Merge = Callable[[Iterable[Event]], list[Event]]
Agree = Callable[[Callable[[], H1Connection], bytes], list[Event]]


def _cuts(wire: bytes) -> list[list[bytes]]:
    sizes = (len(wire), 1, 2, 3, 7, 64) if len(wire) < 4_096 else (len(wire), 971, 4_099)
    ways = [[wire[i : i + size] for i in range(0, len(wire), size)] for size in sizes]
    # In two, at every place where a parser keeps something in mind: around the ends of lines.
    ends = [i for i in range(len(wire)) if wire[i] in b"\r\n:; "]
    ways += [[wire[:i], wire[i:]] for i in ends[:50]]
    return ways


def _merge(events: Iterable[Event]) -> list[Event]:
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, Data):
            assert event.flow == len(event.data)
            assert event.data or event.end
            if isinstance(last, Data) and last.stream == event.stream and not last.end:
                merged[-1] = Data(last.stream, last.data + event.data, last.flow + event.flow, event.end)
                continue
        merged.append(event)
    return merged


@pytest.fixture(scope="session")
def merge() -> Merge:
    """Joins pieces of bodies, which may be cut anywhere."""
    return _merge


@pytest.fixture(scope="session")
def agree() -> Agree:
    """Feeds the wire to fresh connections, cut in many ways; they must all say the same, and that is returned."""

    def run(make: Callable[[], H1Connection], wire: bytes) -> list[Event]:
        expected: list[Event] | None = None
        for pieces in _cuts(wire):
            connection = make()
            events = _merge([event for piece in pieces for event in connection.receive(piece)])
            if expected is None:
                expected = events
            assert events == expected, [piece[:40] for piece in pieces[:4]]
        assert expected is not None
        return expected

    return run
