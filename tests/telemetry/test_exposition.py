from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from meshproxy.telemetry import metric_table as table
from meshproxy.telemetry.exposition import PIECE_LINES, render, wants_openmetrics
from meshproxy.telemetry.metrics import (
    MAX_LINES,
    Counter,
    Exemplar,
    Gauge,
    Histogram,
    HistogramSeries,
    PausingRows,
    Registry,
)
from tests.thorough import tries


def page(registry: Registry, *, openmetrics: bool = False) -> str:
    return b"".join(render(registry, openmetrics=openmetrics)).decode()


def read(text: str, *, openmetrics: bool = False) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What another implementation makes of a page: value by name and labels."""
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in (parse_openmetrics if openmetrics else parse_text)(text):
        for sample in family.samples:
            assert isinstance(sample, Sample)
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples
            samples[key] = sample.value
    return samples


def labels(**values: str) -> frozenset[tuple[str, str]]:
    return frozenset(values.items())


def test_the_text_of_each_kind() -> None:
    registry = Registry()
    Counter(registry, table.counter("a_total", "Of a \\ b.\nTwo lines.", "b", "c")).labels("x", 'q"\\\n').value += 2
    Gauge(registry, table.gauge("d", "D.")).labels().value = 1.5
    histogram = Histogram(registry, table.histogram("e_bytes", "E.", "f", buckets=(0.5, 1048576.0))).labels("50%")
    for value in (0.25, 3, 2**21):
        histogram.observe(value)
    assert page(registry) == (
        "# HELP a_total Of a \\\\ b.\\nTwo lines.\n"
        "# TYPE a_total counter\n"
        'a_total{b="x",c="q\\"\\\\\\n"} 2\n'
        "# HELP d D.\n"
        "# TYPE d gauge\n"
        "d 1.5\n"
        "# HELP e_bytes E.\n"
        "# TYPE e_bytes histogram\n"
        'e_bytes_bucket{f="50%",le="0.5"} 1\n'
        'e_bytes_bucket{f="50%",le="1.048576e+06"} 2\n'
        'e_bytes_bucket{f="50%",le="+Inf"} 3\n'
        'e_bytes_sum{f="50%"} 2097155.25\n'
        'e_bytes_count{f="50%"} 3\n'
    )


def test_openmetrics_names_counters_without_their_suffix_and_ends() -> None:
    registry = Registry()
    Counter(registry, table.counter("a_total", "A.")).labels().value += 1
    assert page(registry, openmetrics=True) == "# HELP a A.\n# TYPE a counter\na_total 1\n# EOF\n"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (None, False),
        (b"*/*", False),
        (b"text/plain;version=0.0.4;q=1,*/*;q=0.1", False),
        (b"application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4", True),
        (b"Application/OpenMetrics-Text", True),
        (b"text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.4", False),
        (b"application/openmetrics-text;version=0.0.1,*/*;q=0.1", False),
        (b"application/openmetrics-text; q=0", False),
        (b"application/openmetrics-text; q=much, text/plain", False),
        (b"text/plain, application/openmetrics-text; version=0.0.1; q=0.2, application/openmetrics-text", True),
    ],
)
def test_openmetrics_only_for_who_asks(accept: bytes | None, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


def test_values_are_read_anew_and_texts_are_kept() -> None:
    registry = Registry()
    series = Counter(registry, table.counter("a_total", "A.")).labels()
    page(registry)
    series.value += 3
    assert page(registry).endswith("a_total 3\n")


def test_values_that_are_not_finite() -> None:
    registry = Registry()
    gauge = Gauge(registry, table.gauge("a", "A.", "b"))
    for name in ("inf", "-inf", "nan"):
        gauge.labels(name).value = float(name)
    assert page(registry).splitlines()[2:] == ['a{b="inf"} +Inf', 'a{b="-inf"} -Inf', 'a{b="nan"} NaN']


def test_a_source_tells_the_rows() -> None:
    registry = Registry()
    gauge = Gauge(registry, table.gauge("a", "A.", "b"))
    gauge.read_from(lambda: [(("x",), 1), (("\ud800",), 2)])
    assert page(registry).splitlines()[2:] == ['a{b="x"} 1', 'a{b="\\\\ud800"} 2']


def test_a_broken_source_costs_its_own_rows_only(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    Gauge(registry, table.gauge("a", "A.")).read_from(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    Gauge(registry, table.gauge("b", "B.")).labels().value = 7
    with caplog.at_level(logging.ERROR):
        assert read(page(registry)) == {("b", labels()): 7}
    assert "internal error in reading metric a" in caplog.text


@pytest.mark.parametrize("openmetrics", [False, True])
def test_pieces_of_a_full_page_are_small(openmetrics: bool) -> None:
    registry = Registry()
    counter = Counter(registry, table.counter("a_total", "A.", "b"))
    histogram = Histogram(registry, table.histogram("c", "C.", "b", buckets=tuple(map(float, range(1, 16)))))
    Gauge(registry, table.gauge("d", "D.", "b")).read_from(lambda: [((str(number),), 1) for number in range(1_000)])
    for number in range(300):
        histogram.labels(str(number)).observe(number)
        histogram.labels(str(number)).exemplify(Exemplar(number, 1.0, b"1" * 32, b"2" * 16))
    while not registry.capped:
        counter.labels(str(registry.lines)).value += 1
    for _ in range(2):  # the first page makes the texts
        pieces = list(render(registry, openmetrics=openmetrics))
        assert sum(piece.count(b"\n") for piece in pieces) >= MAX_LINES
        assert all(0 < piece.count(b"\n") <= PIECE_LINES + 3 for piece in pieces)


def test_a_source_that_takes_long_pauses() -> None:
    registry = Registry()

    def rows() -> PausingRows:
        for number in range(3):
            yield None
            yield (str(number),), number

    Gauge(registry, table.gauge("a", "A.", "b")).read_from(rows)
    assert list(render(registry)) == [
        b"# HELP a A.\n# TYPE a gauge\n", b'a{b="0"} 0\n', b'a{b="1"} 1\n', b'a{b="2"} 2\n',
    ]  # fmt: skip


def traced(registry: Registry) -> HistogramSeries:
    return Histogram(registry, table.histogram("a_seconds", "A.", "b", buckets=(0.5, 1.0), unit="seconds")).labels("x")


def test_exemplars_are_in_openmetrics_only() -> None:
    registry = Registry()
    series = traced(registry)
    for value, trace in ((0.25, b"1"), (0.5, b"2"), (7.0, b"3")):
        series.observe(value)
        series.exemplify(Exemplar(value, 1_700_000_000.1234, trace * 32, b"c" * 16))
    assert "trace_id" not in page(registry)
    buckets = [line for line in page(registry, openmetrics=True).splitlines() if "_bucket" in line]
    assert buckets == [
        f'a_seconds_bucket{{b="x",le="0.5"}} 2 # {{trace_id="{"2" * 32}",span_id="{"c" * 16}"}} 0.5 1700000000.123',
        'a_seconds_bucket{b="x",le="1.0"} 2',
        f'a_seconds_bucket{{b="x",le="+Inf"}} 3 # {{trace_id="{"3" * 32}",span_id="{"c" * 16}"}} 7.0 1700000000.123',
    ]


@settings(max_examples=tries(50))
@given(values=st.lists(st.floats(0, 10), min_size=1, max_size=20))
def test_another_implementation_reads_exemplars(values: list[float]) -> None:
    registry = Registry()
    series = traced(registry)
    for number, value in enumerate(values):
        series.observe(value)
        series.exemplify(Exemplar(value, number, b"%032x" % number, b"%016x" % number))
    (family,) = parse_openmetrics(page(registry, openmetrics=True))  # type: ignore[no-untyped-call]
    for sample in family.samples:
        if sample.name != "a_seconds_bucket":
            continue
        bound = float(sample.labels["le"])
        newest = [number for number, value in enumerate(values) if bucket_of(value) == bound]
        if not newest:
            assert sample.exemplar is None
            continue
        found = sample.exemplar
        assert found is not None
        assert (found.value, float(found.timestamp)) == (values[newest[-1]], newest[-1])
        assert found.labels == {"trace_id": f"{newest[-1]:032x}", "span_id": f"{newest[-1]:016x}"}
        assert sum(map(len, (*found.labels, *found.labels.values()))) <= 128


def bucket_of(value: float) -> float:
    return 0.5 if value <= 0.5 else 1.0 if value <= 1.0 else float("inf")


def test_series_may_be_added_between_pieces() -> None:
    registry = Registry()
    counter = Counter(registry, table.counter("a_total", "A.", "b"))
    for number in range(500):
        counter.labels(str(number))
    pieces = render(registry)
    first = next(pieces)
    counter.labels("new").value += 1
    text = first + b"".join(pieces)
    assert text.count(b"\n") == 502
    assert b'"new"' in page(registry).encode()


@settings(max_examples=tries(100))
@given(
    rows=st.dictionaries(st.tuples(st.text(), st.text()), st.integers(0, 2**53) | st.floats(0, 1e300), max_size=8),
    observed=st.lists(st.floats(0, 1e9), max_size=20),
    openmetrics=st.booleans(),
)
def test_another_implementation_reads_what_was_written(
    rows: dict[tuple[str, str], float], observed: list[float], openmetrics: bool
) -> None:
    registry = Registry()
    counter = Counter(registry, table.counter("a_total", "A.", "b", "c"))
    histogram = Histogram(registry, table.histogram("d_seconds", "D.", "b", buckets=(0.001, 1.0, 2.5, 1e6)))
    expected: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for (b, c), value in rows.items():
        counter.labels(b, c).value = value
        expected["a_total", labels(b=b, c=c)] = float(value)
    for b in {b for b, _ in rows}:
        series = histogram.labels(b)
        for value in observed:
            series.observe(value)
        for bound, le in ((0.001, "0.001"), (1.0, "1.0"), (2.5, "2.5"), (1e6, "1e+06"), (float("inf"), "+Inf")):
            at_most = sum(value <= bound for value in observed)
            expected["d_seconds_bucket", labels(b=b, le=le)] = at_most
        expected["d_seconds_sum", labels(b=b)] = series.sum
        expected["d_seconds_count", labels(b=b)] = len(observed)
    for _ in range(2):  # the first page makes the texts, the second uses them
        assert read(page(registry, openmetrics=openmetrics), openmetrics=openmetrics) == expected
