"""How much of a call is the model and how much the network, by what model servers say: of the last minutes, bounded.

The lag of a single call is not known: sidecar and model server add up the same calls, and what the sums differ by is
the mean of a reading, of 20 calls or more (`telemetry.hop_lag`). Percentiles are therefore of readings, each with the
weight of its calls: they tell one slow link, or one bad minute, from many; a single slow call they do not show. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import NamedTuple

import msgspec

from meshproxy.control_api import ReportedTime
from meshproxy.telemetry.quantiles import BOUNDS

SECONDS = 300.0
"""What is reported is shown for half of this at least, and for no longer."""
MOST = 2_000
"""Models of one identity, in each half; the one that was reported longest ago makes room."""
MOST_LAGS = 32
"""Buckets of one of them: what is beyond is counted in the nearest one that is there. That makes 3 KB, and 12 MB of
all."""


class ModelTime(NamedTuple):
    """The calls of one model.

    Attributes:
        model: the mean of what it took, in seconds.
        network: the mean of the hop lag, in seconds.
        lag: calls by the hop lag of their reading: by the index of its upper bound in `telemetry.quantiles.BOUNDS`.
    """

    model: float
    network: float
    lag: dict[int, int]


class _Sum:
    """What one identity has reported of one model, or all of them."""

    __slots__ = ("calls", "lag", "model", "network")

    def __init__(self) -> None:
        self.calls = 0
        self.model = self.network = 0.0
        self.lag: dict[int, int] = {}

    def add(self, more: ReportedTime | _Sum, most: int = MOST_LAGS) -> None:
        self.calls += more.calls
        self.model += more.model
        self.network += more.network
        for bucket, count in more.lag.items():
            if not count:
                continue
            if bucket not in self.lag and len(self.lag) >= most:
                bucket = min(self.lag, key=lambda known: abs(known - bucket))
            self.lag[bucket] = self.lag.get(bucket, 0) + count


class HopTimes:
    """Of all model servers. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._new: OrderedDict[tuple[str, str], _Sum] = OrderedDict()
        self._old: OrderedDict[tuple[str, str], _Sum] = OrderedDict()
        """By identity and model; of this half and the one before."""
        self._number = 0
        """Of this half."""

    def add(self, spiffe_id: str, model: str, time: ReportedTime, now: float) -> None:
        """What a sidecar has reported of a model."""
        self._advance(now)
        if not time.calls:
            return
        if not time.lag:
            # A sidecar of an earlier version tells the sum alone: one reading, in most of its reports.
            time = msgspec.structs.replace(time, lag={bisect_left(BOUNDS, time.network / time.calls): time.calls})
        key = spiffe_id, model
        if key not in self._new:
            self._new[key] = _Sum()
            if len(self._new) > MOST:
                self._new.popitem(last=False)
        self._new[key].add(time)
        self._new.move_to_end(key)

    def models(self, now: float) -> dict[str, ModelTime]:
        """By model, each call as much as any other."""
        self._advance(now)
        sums: dict[str, _Sum] = {}
        for half in (self._old, self._new):
            for (_, model), each in half.items():
                sums.setdefault(model, _Sum()).add(each, len(BOUNDS) + 1)
        return {
            model: ModelTime(each.model / each.calls, each.network / each.calls, each.lag)
            for model, each in sums.items()
        }

    def _advance(self, now: float) -> None:
        number = int(now // (SECONDS / 2))
        if number == self._number:
            return
        self._old = self._new if number == self._number + 1 else OrderedDict()  # also if the clock was set back
        self._new, self._number = OrderedDict(), number
