from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import TraceContext
from meshproxy.refusal import Reason, Refusal
from meshproxy.telemetry.exposition import render
from meshproxy.telemetry.metrics import Exemplar, Registry
from meshproxy.telemetry.model_labels import MAX_SERVED_VERSIONS, ModelLabels
from meshproxy.telemetry.request_metrics import RequestMetrics

if TYPE_CHECKING:
    from tests.telemetry.conftest import MakeExchange


@pytest.fixture
def metrics() -> RequestMetrics:
    made = RequestMetrics(Registry(), ModelLabels())
    made.mention(["half_plus_two"])
    return made


def lines(metrics: RequestMetrics, name: str) -> dict[str, float]:
    """The samples of a metric that are not zero: value by labels."""
    page = b"".join(render(metrics.total.registry)).decode()
    found = {}
    for line in page.splitlines():
        if (match := re.fullmatch(rf"{name}(\{{.*\}})? (\S+)", line)) and float(match[2]):
            found[match[1] or ""] = float(match[2])
    return found


def test_one_exchange(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange())
    assert lines(metrics, "meshproxy_requests_total") == {
        '{direction="inbound",model="half_plus_two",version="latest",verb="predict",'
        'protocol="HTTP/2",code="200",grpc_status="OK"}': 1
    }
    assert metrics.in_flight_time.labels("inbound", "half_plus_two").value == pytest.approx(0.003)
    duration = metrics.duration.labels("inbound", "half_plus_two", "latest", "predict")
    assert duration.counts[2] == 1  # 3 ms: above 2.5, up to 5
    assert duration.sum == pytest.approx(0.003)
    assert metrics.request_size.labels("inbound", "half_plus_two").sum == 60
    assert metrics.response_size.labels("inbound", "half_plus_two").sum == 300
    assert lines(metrics, "meshproxy_authz_decisions_total") == {
        '{direction="inbound",decision="allow",policy="finance-team",reason=""}': 1
    }
    assert lines(metrics, "meshproxy_refusals_total") == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"refusal": Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny"), "first_byte": 0.0},
        {"refusal": Refusal(Reason.UPSTREAM_TIMEOUT, "Too late.")},  # an attempt was answered, another was not in time
        {"first_byte": 0.0},  # the sidecar's own answer, or none
        {"is_refused_remotely": True},
    ],
    ids=["refused", "refused after an answer", "not forwarded", "refused by the other sidecar"],
)
def test_what_the_model_server_did_not_answer_is_not_its_latency(
    metrics: RequestMetrics, make_exchange: MakeExchange, fields: dict[str, object]
) -> None:
    metrics.observe(make_exchange(**fields))
    histograms = (metrics.duration, metrics.overhead, metrics.request_size, metrics.response_size)
    assert [sum(series.counts) for family in histograms for series in family.series.values()] == [0, 0, 0, 0]
    assert [series.value for series in metrics.total.series.values()] == [1]


def test_several_bindings_that_decide_together_make_one_series(
    metrics: RequestMetrics, make_exchange: MakeExchange
) -> None:
    for number in range(50):
        metrics.observe(make_exchange(rule=f"a, b{number}"))
    assert lines(metrics, "meshproxy_authz_decisions_total") == {
        '{direction="inbound",decision="allow",policy="_other",reason=""}': 50
    }


def test_bindings_that_are_gone_have_no_series(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    """Otherwise reloads with new names would make ever more of them."""
    denied = Refusal(Reason.PERMISSION_DENIED, "No.", rule="default-deny", audits=("old-audit",))
    for number in range(20):
        metrics.observe(make_exchange(rule=f"b{number}"))
        metrics.observe(make_exchange(rule=f"b{number}, a"))
        metrics.observe(make_exchange(rule="", refusal=denied))
        metrics.keep_policies([f"b{number}"])
    assert lines(metrics, "meshproxy_authz_decisions_total") == {
        '{direction="inbound",decision="allow",policy="b19",reason=""}': 1,
        '{direction="inbound",decision="allow",policy="_other",reason=""}': 20,
        '{direction="inbound",decision="deny",policy="default-deny",reason="permission-denied"}': 20,
    }


def test_no_policy_decides_about_outbound_calls(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange(direction="outbound", rule=""))
    assert lines(metrics, "meshproxy_authz_decisions_total") == {}


def test_the_overhead_is_what_nobody_else_is_waited_for(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    overhead = metrics.overhead.labels("inbound")
    metrics.observe(make_exchange())
    # 0.25 ms to decide and 0.5 ms to pass the answer on, of the 3 ms.
    assert overhead.sum == pytest.approx(0.000_75)
    metrics.observe(make_exchange(bytes_received=65_537))
    metrics.observe(make_exchange(bytes_sent=65_537))
    assert sum(overhead.counts) == 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"is_grpc": False, "grpc_status": None, "protocol": "HTTP/1.1"}, ("HTTP/1.1", "200", "")),
        ({"is_grpc": False, "grpc_status": None}, ("HTTP/2", "200", "")),
        ({"grpc_status": 7}, ("HTTP/2", "200", "PERMISSION_DENIED")),
        ({"grpc_status": None, "status": 0}, ("HTTP/2", "0", "_none")),
        ({"grpc_status": 99, "status": 999}, ("HTTP/2", "_other", "_other")),
    ],
)
def test_protocol_and_statuses(
    metrics: RequestMetrics, make_exchange: MakeExchange, fields: dict[str, object], expected: tuple[str, str, str]
) -> None:
    metrics.observe(make_exchange(**fields))
    (labels,) = metrics.total.series
    assert labels[4:] == expected


