"""`MeshConfig.spec.telemetry`: where spans go, and of which requests."""

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config import values
from meshproxy.config.fields import Duration, Glob, Part, Ratio, one_of
from meshproxy.config.values import shown

_COLLECTOR = re.compile(r"https?://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?(/[!-~]*)?")


def read_collector(value: object) -> str:
    """The base URL of an OTLP/HTTP collector: `http://otel-collector.observability:4318`. Without a slash at its end:
    `/v1/traces` is appended, and a collector answers `//v1/traces` with a redirect. Raises ValueError."""
    match = _COLLECTOR.fullmatch(value) if isinstance(value, str) else None
    if not isinstance(value, str) or match is None or len(value) > 1_024 or not set("?#").isdisjoint(value):
        raise ValueError(f'expected a URL such as "http://otel-collector:4318", got {shown(value)}')
    if match[1] is not None and not 0 < int(match[1]) < 65_536:
        raise ValueError(f"{shown(value)} has no port from 1 to 65535")
    return value.rstrip("/")


def read_audit_log(value: object) -> str:
    """Where an audit trail goes: as `values.read_access_log`, or the base URL of a collector. Raises ValueError."""
    return read_collector(value) if is_collector(value) else values.read_access_log(value)


def resolve_audit_log(folder: Path, text: str) -> str:
    """As `resolve_path`, if it is one."""
    return text if is_collector(text) else values.resolve_access_log(folder, text)


def is_collector(value: object) -> bool:
    """Whether it is meant for the URL of a collector."""
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


AuditLog = Annotated[
    str,
    Meta(extra={"read": read_audit_log, "words": "stdout, off, path or URL", "resolve": resolve_audit_log}),
]
Collector = Annotated[str, Meta(extra={"read": read_collector, "words": "URL"})]


class Keep(Part, frozen=True):
    """Requests that are told of although they are not in the share that is sampled, decided when the response is
    complete."""

    errors: bool = True
    """Those that failed: HTTP status 5xx, the gRPC statuses that are errors of a server, and responses that broke
    off."""
    refusals: bool = True
    """Those that a sidecar refused."""
    slower_than: Duration | None = None
    """Those that took longer. Left out: none are kept because of their duration."""


class Traces(Part, frozen=True):
    """Spans of requests and of their attempts, exported over OTLP/HTTP."""

    endpoint: Collector
    """The base URL of the collector, such as `http://otel-collector.observability:4318`; `/v1/traces` is appended. The
    variables `OTEL_EXPORTER_OTLP_ENDPOINT` and `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` of the sidecar's container replace
    it."""
    ratio: Ratio = 0.01
    """The share of traces that is sampled, of those that begin at a sidecar. For others the `sampled` flag of
    `traceparent` decides. `OTEL_TRACES_SAMPLER` replaces it."""
    keep: Keep = Keep()
    """Requests that are exported anyway: at most 100 a second of each process."""
    b3: Literal["none", "single", "multi"] = "none"
    """Propagation in Zipkin's format beside W3C Trace Context: a request without `traceparent` continues the trace of
    its `b3` or `x-b3-*` fields, and servers are sent the field `b3` (`single`) or several (`multi`). `none`: such
    fields are passed on, and a request that has nothing else is not traced. `OTEL_PROPAGATORS` replaces it."""


class ServerMetrics(Part, frozen=True):
    """The metrics page of the model server (`metricsPath` of its ModelServer, on the port of REST), read by the sidecar
    in front of it. TensorFlow Serving has one if `--monitoring_config_file` says so."""

    interval: Annotated[Duration, Meta(ge=1, le=300)] = 15.0
    """How often it is read, with 10 % jitter: from `1s` to `5m`."""
    relay: bool = False
    """`true`: `/metrics` of the sidecar has the page at its end, for clients to which a binding permits the verb
    `metrics` by their address alone (`ipBlocks`), as the admin port knows no identities. For one endpoint; of several
    `workers` the first does it."""


LogFormat = Literal["json", "text", "ecs"]


