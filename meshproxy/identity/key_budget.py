"""Which tokens may cause a fetch of their issuer's keys out of turn.

A token that names an unknown key may be the first after a rotation, or a stranger's. One fetch answers for all keys, so
what counts is how often one is made: a token bucket bounds it. Strangers must not empty the bucket for everyone else:

- A key that was looked for in vain is remembered, and cannot ask again for a while, each time twice as long.
- The last part of the bucket is a reserve for keys that were named before and not looked for since. After a rotation
  every caller names the same key; strangers name another one each time.
- A signature that does not fit a known key (an issuer may replace a key under its `kid`) has a bucket of its own: the
  ids of keys are public, and made-up keys must not use up what such a change needs.

Pure: times are seconds since the epoch.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TypeVar

import msgspec

T = TypeVar("T")

CAPACITY = 6
"""Fetches that may follow each other at once."""
RESERVE = 2
"""Of these, for keys that were named before."""
SIGNATURES = 2
"""Fetches that may follow each other at once because of signatures."""
REFILL = 10.0
"""Seconds after which one more fetch of each kind may be made."""
IN_VAIN = (2.0, 60.0)
"""Seconds for which a key that was looked for in vain may not ask again: the first time, and at most."""
KEYS_REMEMBERED = 256


class Ask(Enum):
    """What to do about a token whose key is unknown, or whose signature does not fit the key."""

    WAIT = "wait for a fetch: one is in progress, or may be made now"
    LATER = "a fetch is due, but not now"
    NEVER = "the key was looked for in vain"


class Wanted(msgspec.Struct, frozen=True):
    """What a token asks for."""

    kid: str | None
    is_known: bool = False
    """The key is known, but the signature is not of it."""


class _Bucket:
    """Tokens of which one more comes every `REFILL` seconds."""

    __slots__ = ("_capacity", "_refilled_at", "level")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._refilled_at: float | None = None
        self.level = float(capacity)

    def take(self, now: float, least: int = 0) -> bool:
        """Take one if `least` are left then."""
        self.refill(now)
        if self.level < least + 1:
            return False
        self.level -= 1
        return True

    def refill(self, now: float) -> None:
        if self._refilled_at is not None:  # a clock that is set back refills nothing
            self.level = min(self._capacity, self.level + max(0.0, now - self._refilled_at) / REFILL)
        self._refilled_at = now


class KeyBudget:
    """The budget of one issuer."""

    __slots__ = ("_in_vain", "_is_granted", "_looked_for", "_most", "_named", "_signatures", "_unknown")

    def __init__(self, most: int = KEYS_REMEMBERED) -> None:
        """
        Args:
            most: keys that one fetch looks for; the others wait for the next.
        """
        self._most = most
        self._unknown = _Bucket(CAPACITY)
        self._signatures = _Bucket(SIGNATURES)
        self._is_granted = False
        """A fetch was allowed and has not begun: more tokens may wait for it."""
        self._named: dict[Wanted, None] = {}
        """Asked for and not looked for since; the oldest first."""
        self._looked_for: dict[Wanted, None] = {}
        """By the fetch in progress."""
        self._in_vain: dict[Wanted, tuple[float, float]] = {}
        """When it was looked for, and how long it may not ask again."""

    def ask(self, wanted: Wanted, now: float, *, is_fetching: bool, is_failing: bool) -> Ask:
        """Whether a token should wait for a fetch. If so, and none is in progress, it is to begin.

        Args:
            is_fetching: a fetch is in progress.
            is_failing: the last one failed; the next follows by itself.
        """
        looked_at, wait = self._in_vain.get(wanted, (0.0, 0.0))
        if abs(now - looked_at) < wait:
            return Ask.NEVER
        if is_failing:
            if wanted.is_known:
                return Ask.NEVER
            _remember(self._named, wanted)  # what fails may be another key's fetch alone
            return Ask.LATER
        if is_fetching:
            # A new key may be missing in an answer that was on its way already: such a token asks again afterwards.
            _remember(self._looked_for if wanted.is_known else self._named, wanted)
            return Ask.WAIT
        may_use_reserve = wanted in self._named and not wait
        _remember(self._named, wanted)
        if self._is_granted:
            return Ask.WAIT
        if wanted.is_known:
            self._is_granted = self._signatures.take(now)
            return Ask.WAIT if self._is_granted else Ask.NEVER
        self._is_granted = self._unknown.take(now, 0 if may_use_reserve else RESERVE)
        return Ask.WAIT if self._is_granted else Ask.LATER

    @property
    def looked_for(self) -> tuple[str | None, ...]:
        """The keys that the fetch in progress looks for; the oldest first."""
        return tuple(wanted.kid for wanted in self._looked_for)

    def begin(self) -> None:
        """A fetch begins, in turn or because a token asked."""
        self._is_granted = False
        named = tuple(self._named)
        self._looked_for, self._named = dict.fromkeys(named[: self._most]), dict.fromkeys(named[self._most :])

    def end(self, now: float, *, is_success: bool) -> None:
        """The fetch has ended."""
        looked_for, self._looked_for = self._looked_for, {}
        if not is_success:
            self._named = _bounded({**self._named, **looked_for})  # those not looked for yet go first
            return
        for wanted in looked_for:
            _, wait = self._in_vain.pop(wanted, (0.0, 0.0))
            self._in_vain[wanted] = now, min(max(IN_VAIN[0], 2 * wait), IN_VAIN[1])
        _bounded(self._in_vain)

    def wait(self, now: float) -> int:
        """Seconds after which a token that was told `LATER` may ask again."""
        self._unknown.refill(now)
        return max(1, math.ceil((1 - self._unknown.level) * REFILL))


def _remember(those: dict[Wanted, None], wanted: Wanted) -> None:
    those[wanted] = None
    _bounded(those)


def _bounded(those: dict[Wanted, T]) -> dict[Wanted, T]:
    """Forget the oldest."""
    while len(those) > KEYS_REMEMBERED:
        del those[next(iter(those))]
    return those
