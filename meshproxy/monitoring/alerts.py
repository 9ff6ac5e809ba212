"""Prometheus alert rules: `python -m meshproxy.monitoring.alerts > deploy/prometheus/alerts.yaml`.

What each alert means, and what to do next, is in docs/alerts.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from meshproxy.injection.yaml_edit import as_block
from meshproxy.monitoring.queries import NAMED, failures, requests

RUNBOOK = "docs/alerts.md"
HEADER = """\
# Made by `python -m meshproxy.monitoring.alerts`; a test keeps it up to date. What each alert means and what to do next
# is in docs/alerts.md.
"""
OBJECTIVE = 0.999
"""Share of requests that succeed."""
FEWEST_FAILURES = 10
"""In the long window: below, a share says nothing."""
BY = "namespace, direction, model"
WINDOWS = {"5m": 300, "30m": 1_800, "1h": 3_600, "6h": 21_600, "3d": 259_200}

PAGE, TICKET = "page", "ticket"


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast the error budget of 30 days is used up, in a long window and still in a short one (Google, The Site
    Reliability Workbook, chapter 5, table 5-8)."""

    name: str
    severity: str
    times: float
    long: str
    short: str

    def rule(self) -> dict[str, Any]:
        most = round(self.times * (1 - OBJECTIVE), 6)
        ratios = [f"{_failures(window)} / {_requests(window)} > {most}" for window in (self.long, self.short)]
        enough = f"{_failures(self.long)} * {WINDOWS[self.long]} > {FEWEST_FAILURES}"
        return _alert(
            self.name,
            "\nand ".join([*ratios, enough]),
            "2m",
            self.severity,
            "Calls of model {{ $labels.model }} fail",
            f"{{{{ $value | humanizePercentage }}}} of the {{{{ $labels.direction }}}} calls of model "
            f"{{{{ $labels.model }}}} failed in the last {self.long}; an objective of {OBJECTIVE:.1%} allows "
            f"{1 - OBJECTIVE:.1%}.",
        )


def _requests(window: str) -> str:
    return f"model:meshproxy_requests:rate{window}"


def _failures(window: str) -> str:
    return f"model:meshproxy_failures:rate{window}"


BURNS = (
    Burn("MeshproxyModelFailsFast", PAGE, 14.4, "1h", "5m"),
    Burn("MeshproxyModelFails", PAGE, 6, "6h", "30m"),
    Burn("MeshproxyModelFailsSlowly", TICKET, 1, "3d", "6h"),
)


def _alert(name: str, expr: str, wait: str, severity: str, summary: str, description: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": wait,
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook": f"{RUNBOOK}#{name.lower()}",
        },
    }


def _grown(metric: str, matchers: str = "") -> str:
    """A counter that should not count has counted, in some process."""
    return f"increase({metric}{matchers}[15m]) > 0"


