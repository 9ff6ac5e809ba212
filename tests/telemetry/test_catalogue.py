from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.catalogue import Metrics
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import Counter, Histogram, HistogramSeries, Registry
from meshproxy.telemetry.process import watch_process
from meshproxy.telemetry.traffic import TrafficMetrics

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.mention(["half_plus_two"])
    return made


def lines(metrics: Metrics, name: str) -> dict[str, float]:
    """The samples of a metric that are not zero: value by labels."""
    page = b"".join(render(metrics.registry)).decode()
    found = {}
    for line in page.splitlines():
        if (match := re.fullmatch(rf"{name}(\{{.*\}})? (\S+)", line)) and float(match[2]):
            found[match[1] or ""] = float(match[2])
    return found


def test_one_exchange(metrics: Metrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange())
    assert lines(metrics, "meshproxy_requests_total") == {
        '{direction="inbound",model="half_plus_two",version="latest",verb="predict",'
        'protocol="grpc",code="200",grpc_status="OK"}': 1
    }
    duration = metrics.request_duration.labels("inbound", "half_plus_two", "latest", "predict")
    assert duration.counts[2] == 1  # 3 ms: above 2.5, up to 5
    assert duration.sum == pytest.approx(0.003)
    assert metrics.request_size.labels("half_plus_two").sum == 60
    assert metrics.response_size.labels("half_plus_two").sum == 300
    assert lines(metrics, "meshproxy_authz_decisions_total") == {
        '{decision="allow",policy="finance-team",reason=""}': 1
    }
    assert lines(metrics, "meshproxy_refusals_total") == {}


def test_the_overhead_is_what_nobody_else_is_waited_for(metrics: Metrics, make_exchange: MakeExchange) -> None:
    overhead = metrics.overhead.labels("inbound")
    metrics.observe(make_exchange())
    # 0.25 ms to decide and 0.5 ms to pass the answer on, of the 3 ms.
    assert overhead.sum == pytest.approx(0.000_75)
    metrics.observe(make_exchange(bytes_received=65_537))
    metrics.observe(make_exchange(bytes_sent=65_537))
    metrics.observe(make_exchange(first_byte=0.0))
    assert sum(overhead.counts) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"is_grpc": False, "grpc_status": None, "protocol": "HTTP/1.1"}, ("http/1.1", "200", "")),
        ({"is_grpc": False, "grpc_status": None}, ("http/2", "200", "")),
        ({"grpc_status": 7}, ("grpc", "200", "PERMISSION_DENIED")),
        ({"grpc_status": None, "status": 0}, ("grpc", "0", "_none")),
        ({"grpc_status": 99, "status": 999}, ("grpc", "_other", "_other")),
    ],
)
def test_protocol_and_statuses(
    metrics: Metrics, make_exchange: MakeExchange, fields: dict[str, Any], expected: tuple[str, ...]
) -> None:
    metrics.observe(make_exchange(**fields))
    (labels,) = metrics.requests.series
    assert labels[4:] == expected


def test_a_refusal_is_counted_by_reason_limit_and_decision(metrics: Metrics, make_exchange: MakeExchange) -> None:
    denied = Refusal(Reason.PERMISSION_DENIED, "No.", rule="finance-team", audits=("watch",))
    metrics.observe(make_exchange(refusal=denied, rule="", status=200, grpc_status=7))
    metrics.observe(
        make_exchange(refusal=Refusal(Reason.SCAN_LIMIT, "Too far.", limit="scan_bytes"), rule="", decided=0)
    )
    metrics.observe(make_exchange(refusal=Refusal(Reason.UPSTREAM_RESET, "Gone."), permit_audits=("watch",)))
    assert lines(metrics, "meshproxy_refusals_total") == {
        '{reason="permission-denied"}': 1,
        '{reason="scan-limit"}': 1,
        '{reason="upstream-reset"}': 1,
    }
    assert lines(metrics, "meshproxy_limits_exceeded_total") == {}  # counted where it was exceeded, once
    assert lines(metrics, "meshproxy_authz_decisions_total") == {
        '{decision="deny",policy="finance-team",reason="permission-denied"}': 1,
        '{decision="allow",policy="finance-team",reason=""}': 1,
        '{decision="audit",policy="watch",reason=""}': 2,
    }


def test_who_left_before_the_decision_was_not_decided_about(metrics: Metrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange(status=0, grpc_status=None, call=None, rule="", decided=0.0))
    assert lines(metrics, "meshproxy_authz_decisions_total") == {}
    (labels,) = metrics.requests.series
    assert labels[1:4] == ("_none", "_none", "_none")


def test_every_reason_has_its_zero_from_the_start() -> None:
    assert set(Metrics().refusals.series) == {(reason.label,) for reason in Reason}


