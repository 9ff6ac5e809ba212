"""The last hour of the mesh, in bounded memory.

Reports are added to two rows of slots: fine ones for what is now, and coarse ones for the hour, to which a fine one is
added when it is over: what many replicas have reported of one edge is one sum by then. The last slot of each row is
open; those before it are sealed: each of their cells is the MessagePack of its tally, about 200 bytes instead of 4 KB.

What exceeds `MOST_EDGES` or `SLOT_BYTES` in one slot, or the share of one reporter, is added to one edge whose names
are `_other`. What exceeds `MOST_CELLS` or `MOST_BYTES` in all lets go of the oldest coarse slot, so the ring is shorter
than an hour then, and `Window.seconds` says so. Both are counted. Together they bound the ring at about 220 MB,
whatever is reported: names and latencies, in open slots and in sealed ones.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from meshproxy.telemetry.metrics import OTHER
from meshproxy.view.tallies import Edge, Tally, new_tally

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from meshproxy.control_api import ReportedCalls

FINE_SECONDS, FINE_SLOTS = 5, 36
COARSE_SECONDS, COARSE_SLOTS = 300, 13
"""Three minutes in steps of five seconds, and the hour in steps of five minutes, of which the last has only begun."""
MOST_EDGES = 10_000
"""Of one slot."""
MOST_CELLS = 200_000
"""Sealed, of all slots."""

MOST_BYTES = 128 << 20
"""Of edges and tallies in all of these."""
SLOT_BYTES = 48 << 20
"""Of edges and tallies in one slot: half as much again as 10,000 edges of usual names and latencies take while it is
open."""
REPORTER_BYTES = 8 << 20
"""Of those that one identity has reported: nobody fills a slot alone."""

FOLDED, FORGOTTEN, TOO_OLD, NO_SERVER = "folded", "forgotten", "too-old", "no-server"
"""What is counted in `Ring.dropped`, in calls: added to `_other`, let go of before its hour was over, and reported when
its hour was over, and inbound calls by a workload that is no model server."""


class Window(NamedTuple):
    """What a stretch of time comes to.

    Attributes:
        seconds: how long it is: a little more than was asked for, or less if the ring does not reach so far back.
        tallies: by edge.
    """

    seconds: float
    tallies: dict[Edge, Tally]


class _Slots:
    """Slots of one width."""

    def __init__(self, width: int, most: int) -> None:
        self.width = width
        self.most = most
        self.open: dict[Edge, Tally] = {}
        self.number = -1
        """Of the open slot: its beginning, divided by the width."""
        self.sealed: dict[int, dict[Edge, bytes]] = {}
        """By number, ascending."""
        self.bytes: Counter[int] = Counter()
        """Of edges and tallies, by the number of the slot: those of the open one as they are in tables, of sealed ones
        as MessagePack."""
        self._bytes_of: Counter[str] = Counter()
        """In the open slot, by reporter."""

    def advance(self, now: float) -> None:
        """Seal the open slot if its time is over, and let go of those that are too old."""
        number = int(now // self.width)
        if number <= self.number:
            return
        if self.open:
            cells = self.sealed[self.number] = {
                edge: msgspec.msgpack.encode(tally) for edge, tally in self.open.items()
            }
            self.bytes[self.number] = sum(edge.size + len(cell) for edge, cell in cells.items())
        self.open, self.number = {}, number
        self._bytes_of.clear()
        for old in [each for each in self.sealed if each <= number - self.most]:
            self.forget(old)

    def forget(self, number: int) -> dict[Edge, bytes]:
        """Let go of a sealed slot."""
        del self.bytes[number]
        return self.sealed.pop(number)

    def add(self, edge: Edge, calls: Tally | ReportedCalls, at: float) -> bool:
        """Add to the slot of that time. Returns whether there was no room for the edge in it."""
        number = int(at // self.width)
        if number < self.number:
            return self._add_sealed(edge, calls, number)
        reporter = edge.reporter
        is_folded = self._is_full(self.open, edge, number) or self._bytes_of[reporter] >= REPORTER_BYTES
        if is_folded:
            edge = edge.folded()
        tally = self.open.get(edge)
        grown = 0
        if tally is None:
            tally = self.open[edge] = new_tally()
            grown = edge.size
        grown += tally.add(calls)
        self.bytes[number] += grown
        self._bytes_of[reporter] += grown
        return is_folded

    def _is_full(self, cells: Collection[Edge], edge: Edge, number: int) -> bool:
        return self.bytes[number] >= SLOT_BYTES or (len(cells) >= MOST_EDGES and edge not in cells)

    def _add_sealed(self, edge: Edge, calls: Tally | ReportedCalls, number: int) -> bool:
        if number not in self.sealed:
            self.sealed[number] = {}
            self.sealed = dict(sorted(self.sealed.items()))
        cells = self.sealed[number]
        is_folded = self._is_full(cells, edge, number)
        if is_folded:
            edge = edge.folded()
        before = cells.get(edge)
        tally = _unseal(before) if before is not None else new_tally()
        tally.add(calls)
        cells[edge] = msgspec.msgpack.encode(tally)
        self.bytes[number] += len(cells[edge]) + (edge.size if before is None else -len(before))
        return is_folded

    @property
    def cells(self) -> int:
        """That are sealed."""
        return sum(map(len, self.sealed.values()))

    def since(self, first: int) -> Iterator[tuple[Edge, Tally]]:
        """The cells of the slots from a number on."""
        for number, cells in self.sealed.items():
            if number >= first:
                for edge, cell in cells.items():
                    yield edge, _unseal(cell)
        if self.number >= first:
            yield from self.open.items()


class Ring:
    """The ring. Times are seconds of one clock. If that is set back by more than a coarse slot, the ring begins anew.

    Attributes:
        dropped: calls, by what has become of them.
    """

    def __init__(self) -> None:
        self.fine, self._coarse = _Slots(FINE_SECONDS, FINE_SLOTS), _Slots(COARSE_SECONDS, COARSE_SLOTS)
        self._began: float | None = None
        """Of what the ring knows nothing before."""
        self.dropped: Counter[str] = Counter()

    def add(self, reporter: str, calls: ReportedCalls, began: float, ended: float, now: float) -> None:
        """Add one row of a report.

        Args:
            reporter: the SPIFFE id of the sidecar.
            calls: the row.
            began: of the time that it counts.
            ended: of that time; a row belongs to the slot in which its time ended.
            now: the time.
        """
        edge = Edge.of(reporter, calls)
        self.advance(now)
        ended = min(ended, now)
        if ended // COARSE_SECONDS <= now // COARSE_SECONDS - COARSE_SLOTS:
            self.dropped[TOO_OLD] += sum(calls.codes.values())
            return
        self._began = min(began, ended) if self._began is None else self._began
        if ended // FINE_SECONDS == self.fine.number:
            is_folded = self.fine.add(edge, calls, ended)
        else:  # it comes late
            is_folded = self._coarse.add(edge, calls, ended)
            if ended // FINE_SECONDS > now // FINE_SECONDS - FINE_SLOTS:
                self.fine.add(edge, calls, ended)
        if is_folded:
            self.dropped[FOLDED] += sum(calls.codes.values())

    def advance(self, now: float) -> None:
        """Seal what is over, and let go of what exceeds the bounds."""
        if now // COARSE_SECONDS < self._coarse.number - 1:
            # The clock was set back: the slots are of a time that is yet to come.
            lost = chain(self._coarse.since(0), self.fine.open.items())
            self.dropped[FORGOTTEN] += sum(tally.calls for _, tally in lost)
            self.fine, self._coarse = _Slots(FINE_SECONDS, FINE_SLOTS), _Slots(COARSE_SECONDS, COARSE_SLOTS)
            self._began = None
        if now // FINE_SECONDS == self.fine.number:
            return
        if now // FINE_SECONDS > self.fine.number:
            self._seal_fine()
        self.fine.advance(now)
        self._coarse.advance(now)
        while self._coarse.sealed and (self.cells > MOST_CELLS or self._bytes > MOST_BYTES):
            oldest = next(iter(self._coarse.sealed))
            cells = self._coarse.forget(oldest)
            self.dropped[FORGOTTEN] += sum(_unseal(cell).calls for cell in cells.values())
            self._began = max(self._began or 0.0, (oldest + 1) * COARSE_SECONDS)
        while self.fine.sealed and self._bytes > MOST_BYTES:
            self.fine.forget(next(iter(self.fine.sealed)))  # its calls are in the coarse slots, or counted

    def _seal_fine(self) -> None:
        """The open fine slot is over: add it to the coarse one that it is in, which is open yet."""
        at = self.fine.number * FINE_SECONDS
        for edge, tally in self.fine.open.items():
            if self._coarse.add(edge, tally, at) and edge.reporter != OTHER:
                self.dropped[FOLDED] += tally.calls

    @property
    def cells(self) -> int:
        """That are sealed."""
        return self.fine.cells + self._coarse.cells

    @property
    def _bytes(self) -> int:
        return self.fine.bytes.total() + self._coarse.bytes.total()

    def window(self, seconds: float, now: float) -> Window:
        """The sums of the last seconds, rounded up to whole slots: of five seconds up to three minutes, of five minutes
        beyond."""
        self.advance(now)
        slots = self.fine if seconds <= FINE_SECONDS * (FINE_SLOTS - 1) else self._coarse
        first = max(int((now - seconds) // slots.width), int(now // slots.width) - slots.most + 1)
        found: dict[Edge, Tally] = {}
        open_ = self.fine.open.items() if slots is self._coarse else ()
        for edge, tally in chain(slots.since(first), open_):
            if edge not in found:
                found[edge] = new_tally()
            found[edge].add(tally)
        since = max(first * slots.width, self._began if self._began is not None else now)
        return Window(max(now - since, 0.0), found)


def _unseal(cell: bytes) -> Tally:
    return msgspec.msgpack.decode(cell, type=Tally)
