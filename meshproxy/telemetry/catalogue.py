"""Every metric of the data plane: its name, labels and buckets, and what one finished exchange adds to which.

docs/metrics.md explains each; a test holds that page against this module. What the proxy counts is added here by
`observe`; what other parts count anyway is read from them at scrape time (`Family.read_from`), or they are handed the
series to add to.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

from meshproxy import __version__
from meshproxy.inference.call import Verb
from meshproxy.proxy.exchange import Exchange
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.telemetry.metrics import OTHER, Counter, CounterSeries, Gauge, Histogram, HistogramSeries, Registry, Rows
from meshproxy.telemetry.model_labels import NONE, ModelLabels

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD_BUCKETS = (0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05)
SIZE_BUCKETS = tuple(256.0 * 4**step for step in range(9))
"""256 B to 16 MiB."""

SMALL = 65_536
"""Bytes of a body up to which the time spent on it is our own: more of it waits for networks and for whoever reads."""

ACCESS_REASONS = frozenset(
    {
        Reason.UNAUTHENTICATED,
        Reason.PERMISSION_DENIED,
        Reason.MODEL_CHANGED,
        Reason.KEYS_UNAVAILABLE,
    }
)
"""Refusals that are about who may do what: authorization decisions, and lines of the audit trail."""

GRPC_STATUS_LABELS = {status.value: status.name for status in GrpcStatus}

MEMO_ENTRIES = 4_096


class Metrics:
    """The metrics of one sidecar. They live as long as the process: a reload changes what they may mention, not them.

    Args:
        registry: where they are shown.
        model_labels: which models and versions have series of their own.
    """

    def __init__(self, registry: Registry | None = None, model_labels: ModelLabels | None = None) -> None:
        self.registry = registry = registry if registry is not None else Registry()
        self.model_labels = model_labels if model_labels is not None else ModelLabels()

        # Exchanges.
        self.requests = Counter(
            registry,
            "meshproxy_requests_total",
            "Requests that are over, whoever answered them.",
            ("direction", "model", "version", "verb", "protocol", "code", "grpc_status"),
        )
        self.request_duration = Histogram(
            registry,
            "meshproxy_request_duration_seconds",
            "From the last byte of the request's head to the last byte of its answer.",
            ("direction", "model", "version", "verb"),
            DURATION_BUCKETS,
        )
        self.overhead = Histogram(
            registry,
            "meshproxy_proxy_overhead_seconds",
            "The sidecar's own share: deciding, and passing on an answer that was there.",
            ("direction",),
            OVERHEAD_BUCKETS,
        )
        self.request_size = Histogram(
            registry, "meshproxy_request_size_bytes", "Bytes of request bodies.", ("model",), SIZE_BUCKETS
        )
        self.response_size = Histogram(
            registry, "meshproxy_response_size_bytes", "Bytes of response bodies.", ("model",), SIZE_BUCKETS
        )
        self.in_flight = Gauge(
            registry, "meshproxy_requests_in_flight", "Requests that are being carried now.", ("model",)
        )
        self.decisions = Counter(
            registry,
            "meshproxy_authz_decisions_total",
            "Decisions about who may do what; audit: what an auditing binding would have decided.",
            ("decision", "policy", "reason"),
        )
        self.refusals = Counter(
            registry, "meshproxy_refusals_total", "Answers of our own instead of the model server's.", ("reason",)
        )
        self.limits_exceeded = Counter(
            registry, "meshproxy_limits_exceeded_total", "Requests and connections that ran into a limit.", ("limit",)
        )

        # Identity.
        self.jwks_refresh = Counter(
            registry, "meshproxy_jwks_refresh_total", "Attempts to fetch an issuer's keys.", ("issuer", "result")
        )
        self.jwks_age = Gauge(
            registry, "meshproxy_jwks_age_seconds", "Since an issuer's keys were fetched last.", ("issuer",)
        )
        self.tls_handshakes = Counter(
            registry, "meshproxy_tls_handshakes_total", "TLS handshakes that are over.", ("result",)
        )
        self.certificate_expiry = Gauge(
            registry,
            "meshproxy_identity_cert_expiration_timestamp_seconds",
            "When the sidecar's own certificate stops being valid, in seconds since the epoch.",
            (),
        )
        self.identity_rotations = Counter(
            registry,
            "meshproxy_identity_rotations_total",
            "Attempts to take new credentials of the sidecar's own into use.",
            ("result",),
        )
        self.identity_in_sync = Gauge(
            registry,
            "meshproxy_identity_in_sync",
            "1 if the certificate, key and trust bundle in use are their source's, 0 if those were rejected.",
            (),
        )
        self.open_connections = Gauge(
            registry, "meshproxy_open_connections", "Connections that are open now.", ("direction", "protocol")
        )

        # Configuration.
        self.config_reloads = Counter(
            registry, "meshproxy_config_reloads_total", "Attempts to take a new configuration.", ("result",)
        )
        self.config_in_sync = Gauge(
            registry,
            "meshproxy_config_in_sync",
            "1 if the running configuration is its source's, 0 if that was rejected.",
            (),
        )
        self.config_loaded = Gauge(
            registry,
            "meshproxy_config_last_reload_success_timestamp_seconds",
            "When the configuration that runs was taken, in seconds since the epoch.",
            (),
        )

        # Telemetry itself.
        self.access_log_dropped = Counter(
            registry,
            "meshproxy_access_log_dropped_total",
            "Lines of the access log that were lost because nobody took them.",
            (),
        )
        self.audit_events = Counter(registry, "meshproxy_audit_events_total", "Records of the audit trail.", ("type",))
        self.audit_dropped = Counter(
            registry, "meshproxy_audit_dropped_total", "Records of the audit trail that were lost.", ()
        )
        self.telemetry_failures = Counter(
            registry,
            "meshproxy_telemetry_failures_total",
            "Exchanges that a sink of the telemetry failed to record.",
            ("sink",),
        )
        lines = Gauge(
            registry,
            "meshproxy_metric_lines",
            "Lines that series take on this page, sources left out; there is a bound.",
            (),
        )
        lines.read_from(lambda: [((), registry.lines)])
        capped = Counter(
            registry,
            "meshproxy_metric_series_capped_total",
            "Times that a label set shared the series `_other`, since there were too many.",
            (),
        )
        capped.read_from(lambda: [((), registry.capped)])
        Gauge(registry, "meshproxy_build_info", "Always 1.", ("version", "python")).labels(
            __version__, platform.python_version()
        ).value = 1

        # A rate needs to have seen the zero before the first event.
        self._refused = {reason: self.refusals.labels(reason.label) for reason in Reason}
        self._memo: dict[tuple[object, ...], _ExchangeSeries] = {}
        self._allowed = _Allowed(self.decisions)

    def mention(self, models: Iterable[str], versions: Iterable[str] = ()) -> None:
        """Say which models, versions and labels the documents of a new configuration mention. Counters go on."""
        self.model_labels.mention(models, versions)
        self._memo.clear()

    def observe(self, exchange: Exchange) -> None:
        """Count one exchange that is over; about 1.3 us."""
        connection = exchange.connection
        call = exchange.forwarded
        status = exchange.status
        grpc_status = exchange.grpc_status
        # One look-up for everything that labels decide. Calls of several models are rare and not worth a key.
        key: tuple[object, ...]
        if call is None:
            key = (connection.direction, connection.protocol, exchange.is_grpc, status, grpc_status)
            series = self._memo.get(key)
        elif len(call.models) == 1:
            model = call.models[0]
            key = (
                connection.direction,
                connection.protocol,
                exchange.is_grpc,
                status,
                grpc_status,
                call.verb,
                model.name,
                model.version,
                model.label,
            )
            series = self._memo.get(key)
        else:
            key = ()
            series = None
        requests, duration, overhead, request_size, response_size = series or self._find_series(exchange, key)

        requests.value += 1
        duration.observe(exchange.finished - exchange.started)
        received = exchange.bytes_received
        request_size.observe(received)
        sent = exchange.bytes_sent
        response_size.observe(sent)
        if exchange.first_byte and received <= SMALL and sent <= SMALL:
            overhead.observe(exchange.decided - exchange.started + exchange.finished - exchange.first_byte)

        refusal = exchange.refusal
        if refusal is not None:
            self._count_refusal(exchange, refusal)
        elif exchange.decided:
            self._allowed[exchange.rule].value += 1
        if refusal is not None or exchange.permit_audits:
            for rule in read_audits(exchange):
                self.decisions.labels("audit", rule, "").value += 1

    def count_in_flight(self, exchanges: Iterable[Exchange]) -> Rows:
        """The rows of `meshproxy_requests_in_flight` for the exchanges that are open now."""
        counts: dict[tuple[str, ...], int] = {}
        for exchange in exchanges:
            model, _ = self.model_labels.read(exchange.forwarded, was_served=False)
            counts[(model,)] = counts.get((model,), 0) + 1
        return counts.items()

    def _find_series(self, exchange: Exchange, key: tuple[object, ...]) -> _ExchangeSeries:
        call = exchange.forwarded
        was_served = (
            exchange.refusal is None
            and 200 <= exchange.status < 300
            and (exchange.grpc_status == 0 if exchange.is_grpc else True)
        )
        model, version = self.model_labels.read(call, was_served=was_served)
        verb = call.verb if call is not None else None
        direction = exchange.connection.direction
        series = (
            self.requests.labels(
                direction,
                model,
                version,
                _verb_label(verb),
                _protocol_label(exchange),
                _code_label(exchange.status),
                _grpc_status_label(exchange),
            ),
            self.request_duration.labels(direction, model, version, _verb_label(verb)),
            self.overhead.labels(direction),
            self.request_size.labels(model),
            self.response_size.labels(model),
        )
        # `_other` may be learned by a later answer, and what it stands for has no bound: not kept.
        if key and OTHER not in (model, version):
            if len(self._memo) >= MEMO_ENTRIES:
                self._memo.clear()
            self._memo[key] = series
        return series

    def _count_refusal(self, exchange: Exchange, refusal: Refusal) -> None:
        self._refused[refusal.reason].value += 1
        if refusal.reason in ACCESS_REASONS:
            self.decisions.labels("deny", refusal.rule or "", refusal.reason.label).value += 1
        elif exchange.decided or exchange.rule:
            self._allowed[exchange.rule].value += 1


class _Allowed(dict[str, CounterSeries]):
    """The series of what was permitted, by the binding that did. Used as `allowed[rule]`."""

    def __init__(self, decisions: Counter) -> None:
        self._decisions = decisions

    def __missing__(self, rule: str) -> CounterSeries:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        series = self[rule] = self._decisions.labels("allow", rule, "")
        return series


def read_audits(exchange: Exchange) -> tuple[str, ...]:
    """The auditing bindings that fitted a call, whether it was permitted or not."""
    refusal = exchange.refusal
    return (refusal.audits if refusal is not None else ()) or exchange.permit_audits


_ExchangeSeries = tuple[CounterSeries, HistogramSeries, HistogramSeries, HistogramSeries, HistogramSeries]


def _verb_label(verb: Verb | None) -> str:
    return verb.value if verb is not None else NONE


def _protocol_label(exchange: Exchange) -> str:
    return "grpc" if exchange.is_grpc else exchange.connection.protocol.lower()


def _code_label(status: int) -> str:
    return str(status) if status == 0 or 100 <= status < 600 else OTHER


def _grpc_status_label(exchange: Exchange) -> str:
    if not exchange.is_grpc:
        return ""
    return NONE if exchange.grpc_status is None else GRPC_STATUS_LABELS.get(exchange.grpc_status, OTHER)