def _models() -> list[dict[str, Any]]:
    recorded: list[dict[str, Any]] = []
    for window in WINDOWS:
        recorded.append({"record": _requests(window), "expr": requests(window, BY, NAMED)})
        recorded.append({"record": _failures(window), "expr": failures(window, BY, NAMED)})
    return [
        *recorded,
        *(burn.rule() for burn in BURNS),
        _alert(
            "MeshproxyBreakerOpen",
            # Half-open is no end of it: one call is tried, again and again.
            "max by (namespace, server, model, endpoint) (meshproxy_circuit_state) > 0",
            "5m",
            TICKET,
            "Endpoint {{ $labels.endpoint }} of {{ $labels.server }} takes no calls",
            "A circuit breaker of {{ $labels.server }} has not been closed for five minutes, for model "
            "{{ $labels.model }} at {{ $labels.endpoint }} (_any: for all models).",
        ),
        _alert(
            "MeshproxyRolloutRolledBack",
            'max by (namespace, rollout) (meshproxy_control_rollout_phase{phase="rolled-back"}) == 1',
            "0m",
            TICKET,
            "The new version of rollout {{ $labels.rollout }} was taken out",
            "The stable version has all calls again. `meshproxy rollout status {{ $labels.rollout }}` says why.",
        ),
        _alert(
            "MeshproxyRolloutStalled",
            "max by (namespace, rollout) (meshproxy_control_rollout_stalled) == 1",
            "0m",
            TICKET,
            "Rollout {{ $labels.rollout }} does not go on",
            "A step has been held for longer than its progressDeadline: too few calls to judge by, or both versions "
            "are bad. `meshproxy rollout status {{ $labels.rollout }}` says what is missing.",
        ),
        _alert(
            "MeshproxyModelChanged",
            "max by (namespace, direction, model, version, signal) (meshproxy_control_drift_alarm) == 1",
            "0m",
            TICKET,
            "Model {{ $labels.model }} is not as it was: {{ $labels.signal }}",
            "The {{ $labels.signal }} of {{ $labels.direction }} calls of version {{ $labels.version }} of "
            "{{ $labels.model }} are not what they were in the last hours and yesterday, although nobody has rolled "
            "out anything. `meshproxy findings` says by how much.",
        ),
        _alert(
            "MeshproxyHopLag",
            "meshproxy_hop_lag_alarm == 1",
            "0m",
            TICKET,
            "Calls of model {{ $labels.model }} take longer on their way at {{ $labels.instance }}",
            "Between the sidecar {{ $labels.instance }} and its model server, calls of {{ $labels.model }} take longer "
            "than in the last hour, while the model itself does not.",
        ),
    ]


def _sidecars() -> list[dict[str, Any]]:
    pod = "{{ $labels.instance }}"
    start = "meshproxy_identity_cert_not_before_timestamp_seconds"
    end = "meshproxy_identity_cert_expiration_timestamp_seconds"
    return [
        _alert(
            "MeshproxyCertificateLow",
            f"({end} - time()) / ({end} - {start}) < 0.2",
            "1m",
            PAGE,
            f"The certificate of {pod} was not renewed",
            f"{{{{ $value | humanizePercentage }}}} of the life of the certificate of {pod} is left. When it has "
            "expired, nobody can call it, and it can call nobody.",
        ),
        _alert(
            "MeshproxyCertificateRejected",
            "meshproxy_identity_in_sync == 0",
            "5m",
            TICKET,
            f"{pod} does not take its new certificate or trust bundle",
            f"{pod} has rejected what its identity source delivered, and uses the previous one until that expires.",
        ),
        _alert(
            "MeshproxyConfigurationRejected",
            "meshproxy_config_in_sync == 0",
            "5m",
            TICKET,
            f"{pod} runs with old documents",
            f"{pod} has rejected the last documents, and uses the previous ones.",
        ),
        _alert(
            "MeshproxyControlPlaneAway",
            "meshproxy_control_plane_connected == 0",
            "10m",
            TICKET,
            f"{pod} has no control plane",
            f"{pod} has had no stream from the control plane for ten minutes: changes of documents do not reach it, "
            "and its certificate is not renewed.",
        ),
        _alert(
            "MeshproxyAuditDropped",
            _grown("meshproxy_audit_dropped_total"),
            "0m",
            PAGE,
            f"{pod} has lost audit records",
            f"{{{{ $value | humanize }}}} records of who was refused are missing in the audit trail of {pod}.",
        ),
        _alert(
            "MeshproxyAccessLogDropped",
            _grown("meshproxy_access_log_dropped_total"),
            "0m",
            TICKET,
            f"{pod} has lost lines of the access log",
            f"The output did not take {{{{ $value | humanize }}}} lines of the access log of {pod} in 15 minutes.",
        ),
        _alert(
            "MeshproxySpansDropped",
            _grown("meshproxy_spans_dropped_total", '{reason!="shutdown"}'),
            "10m",
            TICKET,
            f"{pod} loses spans",
            f"{pod} loses spans: {{{{ $labels.reason }}}}.",
        ),
        _alert(
            "MeshproxySeriesCapped",
            _grown("meshproxy_metric_series_capped_total"),
            "0m",
            TICKET,
            f"The metrics page of {pod} is full",
            f"{pod} has as many series as its page may have: what is new there counts in `_other`.",
        ),
        _alert(
            "MeshproxyTelemetryFailed",
            _grown("meshproxy_telemetry_failures_total"),
            "0m",
            TICKET,
            f"{pod} could not record requests",
            f"The {{{{ $labels.sink }}}} of {pod} failed because of a bug: please report it, with the process log.",
        ),
    ]


