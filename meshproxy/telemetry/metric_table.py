"""Every metric of the product, declared once: name, type, unit, help and labels.

Families are built from these rows (`Counter(registry, REQUESTS)`), and the tables of docs/metrics.md are printed from
them: `python -m meshproxy.telemetry.metric_table`. Names and labels are a contract with users' dashboards.
"""

from __future__ import annotations

import sys

from meshproxy.telemetry.metrics import Metric, Type

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OVERHEAD_BUCKETS = (0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05)
SIZE_BUCKETS = tuple(256.0 * 4**step for step in range(9))
"""256 B to 16 MiB."""


def counter(name: str, text: str, *labels: str, unit: str = "") -> Metric:
    """A number that only grows. The name ends in `_total`."""
    return Metric(name, Type.COUNTER, unit, text, labels)


def gauge(name: str, text: str, *labels: str, unit: str = "") -> Metric:
    """A number that goes up and down."""
    return Metric(name, Type.GAUGE, unit, text, labels)


def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...], unit: str = "") -> Metric:
    """A distribution. `buckets` are upper bounds: inclusive, ascending, without infinity."""
    return Metric(name, Type.HISTOGRAM, unit, text, labels, buckets)


# --- Requests

REQUESTS = counter(
    "meshproxy_requests_total",
    "Completed requests, including locally generated responses.",
    "direction", "model", "version", "verb", "protocol", "code", "grpc_status",
)  # fmt: skip
REQUEST_DURATION = histogram(
    "meshproxy_request_duration_seconds",
    "Time from the end of the request head to the last byte of a response of the model server.",
    "direction", "model", "version", "verb",
    unit="seconds",
    buckets=DURATION_BUCKETS,
)  # fmt: skip
OVERHEAD = histogram(
    "meshproxy_proxy_overhead_seconds",
    "The part of the request duration that the sidecar itself takes.",
    "direction",
    unit="seconds",
    buckets=OVERHEAD_BUCKETS,
)
REQUEST_SIZE = histogram(
    "meshproxy_request_size_bytes",
    "Size of the bodies of requests that the model server answered.",
    "direction", "model",
    unit="bytes",
    buckets=SIZE_BUCKETS,
)  # fmt: skip
RESPONSE_SIZE = histogram(
    "meshproxy_response_size_bytes",
    "Size of the bodies of the model server's responses.",
    "direction", "model",
    unit="bytes",
    buckets=SIZE_BUCKETS,
)  # fmt: skip
IN_FLIGHT = gauge("meshproxy_requests_in_flight", "Requests in flight.", "direction", "model")
IN_FLIGHT_TIME = counter(
    "meshproxy_requests_in_flight_seconds_total",
    "Time that completed requests were in flight, added up: its rate is the mean number in flight.",
    "direction", "model",
    unit="seconds",
)  # fmt: skip
DECISIONS = counter(
    "meshproxy_authz_decisions_total",
    "Authorization decisions: allow, deny, or audit for each matching audit binding.",
    "direction", "decision", "policy", "reason",
)  # fmt: skip
REFUSALS = counter(
    "meshproxy_refusals_total",
    "Locally generated error responses, by the reason in x-meshproxy-refusal.",
    "direction", "reason",
)  # fmt: skip
LIMITS_EXCEEDED = counter(
    "meshproxy_limits_exceeded_total",
    "Requests and connections that exceeded a limit, by the limit's name.",
    "direction", "limit",
)  # fmt: skip

EXPRESS_REQUESTS = counter(
    "meshproxy_express_requests_total",
    "Requests of connections that have an express lane: carried from end to end; missed, so that they took the "
    "ordinary way; or unfolded into it, after they had been sent. The reason says why.",
    "direction", "result", "reason",
)  # fmt: skip

# --- Identity and connections

