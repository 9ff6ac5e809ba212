"""Whether a client gives up its requests before they are answered, of one connection."""

from __future__ import annotations

GIVEN_UP_SHARE = 0.1
WINDOW = 2.0
"""Seconds over which it is judged."""
ENOUGH = 50
"""Requests after which a window is judged before its end. One reset among ten, with which the first window begins, says
nothing of a client that sends thousands: who is judged impatient is shed until the end of the overload."""


class Patience:
    """Counts in windows of `WINDOW` seconds. A client is impatient if it reset `GIVEN_UP_SHARE` of its requests in the
    last whole one, or so far in this one, if these are `ENOUGH`.

    Attributes:
        shed_in: belongs to who sheds its requests: since which overload.
    """

    __slots__ = ("_first", "_given_up", "_since", "_was_short", "shed_in")

    def __init__(self, requests: int, now: float) -> None:
        """
        Args:
            requests: how many it has sent so far.
        """
        self.shed_in = 0
        self._was_short = False
        self._begin(requests, now)

    def _begin(self, requests: int, now: float) -> None:
        self._since = now
        self._first = requests
        self._given_up = 0

    def gave_up(self, count: int, requests: int, now: float) -> None:
        """It has reset so many requests, of all that it has sent so far."""
        self._look(requests, now)
        self._given_up += count

    def is_short(self, requests: int, now: float) -> bool:
        """Whether it is impatient. `requests`: all that it has sent so far."""
        self._look(requests, now)
        return self._was_short or (requests - self._first >= ENOUGH and self._gives_up(requests))

    def _look(self, requests: int, now: float) -> None:
        passed = now - self._since
        if passed >= WINDOW:
            self._was_short = passed < 2 * WINDOW and self._gives_up(requests)
            self._begin(requests, now)

    def _gives_up(self, requests: int) -> bool:
        return 0 < self._given_up >= GIVEN_UP_SHARE * (requests - self._first)
