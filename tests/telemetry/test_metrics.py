from __future__ import annotations

import pytest

from meshproxy.telemetry import metric_table as table
from meshproxy.telemetry.metrics import OTHER, Counter, Exemplar, Gauge, Histogram, Registry


def test_a_series_is_the_same_object_ever_after() -> None:
    counter = Counter(Registry(), table.counter("a_total", "A.", "b"))
    counter.labels("x").value += 1
    counter.labels("x").value += 2
    assert counter.labels("x").value == 3
    assert counter.labels("x") is not counter.labels("y")


def test_a_metric_without_labels_is_there_from_the_start() -> None:
    registry = Registry()
    gauge = Gauge(registry, table.gauge("a", "A."))
    assert [series.value for series in gauge.series.values()] == [0]
    assert registry.lines == 1


def test_bounds_belong_to_the_bucket_below_them() -> None:
    series = Histogram(Registry(), table.histogram("a", "A.", buckets=(1.0, 2.0))).labels()
    for value in (0.5, 1.0, 1.5, 2.0, 99.0):
        series.observe(value)
    assert series.counts == [2, 2, 1]
    assert series.sum == 104.0


def test_as_many_values_as_names() -> None:
    counter = Counter(Registry(), table.counter("a_total", "A.", "b", "c"))
    with pytest.raises(ValueError, match="a_total"):
        counter.labels("x")


def test_a_name_stands_for_one_metric() -> None:
    registry = Registry()
    Counter(registry, table.counter("a_total", "A."))
    with pytest.raises(ValueError, match="a_total"):
        Gauge(registry, table.gauge("a_total", "A."))


def test_beyond_the_bound_label_sets_share_a_series() -> None:
    registry = Registry(max_lines=7)
    histogram = Histogram(registry, table.histogram("a", "A.", "b", buckets=(1.0,)))  # four lines each
    counter = Counter(registry, table.counter("c_total", "C.", "d"))
    first = histogram.labels("x")
    assert histogram.labels("y").labels == (OTHER,)
    assert histogram.labels("z") is histogram.labels("y")
    assert histogram.labels("x") is first
    assert registry.lines == 4
    assert [counter.labels(str(number)).labels[0] for number in range(5)] == ["0", "1", "2", OTHER, OTHER]
    assert registry.lines == 7
    assert len(histogram.series) == 2
    assert len(counter.series) == 4
    assert registry.capped == 5


def test_the_newest_exemplar_of_each_bucket_is_kept() -> None:
    series = Histogram(Registry(), table.histogram("a", "A.", buckets=(1.0, 2.0))).labels()
    assert series.exemplars is None
    made = [Exemplar(value, 1.0, b"1" * 32, b"2" * 16) for value in (0.5, 1.0, 1.5, 9.0)]
    for exemplar in made:
        series.exemplify(exemplar)
    assert series.exemplars == {0: made[1], 1: made[2], 2: made[3]}
    assert series.counts == [0, 0, 0]


def test_values_that_utf8_cannot_say_are_spelled_out_and_stay_one_series() -> None:
    counter = Counter(Registry(), table.counter("a_total", "A.", "b"))
    assert counter.labels("x\udc80").labels == ("x\\udc80",)
    assert counter.labels("x\udc80") is counter.labels("x\\udc80")


def test_a_family_takes_no_metric_of_another_type() -> None:
    with pytest.raises(ValueError, match="a_total is a counter, not a gauge"):
        Gauge(Registry(), table.counter("a_total", "A."))