JWKS_REFRESH = counter("meshproxy_jwks_refresh_total", "Attempts to fetch a token issuer's keys.", "issuer", "result")
JWKS_AGE = gauge(
    "meshproxy_jwks_age_seconds", "Time since a token issuer's keys were last fetched.", "issuer", unit="seconds"
)
CALLER_IDENTITY = counter(
    "meshproxy_caller_identity_total",
    "Pre-signed requests that were sent to AWS STS: `known` and `refused` are its word, `failed` is none.",
    "result",
)
CACHE_MISSES = counter(
    "meshproxy_cache_misses_total",
    "Tokens that were verified and decisions that were made since they were not remembered. All other requests found "
    "theirs. Both rise after a reload, and not when a certificate rotates.",
    "cache",
)
TLS_HANDSHAKES = counter(
    "meshproxy_tls_handshakes_total", "Completed and failed TLS handshakes of clients.", "direction", "result", "reason"
)
CERTIFICATE_EXPIRY = gauge(
    "meshproxy_identity_cert_expiration_timestamp_seconds",
    "Unix time at which the sidecar's own certificate expires.",
    unit="seconds",
)
CERTIFICATE_START = gauge(
    "meshproxy_identity_cert_not_before_timestamp_seconds",
    "Unix time from which on the sidecar's own certificate is valid.",
    unit="seconds",
)
IDENTITY_ROTATIONS = counter(
    "meshproxy_identity_rotations_total",
    "Attempts to apply new credentials of the sidecar.",
    "result",
)
IDENTITY_IN_SYNC = gauge(
    "meshproxy_identity_in_sync",
    "1 if certificate, key and trust bundle in use match their source, 0 if newer ones were rejected.",
)
IDENTITY_ISSUANCES = counter(
    "meshproxy_identity_issuances_total", "Certificates asked of the control plane, by result: ok, failed.", "result"
)
CLOCK_OFFSET = gauge(
    "meshproxy_identity_clock_offset_seconds",
    "How far the clock of this host was ahead of the control plane's (negative: behind) at the last issuance.",
    unit="seconds",
)
OPEN_CONNECTIONS = gauge("meshproxy_open_connections", "Open downstream connections.", "direction", "protocol")
CONNECTIONS = counter(
    "meshproxy_connections_total",
    "Downstream connections, by how they are secured: mtls (a workload's certificate was verified), tls, plaintext.",
    "direction", "security",
)  # fmt: skip
CONNECTIONS_DRAINED = counter(
    "meshproxy_connections_drained_total",
    "Connections over mTLS that were given up in time: certificate-age (the peer was asked to leave, or the connection "
    "took no new calls, before one of its certificates expired), certificate-expired (idle until then, and closed).",
    "direction", "reason",
)  # fmt: skip
HTTP2_STREAM_ERRORS = counter(
    "meshproxy_http2_stream_errors_total",
    "HTTP/2 streams that were reset, refused or rejected, and connections closed because the peer broke the protocol, "
    "towards clients (downstream) and servers (upstream).",
    "direction", "side", "kind",
)  # fmt: skip

# --- Configuration

CONFIG_RELOADS = counter("meshproxy_config_reloads_total", "Configuration updates, applied or rejected.", "result")
CONFIG_IN_SYNC = gauge(
    "meshproxy_config_in_sync",
    "1 if the running configuration matches its source, 0 if the last update was rejected.",
)
CONFIG_LOADED = gauge(
    "meshproxy_config_last_reload_success_timestamp_seconds",
    "Unix time at which the running configuration was applied.",
    unit="seconds",
)

CONTROL_CONNECTED = gauge(
    "meshproxy_control_plane_connected",
    "1 while a stream from the control plane is open, 0 while there is none. Absent in a sidecar without one.",
)

CONTROL_REPORTS = counter(
    "meshproxy_control_plane_reports_total",
    "Reports of calls to the control plane: sent, and of them acknowledged. Absent in a sidecar without one.",
    "result",
)

# --- Rollouts

ROLLOUT_WEIGHT = gauge(
    "meshproxy_rollout_weight",
    "Percentage of the calls under a rollout that go to its candidate here.",
    "rollout",
)
ROLLOUT_KILLS = counter(
    "meshproxy_rollout_kills_total",
    "Candidates that this sidecar took out by itself: all calls went to the stable version at once.",
)