def test_a_refusal_is_counted_by_reason_limit_and_decision(
    metrics: RequestMetrics, make_exchange: MakeExchange
) -> None:
    denied = Refusal(Reason.PERMISSION_DENIED, "No.", rule="finance-team", audits=("watch",))
    metrics.observe(make_exchange(refusal=denied, rule="", status=200, grpc_status=7))
    metrics.observe(
        make_exchange(refusal=Refusal(Reason.SCAN_LIMIT, "Too far.", limit="scan_bytes"), rule="", decided=0)
    )
    metrics.observe(make_exchange(refusal=Refusal(Reason.UPSTREAM_RESET, "Gone."), permit_audits=("watch",)))
    assert lines(metrics, "meshproxy_refusals_total") == {
        '{direction="inbound",reason="permission-denied"}': 1,
        '{direction="inbound",reason="scan-limit"}': 1,
        '{direction="inbound",reason="upstream-reset"}': 1,
    }
    assert lines(metrics, "meshproxy_authz_decisions_total") == {
        '{direction="inbound",decision="deny",policy="finance-team",reason="permission-denied"}': 1,
        '{direction="inbound",decision="allow",policy="finance-team",reason=""}': 1,
        '{direction="inbound",decision="audit",policy="watch",reason=""}': 2,
    }


def test_who_left_before_the_decision_was_not_decided_about(
    metrics: RequestMetrics, make_exchange: MakeExchange
) -> None:
    metrics.observe(make_exchange(status=0, grpc_status=None, call=None, rule="", decided=0.0))
    assert lines(metrics, "meshproxy_authz_decisions_total") == {}
    (labels,) = metrics.total.series
    assert labels[1:4] == ("_none", "_none", "_none")


def test_every_reason_has_its_zero_from_the_start() -> None:
    metrics = RequestMetrics(Registry(), ModelLabels())
    metrics.expect("inbound")
    assert set(metrics.refusals.series) == {("inbound", reason.label) for reason in Reason}


def test_a_served_model_gets_its_own_series_with_the_answer_that_proves_it(
    metrics: RequestMetrics, make_exchange: MakeExchange
) -> None:
    metrics.observe(make_exchange(model="new", status=404, is_grpc=False, grpc_status=None))
    metrics.observe(make_exchange(model="new", grpc_status=5))
    metrics.observe(make_exchange(model="new", refusal=Refusal(Reason.PERMISSION_DENIED, "No."), status=403))
    metrics.observe(make_exchange(model="new"))
    metrics.observe(make_exchange(model="new", grpc_status=5))
    assert [labels[1] for labels in metrics.total.series] == ["_other", "_other", "_other", "new", "new"]
    assert [series.value for series in metrics.total.series.values()] == [1, 1, 1, 1, 1]


def test_what_clients_choose_makes_no_series(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange(refusal=Refusal(Reason.PERMISSION_DENIED, "No.", rule="x"), grpc_status=7))
    before = metrics.total.registry.lines
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
    # One requests_total, one time in flight, one duration, and the two sizes of `_other`.
    assert metrics.total.registry.lines - before <= 1 + 1 + 18 + 2 * 12
    assert len(metrics._memo) <= 1


def test_the_version_that_answered_is_the_label_where_none_was_named(
    metrics: RequestMetrics, make_exchange: MakeExchange
) -> None:
    for fields in (
        {"effective_version": "7"},
        {"effective_version": "7"},
        {"effective_version": ""},
        {"label": "stable", "effective_version": "7"},
        {"version": "7"},
    ):
        metrics.observe(make_exchange(**fields))
    counted = lines(metrics, "meshproxy_request_duration_seconds_count")
    assert {re.findall('version="([^"]*)"', labels)[0]: value for labels, value in counted.items()} == {
        "7": 3,
        "latest": 1,
        "stable": 1,
    }


