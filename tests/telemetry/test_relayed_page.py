"""The model server's page: what is passed on, and what not. The official parsers are the judges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from meshproxy.devtools.model_metrics import ModelMetrics
from meshproxy.inference.tfserving_metrics import MOST_LINES, PageError
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.relayed_page import MOST_LINE_BYTES, RelayedPage
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

COUNTER = b"# TYPE :a counter\n"


def relayed(page: bytes, slice_of: int = 3) -> RelayedPage:
    made = RelayedPage()
    lines = page.split(b"\n")
    for start in range(0, len(lines), slice_of):
        made.feed(lines[start : start + slice_of])
    return made


def text(page: bytes) -> bytes:
    return b"".join(relayed(page).render(openmetrics=False))


def served() -> ModelMetrics:
    metrics = ModelMetrics()
    for number in range(5):
        metrics.record(f'm"{number}\\', "OK", "Predict", "GRPC", 0.01 * number)
        metrics.record("m", "NOT_FOUND", "Predict", "REST", 0.0)
    return metrics


def test_text_is_passed_on_as_it_is() -> None:
    page = served().page().encode()
    assert text(page) == page


def test_both_pages_are_one_for_the_parser_of_text() -> None:
    more = relayed(served().page().encode()).render(openmetrics=False)
    whole = b"".join(render(SidecarMetrics().registry, more=more)).decode()
    names = [family.name for family in text_string_to_metric_families(whole)]
    assert len(names) == len(set(names))
    assert {"meshproxy_requests", ":tensorflow:serving:request_latency"} <= set(names)


def test_both_pages_are_one_for_the_parser_of_openmetrics() -> None:
    more = relayed(served().page().encode()).render(openmetrics=True)
    whole = b"".join(render(SidecarMetrics().registry, openmetrics=True, more=more)).decode()
    assert whole.endswith("# EOF\n")
    found = {family.name: family for family in parse_openmetrics(whole)}  # type: ignore[no-untyped-call]
    assert found[":tensorflow:serving:request_count"].type == "unknown"
    assert found[":tensorflow:serving:request_latency"].type == "histogram"


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\n\n",
        COUNTER,
        COUNTER + b":a 1\n",
        COUNTER + b":a{} 1\n",
        COUNTER + b':a{x="1",y="\\\\ \\" \\n"} 1e+06\n',
        COUNTER + ':a{x="\u00e9"} -1.5e-7\n'.encode(),
        b"# HELP :a Something.\n" + COUNTER + b":a 1\n",
        b"# TYPE :a histogram\n:a_bucket 1\n:a_sum 1\n:a_count 1\n",
        b"# TYPE a_b gauge\na_b 1\n# TYPE c untyped\nc 1\n",
    ],
)
def test_what_is_passed_on(page: bytes) -> None:
    assert text(page) == page.lstrip(b"\n")


@pytest.mark.parametrize(
    "page",
    [
        b":a 1\n",
        COUNTER + b":b 1\n",
        COUNTER + b":a_sum 1\n",
        b"# TYPE :a histogram\n:a 1\n",
        COUNTER + b":a 1 1700000000\n",
        COUNTER + b":a NaN\n",
        COUNTER + b":a\n",
        COUNTER + b":a  1\n",
        COUNTER + b':a{x="1",} 1\n',
        COUNTER + b':a{x="1",x="2"} 1\n',
        COUNTER + b':a{x="1",y="\\"",x="1"} 1\n',
        COUNTER + b':a{__name__="meshproxy_requests_total"} 1\n',
        COUNTER + b':a{x="1",__x="1"} 1\n',
        COUNTER + b":a{x=1} 1\n",
        COUNTER + b':a{x="\\t"} 1\n',
        COUNTER + b':a{x="a\nb"} 1\n',
        COUNTER + b':a{x="a\rb"} 1\n',
        COUNTER + b':a{x="\0"} 1\n',
        COUNTER + b':a{x="\xff"} 1\n',
        COUNTER + b":a 1\r\n",
        COUNTER + b":a 1 # {} 1\n",
        COUNTER + COUNTER,
        COUNTER + b"# TYPE :b gauge\n" + COUNTER,
        b"# TYPE :a summary\n",
        b"# TYPE a.b counter\n",
        b"# TYPE meshproxy_requests_total counter\n",
        b"# TYPE process_cpu_seconds_total counter\n",
        b"# HELP meshproxy_requests_total Forged.\n",
        b"# EOF\n",
        b"# a comment\n",
        b"<html>\n",
        COUNTER + b':a{x="' + b"x" * MOST_LINE_BYTES + b'"} 1\n',
        COUNTER + b":a 1\n" * MOST_LINES,
    ],
)
def test_what_is_refused(page: bytes) -> None:
    with pytest.raises(PageError) as caught:
        relayed(page, 1_000)
    assert "xxx" not in str(caught.value)


def test_a_line_that_a_caller_has_forged_costs_the_page_and_no_more() -> None:
    """TensorFlow Serving does not escape line feeds in the names of models."""
    metrics = ModelMetrics()
    metrics.record('m"} 1\nmeshproxy_refusals_total{reason="none', "NOT_FOUND", "Predict", "GRPC", 0.0)
    with pytest.raises(PageError):
        relayed(metrics.page().encode())


TYPES = [b"# TYPE :a ", b"counter", b"histogram", b"# HELP :a b"]
PIECES = [b"\n", b":a", b"_sum", b"{", b'x="', b'"', b"}", b" 1", b",", b"\\", b"\xff", b"e"]


@given(st.lists(st.sampled_from([*TYPES, *PIECES]), max_size=40))
def test_what_is_passed_on_can_be_parsed(pieces: list[bytes]) -> None:
    try:
        page = relayed(b"".join(pieces))
    except PageError:
        return
    list(text_string_to_metric_families(b"".join(page.render(openmetrics=False)).decode()))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(page: bytes) -> None:
    try:
        relayed(COUNTER + b":a" + page)
    except PageError:
        pass
