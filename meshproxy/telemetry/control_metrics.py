"""The metrics of the control plane."""

from __future__ import annotations

import platform

from meshproxy import __version__
from meshproxy.telemetry import metric_table
from meshproxy.telemetry.metrics import Counter, Gauge, Registry
from meshproxy.telemetry.process import watch_process


class ControlMetrics:
    """The registry of a control plane, and the families that its parts count in."""

    def __init__(self) -> None:
        self.registry = registry = Registry()
        watch_process(registry)
        self.issuances = Counter(registry, metric_table.ISSUANCES)
        self.authority_expiry = Gauge(registry, metric_table.AUTHORITY_EXPIRY)
        self.store_failures = Counter(registry, metric_table.STORE_FAILURES)
        self.records_used = Gauge(registry, metric_table.RECORDS_USED)
        self.issues_until = Gauge(registry, metric_table.ISSUES_UNTIL)
        self.sidecars = Gauge(registry, metric_table.SIDECARS)
        self.injections = Counter(registry, metric_table.INJECTIONS)
        self.logins = Counter(registry, metric_table.LOGINS)
        self.documents_in_sync = Gauge(registry, metric_table.DOCUMENTS_IN_SYNC)
        self.documents_refused = Counter(registry, metric_table.DOCUMENTS_REFUSED)
        self.documents_refused.read_from(list)  # until there are documents
        self.cluster_contact = Gauge(registry, metric_table.CLUSTER_CONTACT)
        self.watch_restarts = Counter(registry, metric_table.WATCH_RESTARTS)
        self.service_endpoints = Gauge(registry, metric_table.SERVICE_ENDPOINTS)
        self.endpoint_updates = Counter(registry, metric_table.ENDPOINT_UPDATES)
        self.mesh_reports = Counter(registry, metric_table.MESH_REPORTS)
        self.mesh_reporters = Gauge(registry, metric_table.MESH_REPORTERS)
        self.mesh_dropped = Counter(registry, metric_table.MESH_DROPPED)
        self.taps = Gauge(registry, metric_table.TAPS)
        self.tap_lines = Counter(registry, metric_table.TAP_LINES)
        self.drift_alarm = Gauge(registry, metric_table.DRIFT_ALARM)
        self.drift_level = Gauge(registry, metric_table.DRIFT_LEVEL)
        self.drift_expected = Gauge(registry, metric_table.DRIFT_EXPECTED)
        self.drift_unwatched = Counter(registry, metric_table.DRIFT_UNWATCHED)
        self.rollout_reports_dropped = Counter(registry, metric_table.ROLLOUT_REPORTS_DROPPED)
        self.rollout_weight = Gauge(registry, metric_table.CONTROL_ROLLOUT_WEIGHT)
        self.rollout_phase = Gauge(registry, metric_table.CONTROL_ROLLOUT_PHASE)
        self.rollout_stalled = Gauge(registry, metric_table.CONTROL_ROLLOUT_STALLED)
        self.rollout_windows = Counter(registry, metric_table.CONTROL_ROLLOUT_WINDOWS)
        self.rollout_notices = Counter(registry, metric_table.CONTROL_ROLLOUT_NOTICES)
        self.leader = Gauge(registry, metric_table.LEADER)
        self.audit_dropped = Counter(registry, metric_table.AUDIT_DROPPED)
        self.audit_dropped.read_from(list)  # until there is a trail
        self.audit_failing = Gauge(registry, metric_table.AUDIT_FAILING)
        self.audit_failing.read_from(list)
        self.status_writes = Counter(registry, metric_table.STATUS_WRITES)
        self.certificate_start = Gauge(registry, metric_table.CERTIFICATE_START)
        self.certificate_expiry = Gauge(registry, metric_table.CERTIFICATE_EXPIRY)
        self.tls_handshakes = Counter(registry, metric_table.TLS_HANDSHAKES)
        self.open_connections = Gauge(registry, metric_table.OPEN_CONNECTIONS)
        self.limits_exceeded = Counter(registry, metric_table.LIMITS_EXCEEDED)
        build = Gauge(registry, metric_table.BUILD_INFO)
        build.labels(__version__, platform.python_version()).value = 1
