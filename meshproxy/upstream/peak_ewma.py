"""The load of one endpoint as one number that balancers compare: the lower, the better.

It is the peak EWMA of latency (Finagle, Linkerd) times the calls in flight. A slow response counts at once and in full;
faster ones lower the estimate with a time constant of four seconds, and so does idleness, so that an endpoint that was
avoided is tried again. Pure: times are monotonic seconds and come in as `now`.
"""

from __future__ import annotations

from math import e, exp

TIME_CONSTANT = 4.0
"""Seconds after which a third (1/e) is left of a peak. Finagle and Linkerd use 10; but then one pause of 25 ms, where a
response takes one, keeps an endpoint of three from its share for 25 seconds. With less, a slow endpoint would be tried
so often that it shows in p99."""
FIRST_SHARE = 0.1
"""The share with which slow start begins."""

_SHORTEST = 0.0001
"""Seconds; shorter latencies count as this. The clock of an event loop may stand still for a millisecond, and an
endpoint that was idle for minutes must not look free however many calls are in flight."""
_UNKNOWN = 1e6
"""Seconds: the latency of an endpoint with calls in flight of which none has ended. One call measures it; others go
elsewhere."""
_FAILED = 1.0
"""Seconds: the latency of an endpoint that has only ever failed."""
_PENALTY = 9.0
"""Added by a failure: the endpoint looks ten times as slow."""
_PENALTY_MOST = 99.0
"""The highest penalty: a hundred times as slow, which 10 idle seconds undo."""


class PeakEwma:
    """One endpoint's load. Each call that was started ends once: finished, failed or cancelled.

    Failures do not count in the latency, where a few of them would hide which endpoint is fast, but in a separate
    penalty. It decays like a peak, and each success halves it. Silence counts as latency, whoever ends it.

    `start` and `cancel` cost 0.02 us, `finish` and `score` 0.13 us, `failed` 0.2 us, `score` in slow start 0.3 us.
    """

    __slots__ = ("_latency", "_penalty", "_seconds", "_since", "_stamp", "in_flight", "is_warming")

    def __init__(self) -> None:
        self.in_flight = 0
        """Calls in flight."""
        self.is_warming = False
        """In slow start: its share may be below 1. An attribute, because each choice reads it."""
        self._latency = 0.0
        """Seconds, as of `_stamp`; 0 while unknown."""
        self._penalty = 0.0
        """As of `_stamp`."""
        self._stamp = 0.0
        self._since = 0.0
        self._seconds = 0.0

    @property
    def latency(self) -> float | None:
        """The peak EWMA as of the last response, or of the last call that was given up, in seconds; None before the
        first one."""
        return self._latency or None

    def start(self) -> None:
        self.in_flight += 1

    def finish(self, seconds: float, now: float) -> None:
        """A call succeeded; the first byte of its response came after `seconds`."""
        self.in_flight -= 1
        if seconds < _SHORTEST:
            seconds = _SHORTEST
        left = 1.0
        if now > self._stamp:
            left = e ** ((self._stamp - now) / TIME_CONSTANT)  # as `exp`, without its call
            self._stamp = now
        if seconds >= self._latency:
            self._latency = seconds
        else:
            self._latency = seconds + (self._latency - seconds) * left
        if self._penalty:
            # Decay never reaches zero, and denormal numbers would be computed forever.
            self._penalty = self._penalty * left * 0.5 if self._penalty > 0.01 else 0.0

    def failed(self, now: float, silence: float = 0.0) -> None:
        """A call failed. Its latency does not count, or an endpoint that fails fast would attract every call.

        Args:
            silence: seconds for which a response was waited for that did not begin; 0.0 if it failed otherwise.
        """
        self.in_flight -= 1
        penalty = self._penalty
        if now > self._stamp:
            penalty *= exp((self._stamp - now) / TIME_CONSTANT)
            self._stamp = now  # The latency does not decay while there are only failures.
        self._penalty = min(penalty + _PENALTY, _PENALTY_MOST)
        if silence > (self._latency or _FAILED):
            self._latency = silence

    def cancel(self, silence: float = 0.0, now: float = 0.0) -> None:
        """A call was given up, which says nothing about the endpoint but this: its response would have begun after more
        than `silence` seconds. Of one that hangs while all its callers give up nothing else is ever known."""
        self.in_flight -= 1
        if silence > _SHORTEST:
            left = exp((self._stamp - now) / TIME_CONSTANT) if now > self._stamp else 1.0
            if silence > (self._latency or (_FAILED if self._penalty else 0.0)) * left:
                self._latency = silence
                self._penalty *= left
                self._stamp = max(now, self._stamp)

    def score(self, now: float) -> float:
        """Latency times (calls in flight + 1): roughly the seconds that the next call would wait.

        0 if the latency is unknown and no call is in flight. In slow start, calls in flight are divided by the share.
        The next call is not, or an endpoint at a tenth of its share would get nothing at all while there are few calls:
        balancers control how often it is considered.
        """
        latency = self._latency
        penalty = self._penalty
        if not latency:
            if not penalty:
                return _UNKNOWN * self.in_flight
            latency = _FAILED
        if now > self._stamp:
            left = exp((self._stamp - now) / TIME_CONSTANT)
            if not self.in_flight:
                # While one call measures whether it has become faster, no second one follows for the same reason.
                latency *= left
                if latency < _SHORTEST:
                    latency = _SHORTEST
            penalty *= left
        if penalty:
            latency *= 1.0 + penalty
        if self.is_warming:
            return latency * (self.in_flight / self.share(now) + 1)
        return latency * (self.in_flight + 1)

    def warm_up(self, since: float, seconds: float) -> None:
        """Slow start: from `since` on its share rises over `seconds`; with 0 it has its full share."""
        self.is_warming = seconds > 0
        self._since = since
        self._seconds = seconds

    def share(self, now: float) -> float:
        """Its share in slow start: 0.1 to 1; 1 otherwise."""
        if not self.is_warming:
            return 1.0
        elapsed = now - self._since
        if elapsed >= self._seconds:
            self.is_warming = False
            return 1.0
        return FIRST_SHARE + (1.0 - FIRST_SHARE) * elapsed / self._seconds if elapsed > 0 else FIRST_SHARE