def _control_planes() -> list[dict[str, Any]]:
    return [
        _alert(
            "MeshproxyNoLeader",
            "max by (namespace) (meshproxy_control_leader) == 0",
            "5m",
            TICKET,
            "No control plane leads",
            "None of the control planes in {{ $labels.namespace }} has the Lease: nobody writes the status of objects, "
            "and a rotation of the root does not go on. Certificates are issued all the same.",
        ),
        _alert(
            "MeshproxyDocumentsRejected",
            "meshproxy_control_documents_in_sync == 0",
            "5m",
            TICKET,
            "The control plane {{ $labels.instance }} does not take the documents",
            "Sidecars are given the previous documents, as some of the present ones were rejected.",
        ),
        _alert(
            "MeshproxySidecarsBehind",
            'max by (namespace, state) (meshproxy_control_sidecars{state=~"behind|refused"}) > 0',
            "10m",
            TICKET,
            "{{ $value }} sidecars have other documents than the control plane: {{ $labels.state }}",
            "For ten minutes there have been sidecars that are behind, or have refused what they were given.",
        ),
        _alert(
            "MeshproxyClusterAway",
            "time() - meshproxy_control_cluster_contact_timestamp_seconds > 600",
            "0m",
            TICKET,
            "The control plane {{ $labels.instance }} does not hear from the API server",
            "Of {{ $labels.kind }} the API server has told nothing for ten minutes: changes there do not reach "
            "sidecars.",
        ),
        _alert(
            "MeshproxyAuthorityExpires",
            "meshproxy_control_authority_expiration_timestamp_seconds - time() < 30 * 86400",
            "0m",
            TICKET,
            "The root of the mesh expires within a month",
            "The certificate of the authority expires in {{ $value | humanizeDuration }}: replace it before, which "
            "takes as long as the certificates that it has issued are valid.",
        ),
        _alert(
            "MeshproxyRecordsFull",
            "meshproxy_control_certificate_records_used_ratio > 0.8",
            "10m",
            TICKET,
            "There is little room for the records of certificates",
            "The fullest ConfigMap of the certificates that are out is {{ $value | humanizePercentage }} full. Beyond "
            "100%, nothing more is issued.",
        ),
        _alert(
            "MeshproxyIssuesOnBorrowedTime",
            "(meshproxy_control_issues_until_timestamp_seconds > 0) - time() < 43200",
            "0m",
            PAGE,
            "The control plane {{ $labels.instance }} will issue no certificates soon",
            "What it issues has not been recorded for half a day; after {{ $value | humanizeDuration }} it issues "
            "nothing.",
        ),
        _alert(
            "MeshproxyRecordsNotWritten",
            _grown("meshproxy_control_store_failures_total"),
            "0m",
            TICKET,
            "The control plane {{ $labels.instance }} cannot write its records",
            "Records of {{ $labels.record }} are in its memory alone, and are lost if it ends.",
        ),
    ]


def rules() -> dict[str, Any]:
    """A rule file of Prometheus, and the `spec` of a PrometheusRule."""
    return {
        "groups": [
            {"name": "meshproxy-models", "rules": _models()},
            {"name": "meshproxy-sidecars", "rules": _sidecars()},
            {"name": "meshproxy-control-planes", "rules": _control_planes()},
        ]
    }


def text() -> str:
    """The file."""
    return f"{HEADER}{as_block(rules())}\n"


if __name__ == "__main__":
    sys.stdout.write(text())