class AccessLogLines(Part, frozen=True):
    """Which requests have a line in the access log, and its format. A request of one of `models` has a line if it is in
    the share `ratio`, or if `keep` says so; the others are counted (`meshproxy_access_log_filtered_total`)."""

    format: Annotated[LogFormat, one_of(LogFormat)] = "json"
    """`json`: field names of Envoy and Istio. `text`: Istio's default line, and further fields after it. `ecs`: JSON in
    the Elastic Common Schema."""
    ratio: Ratio = 1.0
    """The share of requests that have a line: 1 for all, 0 for none but those of `keep`. Requests with a trace are
    chosen by its id, so that all sidecars on their way choose the same; others by chance."""
    keep: Keep = Keep()
    """Requests that have a line anyway."""
    models: tuple[Glob, ...] = ()
    """Only requests of these models, by name or glob, have a line. Left out: those of all models, and requests that
    name none."""

    def __post_init__(self) -> None:
        if not self.ratio and self.keep == Keep(False, False, None):
            raise ValueError('no request would have a line: set "accessLog" of the Sidecar to "off" instead')


WithoutTrail = Literal["refuse", "serve"]


class AuditTrail(Part, frozen=True):
    """What has a line in the audit trail beside what always has one: refusals because of the caller, what an `audit`
    binding matched, and admin verbs. Where the lines go is `auditLog` of the Sidecar."""

    allowed: Ratio = 0.0
    """The share of the other permitted calls that has a line: 1 for all. Calls with a trace are chosen by its id, so
    that all sidecars on their way choose the same; others by chance."""
    admin_without_trail: Annotated[WithoutTrail, one_of(WithoutTrail)] = "refuse"
    """What becomes of calls of admin verbs (`reload`, `metrics`, `profile`, `reflect`, `unlisted`) while no line can be
    written, as the disk is full. `refuse`: they are refused (`audit-unavailable`). Other calls are served, and the
    lines that do not fit into the queue are counted (`meshproxy_audit_dropped_total`)."""


class Answers(Part, frozen=True):
    """Which answers of model servers their sidecars read, so that the control plane can tell when NaN, classes or
    scores change (docs/drift.md). Reading takes at most a twentieth of the time of a sidecar's processor."""

    ratio: Ratio = 0.1
    """The share that is read, by chance, of calls that succeed. A reading takes 200 within two hours."""
    models: tuple[Glob, ...] = ()
    """Only answers of these models, by name or glob, are read. Left out: those of all models."""


ServerTiming = Literal["off", "onRequest"]
Tap = Literal["full", "anonymous", "off"]


class Telemetry(Part, frozen=True):
    """What sidecars export and show."""

    traces: Traces | None = None
    """Spans. Left out: none, unless the environment of a sidecar names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`)."""
    model_server: ServerMetrics | None = None
    """Compares what calls took with what the model server says they took: the hop lag, and an alarm when it rises
    (docs/hop-lag.md). `{}` has the defaults. Left out: the page is not read."""
    answers: Answers | None = None
    """Reads a share of the answers, and raises an alarm when NaN, classes or scores change although nobody has rolled
    out anything. `{}` has the defaults. Left out: none is read."""
    access_log: AccessLogLines = AccessLogLines()
    """The lines of the access log. Where they go is `accessLog` of the Sidecar."""
    audit: AuditTrail = AuditTrail()
    """What has a line in the audit trail."""
    server_timing: Annotated[ServerTiming, one_of(ServerTiming)] = "off"
    """Whether responses of model servers have a field `server-timing`, which says where the time went until their head
    came. `onRequest`: for requests with the field `x-server-timing: 1`, whoever sent them. `"off"` (in quotes: YAML
    reads the bare word as false): for none."""
    tap: Tap = "full"
    """What `meshproxy tap` shows of live calls to whoever is on the host of a sidecar, which is every container of its
    pod. `full`: the fields of the access log. `anonymous`: without callers and addresses, also in `meshproxy stat` and
    `meshproxy top`. `"off"` (in quotes: YAML reads the bare word as false): no taps, and no callers in the others."""