ANSWERS_READ = counter(
    "meshproxy_answers_read_total",
    "Calls whose answers were chosen to be read (`telemetry.answers`): read; unreadable, too-long; failed, so that "
    "there is none; unnamed (model or version has no name of its own, or there are too many).",
    "result",
)

# --- Telemetry

ACCESS_LOG_DROPPED = counter(
    "meshproxy_access_log_dropped_total", "Access log lines dropped because the output did not accept them."
)
ACCESS_LOG_FILTERED = counter(
    "meshproxy_access_log_filtered_total",
    "Requests without a line in the access log, as telemetry.accessLog asks for none.",
)
AUDIT_EVENTS = counter(
    "meshproxy_audit_events_total",
    "Calls with a line in the audit trail, by type: denied, audited, admin, allowed.",
    "type",
)
AUDIT_DROPPED = counter(
    "meshproxy_audit_dropped_total", "Events without a line in the audit trail because the output did not accept them."
)
AUDIT_FAILING = gauge("meshproxy_audit_failing", "1 while no line of the audit trail can be written.")
TELEMETRY_FAILURES = counter(
    "meshproxy_telemetry_failures_total",
    "Requests that a telemetry sink failed to record because of a bug; please report it.",
    "sink",
)
LIVE_READERS = gauge(
    "meshproxy_live_readers", "Clients that read /tap or /stat at the moment (`meshproxy tap`, `stat`, `top`).", "page"
)
TAP_DROPPED = counter(
    "meshproxy_tap_dropped_total",
    "Calls that a tap did not show, by reason: rate, or reader where it did not read. Counted when the tap ends.",
    "reason",
)
SPANS_EXPORTED = counter("meshproxy_spans_exported_total", "Spans that the collector has taken.")
SPANS_DROPPED = counter(
    "meshproxy_spans_dropped_total",
    "Spans that were lost, by reason: queue-full, keep-limit (more than 100 unsampled requests a second would be kept),"
    " failed (the collector did not take them in time), rejected (by the collector), shutdown (of the process, or of an"
    " export that a reload has replaced), internal.",
    "reason",
)
METRIC_LINES = gauge("meshproxy_metric_lines", "Lines of all stored series on this page; at most 10,000.")
SERIES_CAPPED = counter(
    "meshproxy_metric_series_capped_total",
    "Label sets counted in the shared series `_other` because the page had reached its maximum.",
)
HOP_LAG = gauge(
    "meshproxy_hop_lag_seconds",
    "What a call took beyond what the model server says it took (network, kernels, its HTTP or gRPC code), on average "
    "in the last reading. Missing while it is not known.",
    "model", unit="seconds",
)  # fmt: skip
HOP_LAG_EXPECTED = gauge(
    "meshproxy_hop_lag_expected_seconds",
    "The hop lag that is normal, by the last hour's readings.",
    "model", unit="seconds",
)  # fmt: skip
HOP_LAG_ALARM = gauge("meshproxy_hop_lag_alarm", "1 while the hop lag is above what is normal, 0 otherwise.", "model")
CALL_TIME_RATIO = gauge(
    "meshproxy_call_time_ratio",
    "Where the time of a call went in the last reading, as shares that add up to 1: model (as the model server says), "
    "network (the hop lag, and the rest of the response), proxy (the sidecar), client (waiting for its body).",
    "model", "part", unit="ratio",
)  # fmt: skip
UNMATCHED_CALLS = counter(
    "meshproxy_hop_lag_unmatched_calls_total",
    "Calls that only one of model server and sidecar has counted, so that the hop lag is not known: the model server "
    "has other callers.",
    "model",
)  # fmt: skip
SERVER_PAGES = counter(
    "meshproxy_model_server_pages_total",
    "Attempts to read the model server's metrics page, by result: ok, absent (404: it has none), failed, unusable.",
    "result",
)  # fmt: skip
SERVER_RELAYS = counter(
    "meshproxy_model_server_relays_total",
    "Requests for this page to which the model server's was to be appended, by result: ok, denied (the client may not "
    "read it), absent, failed, unusable.",
    "result",
)  # fmt: skip
BUILD_INFO = gauge("meshproxy_build_info", "Always 1; the labels give the versions.", "version", "python")