def test_a_served_model_gets_its_own_series_with_the_answer_that_proves_it(
    metrics: Metrics, make_exchange: MakeExchange
) -> None:
    metrics.observe(make_exchange(model="new", status=404, is_grpc=False, grpc_status=None))
    metrics.observe(make_exchange(model="new", grpc_status=5))
    metrics.observe(make_exchange(model="new", refusal=Refusal(Reason.PERMISSION_DENIED, "No."), status=403))
    metrics.observe(make_exchange(model="new"))
    metrics.observe(make_exchange(model="new", grpc_status=5))
    assert [labels[1] for labels in metrics.requests.series] == ["_other", "_other", "_other", "new", "new"]
    assert [series.value for series in metrics.requests.series.values()] == [1, 1, 1, 1, 1]


def test_what_clients_choose_makes_no_series(metrics: Metrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange(refusal=Refusal(Reason.PERMISSION_DENIED, "No.", rule="x"), grpc_status=7))
    before = metrics.registry.lines
    draw = random.Random(1)
    for _ in range(20_000):
        metrics.observe(
            make_exchange(
                model=f"{draw.getrandbits(64):x}",
                version=draw.getrandbits(31),
                target=b"/%d" % draw.getrandbits(64),
                headers=((b"user-agent", b"%d" % draw.getrandbits(64)),),
                refusal=Refusal(Reason.PERMISSION_DENIED, "No.", rule="x"),
                grpc_status=7,
            )
        )
    # One requests_total, one duration, and the two sizes of `_other`.
    assert metrics.registry.lines - before <= 1 + 18 + 2 * 12
    assert len(metrics._memo) <= 1


def test_a_reload_keeps_the_counts_and_forgets_the_names(metrics: Metrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange(grpc_status=14))
    metrics.mention(["other"])
    metrics.observe(make_exchange(grpc_status=14))
    assert [(labels[1], series.value) for labels, series in metrics.requests.series.items()] == [
        ("half_plus_two", 1),
        ("_other", 1),
    ]


def test_calls_of_several_models_are_told_apart(metrics: Metrics, make_exchange: MakeExchange) -> None:
    same = Call(Verb.MULTI_INFERENCE, (ModelRef("half_plus_two"), ModelRef("half_plus_two")))
    mixed = Call(Verb.MULTI_INFERENCE, (ModelRef("half_plus_two"), ModelRef("else")))
    for call in (same, mixed):
        metrics.observe(make_exchange(call=call))
    assert [labels[1] for labels in metrics.requests.series] == ["half_plus_two", "_other"]


def test_what_is_in_flight_is_counted_by_model(metrics: Metrics, make_exchange: MakeExchange) -> None:
    live = [make_exchange(), make_exchange(), make_exchange(model="unknown"), make_exchange(call=None)]
    metrics.in_flight.read_from(lambda: metrics.count_in_flight(live))
    assert lines(metrics, "meshproxy_requests_in_flight") == {
        '{model="half_plus_two"}': 2,
        '{model="_other"}': 1,
        '{model="_none"}': 1,
    }


def test_many_models_stay_below_the_bound(make_exchange: MakeExchange) -> None:
    metrics = Metrics(Registry(max_lines=1_000))
    metrics.mention([f"m{number}" for number in range(500)])
    for number in range(500):
        metrics.observe(make_exchange(model=f"m{number}"))
    assert metrics.registry.lines <= 1_000
    assert sum(series.value for series in metrics.requests.series.values()) == 500
    assert lines(metrics, "meshproxy_metric_series_capped_total")[""] > 0


def test_the_documentation_names_every_metric_its_type_its_labels_and_its_buckets() -> None:
    metrics = Metrics()
    watch_process(metrics.registry)
    TrafficMetrics(metrics)
    documented = {}
    for line in DOCUMENTATION.read_text().splitlines():
        if match := re.match(r"\| `([a-z_]+)` \| (\w+) \| (.*?) \|", line):
            documented[match[1]] = (match[2], tuple(re.findall(r"`(\w+)`", match[3])))
    kinds = {"counter": Counter, "histogram": Histogram}
    assert list(documented) == list(metrics.registry.families)
    for name, family in metrics.registry.families.items():
        kind = next((word for word, cls in kinds.items() if isinstance(family, cls)), "gauge")
        assert documented[name] == (kind, family.label_names), name
    text = DOCUMENTATION.read_text()
    for family in metrics.registry.families.values():
        if isinstance(family, Histogram):
            assert " ".join(f"{bound:.10g}" for bound in family.bounds) in text, family.name


def test_the_page_of_everything_is_read_by_another_implementation(
    metrics: Metrics, make_exchange: MakeExchange
) -> None:
    watch_process(metrics.registry)
    metrics.observe(make_exchange())
    text = b"".join(render(metrics.registry)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert len(families) == len(metrics.registry.families)
    for family in metrics.registry.families.values():
        read = families[family.name.removesuffix("_total")]
        assert read.documentation == family.help
        for series in family.series.values():
            if family.source is None and not isinstance(series, HistogramSeries):
                labels = dict(zip(family.label_names, series.labels, strict=True))
                assert [sample.value for sample in read.samples if sample.labels == labels] == [series.value]