def test_a_model_server_cannot_name_versions_without_end(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    for number in range(1_000):
        metrics.observe(make_exchange(effective_version=str(number)))
    counted = lines(metrics, "meshproxy_request_duration_seconds_count")
    assert len(counted) == MAX_SERVED_VERSIONS + 1
    assert [value for labels, value in counted.items() if 'version="_other"' in labels] == [1_000 - MAX_SERVED_VERSIONS]


def test_a_reload_keeps_the_counts_and_forgets_the_names(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    metrics.observe(make_exchange(grpc_status=14))
    metrics.mention(["other"])
    metrics.observe(make_exchange(grpc_status=14))
    assert [(labels[1], series.value) for labels, series in metrics.total.series.items()] == [
        ("half_plus_two", 1),
        ("_other", 1),
    ]


def test_calls_of_several_models_are_told_apart(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    same = Call(Verb.MULTI_INFERENCE, (ModelRef("half_plus_two"), ModelRef("half_plus_two")))
    mixed = Call(Verb.MULTI_INFERENCE, (ModelRef("half_plus_two"), ModelRef("else")))
    for call in (same, mixed):
        metrics.observe(make_exchange(call=call))
    assert [labels[1] for labels in metrics.total.series] == ["half_plus_two", "_other"]


def test_what_is_in_flight_is_counted_by_model(metrics: RequestMetrics, make_exchange: MakeExchange) -> None:
    live = [make_exchange(), make_exchange(), make_exchange(model="unknown"), make_exchange(call=None)]
    metrics.in_flight.read_from(lambda: metrics.count_in_flight(live))
    assert lines(metrics, "meshproxy_requests_in_flight") == {
        '{direction="inbound",model="half_plus_two"}': 2,
        '{direction="inbound",model="_other"}': 1,
        '{direction="inbound",model="_none"}': 1,
    }


def test_the_trace_of_a_call_whose_spans_are_exported_is_an_exemplar(make_exchange: MakeExchange) -> None:
    metrics = RequestMetrics(Registry(), ModelLabels(), now=lambda: 1_700_000_000.5)
    metrics.mention(["half_plus_two"])
    metrics.observe(make_exchange(trace=None))
    passed_on = TraceContext(b"a" * 32, b"b" * 16, b"c" * 16, True)
    metrics.observe(make_exchange(trace=passed_on))
    duration = metrics.duration.labels("inbound", "half_plus_two", "latest", "predict")
    assert duration.exemplars is None
    passed_on.is_exported = True
    exchange = make_exchange(trace=passed_on)
    metrics.observe(exchange)
    kept = {2: Exemplar(exchange.finished - exchange.started, 1_700_000_000.5, b"a" * 32, b"c" * 16)}
    assert duration.exemplars == kept
    # What the model server did not answer has no latency, and so no exemplar.
    refused = make_exchange(trace=passed_on, refusal=Refusal(Reason.OVERLOADED, "No."), finished=1_009.0)
    metrics.observe(refused)
    assert duration.exemplars == kept


def test_many_models_stay_below_the_bound(make_exchange: MakeExchange) -> None:
    metrics = RequestMetrics(Registry(max_lines=1_000), ModelLabels())
    metrics.mention([f"m{number}" for number in range(500)])
    for number in range(500):
        metrics.observe(make_exchange(model=f"m{number}"))
    assert metrics.total.registry.lines <= 1_000
    assert sum(series.value for series in metrics.total.series.values()) == 500
    assert metrics.total.registry.capped > 0


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rule": ""},
        {"permit_audits": ("watched",)},
        {"forwarded": Call(Verb.PREDICT, (ModelRef("never-heard-of"),))},
        {"forwarded": Call(Verb.STATUS)},
    ],
)
def test_what_repeats_is_counted_as_if_it_did_not(make_exchange: MakeExchange, fields: dict[str, object]) -> None:
    repeating, ordinary = RequestMetrics(Registry(), ModelLabels()), RequestMetrics(Registry(), ModelLabels())
    for metrics in (repeating, ordinary):
        metrics.mention(["half_plus_two"])
        metrics.observe(make_exchange(**fields))
    repeat = repeating.repeat(make_exchange(**fields))
    for size in (10, 100, 70_000):
        exchange = make_exchange(**fields, bytes_received=size, bytes_sent=2 * size, finished=100.5 + size)
        repeat(exchange)
        ordinary.observe(exchange)
    assert b"".join(render(repeating.total.registry)) == b"".join(render(ordinary.total.registry))
