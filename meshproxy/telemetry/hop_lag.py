"""Hop lag: what a call of the model server takes beyond what the model server says it took.

The sidecar measures from the whole request, written to the model server, to the head of the response (the part
`upstream` of `proxy/time_split.py`). TensorFlow Serving measures from the parsed request to the response before it is
written (`request_latency`). What lies between is the network, the kernels, and the HTTP or gRPC code of the model
server.

Both sides add up the same calls, so what the models themselves take cancels out, and the mean of a few dozen calls is
exact enough to see a millisecond. That holds while both have counted the same calls: a model server that answers other
callers beside this sidecar, too, is found out by its counts, and its models have no hop lag then. Pure: the time is an
argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from meshproxy.inference.call import Verb
from meshproxy.proxy.time_split import split_time

if TYPE_CHECKING:
    from meshproxy.inference.tfserving_metrics import ServerTime
    from meshproxy.proxy.exchange import Exchange

COUNTED = frozenset({Verb.PREDICT, Verb.CLASSIFY, Verb.REGRESS})
"""What TensorFlow Serving measures. MultiInference, metadata and status it does not."""
MOST_MODELS = 256
"""Models that are measured; those that come later are not. Names are learned from successful calls only."""
MOST_NAME = 128
"""Characters of a name, as of a label."""

LEAST_CALLS = 20
"""Calls of one reading: with fewer, one call that the counts put into the wrong reading would be most of it."""
TOLERANCE = 0.01
"""The share by which the counts of a reading may differ: below 100 calls they are equal. A call that ends while the
page is read is in one count and not in the other."""
MOST_ERROR = 0.000_4
MOST_ERROR_SHARE = 1 / 64
"""By how much the mean of a reading may be wrong because the page has six digits of a sum: seconds, or a share of what
the model server takes, or half of what the lag differs from the expected one, whichever is most. Where a server has
long been up, a reading has more calls for it: at 100 calls of 5 ms a second it takes 15 s on the first day, and up to
two minutes in the second month. Below the detector's smallest unit (`change_detector.Expected.unit`)."""
MOST_UNEQUAL = 4
"""Pages in a row with counts that differ, before the calls of others are taken for the cause."""
PARTS = ("model", "network", "proxy", "client")
"""Of a call's time."""
MOST_SECONDS = 3_600.0
"""A reading that is not complete after this long is given up, and another one begins."""


class CallTime:
    """The successful calls of one model, as the sidecar saw them. Added up, never reset."""

    __slots__ = ("calls", "client", "proxy", "upstream", "whole")

    def __init__(
        self, calls: int = 0, upstream: float = 0.0, proxy: float = 0.0, client: float = 0.0, whole: float = 0.0
    ) -> None:
        self.calls = calls
        self.upstream = upstream
        """Seconds from the request, written to the model server, to the response's head."""
        self.proxy = proxy
        """Seconds of the sidecar: deciding, queueing, earlier attempts, connecting, writing."""
        self.client = client
        """Seconds of waiting for the client's body."""
        self.whole = whole
        """Seconds from the request's head read from the client to the last byte of the response."""

    def __add__(self, other: CallTime) -> CallTime:
        return CallTime(
            self.calls + other.calls,
            self.upstream + other.upstream,
            self.proxy + other.proxy,
            self.client + other.client,
            self.whole + other.whole,
        )

    def copy(self) -> CallTime:
        return CallTime(self.calls, self.upstream, self.proxy, self.client, self.whole)


