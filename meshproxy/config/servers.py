"""`ModelServer`: where model servers are, which of them gets a call, and when one of them is left alone."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config.fields import (
    API_VERSION,
    Count,
    DnsName,
    Duration,
    DurationOrZero,
    HeaderName,
    HostName,
    HostPort,
    Metadata,
    Part,
    Percent,
    Port,
    Ratio,
    Text,
    WorkloadSubject,
    one_of,
)

SurfaceWord = Literal["rest", "grpc", "sidecar"]
BalancingWord = Literal["least-request", "round-robin", "ring-hash"]
KeyWord = Literal["caller", "header", "client-id"]
CheckWord = Literal["tcp", "http", "grpc", "model-status"]


class Endpoint(Part, frozen=True):
    """One model server process. REST calls go to `rest`, gRPC calls to `grpc`; what is left out is not served. Or both
    go to the sidecar beside it."""

    rest: HostPort | None = None
    """TensorFlow Serving's `--rest_api_port`, usually 8501."""
    grpc: HostPort | None = None
    """TensorFlow Serving's `--port`, usually 8500."""
    sidecar: HostPort | None = None
    """The inbound port of the sidecar beside it, usually 18500: REST and gRPC go there alike, over mTLS and HTTP/2, if
    the certificate shown there is that of the server's `workload`."""
    locality: Text | None = None
    """Where it is, such as a zone: compared with the Sidecar's `locality`."""

    def __post_init__(self) -> None:
        if self.sidecar is not None and (self.rest is not None or self.grpc is not None):
            raise ValueError('"sidecar" takes REST and gRPC: leave "rest" and "grpc" out')
        if self.rest is None and self.grpc is None and self.sidecar is None:
            raise ValueError('expected "rest", "grpc" or both, or "sidecar"')


class Dns(Part, frozen=True):
    """Endpoints that are looked up by name, and again when the answer's time to live is over. An answer that cannot be
    had changes nothing: the last good one goes on counting."""

    name: DnsName
    """What is looked up, through the search list of /etc/resolv.conf unless it ends with a dot. A headless Service's
    name gives every pod."""
    rest: Port | None = None
    """The port of REST at each address."""
    grpc: Port | None = None
    """The port of gRPC at each address."""
    sidecar: Port | None = None
    """The inbound port of the sidecar at each address."""
    srv: Annotated[SurfaceWord, one_of(SurfaceWord)] | None = None
    """Look for SRV records (RFC 2782) instead of addresses; their ports are for this."""
    name_server: HostPort | None = None
    """The name server to ask. Left out: those of /etc/resolv.conf, in turn."""
    min_refresh: Duration = 1.0
    """However short an answer lives, the next question waits for so long."""
    max_refresh: Duration = 30.0
    """However long an answer lives, or while none can be had, it is asked for again after so long."""

    def __post_init__(self) -> None:
        ports = [port for port in (self.rest, self.grpc, self.sidecar) if port is not None]
        if self.srv is not None and ports:
            raise ValueError('SRV records bring their ports: leave "rest", "grpc" and "sidecar" out')
        if self.srv is None and not ports:
            raise ValueError('expected "rest", "grpc" or both, or "sidecar", or "srv"')
        if self.sidecar is not None and len(ports) > 1:
            raise ValueError('"sidecar" takes REST and gRPC: leave "rest" and "grpc" out')
        if self.min_refresh > self.max_refresh:
            raise ValueError('"minRefresh" is above "maxRefresh"')


class Key(Part, frozen=True):
    """What of a request stays the same, so that the same is done with it each time."""

    by: Annotated[KeyWord, one_of(KeyWord)] = "caller"
    """`caller`: the workload, or the token's subject, or the address. `header`: a request header. `client-id`: field 6
    of a PredictRequest, if the message is short enough to be looked at before it is sent on; the caller otherwise."""
    header: HeaderName | None = None
    """Which header. Without it in a request, the caller counts."""

    def __post_init__(self) -> None:
        if (self.by == "header") != (self.header is not None):
            raise ValueError('"header" goes with "by: header"')


class Balancing(Part, frozen=True):
    """Which endpoint gets the next call. Each call is balanced by itself, whatever connection it came on."""

    policy: Annotated[BalancingWord, one_of(BalancingWord)] = "least-request"
    """`least-request`: of two chosen by chance, the one with the smaller product of recent latency (peak EWMA) and
    calls under way. `round-robin`: in turn. `ring-hash`: the same key goes to the same endpoint as long as it is
    there."""
    key: Key = Key()
    """What `ring-hash` goes by."""
    prefer_locality: bool = True
    """Endpoints of our own locality take every call while at least 70 % of them can."""
    warm_up: DurationOrZero = 10.0
    """An endpoint that comes to those that are there begins with a tenth of its share and has all of it after so
    long, counted from when its model is AVAILABLE, if health is checked, and from its first connection otherwise."""