# --- Process

PROCESS_CPU = counter("process_cpu_seconds_total", "CPU time, user and system.", unit="seconds")
PROCESS_RESIDENT = gauge("process_resident_memory_bytes", "Resident memory (RSS).", unit="bytes")
PROCESS_VIRTUAL = gauge("process_virtual_memory_bytes", "Virtual memory.", unit="bytes")
PROCESS_OPEN_FDS = gauge("process_open_fds", "Open file descriptors.")
PROCESS_MAX_FDS = gauge("process_max_fds", "Maximum number of open file descriptors.")
PROCESS_START = gauge("process_start_time_seconds", "Unix time at which the process started.", unit="seconds")

# --- Upstreams and routes

RETRIES = counter(
    "meshproxy_retries_total", "Retries, by the failure of the previous attempt.", "direction", "model", "reason"
)
RETRIES_SKIPPED = counter(
    "meshproxy_retries_skipped_total",
    "Failed attempts that were not retried, by failure and by the reason for not retrying.",
    "direction", "model", "reason", "skip",
)  # fmt: skip
RETRY_BUDGET_EXHAUSTED = counter(
    "meshproxy_retry_budget_exhausted_total", "Retries prevented by the retry budget.", "direction", "model", "reason"
)
HEDGES = counter("meshproxy_hedges_total", "Hedged requests sent after `hedgeAfter`.", "direction", "model")
FALLBACKS = counter(
    "meshproxy_fallbacks_total", "Requests sent to the `fallback` server of their route.", "direction", "route"
)
MIRRORED = counter("meshproxy_mirrored_total", "Mirrored requests, by result.", "direction", "route", "result")
CONNECT_FAILURES = counter(
    "meshproxy_connect_failures_total",
    "Connections to endpoints that could not be opened, by reason.",
    "server", "reason",
)  # fmt: skip
CIRCUIT_TRANSITIONS = counter(
    "meshproxy_circuit_transitions_total",
    "Circuit breaker transitions, by new state: closed, half_open, open.",
    "server", "model", "endpoint", "state",
)  # fmt: skip
CIRCUIT_STATE = gauge(
    "meshproxy_circuit_state",
    "Circuit breaker state: 0 closed, 1 half-open, 2 open.",
    "server", "model", "endpoint",
)  # fmt: skip
EJECTIONS = counter(
    "meshproxy_endpoint_ejections_total", "Endpoints ejected by outlier detection.", "server", "endpoint"
)
ENDPOINTS = gauge(
    "meshproxy_endpoints",
    "Endpoints: all known, and of these ejected, unhealthy (health checks) and open (circuit breakers).",
    "server", "state",
)  # fmt: skip
ENDPOINT_CHANGES = counter(
    "meshproxy_endpoint_changes_total",
    "Endpoints added or removed by discovery after its first result.",
    "server", "change",
)  # fmt: skip
DISCOVERY_FAILURES = counter(
    "meshproxy_discovery_failures_total", "Failed endpoint lookups; the last good result stays in use.", "server"
)
HEALTH_CHECKS = counter("meshproxy_health_checks_total", "Health checks, by result: good, bad.", "server", "result")
QUEUE_DEPTH = gauge("meshproxy_queue_depth", "Requests queued by the concurrency limit.", "direction", "route", "model")
CONCURRENCY_LIMIT = gauge(
    "meshproxy_concurrency_limit", "The concurrency limit: configured or adaptive.", "direction", "route", "model"
)

# --- Scaling

