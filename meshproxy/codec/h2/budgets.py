"""Budgets against floods: token buckets; `now` is an argument. And the counters that telemetry reads."""

from __future__ import annotations


class Budget:
    """A token bucket: `burst` at once, `rate` a second in the long run."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._stamp = now

    def spend(self, now: float, earned: int = 0, cost: int = 1) -> bool:
        """Take `cost` tokens; `earned` are put in first. False if there are not so many. A clock that goes back adds
        nothing."""
        tokens = self._tokens + earned
        if now > self._stamp:
            tokens += (now - self._stamp) * self._rate
            self._stamp = now
        if tokens > self._burst:
            tokens = self._burst
        self._tokens = tokens - cost if tokens >= cost else tokens
        return tokens >= cost


class Statistics:
    """Plain integers that connections increment and telemetry reads: the connections of a process that face the same
    way share one."""

    __slots__ = (
        "connections_failed",
        "heads_malformed",
        "heads_rejected",
        "requests",
        "resets_late",
        "resets_received",
        "resets_sent",
        "resets_waiting",
        "streams_refused",
    )

    def __init__(self) -> None:
        self.requests = 0
        """Opened: by the peer on a server, by us on a client. Refused and malformed ones are not among them."""
        self.resets_late = 0
        """Resets that came when all had been sent: of clients that did not wait for it."""
        self.resets_waiting = 0
        """Resets that were seen behind other input that had to wait for its turn; each is counted again in its turn."""
        self.resets_received = 0
        self.resets_sent = 0
        """By the codec and on command."""
        self.streams_refused = 0
        """Beyond SETTINGS_MAX_CONCURRENT_STREAMS."""
        self.heads_malformed = 0
        self.heads_rejected = 0
        """Answered with 414, 417, 431, 501."""
        self.connections_failed = 0
        """Closed with GOAWAY because the peer broke the protocol or exceeded a limit."""
