"""The table of metrics: consistent in itself, complete, and the same in docs/metrics.md."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from meshproxy.config.load import load
from meshproxy.sidecar.supervisor import Supervisor
from meshproxy.telemetry import metric_table
from meshproxy.telemetry.control_metrics import ControlMetrics
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metric_table import TABLES
from meshproxy.telemetry.metrics import HistogramSeries, Metric, Registry, Type
from meshproxy.telemetry.process import watch_process
from meshproxy.telemetry.scaling import Scaling
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from meshproxy.telemetry.upstream_metrics import UpstreamMetrics

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

REPOSITORY = Path(__file__).parents[2]
DOCUMENTATION = REPOSITORY / "docs" / "metrics.md"
ROWS = [metric for rows in TABLES.values() for metric in rows]


def sidecar() -> SidecarMetrics:
    """The metrics of a sidecar process."""
    metrics = SidecarMetrics()
    watch_process(metrics.registry)
    UpstreamMetrics(metrics.registry, metrics.requests.model_labels)
    pipeline: Any = SimpleNamespace(live=set(), admissions=SimpleNamespace(rows=list))
    Scaling(metrics.registry, metrics.requests, pipeline, lambda: 0.0)
    return metrics


def test_every_declaration_is_in_a_table_once() -> None:
    declared = [value for value in vars(metric_table).values() if isinstance(value, Metric)]
    assert len(ROWS) == len(set(ROWS))
    assert {metric.name for metric in declared} == {metric.name for metric in ROWS}


@pytest.mark.parametrize("metric", ROWS, ids=lambda metric: metric.name)
def test_names_follow_the_conventions_of_prometheus(metric: Metric) -> None:
    """https://prometheus.io/docs/practices/naming/"""
    assert re.fullmatch(r"(meshproxy|process)_[a-z0-9_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.type is Type.COUNTER)
    assert metric.unit in ("", "seconds", "bytes", "ratio")
    stem = metric.name.removesuffix("_total")
    assert metric.unit == next((unit for unit in ("seconds", "bytes", "ratio") if stem.endswith("_" + unit)), "")
    assert metric.help[0].isupper() or metric.help[0].isdigit()
    assert metric.help.endswith(".")
    assert "|" not in metric.help
    assert bool(metric.buckets) == (metric.type is Type.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


async def test_every_metric_is_registered_by_the_process_it_is_of() -> None:
    registered = set(sidecar().registry.families)
    documents = load([REPOSITORY / "deploy" / "examples" / "first.yaml"])
    supervisor = Supervisor([], documents)
    names = {metric.name for metric in ROWS}
    of_control = set(ControlMetrics().registry.families)
    assert registered | set(supervisor.registry.families) | of_control == names
    assert names - registered == {metric.name for part in ("Supervisor", "Control plane") for metric in TABLES[part]}


def test_the_documentation_has_the_tables() -> None:
    """Print them with `python -m meshproxy.telemetry.metric_table`."""
    assert metric_table.page() in DOCUMENTATION.read_text()


def test_the_documentation_has_the_buckets() -> None:
    text = DOCUMENTATION.read_text()
    for metric in ROWS:
        if metric.buckets:
            assert " ".join(f"{bound:.10g}" for bound in metric.buckets) in text, metric.name


def first_cells(section: str) -> list[str]:
    """Of the rows of the tables in a section of the page."""
    text = DOCUMENTATION.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line.split("|")[1].strip() for line in text.splitlines() if re.match(r"\| `", line)]


def test_names_elsewhere_are_beside_names_that_there_are() -> None:
    labels = {metric.name: metric.labels for metric in ROWS}
    known = {label for metric in ROWS for label in metric.labels}
    cells = first_cells("Names elsewhere")
    assert len(cells) > 25
    for cell in cells:
        for name in re.findall(r"`((?:meshproxy|process)_\w+)", cell):
            assert name in labels
            assert set(re.findall(r'(\w+)="', cell)) <= set(labels[name])
        if "_total" not in cell and "meshproxy_" not in cell and "process_" not in cell:
            own = cell.partition(":")[0]
            assert set(re.findall(r"`(\w+)`", own)) <= known, cell


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_the_page_of_everything_is_read_by_another_implementation(
    make_exchange: MakeExchange, openmetrics: bool
) -> None:
    metrics = sidecar()
    metrics.requests.observe(make_exchange())
    registry: Registry = metrics.registry
    text = b"".join(render(registry, openmetrics=openmetrics)).decode()
    families = {family.name: family for family in (parse_openmetrics if openmetrics else parse_text)(text)}
    assert len(families) == len(registry.families)
    for family in registry.families.values():
        read = families[family.metric.name.removesuffix("_total")]
        assert read.documentation == family.metric.help
        assert read.type == family.metric.type.value
        assert read.unit == (family.metric.unit if openmetrics else "")
        for series in family.series.values():
            if family.source is None and not isinstance(series, HistogramSeries):
                labels = dict(zip(family.metric.labels, series.labels, strict=True))
                assert [sample.value for sample in read.samples if sample.labels == labels] == [series.value]