SCALING_CONCURRENCY = gauge(
    "meshproxy_scaling_concurrency",
    "Inbound requests in flight, with those in the queue: the mean of the last minute.",
    "model",
)
SCALING_QUEUE = gauge(
    "meshproxy_scaling_queue_depth",
    "Inbound requests that the concurrency limit made wait: the mean of the last minute.",
    "model",
)
SCALING_RATE = gauge(
    "meshproxy_scaling_request_rate",
    "Inbound requests a second, without those that access control refused: the mean of the last minute.",
    "model",
)
SCALING_SATURATION = gauge(
    "meshproxy_scaling_saturation",
    "The concurrency of the last minute by the concurrency limit: above 1, requests wait. Absent without a limit.",
    "model",
)

# --- Supervisor

WORKERS = gauge("meshproxy_workers", "Worker processes, by state: starting, serving, waiting to be restarted.", "state")
WORKER_RESTARTS = counter("meshproxy_worker_restarts_total", "Worker restarts after a worker process exited.")

# --- Control plane

ISSUANCES = counter(
    "meshproxy_control_issuances_total",
    "Requests for certificates, issued or refused.",
    "result", "reason",
)  # fmt: skip
LEADER = gauge("meshproxy_control_leader", "1 if this control plane leads those of its cluster (Lease), 0 if not.")
STATUS_WRITES = counter(
    "meshproxy_control_status_writes_total",
    "Writes of what became of an object into its status, by result: ok, failed.",
    "result",
)
AUTHORITY_EXPIRY = gauge(
    "meshproxy_control_authority_expiration_timestamp_seconds",
    "Unix time at which the certificate of the authority expires.",
    unit="seconds",
)
STORE_FAILURES = counter(
    "meshproxy_control_store_failures_total",
    "Records of certificates and of their keys that could not be written, and are in memory until they can.",
    "record",
)  # fmt: skip
RECORDS_USED = gauge(
    "meshproxy_control_certificate_records_used_ratio",
    "With --authority-secret: how full the fullest ConfigMap of the certificates that are out is; at 1 none can be"
    " recorded.",
    unit="ratio",
)
ISSUES_UNTIL = gauge(
    "meshproxy_control_issues_until_timestamp_seconds",
    "With --authority-secret: Unix time until which certificates are issued; a day after all that were could last be"
    " recorded.",
    unit="seconds",
)
SIDECARS = gauge(
    "meshproxy_control_sidecars", "Sidecars, by what they have of the documents: in-sync, behind, refused; gone: lost.",
    "state",
)  # fmt: skip
DOCUMENTS_IN_SYNC = gauge(
    "meshproxy_control_documents_in_sync",
    "1 if sidecars are given the documents as they are in the files or the cluster, 0 if some were rejected.",
)
DOCUMENTS_REFUSED = counter(
    "meshproxy_control_documents_refused_total",
    "Streams of sidecars that asked for documents that their identity may not have.",
)
MESH_REPORTS = counter(
    "meshproxy_control_mesh_reports_total",
    "Reports of calls from sidecars: taken; of these late, or of processes that are too many to be watched "
    "(unwatched); and those that were not counted: repeated, lost on the way, malformed.",
    "result",
)
MESH_REPORTERS = gauge(
    "meshproxy_control_mesh_reporters",
    "Processes of sidecars that report calls, by how lately they have: fresh, late, silent; stopped: they said so.",
    "state",
)
MESH_DROPPED = counter(
    "meshproxy_control_mesh_calls_dropped_total",
    "Reported calls that are not shown where they belong: folded (under `_other`, as there are too many callers and "
    "models), forgotten (let go of before their hour was over, for want of room), too-old (reported too late), "
    "no-server (inbound calls that were reported by a workload that is no model server).",
    "reason",
)
TAPS = gauge("meshproxy_control_taps", "Taps of the mesh that are open.")
TAP_LINES = counter(
    "meshproxy_control_tap_lines_total",
    "Calls that sidecars have sent for taps of the mesh: shown, over-rate, unread (left out: more than the tap's rate, "
    "or than its reader took), not-ordered (by a sidecar that nobody has asked, or not any more).",
    "result",
)
DRIFT_ALARM = gauge(
    "meshproxy_control_drift_alarm",
    "1 while a version of a model is not as it was before, 0 while it is; missing while that is being learned. By "
    "`signal`: errors (share of calls that fail), upstream (what model server and network take), proxy (what the "
    "sidecar takes); and where answers are read: nan (share of those with NaN or an infinity), classes, scores.",
    "direction", "model", "version", "signal",
)  # fmt: skip
DRIFT_LEVEL = gauge(
    "meshproxy_control_drift_level",
    "What the last reading says: a share of `errors` or `nan`; seconds (geometric mean); of `classes` and `scores` how "
    "far they are from what was before, as population stability index (PSI).",
    "direction", "model", "version", "signal",
)  # fmt: skip
DRIFT_EXPECTED = gauge(
    "meshproxy_control_drift_expected",
    "What that was compared with: the last hours, or the same time of yesterday if that is nearer; 0 for a PSI.",
    "direction", "model", "version", "signal",
)  # fmt: skip
DRIFT_UNWATCHED = counter(
    "meshproxy_control_drift_unwatched_calls_total",
    "Calls that are not watched for drift, as there are too many versions of models.",
)
INJECTIONS = counter(
    "meshproxy_control_injections_total",
    "Reviews of new pods, by what became of them: injected, skipped, refused, unreadable.",
    "outcome",
)
LOGINS = counter(
    "meshproxy_control_logins_total",
    "Logins to the page of the mesh, by result: ok, failed, no-role.",
    "result",
)
CLUSTER_CONTACT = gauge(
    "meshproxy_control_cluster_contact_timestamp_seconds",
    "Unix time at which the API server of Kubernetes last told something of this kind; ten minutes ago is too long.",
    "kind",
    unit="seconds",
)
WATCH_RESTARTS = counter(
    "meshproxy_control_watch_restarts_total",
    "Ends of a watch of the API server, each followed by a list: `resync` and `ended` are usual; `expired`, "
    "`unavailable`, `refused`, `malformed` and `limit` are not.",
    "kind", "reason",
)  # fmt: skip
SERVICE_ENDPOINTS = gauge(
    "meshproxy_control_service_endpoints",
    "Endpoints that take calls, of each Service that documents name and that has been read from the cluster.",
    "service",
)  # fmt: skip
ROLLOUT_REPORTS_DROPPED = counter(
    "meshproxy_control_rollout_reports_dropped_total",
    "Reports of rollouts that were not added up. `scope`: not among the documents of that sidecar; `revision`: of other"
    " arms or another attempt than those that are judged; `counts`: they cannot be true.",
    "reason",
)
CONTROL_ROLLOUT_WEIGHT = gauge(
    "meshproxy_control_rollout_weight", "The percentage of the calls that the candidate of a rollout has.", "rollout"
)
CONTROL_ROLLOUT_PHASE = gauge(
    "meshproxy_control_rollout_phase",
    "1 for the phase that a rollout is in, 0 for the others: waiting, progressing, promoted, rolled-back.",
    "rollout", "phase",
)  # fmt: skip
CONTROL_ROLLOUT_STALLED = gauge(
    "meshproxy_control_rollout_stalled",
    "1 while a step of a rollout has been held for longer than `progressDeadline`, mostly for want of calls.",
    "rollout",
)
CONTROL_ROLLOUT_WINDOWS = counter(
    "meshproxy_control_rollout_windows_total",
    "Windows that were judged here, by outcome: pass, fail, insufficient.",
    "rollout", "outcome",
)  # fmt: skip
CONTROL_ROLLOUT_NOTICES = counter(
    "meshproxy_control_rollout_notices_total",
    "What became of rollouts here, by reason: Started, Advanced, Stalled, Paused, Promoted, RolledBack, ...",
    "rollout", "reason",
)  # fmt: skip
ENDPOINT_UPDATES = counter(
    "meshproxy_control_endpoint_updates_total", "Endpoints of one Service that were sent to one sidecar."
)


