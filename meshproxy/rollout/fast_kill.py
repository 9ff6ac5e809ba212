"""A burst of failures of the candidate, seen call by call in the sidecar: it goes back to the stable version at once,
without asking anybody.

A CUSUM of the likelihood ratio (Page, 1954): is the candidate's share of failures half of the calls, or what may be? A
failure adds, a success takes away, and below zero it begins anew. What may be is five times the stable version's own
share, and at least 5 %: where the server or the network fails both arms, the stable version's share rises with the
candidate's, and nothing is killed. Pure, no clock; 0.3 us a call.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshproxy.rollout.analysis import FastKillSettings

BURST = 0.5
"""The share of failures of a burst."""
MEMORY = 1 / 50
"""What a call of the stable version changes of its share: the last fifty or so count."""


class FastKill:
    """Watches one rollout in one sidecar.

    Args:
        settings: when it trips.
    """

    __slots__ = ("_evidence", "_settings", "_stable_share", "tripped")

    def __init__(self, settings: FastKillSettings) -> None:
        self._settings = settings
        self._evidence = 0.0
        self._stable_share = 0.0
        self.tripped = False
        """Whether the candidate is out. It stays so: a new rollout has a new one."""

    def add_stable(self, failed: bool) -> None:
        """Takes a call of the stable version. `failed`: it is the arm's failure (`window.blame`)."""
        self._stable_share += MEMORY * (failed - self._stable_share)

    def add_candidate(self, failed: bool) -> bool:
        """Takes a call of the candidate. Returns whether it has just tripped."""
        settings = self._settings
        may_be = max(settings.least_share, settings.ratio * self._stable_share)
        if may_be >= BURST or self.tripped or not settings.enabled:
            self._evidence = 0.0
            return False
        change = log(BURST / may_be) if failed else log((1 - BURST) / (1 - may_be))
        self._evidence = max(0.0, self._evidence + change)
        self.tripped = self._evidence >= settings.evidence
        return self.tripped
