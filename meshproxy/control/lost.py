"""The sidecars that were connected, did not say that they stop, and have not come again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshproxy.control.status import SidecarEntry

KEPT = 10_000
"""Sidecars; about 1 KB each."""
LEAST_SECONDS = 3_600.0
"""How long one is shown at least: its certificate may have expired because it was not renewed."""

Key = tuple[str, str, str]
"""Of a sidecar: SPIFFE id, name of its document, host."""


@dataclass(frozen=True, slots=True)
class Lost:
    """One of them.

    Attributes:
        until: when it is forgotten, in seconds since the epoch.
    """

    entry: SidecarEntry
    until: float


class LostSidecars:
    """Which sidecars are gone, each known until its certificate has expired.

    Attributes:
        forgotten: how many were dropped before that, because there were too many.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._streams: Counter[Key] = Counter()
        """A sidecar that has lost its connection may come again before that is noticed here."""
        self._lost: OrderedDict[Key, Lost] = OrderedDict()
        self.forgotten = 0

    def connected(self, key: Key) -> None:
        """It is there, or there again."""
        self._streams[key] += 1
        self._lost.pop(key, None)

    def stopped(self, key: Key) -> None:
        """Its stream has ended, as it said."""
        self._streams[key] -= 1
        if not self._streams[key]:
            del self._streams[key]

    def lost(self, key: Key, entry: SidecarEntry, now: float) -> None:
        """Its stream has ended, and it did not say why. Times are in seconds since the epoch."""
        self.stopped(key)
        if key in self._streams:
            return
        self._lost[key] = Lost(entry, max(entry.certificate_expires.timestamp(), now + LEAST_SECONDS))
        if len(self._lost) > self._kept:
            self._lost.popitem(last=False)
            self.forgotten += 1

    def entries(self, now: float) -> Iterator[SidecarEntry]:
        """Those that are gone at this time, the longest first."""
        for key, lost in list(self._lost.items()):
            if lost.until <= now:
                del self._lost[key]
            else:
                yield lost.entry

    def count(self, now: float) -> int:
        """How many are gone."""
        return sum(1 for _ in self.entries(now))