TABLES: dict[str, tuple[Metric, ...]] = {
    "Requests": (
        REQUESTS, REQUEST_DURATION, OVERHEAD, REQUEST_SIZE, RESPONSE_SIZE, IN_FLIGHT, IN_FLIGHT_TIME, DECISIONS,
        REFUSALS, LIMITS_EXCEEDED, EXPRESS_REQUESTS,
    ),
    "Upstreams and routes": (
        RETRIES, RETRIES_SKIPPED, RETRY_BUDGET_EXHAUSTED, HEDGES, FALLBACKS, MIRRORED, CONNECT_FAILURES,
        CIRCUIT_TRANSITIONS,
        CIRCUIT_STATE, EJECTIONS, ENDPOINTS, ENDPOINT_CHANGES, DISCOVERY_FAILURES, HEALTH_CHECKS, QUEUE_DEPTH,
        CONCURRENCY_LIMIT,
    ),
    "Scaling": (SCALING_CONCURRENCY, SCALING_QUEUE, SCALING_RATE, SCALING_SATURATION),
    "Identity and connections": (
        JWKS_REFRESH, JWKS_AGE, CALLER_IDENTITY, CACHE_MISSES, TLS_HANDSHAKES, CERTIFICATE_START, CERTIFICATE_EXPIRY,
        IDENTITY_ROTATIONS, IDENTITY_IN_SYNC, IDENTITY_ISSUANCES, CLOCK_OFFSET, OPEN_CONNECTIONS, CONNECTIONS,
        CONNECTIONS_DRAINED, HTTP2_STREAM_ERRORS,
    ),
    "Configuration": (CONFIG_RELOADS, CONFIG_IN_SYNC, CONFIG_LOADED, CONTROL_CONNECTED, CONTROL_REPORTS),
    "Rollouts and drift": (ROLLOUT_WEIGHT, ROLLOUT_KILLS, ANSWERS_READ),
    "Telemetry": (
        ACCESS_LOG_FILTERED, ACCESS_LOG_DROPPED, AUDIT_EVENTS, AUDIT_DROPPED, AUDIT_FAILING, TELEMETRY_FAILURES,
        SPANS_EXPORTED, SPANS_DROPPED, LIVE_READERS, TAP_DROPPED, METRIC_LINES, SERIES_CAPPED, BUILD_INFO,
    ),
    "Model server": (
        HOP_LAG, HOP_LAG_EXPECTED, HOP_LAG_ALARM, CALL_TIME_RATIO, UNMATCHED_CALLS, SERVER_PAGES,
        SERVER_RELAYS,
    ),
    "Process": (
        PROCESS_CPU, PROCESS_RESIDENT, PROCESS_VIRTUAL, PROCESS_OPEN_FDS, PROCESS_MAX_FDS, PROCESS_START,
    ),
    "Supervisor": (WORKERS, WORKER_RESTARTS),
    "Control plane": (
        LEADER, STATUS_WRITES,
        ISSUANCES, AUTHORITY_EXPIRY, STORE_FAILURES, RECORDS_USED, ISSUES_UNTIL,
        SIDECARS, DOCUMENTS_IN_SYNC, DOCUMENTS_REFUSED, CLUSTER_CONTACT, WATCH_RESTARTS,
        SERVICE_ENDPOINTS, ENDPOINT_UPDATES, ROLLOUT_REPORTS_DROPPED,
        MESH_REPORTS, MESH_REPORTERS, MESH_DROPPED, TAPS, TAP_LINES, DRIFT_ALARM, DRIFT_LEVEL, DRIFT_EXPECTED,
        DRIFT_UNWATCHED,
        CONTROL_ROLLOUT_WEIGHT, CONTROL_ROLLOUT_PHASE, CONTROL_ROLLOUT_STALLED, CONTROL_ROLLOUT_WINDOWS,
        CONTROL_ROLLOUT_NOTICES,
        INJECTIONS, LOGINS,
    ),
}  # fmt: skip


def page() -> str:
    """The tables of docs/metrics.md, as Markdown."""
    lines: list[str] = []
    for heading, rows in TABLES.items():
        lines += ["", f"### {heading}", "", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for metric in rows:
            labels = " ".join(f"`{label}`" for label in metric.labels) or "none"
            lines.append(f"| `{metric.name}` | {metric.type.value} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