class CallTimes:
    """Adds up the calls of one `ModelServer` (`observer.Sink`).

    Args:
        server: its name.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self._models: dict[str, CallTime] = {}

    def observe(self, exchange: Exchange) -> None:
        """Add one completed exchange, if the model server has measured it too; 1 us."""
        call = exchange.forwarded
        if (
            exchange.status != 200
            or call is None
            or call.verb not in COUNTED
            or (exchange.is_grpc and exchange.grpc_status != 0)
            or exchange.server != self.server
        ):
            return
        name = call.models[0].name  # those verbs have one
        times = self._models.get(name)
        if times is None:
            if len(self._models) >= MOST_MODELS or len(name) > MOST_NAME:
                return
            times = self._models[name] = CallTime()
        read, decide, queue, retry, connect, upstream, _, write = split_time(exchange)
        if upstream is None:
            return
        times.calls += 1
        times.upstream += upstream
        times.proxy += decide + (queue or 0.0) + (retry or 0.0) + (connect or 0.0) + (write or 0.0)
        times.client += read
        times.whole += exchange.finished - exchange.started

    def read(self) -> dict[str, CallTime]:
        """What has been added up so far, by model."""
        return {name: times.copy() for name, times in self._models.items()}


@dataclass(frozen=True, slots=True)
class Reading:
    """The calls of one model in one interval: means, in seconds."""

    calls: int
    whole: float
    """From the request's head to the last byte of the response."""
    upstream: float
    """The part of it from the request, written to the model server, to the head of its response."""
    server: float
    """The part of that which the model server says it took."""
    proxy: float = 0.0
    client: float = 0.0

    @property
    def lag(self) -> float:
        """The hop lag. Below zero where the clocks of both sides do not run alike, or by the rounding of sums."""
        return self.upstream - self.server

    @property
    def shares(self) -> dict[str, float]:
        """The parts of the whole, which add up to 1. To the network belongs the rest of a response after its head."""
        server = min(max(self.server, 0.0), self.upstream)
        parts = (server, self.whole - server - self.proxy - self.client, self.proxy, self.client)
        return {name: part / self.whole if self.whole > 0 else 0.0 for name, part in zip(PARTS, parts, strict=True)}


class Doubt(Enum):
    """Why an interval gives no reading."""

    INCOMPLETE = "incomplete"
    """Too few calls as yet, or sums that are rounded too much for their number: it goes on."""
    UNEQUAL = "unequal"
    """The counts differ as yet: it goes on."""
    FOREIGN = "foreign"
    """The counts differ for good: the model server has other callers, or does not measure some calls."""
    RESTARTED = "restarted"
    """The model server counts from zero again."""


class Pairing:
    """One model: both sides' sums, and since when."""

    def __init__(self, ours: CallTime, theirs: ServerTime, now: float) -> None:
        """An interval begins."""
        self._begin(ours, theirs, now)
        self.surplus = 0
        """After FOREIGN: calls that the model server counted beyond ours; below zero if it counted fewer."""

    def _begin(self, ours: CallTime, theirs: ServerTime, now: float) -> None:
        self._ours = ours
        self._theirs = theirs
        self._since = now
        self._unequal = 0

    def take(self, ours: CallTime, theirs: ServerTime, now: float, expected: float | None = None) -> Reading | Doubt:
        """Both sums as they are now: a reading, after which the next interval begins, or why there is none.

        Args:
            ours: when the page had been read.
            theirs: of the page.
            now: seconds.
            expected: the lag that is normal, if it is known: another one is seen in fewer calls.
        """
        calls = ours.calls - self._ours.calls
        counted = theirs.calls - self._theirs.calls
        if counted < 0 or theirs.seconds < self._theirs.seconds - theirs.step:
            self._begin(ours, theirs, now)
            return Doubt.RESTARTED
        if abs(counted - calls) > TOLERANCE * calls:
            self._unequal += 1
            if self._unequal < MOST_UNEQUAL:
                return Doubt.UNEQUAL
            self.surplus = counted - calls
            self._begin(ours, theirs, now)
            return Doubt.FOREIGN
        self._unequal = 0
        if calls >= LEAST_CALLS:
            reading = Reading(
                calls,
                (ours.whole - self._ours.whole) / calls,
                (ours.upstream - self._ours.upstream) / calls,
                (theirs.seconds - self._theirs.seconds) / counted,
                (ours.proxy - self._ours.proxy) / calls,
                (ours.client - self._ours.client) / calls,
            )
            # Rounding alone makes no difference that is twice the step.
            differs = abs(reading.lag - expected) / 2 if expected is not None else 0.0
            if theirs.step / calls <= max(MOST_ERROR, MOST_ERROR_SHARE * reading.server, differs):
                self._begin(ours, theirs, now)
                return reading
        if now - self._since > MOST_SECONDS:
            self._begin(ours, theirs, now)
        return Doubt.INCOMPLETE
