"""Counters, gauges and histograms as plain numbers: the hot path adds to a slot, a scrape reads it.

A *family* has a name and label names; its *series* are the numbers behind one set of label values. `labels()` finds or
makes a series and is meant to be called once: whoever counts keeps the series and adds to its slots directly, which is
what makes an observation cost tens of nanoseconds.

The registry bounds how many lines a scrape can have, whatever a peer sends (CVE-2022-21698, CVE-2025-43915): beyond
that, new label sets share one series per family whose every label is `_other`, and the registry counts them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

OTHER = "_other"
"""The value of a label whose real value is not worth, or not safe to have, a series of its own."""

MAX_LINES = 10_000
"""Lines of one scrape: 20 models in 3 versions make about 7,000, and 10,000 are 5 MB."""

Rows = Iterable[tuple[tuple[str, ...], float]]
"""Label values and a number each: what a family that is read at scrape time is told by its source."""


class CounterSeries:
    """A number that only grows."""

    __slots__ = ("labels", "text", "value")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.value: float = 0
        self.text = ""
        """What the exposition keeps of it between scrapes: everything of its line but the number."""


class GaugeSeries:
    """A number that goes up and down."""

    __slots__ = ("labels", "text", "value")

    def __init__(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self.value: float = 0
        self.text = ""


class HistogramSeries:
    """How many values fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "labels", "sum", "text")

    def __init__(self, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self.labels = labels
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Not cumulative; the last one has what is above every bound."""
        self.sum: float = 0
        self.text = ""

    def observe(self, value: float) -> None:
        """Count one value. A bound belongs to the bucket below it (`le`)."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


SeriesT = TypeVar("SeriesT", CounterSeries, GaugeSeries, HistogramSeries)


class Family(Generic[SeriesT]):
    """One metric: every series that has its name.

    Attributes:
        name: as users see it, with its unit and, for counters, `_total`.
        help: one sentence.
        label_names: the names that each series has values for.
        series: by label values.
        source: asked for the numbers at scrape time, instead of `series`; None for most.
    """

    lines_per_series = 1

    def __init__(self, registry: Registry, name: str, text: str, label_names: tuple[str, ...]) -> None:
        self.registry = registry
        self.name = name
        self.help = text
        self.label_names = label_names
        self.series: dict[tuple[str, ...], SeriesT] = {}
        self.source: Callable[[], Rows] | None = None
        self.header = ""
        """What the exposition keeps of it between scrapes."""
        self._other: SeriesT | None = None
        registry.add(self)
        if not label_names:
            self.labels()  # so that the line is there before the first event

    def labels(self, *values: str) -> SeriesT:
        """The series of these label values, which is the same object ever after.

        Raises:
            ValueError: not as many values as the family has labels.
        """
        found = self.series.get(values)
        return found if found is not None else self._add(values)

    def forget(self, values: tuple[str, ...]) -> None:
        """Show a series no more: what it is about is gone for good. Whoever has kept it counts for nobody."""
        if self.series.pop(values, None) is not None:
            self.registry.lines -= self.lines_per_series

    def read_from(self, source: Callable[[], Rows]) -> None:
        """Have the numbers told by `source` whenever they are scraped: for what somebody else counts anyway."""
        self.source = source

    def make(self, labels: tuple[str, ...]) -> SeriesT:
        """A new series, not yet counted anywhere."""
        raise NotImplementedError

    def _add(self, values: tuple[str, ...]) -> SeriesT:
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.name} has labels {self.label_names}, not {values!r}")
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
    """A family of counters. The name ends in `_total`."""

    def make(self, labels: tuple[str, ...]) -> CounterSeries:
        return CounterSeries(labels)


class Gauge(Family[GaugeSeries]):
    """A family of gauges."""

    def make(self, labels: tuple[str, ...]) -> GaugeSeries:
        return GaugeSeries(labels)


class Histogram(Family[HistogramSeries]):
    """A family of histograms that share their bounds: upper, inclusive, ascending, without infinity."""

    def __init__(
        self, registry: Registry, name: str, text: str, label_names: tuple[str, ...], bounds: tuple[float, ...]
    ) -> None:
        self.bounds = bounds
        self.lines_per_series = len(bounds) + 3
        super().__init__(registry, name, text, label_names)

    def make(self, labels: tuple[str, ...]) -> HistogramSeries:
        return HistogramSeries(labels, self.bounds)


class Registry:
    """Every family of a process, in the order in which a scrape shows them.

    Attributes:
        lines: how many lines the series take so far.
        capped: how often a label set was given the shared series, since there were too many.
    """

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self.families: dict[str, AnyFamily] = {}
        self.max_lines = max_lines
        self.lines = 0
        self.capped = 0

    def add(self, family: AnyFamily) -> None:
        """Show a family from now on.

        Raises:
            ValueError: another one has that name.
        """
        if family.name in self.families:
            raise ValueError(f"there is a metric {family.name} already")
        self.families[family.name] = family

    def take_lines(self, count: int) -> bool:
        """Whether there is room for `count` more lines, which then are taken."""
        if self.lines + count > self.max_lines:
            self.capped += 1
            return False
        self.lines += count
        return True


AnySeries = CounterSeries | GaugeSeries | HistogramSeries
AnyFamily = Family[CounterSeries] | Family[GaugeSeries] | Family[HistogramSeries]


def printable(value: str) -> str:
    """Label values are UTF-8: what cannot be encoded (lone surrogates) is spelled out."""
    return value.encode("utf-8", "backslashreplace").decode()
