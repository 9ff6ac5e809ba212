"""Retries: which failures are retried, and the retry budget.

A retry helps a single unlucky call. When many calls fail, retries only multiply the load of a failing server, so the
budget bounds them.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from meshproxy.config.routes import Retries
from meshproxy.inference.call import Verb
from meshproxy.refusal import GrpcStatus
from meshproxy.routing.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW = 10
"""Seconds over which the ratio of a budget is measured."""


class Skip(Enum):
    """Why a failed call was not retried. The values are those of a metric's label."""

    REASON = "reason"
    """The rule does not name the failure."""
    VERB = "verb"
    """The verb is not idempotent, and the call may have reached the model server."""
    ATTEMPTS = "attempts"
    """All attempts are used."""
    BUDGET = "budget"
    """The retry budget is exhausted."""
    BODY = "body"
    """The body was sent and is not in the replay buffer: it is longer than `replayBytes`."""
    PUSHBACK = "pushback"
    """The server forbids it (`grpc-retry-pushback-ms`)."""
    ANSWERED = "answered"
    """A part of the response was sent to the client."""
    DEADLINE = "deadline"
    """No time is left for another attempt."""
    NO_ENDPOINT = "no-endpoint"
    """No other endpoint is available."""

    __hash__ = object.__hash__  # members are single: by identity, in C


class RetryRule:
    """`retries` of a route."""

    __slots__ = ("attempts", "backoff", "backoff_max", "hedge_after", "reasons", "replay_bytes", "statuses", "verbs")

    def __init__(self, retries: Retries) -> None:
        self.attempts = retries.attempts
        """Attempts in total."""
        grpc = [GrpcStatus[word] for word in retries.grpc_statuses]
        self.statuses = frozenset[int | None]((*grpc, *retries.http_statuses))
        """Of gRPC and HTTP, which share no number: these are retried, too (`Failure.STATUS`)."""
        self.reasons = frozenset((*map(Failure, retries.reasons), *([Failure.STATUS] if self.statuses else ())))
        self.verbs = frozenset(map(Verb, retries.verbs))
        self.backoff = retries.backoff
        self.backoff_max = retries.backoff_max
        self.replay_bytes = retries.replay_bytes
        """The replay buffer of one request."""
        self.hedge_after = retries.hedge_after
        """Seconds without a response after which a hedged attempt is sent."""

    def skip(self, failure: Failure, verb: Verb | None, tries: int) -> Skip | None:
        """Why the call is not retried, as far as the rule decides that; None: it is.

        Args:
            verb: None if it is not known yet: then only calls that were never sent are retried.
            tries: attempts so far, including the first.
        """
        if failure not in self.reasons:
            return Skip.REASON
        if not failure.is_unsent and verb not in self.verbs:
            return Skip.VERB
        return Skip.ATTEMPTS if tries >= self.attempts else None

    def wait(self, tries: int, draw: Callable[[], float]) -> float:
        """Seconds before the next attempt: none before the second one, then random up to a bound that doubles each time
        (full jitter, so that calls that failed together are not retried together).

        Args:
            tries: attempts so far, including the first.
            draw: a number from 0 to below 1.
        """
        if tries < 2:
            return 0.0
        return draw() * min(self.backoff * 2.0 ** (tries - 2), self.backoff_max)


OUTBOUND_DEFAULTS = Retries()
INBOUND_DEFAULTS = Retries(attempts=2, reasons=("connect-failure", "refused-stream", "goaway"), replay_bytes=64 << 10)
"""Our own model server is the only endpoint: a retry helps only if it has not seen the first attempt."""
OUTBOUND_RETRIES = RetryRule(OUTBOUND_DEFAULTS)
INBOUND_RETRIES = RetryRule(INBOUND_DEFAULTS)


class RetryBudget:
    """A retry budget: a ratio of the calls of the last ten seconds, and a minimum each second.

    In any ten seconds at most `ratio` x calls are taken from the ratio. Beside them, in any time T at most
    `minimum` x T and one second's worth (one at least) are taken from the minimum, which is used first.

    A call costs 0.1 us.
    """

    __slots__ = ("_before", "_calls", "_minimum", "_most", "_ratio", "_rings", "_second", "_since", "_spare", "_spent")

    def __init__(self, ratio: float, minimum: float) -> None:
        """
        Args:
            ratio: retries for each call.
            minimum: retries a second that are allowed without a call.
        """
        self._ratio = ratio
        self._minimum = minimum
        self._most = max(1.0, minimum)
        self._spare = self._most  # of the minimum: a token bucket
        self._since = 0.0  # when `_spare` was counted
        # Calls of the last ten seconds are those of this second and nine before, which is never more than ten seconds;
        # retries those of this one and ten before, which is never less.
        self._second = 0
        self._calls = 0
        self._spent = 0
        self._rings = ([0] * WINDOW, [0] * WINDOW)  # calls, retries: of the ten seconds before this one, the last first
        self._before = 0.0  # what the seconds before this one leave of the ratio

    def deposit(self, now: float) -> None:
        if now >= self._second + 1:
            self._turn(now)
        self._calls += 1

    def withdraw(self, now: float) -> bool:
        """Whether a retry is within the budget; counts it then."""
        if now >= self._second + 1:
            self._turn(now)
        self._spare = min(self._most, self._spare + (now - self._since) * self._minimum)
        self._since = now
        if self._spare >= 1.0:
            self._spare -= 1.0
            return True
        if self._before + self._ratio * self._calls - self._spent >= 1.0:
            self._spent += 1
            return True
        return False

    def _turn(self, now: float) -> None:
        second = int(now)
        passed = second - self._second
        calls, spent = self._rings
        gap = [0] * min(passed - 1, WINDOW)
        calls = ([*gap, self._calls, *calls])[:WINDOW]
        spent = ([*gap, self._spent, *spent])[:WINDOW]
        self._rings = calls, spent
        self._before = self._ratio * sum(calls[: WINDOW - 1]) - sum(spent)
        self._second = second
        self._calls = self._spent = 0
