"""Counters, gauges and histograms as plain numbers: the hot path adds to a slot, a scrape reads it.

A *family* is a metric with all its *series*, one for each set of label values. `labels()` finds or creates a series and
is meant to be called once: callers keep the series and add to its slots directly, which is what makes an observation
cost tens of nanoseconds.

The registry bounds the lines of a scrape, whatever a peer sends (CVE-2022-21698, CVE-2025-43915): beyond the bound, new
label sets share one series per family whose every label is `_other`, and the registry counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from enum import Enum
from math import inf
from typing import ClassVar, Generic, NamedTuple, TypeVar

import msgspec

OTHER = "_other"
"""The label value for all values without their own series."""

MAX_LINES = 10_000
"""Lines of one scrape: 20 models in 3 versions make about 7,000, and 10,000 are 5 MB."""

Row = tuple[tuple[str, ...], float]
"""Label values and their number."""
Rows = Iterable[Row]
"""What the source of a family returns."""
PausingRows = Iterable[Row | None]
"""The same from a source that takes long. None: whatever else there is to do may come first, so such a source must not
iterate over what may change meanwhile."""
PAUSE_STEPS = 1_000
"""Steps of a source between two pauses: half a millisecond."""


class CounterSeries:
    """A number that only grows."""

    __slots__ = ("labels", "text", "value")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.value: float = 0
        self.text = ""
        """Cached by the exposition: the line without its number."""


class GaugeSeries:
    """A number that goes up and down."""

    __slots__ = ("labels", "text", "value")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.value: float = 0
        self.text = ""


class Exemplar(NamedTuple):
    """A value whose trace can be looked at.

    Attributes:
        timestamp: seconds since the epoch.
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
    """

    value: float
    timestamp: float
    trace_id: bytes
    span_id: bytes


class HistogramSeries:
    """The number of values in each bucket, and their sum."""

    __slots__ = ("above", "bounds", "counts", "exemplars", "labels", "place", "sum", "text", "up_to")

    def __init__(self, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self.labels = labels
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Not cumulative; the last one counts values above every bound."""
        self.sum: float = 0
        # The bucket of the last value: the next one mostly belongs there, too.
        self.place = 0
        """Among `counts`."""
        self.above, self.up_to = inf, -inf
        """Its bounds. None yet: no value lies between these."""
        self.exemplars: dict[int, Exemplar] | None = None
        """The newest of each bucket that has one, by its place in `counts`."""
        self.text = ""

    def observe(self, value: float) -> None:
        """Count one value. A bound belongs to the bucket below it (`le`)."""
        if not self.above < value <= self.up_to:
            bounds = self.bounds
            self.place = place = bisect_left(bounds, value)
            self.above = bounds[place - 1] if place else -inf
            self.up_to = bounds[place] if place < len(bounds) else inf
        self.counts[self.place] += 1
        self.sum += value

    def exemplify(self, exemplar: Exemplar) -> None:
        """Show the trace of a value that was observed. OpenMetrics allows one for each bucket."""
        if self.exemplars is None:
            self.exemplars = {}
        self.exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar


SeriesT = TypeVar("SeriesT", CounterSeries, GaugeSeries, HistogramSeries)


