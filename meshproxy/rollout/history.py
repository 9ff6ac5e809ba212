"""What the readings of a week were like, by quarter of an hour. For `drift`.

A ring: each place says of which quarter of an hour it is, so what is older than a week is overwritten, and gaps are
none of its business. Pure.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableSequence

SLOTS = 7 * 96 + 8
"""A week, and what is around the same time of the week before."""
NEIGHBOURS = 3
"""Slots before and after that are the same time of another day: 45 minutes."""

NEVER = -(2**62)


class History:
    """Of one signal.

    Args:
        slot: seconds of a quarter of an hour; another length makes another week of it.
        has_numbers: whether cells are numbers, not rows of them.
    """

    __slots__ = ("_cells", "_slot", "_stamps")

    def __init__(self, slot: float, *, has_numbers: bool) -> None:
        self._slot = slot
        self._stamps = array("q", [NEVER]) * SLOTS
        self._cells: MutableSequence[Any] = array("f", [0.0]) * SLOTS if has_numbers else [None] * SLOTS

    def add(self, now: float, cell: Any) -> None:
        """A reading has ended. Of several in one slot, a later one counts as much as those before it together."""
        slot = int(now // self._slot)
        place = slot % SLOTS
        if self._stamps[place] == slot:
            before = self._cells[place]
            if isinstance(before, float):
                cell = (before + cell) / 2
            else:
                cell = array("f", [(one + other) / 2 for one, other in zip(before, cell, strict=True)])
        self._stamps[place] = slot
        self._cells[place] = cell

    def around(self, then: float) -> list[Any]:
        """The cells of the slots around that time of which there are any."""
        middle = int(then // self._slot)
        slots = range(middle - NEIGHBOURS, middle + NEIGHBOURS + 1)
        return [self._cells[slot % SLOTS] for slot in slots if self._stamps[slot % SLOTS] == slot]
