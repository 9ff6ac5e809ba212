"""Outlier detection by success rate: ejects endpoints for a while.

After Envoy's (`envoy.config.cluster.v3.OutlierDetection`, success rate), with three differences, each of which a server
set of three endpoints needs:

- An endpoint is compared with the mean and the standard deviation of *the others*. Among n endpoints none is ever more
  than sqrt(n - 1) standard deviations below a mean that it is part of: 1.41 for three, 1.73 for four. With the usual
  1.9, Envoy ejects no endpoint among fewer than five.
- The standard deviation of the others counts as 0.05 at least (`LEAST_DEVIATION`). Where the others never fail, a
  single failure would be an outlier otherwise.
- One endpoint may be ejected however small `max_percent` of few endpoints is (Envoy's `always_eject_one_host`), but
  never all.

Pure: counts come in, names go out.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.servers import EjectionSettings

LEAST_DEVIATION = 0.05
"""About what chance alone does to a success rate of 0.85 over fifty calls: sqrt(0.85 * 0.15 / 50) = 0.0505."""


class Record:
    """An endpoint's calls since the last comparison. The endpoint counts them; the Ejector resets them."""

    __slots__ = ("calls", "failures")

    def __init__(self) -> None:
        self.calls = 0
        """Calls that ended and say something about the endpoint, good or bad."""
        self.failures = 0
        """The failed ones of these."""


class Ejector:
    """Which endpoints of one server set are ejected, and until when."""

    __slots__ = ("_compare_at", "_compared_at", "_history", "_settings", "due")

    def __init__(self, settings: EjectionSettings, now: float) -> None:
        self.due = now + settings.interval
        """When `judge` has something to do next, unless endpoints are removed: compare, or let one in."""
        self._settings = settings
        self._compared_at = now
        self._compare_at = self.due
        self._history: dict[str, _History] = {}  # of those that are out, or were lately

    def judge(self, records: Mapping[str, Record], now: float) -> set[str]:
        """The keys of the endpoints that are ejected from now on.

        `records` has all endpoints; those that are missing are forgotten. Call it when it is `due`, and when endpoints
        were removed: if too many of the remaining ones are ejected, those whose time ends first come back. In between
        it changes nothing.
        """
        for key in [key for key in self._history if key not in records]:
            del self._history[key]
        out = {key for key, history in self._history.items() if history.is_out}
        most = _max_ejected(len(records), self._settings.max_percent)
        for key in sorted(out, key=lambda key: self._history[key].until):
            if len(out) > most or self._history[key].until <= now:
                self._readmit(key, records[key], now)
                out.discard(key)
        if now >= self._compare_at:
            self._compare(records, out, most, now)
        self.due = min([self._compare_at, *(self._history[key].until for key in out)])
        return out

    def forget(self, key: str) -> None:
        """An endpoint was removed: if it is added again before `judge` is called, it starts as a new one."""
        self._history.pop(key, None)

    def _readmit(self, key: str, record: Record, now: float) -> None:
        history = self._history[key]
        history.is_out = False
        history.until = now
        record.calls = record.failures = 0  # what ended while it was out began before

    def _compare(self, records: Mapping[str, Record], out: set[str], most: int, now: float) -> None:
        """Eject the outliers, the worst ones first, and add them to `out`."""
        settings = self._settings
        rates = {
            key: 1 - record.failures / record.calls
            for key, record in records.items()
            if key not in out and record.calls >= settings.min_requests
        }
        outliers = _outliers(rates, settings.deviations) if len(rates) >= settings.min_endpoints else []
        ejected = outliers[: max(most - len(out), 0)]
        for key in [key for key in self._history if key not in out and key not in ejected]:
            self._shorten_history(key)
        for key in ejected:
            self._eject(key, now)
            out.add(key)
        for record in records.values():
            record.calls = record.failures = 0
        self._compared_at = now
        self._compare_at = now + settings.interval

    def _shorten_history(self, key: str) -> None:
        history = self._history[key]
        if history.until <= self._compared_at:  # in for the whole interval
            history.times -= 1
            if not history.times:
                del self._history[key]

    def _eject(self, key: str, now: float) -> None:
        history = self._history.setdefault(key, _History())
        history.times += 1
        history.is_out = True
        history.until = now + min(history.times * self._settings.base_time, self._settings.max_time)


class _History:
    """The history of an endpoint that is ejected, or was recently."""

    __slots__ = ("is_out", "times", "until")

    def __init__(self) -> None:
        self.times = 0  # that it was out, less those it is forgiven
        self.is_out = False
        self.until = 0.0  # when it comes back, or came


def _max_ejected(endpoints: int, percent: float) -> int:
    """How many may be ejected at once."""
    if not percent:
        return 0
    return min(max(int(endpoints * percent / 100), 1), endpoints - 1)


def _outliers(rates: Mapping[str, float], deviations: float) -> list[str]:
    """The keys of the success rates that are so many standard deviations below the mean of the others, worst first."""
    others = len(rates) - 1
    if others < 1:
        return []
    total = sum(rates.values())
    squares = sum(rate * rate for rate in rates.values())
    found: list[str] = []
    for key, rate in rates.items():
        mean = (total - rate) / others
        variance = max((squares - rate * rate) / others - mean * mean, 0.0)  # below zero by rounding only
        if rate < mean - deviations * max(sqrt(variance), LEAST_DEVIATION):
            found.append(key)
    return sorted(found, key=rates.__getitem__)
