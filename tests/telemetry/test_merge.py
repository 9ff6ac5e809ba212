from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from meshproxy.telemetry.catalogue import Metrics
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.merge import GAUGES, Ledger, Page, Rule, merge, read_page, write_page
from meshproxy.telemetry.metrics import Counter, Gauge, Histogram, Registry
from meshproxy.telemetry.process import watch_process
from meshproxy.telemetry.traffic import TrafficMetrics

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"
LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
FLOATS = st.floats(0, 1e9, allow_subnormal=False)


def text(registry: Registry) -> str:
    return b"".join(render(registry)).decode()


def page(counts: Mapping[str, float], observed: list[float] = [], gauge: float = 0) -> Registry:  # noqa: B006
    """A worker: a counter by label, a histogram, and gauges of every rule."""
    registry = Registry()
    counter = Counter(registry, "a_total", "A \\ counter.", ("b",))
    for label, value in counts.items():
        counter.labels(label).value += value
    histogram = Histogram(registry, "c_seconds", "C.", ("d",), (0.5, 2.0))
    for value in observed:
        histogram.labels("e").observe(value)
    for name in ("meshproxy_requests_in_flight", "meshproxy_config_in_sync", "meshproxy_jwks_age_seconds"):
        Gauge(registry, name, "G.", ()).labels().value = gauge
    return registry


def samples(of: str, *, openmetrics: bool = False) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in (parse_openmetrics if openmetrics else parse_text)(of)
        for sample in family.samples
    }


def written(merged: Page, *, openmetrics: bool = False) -> str:
    return b"".join(write_page(merged, openmetrics=openmetrics)).decode()


WORKERS = st.lists(
    st.tuples(
        st.dictionaries(LABELS, FLOATS | st.integers(0, 2**60), max_size=4), st.lists(FLOATS, max_size=4), FLOATS
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100)
@given(WORKERS)
def test_what_another_implementation_reads_of_the_parts_adds_up_in_the_whole(workers: list[Any]) -> None:
    texts = [text(page(*worker)) for worker in workers]
    merged = merge(map(read_page, texts))
    parts = [samples(each) for each in texts]
    rules = {"meshproxy_config_in_sync": min, "meshproxy_jwks_age_seconds": max}
    expected = {
        key: rules.get(key[0], sum)([part[key] for part in parts if key in part])
        for key in {key for part in parts for key in part}
    }
    assert samples(written(merged)) == pytest.approx(expected)
    assert samples(written(merged, openmetrics=True), openmetrics=True) == pytest.approx(expected)


@settings(max_examples=100)
@given(WORKERS)
def test_a_page_of_one_is_that_page(workers: list[Any]) -> None:
    alone = text(page(*workers[0]))
    assert written(merge([read_page(alone)])) == alone


def test_pages_come_in_pieces_that_are_never_empty() -> None:
    registry = page({f"label {number}": number for number in range(1_000)})
    pieces = list(write_page(read_page(text(registry))))
    assert len(pieces) >= 5
    assert all(pieces)
    assert b"".join(pieces).decode() == text(registry)


def test_infinity_and_nan() -> None:
    merged = merge([read_page(text(page({"x": float("inf")}))), read_page(text(page({"x": 1, "y": float("nan")})))])
    assert 'a_total{b="x"} +Inf\n' in written(merged)
    assert 'a_total{b="y"} NaN\n' in written(merged)


@pytest.mark.parametrize(
    "broken",
    [
        "a 1\n",
        "# TYPE a counter\na 1\n",
        "# HELP a A.\n# TYPE a counter\n# HELP a A.\n# TYPE a counter\n",
        "# HELP a A.\n# TYPE a counter\na x\n",
        "# HELP a A.\n# TYPE a counter\na\n",
        "# HELP a A.\n# TYPE a counter\n# EOF\n",
    ],
)
def test_anything_else_is_no_page(broken: str) -> None:
    with pytest.raises(ValueError):
        read_page(broken)


# The ledger

STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["counts", "answers", "is late", "dies"]),
        st.sampled_from(["x", "y"]),
        st.floats(0.001, 1e6) | st.integers(1, 9),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(STEPS)
def test_no_count_ever_falls(steps: list[tuple[int, str, str, float]]) -> None:
    ledger = Ledger()
    alive = [page({}) for _ in range(3)]
    before: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for number, step, label, value in steps:
        present = {0, 1, 2}
        if step == "counts":
            counter, histogram = (alive[number].families[name] for name in ("a_total", "c_seconds"))
            assert isinstance(counter, Counter)
            assert isinstance(histogram, Histogram)
            counter.labels(label).value += value
            histogram.labels(label).observe(value)
            continue
        if step == "answers":
            ledger.answered(number, read_page(text(alive[number])))
        elif step == "is late":
            present.discard(number)
        else:
            ledger.died(number)
            alive[number] = page({})
        now = samples(written(ledger.merged({}, present)))
        counts = {key: value for key, value in now.items() if not key[0].startswith("meshproxy_")}
        assert all(counts[key] >= value for key, value in before.items())
        before = counts


def test_gauges_are_of_those_that_answer() -> None:
    ledger = Ledger()
    for number in (0, 1):
        ledger.answered(number, read_page(text(page({"x": 1}, gauge=5))))
    both = written(ledger.merged({}, [0, 1]))
    assert "meshproxy_requests_in_flight 10\n" in both
    one = written(ledger.merged({}, [1]))
    assert "meshproxy_requests_in_flight 5\n" in one
    assert 'a_total{b="x"} 2\n' in one
    ledger.died(0)
    ledger.died(1)
    assert written(ledger.merged({}, [0, 1])) == re.sub("(?s)# HELP c_.*", "", one) + (
        "# HELP c_seconds C.\n# TYPE c_seconds histogram\n"
    )


def test_the_dead_take_no_more_lines_than_the_living() -> None:
    ledger = Ledger(max_lines=10)
    for life in range(4):
        ledger.answered(0, read_page(text(page({f"{life} {number}": 1 for number in range(4)} | {"same": 1}))))
        ledger.died(0)
    merged = ledger.merged({}, [])
    assert len(merged["a_total"].samples) == 9
    assert merged["a_total"].samples['a_total{b="same"}'] == 4


# The rules


def test_every_gauge_has_a_rule_and_the_documentation_names_it() -> None:
    metrics = Metrics()
    watch_process(metrics.registry)
    TrafficMetrics(metrics)
    gauges = [name for name, family in metrics.registry.families.items() if isinstance(family, Gauge)]
    assert set(GAUGES) == set(gauges)
    documented = dict(re.findall(r"^\| `([a-z_]+)` \| (sum|min|max) \|$", DOCUMENTATION.read_text(), re.MULTILINE))
    assert {name: Rule(rule) for name, rule in documented.items()} == GAUGES
