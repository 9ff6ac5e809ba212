"""Calls counted in groups, for one reader, while somebody looks: how many, how they ended, and how long they took.

Every interval one line tells what has come since the line before. Whoever reads adds lines up: over time, or over the
workers of a sidecar.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from meshproxy.telemetry import call_facts
from meshproxy.telemetry.metrics import OTHER, printable
from meshproxy.telemetry.quantiles import BOUNDS
from meshproxy.telemetry.sampling import has_failed, is_refused

if TYPE_CHECKING:
    from meshproxy.proxy.exchange import Exchange

MOST_GROUPS = 200
"""In one interval: callers choose which there are. What exceeds them is counted in one group of the direction, whose
names are `_other`."""


class Group(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One group of calls in one interval.

    Attributes:
        names: what its calls have in common, by subject: `direction`, and those of `call_facts.GROUPS` that were asked
            for.
        calls: those that ended.
        failed: of them, with an HTTP status 5xx, a gRPC status that is an error of the server, or broken off.
        denied: answered by a sidecar, as the caller may not make them.
        refused: answered by a sidecar, whatever the reason.
        retries: attempts beyond the first of each call.
        received: bytes of the bodies of requests.
        sent: bytes of the bodies of responses.
        seconds: the sum of the durations of the calls that the model server answered.
        buckets: these calls by duration: the index of a bound in `quantiles.BOUNDS` -> calls.
    """

    names: dict[str, str]
    calls: int = 0
    failed: int = 0
    denied: int = 0
    refused: int = 0
    retries: int = 0
    received: int = 0
    sent: int = 0
    seconds: float = 0.0
    buckets: dict[int, int] = {}

    def add(self, other: Group) -> None:
        """Add the calls of another interval, or of another process."""
        self.calls += other.calls
        self.failed += other.failed
        self.denied += other.denied
        self.refused += other.refused
        self.retries += other.retries
        self.received += other.received
        self.sent += other.sent
        self.seconds += other.seconds
        for index, count in other.buckets.items():
            self.buckets[index] = self.buckets.get(index, 0) + count


class Interval(msgspec.Struct, rename="camel"):
    """What one line tells.

    Attributes:
        seconds: since the line before.
        groups: those that had calls.
    """

    seconds: float
    groups: list[Group]


def add_up(intervals: Iterable[Interval]) -> list[Group]:
    """The groups of several intervals, or of several processes; those with the same names are one."""
    found: dict[tuple[str, ...], Group] = {}
    for interval in intervals:
        for group in interval.groups:
            key = tuple(group.names.values())
            if key not in found:
                found[key] = Group(group.names)
            found[key].add(group)
    return list(found.values())


class CallStats:
    """Counts finished exchanges (`observer.Sink`).

    Args:
        takes: the filter.
        by: subjects of `call_facts.GROUPS`.
        every: seconds of an interval.
        now: when the first one begins.
    """

    def __init__(self, takes: Callable[[Exchange], bool], by: Sequence[str], every: float, now: float) -> None:
        self._takes = takes
        self._by = tuple(by)
        self._facts = [call_facts.direction, *(call_facts.GROUPS[name] for name in by)]
        self._every = every
        self._began = now
        self._groups: dict[tuple[str, ...], Group] = {}

    def __call__(self, exchange: Exchange) -> None:
        """Count it, if it is wanted."""
        if not self._takes(exchange):
            return
        key = tuple([fact(exchange) for fact in self._facts])
        group = self._groups.get(key)
        if group is None:
            group = self._begin(key)
        group.calls += 1
        if is_refused(exchange):
            group.refused += 1
            if call_facts.is_denied(exchange):
                group.denied += 1
        elif exchange.first_byte:
            # As in `meshproxy_request_duration_seconds`: what the sidecar answers says nothing about a model's latency.
            seconds = exchange.finished - exchange.started
            group.seconds += seconds
            index = bisect_left(BOUNDS, seconds)
            group.buckets[index] = group.buckets.get(index, 0) + 1
        if has_failed(exchange):
            group.failed += 1
        if len(exchange.attempts) > 1:
            group.retries += len(exchange.attempts) - 1
        group.received += exchange.bytes_received
        group.sent += exchange.bytes_sent

    def _begin(self, key: tuple[str, ...]) -> Group:
        if len(self._groups) >= MOST_GROUPS:
            key = (key[0], *(OTHER,) * len(self._by))
            found = self._groups.get(key)
            if found is not None:
                return found
        names = ("direction", *self._by)
        group = self._groups[key] = Group({name: printable(word) for name, word in zip(names, key, strict=True)})
        return group

    def take(self, now: float) -> bytes:
        """The line of an interval that is over; empty if none is."""
        return self._line(now) if now - self._began >= self._every else b""

    def end(self, now: float) -> bytes:
        """The line of the interval that has begun."""
        return self._line(now)

    def _line(self, now: float) -> bytes:
        interval = Interval(round(now - self._began, 6), list(self._groups.values()))
        self._began = now
        self._groups = {}
        return msgspec.json.encode(interval) + b"\n"