class Type(Enum):
    """How a metric behaves, in the words of the exposition formats."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(msgspec.Struct, frozen=True):
    """The declaration of a metric: one row of `metric_table`.

    Attributes:
        name: as users see it, with its unit and, for counters, `_total`.
        unit: a base unit ("seconds", "bytes"), which the name ends in; empty if it counts things.
        help: one sentence.
        labels: the names that each series has values for.
        buckets: of a histogram, the upper bounds: inclusive, ascending, without infinity.
    """

    name: str
    type: Type
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


class Family(Generic[SeriesT]):
    """All series of one metric.

    Attributes:
        metric: its declaration.
        series: by label values.
        source: if set, supplies the values at scrape time instead of `series`.
    """

    type: ClassVar[Type]
    lines_per_series = 1

    def __init__(self, registry: Registry, metric: Metric) -> None:
        """Raises ValueError if the metric is of another type, or registered already."""
        if metric.type is not self.type:
            raise ValueError(f"{metric.name} is a {metric.type.value}, not a {self.type.value}")
        self.registry = registry
        self.metric = metric
        self.series: dict[tuple[str, ...], SeriesT] = {}
        self.source: Callable[[], PausingRows] | None = None
        self._other: SeriesT | None = None
        registry.add(self)
        if not metric.labels:
            self.labels()  # so that the line exists before the first event

    def labels(self, *values: str) -> SeriesT:
        """The series of these label values; always the same object.

        Raises:
            ValueError: the number of values differs from the number of labels.
        """
        found = self.series.get(values)
        return found if found is not None else self._add(values)

    def forget(self, values: tuple[str, ...]) -> None:
        """Remove a series whose subject no longer exists. References to it stay valid but are no longer exposed."""
        if self.series.pop(values, None) is not None:
            self.registry.lines -= self.lines_per_series

    def read_from(self, source: Callable[[], PausingRows]) -> None:
        """Take the values from `source` at every scrape: for what another component counts anyway."""
        self.source = source

    def make(self, labels: tuple[str, ...]) -> SeriesT:
        """A new series, not yet exposed."""
        raise NotImplementedError

    def _add(self, values: tuple[str, ...]) -> SeriesT:
        if len(values) != len(self.metric.labels):
            raise ValueError(f"{self.metric.name} has labels {self.metric.labels}, not {values!r}")
        values = tuple(printable(value) for value in values)
        found = self.series.get(values)
        if found is not None:
            return found
        if not self.registry.take_lines(self.lines_per_series):
            if self._other is None:
                self._other = self.make((OTHER,) * len(values))
                self.series[self._other.labels] = self._other
            return self._other
        made = self.series[values] = self.make(values)
        return made


class Counter(Family[CounterSeries]):
    """A family of counters."""

    type = Type.COUNTER

    def make(self, labels: tuple[str, ...]) -> CounterSeries:
        return CounterSeries(labels)


class Gauge(Family[GaugeSeries]):
    """A family of gauges."""

    type = Type.GAUGE

    def make(self, labels: tuple[str, ...]) -> GaugeSeries:
        return GaugeSeries(labels)


class Histogram(Family[HistogramSeries]):
    """A family of histograms."""

    type = Type.HISTOGRAM

    def __init__(self, registry: Registry, metric: Metric) -> None:
        self.lines_per_series = len(metric.buckets) + 3
        super().__init__(registry, metric)

    def make(self, labels: tuple[str, ...]) -> HistogramSeries:
        return HistogramSeries(labels, self.metric.buckets)


class Registry:
    """The families of a process, in the order in which a scrape shows them.

    Attributes:
        lines: lines that the stored series take.
        capped: how many times a label set was given the shared series because `max_lines` was reached.
    """

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self.families: dict[str, AnyFamily] = {}
        self.max_lines = max_lines
        self.lines = 0
        self.capped = 0

    def add(self, family: AnyFamily) -> None:
        """Expose a family. Raises ValueError if its name is taken."""
        name = family.metric.name
        if name in self.families:
            raise ValueError(f"the metric {name} is registered already")
        self.families[name] = family

    def take_lines(self, count: int) -> bool:
        """Reserve `count` lines. Returns False if that would exceed `max_lines`."""
        if self.lines + count > self.max_lines:
            self.capped += 1
            return False
        self.lines += count
        return True


AnySeries = CounterSeries | GaugeSeries | HistogramSeries
AnyFamily = Family[CounterSeries] | Family[GaugeSeries] | Family[HistogramSeries]


def printable(value: str) -> str:
    """Label values are UTF-8: lone surrogates, which cannot be encoded, are written as escapes."""
    return value.encode("utf-8", "backslashreplace").decode()
