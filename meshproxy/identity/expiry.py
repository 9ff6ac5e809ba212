"""When somebody must be told that a certificate runs out: long before it does, and while there is time."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Alarm(Enum):
    """What is wrong; the value is the share of the certificate's life that is left, in the order in which they come."""

    SOON = 1 / 4
    """Every source should have delivered the next one: they do so with a third of the life left."""
    URGENT = 1 / 12
    EXPIRED = 0.0


ALARMS = tuple(Alarm)


@dataclass(slots=True)
class Expiry:
    """The end of one certificate.

    Attributes:
        since: when we got it, seconds since the epoch.
        not_after: when it expires.
        raised: alarms so far.
    """

    since: float
    not_after: float
    raised: int = 0

    def wait(self, now: float) -> float | None:
        """Seconds until the next alarm; None if there is none to come."""
        return max(0.0, self._at(ALARMS[self.raised]) - now) if self.raised < len(ALARMS) else None

    def alarm(self, now: float) -> Alarm | None:
        """The newest alarm whose time has come since the last call; None if there is none."""
        newest = None
        while self.raised < len(ALARMS) and now >= self._at(ALARMS[self.raised]):
            newest = ALARMS[self.raised]
            self.raised += 1
        return newest

    def _at(self, alarm: Alarm) -> float:
        return self.not_after - (self.not_after - self.since) * alarm.value