class BreakerSettings(Part, frozen=True):
    """Stops calls to an endpoint that fails, and lets a single probe through from time to time.

    There is one breaker for each endpoint, which counts failures that do not depend on a model (no connection,
    connection reset, no answer in time), and one for each model on each endpoint, which counts answers: UNAVAILABLE,
    INTERNAL, UNKNOWN and DATA_LOSS, and 500, 502, 503 and 504."""

    enabled: bool = True
    """`false`: an endpoint is called however often it fails."""
    consecutive_failures: Count = 5
    """Consecutive failures that open the breaker."""
    success_rate: Ratio | None = None
    """A share of successes below this within `window` opens it, too. Left out: only consecutive failures do."""
    window: Duration = 10.0
    """The sliding window of `successRate`. It moves by a tenth of its length: a result counts for at least nine tenths
    of it and never longer than all of it."""
    min_requests: Count = 20
    """With fewer results within `window`, `successRate` is not evaluated."""
    open_for: Duration = 0.5
    """How long it stays open at first, with 20 % jitter; twice as long after each failed probe."""
    open_for_most: Duration = 10.0
    """The longest that it stays open. While no other endpoint can be called, one is tried each second at least."""

    def __post_init__(self) -> None:
        if self.open_for > self.open_for_most:
            raise ValueError('"openFor" is above "openForMost"')


class EjectionSettings(Part, frozen=True):
    """Ejects endpoints whose success rate is an outlier, for a while (outlier detection)."""

    enabled: bool = True
    """`false`: only breakers take endpoints out."""
    interval: Duration = 10.0
    """Endpoints are compared at this interval, by the calls that ended since the last comparison."""
    min_endpoints: Count = 3
    """Endpoints with enough calls that are needed for a comparison; with fewer, none is ejected."""
    min_requests: Count = 50
    """Calls within the interval below which an endpoint is not judged, nor counts in the comparison of others."""
    deviations: Annotated[float, Meta(ge=0.1, le=10)] = 1.9
    """An endpoint is ejected if its success rate is this many standard deviations below the mean of the others."""
    base_time: Duration = 10.0
    """How long an endpoint is ejected: this, times how often it was ejected, less one for each whole interval since in
    which it was not."""
    max_time: Duration = 300.0
    """The longest ejection."""
    max_percent: Percent = 34.0
    """The share of endpoints that may be ejected at once, rounded down, but one at least. 0: none is ejected."""

    def __post_init__(self) -> None:
        if self.base_time > self.max_time:
            raise ValueError('"baseTime" is above "maxTime"')


class Health(Part, frozen=True):
    """Asks endpoints how they are."""

    check: Annotated[CheckWord, one_of(CheckWord)] = "model-status"
    """`tcp`: a connection can be opened. `http`: GET `path` is answered with 2xx. `grpc`: grpc.health.v1.Health says
    SERVING, of each model. `model-status`: GetModelStatus has a version of each model that is AVAILABLE; that is what
    TensorFlow Serving knows, and `grpc` what a sidecar answers."""
    path: Text = "/"
    """For `http`."""
    models: tuple[Text, ...] = ()
    """Which models are asked for. Left out: those that routes to this server name."""
    interval: Duration = 1.0
    """Between two checks, give or take a tenth."""
    timeout: Duration = 1.0
    """An answer that takes longer is none."""
    unhealthy_after: Count = 2
    """So many bad checks in a row take an endpoint, or a model on it, out."""
    healthy_after: Count = 1
    """So many good ones bring it back."""


class ServerSpec(Part, frozen=True):
    """Where the model servers are."""

    endpoints: tuple[Endpoint, ...] = ()
    """Processes that serve the same models. This, or `dns`."""
    dns: Dns | None = None
    """Endpoints are looked up by name."""
    workload: WorkloadSubject | None = None
    """Whose certificate a `sidecar` endpoint must show: without it, whoever got hold of an address could answer."""
    hosts: tuple[HostName, ...] = ()
    """Names by which applications call this server through the outbound port, as host or `:authority`, whatever the
    port. Its own name is always one of them."""
    connect_timeout: Duration = 1.0
    """To reach an endpoint. Beside it on loopback this takes microseconds."""
    max_connections: Count | None = None
    """Connections to one endpoint at a time; requests beyond them wait. Left out: a quarter of the process's limit of
    open files (RLIMIT_NOFILE)."""
    idle_timeout: Duration = 60.0
    """A connection to an endpoint without a request."""
    balancing: Balancing = Balancing()
    """Which endpoint gets the next call."""
    breaker: BreakerSettings = BreakerSettings()
    """When an endpoint is left alone."""
    ejection: EjectionSettings = EjectionSettings()
    """When an endpoint is left alone because it does worse than the others."""
    health: Health | None = None
    """Asks endpoints how they are. Left out: only calls tell."""

    def __post_init__(self) -> None:
        if (self.dns is not None) == bool(self.endpoints):
            raise ValueError('expected one endpoint or more under "endpoints", or "dns"')
        dns = self.dns
        calls_sidecars = any(endpoint.sidecar is not None for endpoint in self.endpoints) or (
            dns is not None and (dns.sidecar is not None or dns.srv == "sidecar")
        )
        if calls_sidecars and self.workload is None:
            raise ValueError('"workload" is missing: say whose certificate the sidecars of this server show')
        if self.workload is not None and self.workload.service_account is None and self.workload.spiffe_id is None:
            raise ValueError('"workload": a namespace is not enough, expected "serviceAccount" too, or "spiffeId"')


class ModelServer(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelServer"):
    """A set of endpoints that serve the same models."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: ServerSpec
