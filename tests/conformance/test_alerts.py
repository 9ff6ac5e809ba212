"""Every alert rule in `promtool test rules`: it fires when it should, and is silent when it should be."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.monitoring.alerts import rules, text
from tests.conformance.scraping import NEWEST

OK = 'meshproxy_requests_total{namespace="serving",direction="inbound",model="fraud",code="200",pod="a"}'
HTTP = OK.replace('"200"', '"503"')
GRPC = OK.replace('"200"', '"200",grpc_status="UNAVAILABLE"')
DENIED = OK.replace('"200"', '"403"')
START = 'meshproxy_identity_cert_not_before_timestamp_seconds{instance="a"}'
END = 'meshproxy_identity_cert_expiration_timestamp_seconds{instance="a"}'
BREAKER = 'meshproxy_circuit_state{server="local",model="_any",endpoint="10.0.0.1:8500"}'


@dataclass(frozen=True, slots=True)
class Case:
    """What Prometheus has scraped, in promtool's notation of values, and when to look."""

    alert: str
    at: str
    bad: dict[str, str]
    """It fires."""
    good: dict[str, str]
    """It does not."""
    step: str = "1m"
    """Between two scrapes, and two looks at the rules: three days by the minute take a minute of processor time."""


def gauge(alert: str, series: str, bad: str, good: str, at: str = "20m") -> Case:
    return Case(alert, at, {series: bad}, {series: good})


def dropped(alert: str, series: str, at: str = "20m") -> Case:
    """Of a counter that should stay as it is; what was counted long ago is no news."""
    return gauge(alert, series, "0x5 1+1x60", "7x60", at)


CASES = [
    # A hundred requests a minute, of which two fail, and one in a thousand; few requests, all of which fail.
    Case(
        "MeshproxyModelFailsFast",
        "1h",
        {OK: "0+98x90", HTTP: "0+1x90", GRPC: "0+1x90"},
        {OK: "0+98x90", HTTP: "0+1x90"},
    ),
    Case("MeshproxyModelFailsFast", "1h", {HTTP: "0+1x90"}, {HTTP: "0+0.1x90"}),
    Case("MeshproxyModelFailsFast", "1h", {OK: "0+9x90", HTTP: "0+1x90"}, {OK: "0+9x90", DENIED: "0+9x90"}),
    # It was bad, and is over.
    Case("MeshproxyModelFailsFast", "1h", {OK: "0+9x90", HTTP: "0+1x90"}, {OK: "0+9x90", HTTP: "0+9x40 360x50"}),
    Case(
        "MeshproxyModelFails",
        "7h",
        {OK: "0+99x90", GRPC: "0+1x90"},
        {OK: "0+199x90", GRPC: "0+1x90"},
        step="5m",
    ),
    Case(
        "MeshproxyModelFailsSlowly",
        "80h",
        {OK: "0+4990x170", HTTP: "0+10x170"},
        {OK: "0+19990x170", HTTP: "0+10x170"},
        step="30m",
    ),
    gauge("MeshproxyBreakerOpen", BREAKER, "0x5 2x3 1 2x3 1 2x20", "0x5 2x3 0x30"),
    gauge(
        "MeshproxyRolloutRolledBack",
        'meshproxy_control_rollout_phase{phase="rolled-back",rollout="half"}',
        "0x5 1x30",
        "0x5 1x3 0x30",
    ),
    gauge("MeshproxyRolloutStalled", 'meshproxy_control_rollout_stalled{rollout="half"}', "0x5 1x30", "0x5 1x3 0x30"),
    gauge(
        "MeshproxyModelChanged",
        'meshproxy_control_drift_alarm{direction="inbound",model="fraud",version="3",signal="errors",pod="a"}',
        "_x3 0x5 1x30",
        "_x3 0x5 1x3 0x30",
    ),
    gauge("MeshproxyHopLag", 'meshproxy_hop_lag_alarm{model="fraud",instance="a"}', "0x5 1x30", "0x5 1x3 0x30"),
    # A day, of which the last fifth has begun.
    Case(
        "MeshproxyCertificateLow",
        "20h",
        {START: "0x250", END: "86400x250"},
        {START: "0x250", END: "90000x100 180000x150"},
        step="5m",
    ),
    gauge("MeshproxyCertificateRejected", 'meshproxy_identity_in_sync{instance="a"}', "1x5 0x30", "1x5 0x2 1x30"),
    gauge("MeshproxyConfigurationRejected", 'meshproxy_config_in_sync{instance="a"}', "1x5 0x30", "1x5 0x2 1x30"),
    gauge("MeshproxyControlPlaneAway", 'meshproxy_control_plane_connected{instance="a"}', "1x5 0x30", "1x5 0x5 1x30"),
    dropped("MeshproxyAuditDropped", 'meshproxy_audit_dropped_total{instance="a"}'),
    dropped("MeshproxyAccessLogDropped", 'meshproxy_access_log_dropped_total{instance="a"}'),
    dropped("MeshproxySpansDropped", 'meshproxy_spans_dropped_total{reason="failed"}'),
    Case(
        "MeshproxySpansDropped",
        "20m",
        {'meshproxy_spans_dropped_total{reason="queue-full"}': "0x2 1+1x60"},
        {'meshproxy_spans_dropped_total{reason="shutdown"}': "0x2 1+1x60"},
    ),
    dropped("MeshproxySeriesCapped", 'meshproxy_metric_series_capped_total{instance="a"}'),
    dropped("MeshproxyTelemetryFailed", 'meshproxy_telemetry_failures_total{sink="metrics"}'),
    Case(
        "MeshproxyNoLeader",
        "20m",
        {'meshproxy_control_leader{pod="a"}': "1x5 0x30", 'meshproxy_control_leader{pod="b"}': "0x40"},
        {'meshproxy_control_leader{pod="a"}': "1x5 0x30", 'meshproxy_control_leader{pod="b"}': "0x7 1x30"},
    ),
    gauge("MeshproxyDocumentsRejected", 'meshproxy_control_documents_in_sync{instance="a"}', "1x5 0x30", "1x40"),
    gauge("MeshproxySidecarsBehind", 'meshproxy_control_sidecars{state="refused"}', "0x5 2x30", "0x5 2x3 0x30"),
    Case(
        "MeshproxySidecarsBehind",
        "20m",
        {'meshproxy_control_sidecars{state="behind"}': "0x5 2x30"},
        {'meshproxy_control_sidecars{state="in-sync"}': "9x40", 'meshproxy_control_sidecars{state="gone"}': "3x40"},
    ),
    gauge(
        "MeshproxyClusterAway",
        'meshproxy_control_cluster_contact_timestamp_seconds{kind="Endpoints"}',
        "0+60x5 300x30",
        "0+60x40",
    ),
    gauge(
        "MeshproxyAuthorityExpires",
        "meshproxy_control_authority_expiration_timestamp_seconds",
        "2591000x40",
        "2599000x40",
    ),
    gauge("MeshproxyRecordsFull", "meshproxy_control_certificate_records_used_ratio", "0.7x5 0.85x30", "0.8x40"),
    gauge(
        "MeshproxyIssuesOnBorrowedTime",
        "meshproxy_control_issues_until_timestamp_seconds",
        "86400x5 43000x30",
        "86400+60x40",
    ),
    # It is over; without `--authority-secret`.
    gauge("MeshproxyIssuesOnBorrowedTime", "meshproxy_control_issues_until_timestamp_seconds", "600x40", "0x40"),
    dropped("MeshproxyRecordsNotWritten", 'meshproxy_control_store_failures_total{record="leaf"}'),
]


