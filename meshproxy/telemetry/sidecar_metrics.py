"""The metrics of one sidecar, apart from those of its upstreams (`upstream_metrics`) and its process (`process`).

Each component counts in the families it is given here. They live as long as the process: a reload changes which models
have series, not the counts.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping

from meshproxy import __version__
from meshproxy.codec.h2.budgets import Statistics
from meshproxy.identity.cache_misses import CacheMisses
from meshproxy.proxy.express_outcome import Tally
from meshproxy.telemetry import metric_table
from meshproxy.telemetry.metrics import Counter, Gauge, Registry, Rows
from meshproxy.telemetry.model_labels import ModelLabels
from meshproxy.telemetry.request_metrics import RequestMetrics


class SidecarMetrics:
    """The registry of a sidecar, and the families that its parts count in.

    Args:
        registry: where the metrics are exposed.
        model_labels: which models and versions have their own series.
    """

    def __init__(self, registry: Registry | None = None, model_labels: ModelLabels | None = None) -> None:
        self.registry = registry = registry if registry is not None else Registry()
        self.requests = RequestMetrics(registry, model_labels if model_labels is not None else ModelLabels())
        self.limits_exceeded = Counter(registry, metric_table.LIMITS_EXCEEDED)
        self._express_requests = Counter(registry, metric_table.EXPRESS_REQUESTS)

        self.jwks_refresh = Counter(registry, metric_table.JWKS_REFRESH)
        self.caller_identity = Counter(registry, metric_table.CALLER_IDENTITY)
        self.jwks_age = Gauge(registry, metric_table.JWKS_AGE)
        self.cache_misses = CacheMisses()
        Counter(registry, metric_table.CACHE_MISSES).read_from(
            lambda: [(("tokens",), self.cache_misses.tokens), (("decisions",), self.cache_misses.decisions)]
        )
        self.tls_handshakes = Counter(registry, metric_table.TLS_HANDSHAKES)
        self.certificate_start = Gauge(registry, metric_table.CERTIFICATE_START)
        self.certificate_expiry = Gauge(registry, metric_table.CERTIFICATE_EXPIRY)
        self.identity_rotations = Counter(registry, metric_table.IDENTITY_ROTATIONS)
        self.identity_in_sync = Gauge(registry, metric_table.IDENTITY_IN_SYNC)
        self.identity_issuances = Counter(registry, metric_table.IDENTITY_ISSUANCES)
        self.clock_offset = Gauge(registry, metric_table.CLOCK_OFFSET)
        self.open_connections = Gauge(registry, metric_table.OPEN_CONNECTIONS)
        self.connections = Counter(registry, metric_table.CONNECTIONS)
        self.connections_drained = Counter(registry, metric_table.CONNECTIONS_DRAINED)
        self._http2_stream_errors = Counter(registry, metric_table.HTTP2_STREAM_ERRORS)

        self.config_reloads = Counter(registry, metric_table.CONFIG_RELOADS)
        self.config_in_sync = Gauge(registry, metric_table.CONFIG_IN_SYNC)
        self.config_loaded = Gauge(registry, metric_table.CONFIG_LOADED)
        self.control_connected = Gauge(registry, metric_table.CONTROL_CONNECTED)
        self.control_connected.read_from(list)  # until there is a link to one
        self.control_reports = Counter(registry, metric_table.CONTROL_REPORTS)

        self.rollout_weight = Gauge(registry, metric_table.ROLLOUT_WEIGHT)
        self.rollout_weight.read_from(list)  # until there is a link to a control plane
        self.rollout_kills = Counter(registry, metric_table.ROLLOUT_KILLS)
        self.rollout_kills.read_from(list)
        self.answers_read = Counter(registry, metric_table.ANSWERS_READ)
        self.answers_read.read_from(list)

        self.access_log_filtered = Counter(registry, metric_table.ACCESS_LOG_FILTERED)
        self.access_log_dropped = Counter(registry, metric_table.ACCESS_LOG_DROPPED)
        self.audit_events = Counter(registry, metric_table.AUDIT_EVENTS)
        self.audit_dropped = Counter(registry, metric_table.AUDIT_DROPPED)
        self.audit_failing = Gauge(registry, metric_table.AUDIT_FAILING)
        self.audit_failing.read_from(list)  # until there is a trail
        self.telemetry_failures = Counter(registry, metric_table.TELEMETRY_FAILURES)
        self.spans_exported = Counter(registry, metric_table.SPANS_EXPORTED)
        self.spans_dropped = Counter(registry, metric_table.SPANS_DROPPED)
        self.hop_lag = Gauge(registry, metric_table.HOP_LAG)
        self.hop_lag_expected = Gauge(registry, metric_table.HOP_LAG_EXPECTED)
        self.hop_lag_alarm = Gauge(registry, metric_table.HOP_LAG_ALARM)
        self.call_time_ratio = Gauge(registry, metric_table.CALL_TIME_RATIO)
        self.unmatched_calls = Counter(registry, metric_table.UNMATCHED_CALLS)
        self.server_pages = Counter(registry, metric_table.SERVER_PAGES)
        self.live_readers = Gauge(registry, metric_table.LIVE_READERS)
        self.tap_dropped = Counter(registry, metric_table.TAP_DROPPED)
        for page in ("tap", "stat"):
            self.live_readers.labels(page)
        for reason in ("rate", "reader"):
            self.tap_dropped.labels(reason)
        self.server_relays = Counter(registry, metric_table.SERVER_RELAYS)
        Gauge(registry, metric_table.METRIC_LINES).read_from(lambda: [((), registry.lines)])
        Counter(registry, metric_table.SERIES_CAPPED).read_from(lambda: [((), registry.capped)])
        build = Gauge(registry, metric_table.BUILD_INFO)
        build.labels(__version__, platform.python_version()).value = 1

    def watch_express(self, tallies: Mapping[str, Tally]) -> None:
        """Read at scrape time what became of the requests that the express lanes looked at, by direction."""
        self._express_requests.read_from(
            lambda: [
                ((direction, *outcome.value), count)
                for direction, tally in tallies.items()
                for outcome, count in tally.items()
            ]
        )

    def watch_http2(self, *, downstream: Mapping[str, Statistics], upstream: Statistics) -> None:
        """Read the stream errors of HTTP/2 connections at scrape time. `downstream`: by direction."""
        watched = [((direction, "downstream"), statistics) for direction, statistics in downstream.items()]
        watched.append((("", "upstream"), upstream))
        self._http2_stream_errors.read_from(
            lambda: [row for labels, statistics in watched for row in _http2_rows(labels, statistics)]
        )


def _http2_rows(labels: tuple[str, str], statistics: Statistics) -> Rows:
    yield (*labels, "reset_received"), statistics.resets_received
    yield (*labels, "reset_sent"), statistics.resets_sent
    yield (*labels, "refused"), statistics.streams_refused
    yield (*labels, "malformed_head"), statistics.heads_malformed
    yield (*labels, "rejected_head"), statistics.heads_rejected
    yield (*labels, "failed_connection"), statistics.connections_failed
