"""What the judge says after a window, and why."""

from __future__ import annotations

from enum import Enum

import msgspec


class Outcome(Enum):
    """The value is the word in status, events and metrics."""

    PASS = "pass"  # noqa: S105  # not a password
    """Nothing speaks against the candidate, and there were enough calls to see it."""
    FAIL = "fail"
    """The candidate is worse: roll back."""
    INSUFFICIENT = "insufficient"
    """Too little is known, or the stable version is as bad: hold. Never rolls back."""


class Verdict(msgspec.Struct, frozen=True):
    """The outcome of one window."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    """Sentences for people; of FAIL what is worse and by how much, of INSUFFICIENT what is missing."""