def judge(tmp_path: Path, step: str, *tests: dict[str, Any]) -> None:
    """Raises AssertionError with what promtool says."""
    (tmp_path / "alerts.yaml").write_text(text())
    document = {"rule_files": ["alerts.yaml"], "evaluation_interval": step, "tests": list(tests)}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [NEWEST / "promtool", "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def looked_at(case: Case, series: dict[str, str], firing: int) -> dict[str, Any]:
    samples = [{"labels": "{}", "value": firing}] if firing else []
    return {
        "name": f"{case.alert}: {series}",
        "interval": case.step,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})',
                "eval_time": case.at,
                "exp_samples": samples,
            }
        ],
    }


def test_the_rules_are_rules(tmp_path: Path) -> None:
    (tmp_path / "alerts.yaml").write_text(text())
    done = subprocess.run(
        [NEWEST / "promtool", "check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("firing", [1, 0], ids=["fires", "is silent"])
def test_it_does_when_it_should(tmp_path: Path, firing: int) -> None:
    for step in {case.step: None for case in CASES}:
        cases = [case for case in CASES if case.step == step]
        judge(tmp_path, step, *(looked_at(case, case.bad if firing else case.good, firing) for case in cases))


def test_every_alert_has_a_case() -> None:
    alerts = {rule["alert"] for group in rules()["groups"] for rule in group["rules"] if "alert" in rule}
    assert {case.alert for case in CASES} == alerts


def test_what_is_said_can_be_read(tmp_path: Path) -> None:
    labels = {"severity": "page", "namespace": "serving", "direction": "inbound", "model": "fraud"}
    said = {
        "summary": "Calls of model fraud fail",
        "description": "2% of the inbound calls of model fraud failed in the last 1h; "
        "an objective of 99.9% allows 0.1%.",
        "runbook": "docs/alerts.md#meshproxymodelfailsfast",
    }
    series = {OK: "0+98x90", HTTP: "0+2x90"}
    judge(
        tmp_path,
        "1m",
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "alert_rule_test": [
                {
                    "alertname": "MeshproxyModelFailsFast",
                    "eval_time": "80m",
                    "exp_alerts": [{"exp_labels": labels, "exp_annotations": said}],
                }
            ],
        },
    )
