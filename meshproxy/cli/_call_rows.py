"""What `stat` and `top` show of groups of calls: rates, shares and percentiles. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meshproxy.telemetry.call_stats import Group, Interval, add_up
from meshproxy.telemetry.metrics import OTHER
from meshproxy.telemetry.quantiles import quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


MOST_GROUPS = 5_000
"""Of one source, over all its intervals: 4 MB. The command runs in the sidecar's container, whose memory callers must
not fill by names that they make up."""


class Window:
    """The last intervals of each source: the process of a sidecar, or each of its workers.

    Args:
        most: intervals of a source; None: all of them.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._intervals: dict[str, deque[Interval]] = {}

    def add(self, source: str, interval: Interval) -> None:
        """The next interval of a source."""
        intervals = self._intervals.setdefault(source, deque(maxlen=self._most))
        groups = interval.groups
        if self._most is None and intervals:
            groups = add_up([intervals[0], interval])
            interval = Interval(intervals.pop().seconds + interval.seconds, groups)
        room = MOST_GROUPS - sum([len(each.groups) for each in intervals])
        if len(groups) > room:
            interval = Interval(interval.seconds, _fold(groups, max(room, 0)))
        intervals.append(interval)

    def forget(self, source: str) -> None:
        """A source has ended: it has no calls from now on."""
        if self._most is not None:
            self._intervals.pop(source, None)

    @property
    def seconds(self) -> float:
        """How long it is: sources count beside each other."""
        return max(map(self._span, self._intervals), default=0.0)

    def spans(self, sources: Sequence[str], seconds: float) -> bool:
        """Whether it is so long for each of these sources."""
        return min(map(self._span, sources), default=0.0) >= seconds

    def _span(self, source: str) -> float:
        return sum([each.seconds for each in self._intervals.get(source, ())])

    def rows(self) -> list[Row]:
        """A row for each group of calls, the most frequent first."""
        groups = add_up(interval for intervals in self._intervals.values() for interval in intervals)
        return [Row(group, self.seconds) for group in sorted(groups, key=_by_calls)]


def _fold(groups: list[Group], most: int) -> list[Group]:
    """The first so many groups; all others are one of each direction, as in a sidecar (`call_stats`)."""
    rest = [
        msgspec.structs.replace(
            group, names={name: word if name == "direction" else OTHER for name, word in group.names.items()}
        )
        for group in groups[most:]
    ]
    return add_up([Interval(0.0, groups[:most] + rest)])


def _by_calls(group: Group) -> tuple[float, list[str]]:
    return -group.calls, list(group.names.values())


@dataclass(frozen=True)
class Row:
    """A group of calls over some seconds."""

    group: Group
    span: float
    """Seconds."""

    @property
    def names(self) -> dict[str, str]:
        """What its calls have in common."""
        return self.group.names

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.group.calls / self.span if self.span else 0.0

    @property
    def success(self) -> float | None:
        """The share that did not fail of the calls that were not denied; None if all were."""
        permitted = self.group.calls - self.group.denied
        return max(permitted - self.group.failed, 0) / permitted if permitted else None

    @property
    def mean(self) -> float | None:
        """The mean duration in seconds of calls that the model server answered."""
        answered = sum(self.group.buckets.values())
        return self.group.seconds / answered if answered else None

    def quantile(self, share: float) -> float | None:
        """The same, as a quantile."""
        return quantile(share, self.group.buckets)

    def document(self) -> dict[str, object]:
        """For `-o json`; seconds, bytes, shares from 0 to 1."""
        group = self.group
        return {
            **group.names,
            "calls": group.calls,
            "callsPerSecond": round(self.rate, 3),
            "success": _rounded(self.success),
            "failed": group.failed,
            "denied": group.denied,
            "refused": group.refused,
            "retries": group.retries,
            "bytesReceived": group.received,
            "bytesSent": group.sent,
            "latencySeconds": {
                "mean": _rounded(self.mean),
                **{f"p{100 * share:g}": _rounded(self.quantile(share)) for share in SHARES},
            },
        }


SHARES = (0.5, 0.95, 0.99)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)


SORTS: dict[str, Callable[[Row], float]] = {
    "rps": lambda row: -row.rate,
    "p99": lambda row: -(row.quantile(0.99) or 0.0),
    "success": lambda row: 1.0 if row.success is None else row.success,
    "failed": lambda row: -row.group.failed,
    "denied": lambda row: -row.group.denied,
}
"""What `top` sorts by; the worst first, and the most."""


def sort(rows: Sequence[Row], by: str) -> list[Row]:
    """Rows that are alike in this stay in their order."""
    return sorted(rows, key=SORTS[by])
