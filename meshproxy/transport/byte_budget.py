"""Bytes that all requests of a port buffer together for one purpose.

Over the limit it is the request that has buffered longest that loses its buffer, not the newest: otherwise a few
clients that never read, or never name their model, would cause the refusal of all others.
"""

from __future__ import annotations

from typing import Protocol


class Evictable(Protocol):
    """An owner of buffered bytes."""

    def evicted(self) -> None:
        """Drop what is buffered, and end the request it belongs to; the budget has already released it."""


class ByteBudget:
    """Who holds how many bytes, oldest holder first. The limit is an argument: a reload may change it."""

    __slots__ = ("_held", "total")

    def __init__(self) -> None:
        self.total = 0
        """Bytes held by all holders."""
        self._held: dict[Evictable, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, holder: Evictable, size: int, limit: int) -> None:
        """`holder` buffers `size` bytes more. While that makes more than `limit`, the oldest holder is evicted, perhaps
        `holder` itself."""
        self._held[holder] = self._held.get(holder, 0) + size
        self.total += size
        while self.total > limit and self._held:
            oldest = next(iter(self._held))
            self.release(oldest)
            oldest.evicted()

    def release(self, holder: Evictable) -> None:
        """`holder` buffers nothing any more. Does nothing if it did not."""
        self.total -= self._held.pop(holder, 0)
