"""`ModelServer`: discovery, load balancing, circuit breaking, outlier ejection and health checks of model servers."""

from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config.fields import (
    API_VERSION,
    CheckPath,
    CookieName,
    CookiePath,
    Count,
    DnsName,
    Duration,
    DurationOrZero,
    HeaderName,
    HostName,
    HostPort,
    Label,
    Metadata,
    MetricsPath,
    ModelName,
    Part,
    Path,
    Percent,
    Port,
    PortName,
    Ratio,
    ServerAddress,
    ServerName,
    Text,
    WorkloadSubject,
    one_of,
)

SurfaceWord = Literal["rest", "grpc", "sidecar"]
BalancingWord = Literal["least-request", "round-robin", "ring-hash"]
KeyWord = Literal["caller", "header", "client-id", "cookie"]
SameSiteWord = Literal["Strict", "Lax", "None"]
CheckWord = Literal["answer", "tcp", "http", "grpc", "model-status"]


class Endpoint(Part, frozen=True):
    """One model server process. REST calls go to `rest`, gRPC calls to `grpc`; a surface that is left out is not
    served. Or both go to the sidecar beside it.

    `rest` and `grpc` may be UNIX sockets, written as gRPC does: `unix:/run/serving/grpc.sock` or
    `unix:///run/serving/grpc.sock`. A path that does not begin with `/` is relative to the document. It has at most 107
    bytes then. Abstract sockets are not supported: nothing says who may take such a name."""

    rest: ServerAddress | None = None
    """TensorFlow Serving's `--rest_api_port`, usually 8501."""
    grpc: ServerAddress | None = None
    """TensorFlow Serving's `--port`, usually 8500, or its `--grpc_socket_path`: with `--port=0` beside it, gRPC is not
    on the address of the pod."""
    sidecar: HostPort | None = None
    """The inbound port of the sidecar beside it, usually 18500: both REST and gRPC go there, over mTLS and HTTP/2, if
    the sidecar presents the certificate of the server's `workload`."""
    locality: Text | None = None
    """Its locality, such as a zone: compared with the Sidecar's `locality`."""

    def __post_init__(self) -> None:
        if self.sidecar is not None and (self.rest is not None or self.grpc is not None):
            raise ValueError('"sidecar" serves REST and gRPC: leave "rest" and "grpc" out')
        if self.rest is None and self.grpc is None and self.sidecar is None:
            raise ValueError('expected "rest", "grpc" or both, or "sidecar"')


class NamedTls(Part, frozen=True):
    """TLS with a certificate for a name, as web servers have it. It is verified: it must be valid, chain to a trusted
    authority, and have the name as a subjectAltName (RFC 9525); nothing turns that off. The files are read again when
    they change."""

    ca_file: Path | None = None
    """The authorities to trust (PEM), or the server's own self-signed certificate. Left out: the system's."""
    server_name: ServerName | None = None
    """The name, or IP address, that the certificate must have; a name is sent as SNI. Left out: the host of the
    endpoint, the name of `dns`, or `NAME.NAMESPACE.svc` of `service`. A UNIX socket has no host."""
    certificate: Path | None = None
    """Our certificate (PEM), then its intermediates, if the server asks for one (`client_verify` of TensorFlow
    Serving)."""
    key: Path | None = None
    """The private key of the certificate."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError('"certificate" and "key" belong together')


class ServerTls(Part, frozen=True):
    """TLS to a model server that is no sidecar. A protocol that is left out is plain text: TensorFlow Serving has TLS
    for gRPC only (`--ssl_config_file`). Independent of `mtls`, which is between workloads."""

    rest: NamedTls | None = None
    """For REST. `{}`: the system's authorities, and the host of the endpoint."""
    grpc: NamedTls | None = None
    """For gRPC. The server must agree on HTTP/2 (ALPN `h2`)."""

    def __post_init__(self) -> None:
        if self.rest is None and self.grpc is None:
            raise ValueError('expected "rest", "grpc" or both')


class Dns(Part, frozen=True):
    """Endpoints that are resolved by DNS, and again when the TTL ends. A failed lookup changes nothing: the last good
    answer stays in use."""

    name: DnsName
    """The name to resolve, with the search list of /etc/resolv.conf unless it ends with a dot. The name of a headless
    Service gives every pod."""
    rest: Port | None = None
    """The port of REST at each address."""
    grpc: Port | None = None
    """The port of gRPC at each address."""
    sidecar: Port | None = None
    """The inbound port of the sidecar at each address."""
    srv: Annotated[SurfaceWord, one_of(SurfaceWord)] | None = None
    """Resolve SRV records (RFC 2782) instead of addresses; their ports serve this surface."""
    name_server: HostPort | None = None
    """The name server to ask. Left out: those of /etc/resolv.conf, in turn."""
    min_refresh: Duration = 1.0
    """The shortest time between two lookups, however short the TTL."""
    max_refresh: Duration = 30.0
    """The longest time between two lookups, however long the TTL, and while lookups fail."""

    def __post_init__(self) -> None:
        ports = [port for port in (self.rest, self.grpc, self.sidecar) if port is not None]
        if self.srv is not None and ports:
            raise ValueError('SRV records have ports: leave "rest", "grpc" and "sidecar" out')
        if self.srv is None and not ports:
            raise ValueError('expected "rest", "grpc" or both, or "sidecar", or "srv"')
        if self.sidecar is not None and len(ports) > 1:
            raise ValueError('"sidecar" serves REST and gRPC: leave "rest" and "grpc" out')
        if self.min_refresh > self.max_refresh:
            raise ValueError('"minRefresh" is above "maxRefresh"')


class Service(Part, frozen=True):
    """Endpoints of a Kubernetes Service. The control plane reads its EndpointSlices and sends what changes; the zone of
    an endpoint is its locality. While the control plane cannot be reached, or the Service does not exist, the last
    endpoints stay in use. Requires `controlPlane` with `documents: true` in the Sidecar."""

    namespace: Label
    """The namespace of the Service."""
    name: Label
    """The name of the Service, headless or not."""
    rest: PortName | None = None
    """The name of the Service's port for REST. `""`: its only port, which has no name."""
    grpc: PortName | None = None
    """The name of its port for gRPC."""
    sidecar: PortName | None = None
    """The name of its port for the sidecar beside each model server: both REST and gRPC go there."""

    def __post_init__(self) -> None:
        if self.rest is None and self.grpc is None and self.sidecar is None:
            raise ValueError('expected "rest", "grpc" or both, or "sidecar"')
        if self.sidecar is not None and (self.rest is not None or self.grpc is not None):
            raise ValueError('"sidecar" serves REST and gRPC: leave "rest" and "grpc" out')

    @property
    def key(self) -> str:
        """`NAMESPACE/NAME`."""
        return f"{self.namespace}/{self.name}"

    @property
    def host(self) -> str:
        """Its name in DNS, as far as it is the same in every cluster."""
        return f"{self.name}.{self.namespace}.svc"


class Cookie(Part, frozen=True):
    """A cookie of the clients, which is read and, if they do not have it yet, set."""

    name: CookieName
    """Its name. Case matters."""
    ttl: DurationOrZero | None = None
    """A client without the cookie gets one with a random value in its response, for this long; 0: until it closes. Left
    out: none is set, and calls without it are random."""
    path: CookiePath = "/"
    """The paths that clients send it for, with all below."""
    same_site: Annotated[SameSiteWord, one_of(SameSiteWord)] = "Lax"
    """Whether browsers send it with requests from other sites (`None`: they do, over TLS)."""


class Key(Part, frozen=True):
    """The part of a request that is hashed: equal keys are routed equally."""

    by: Annotated[KeyWord, one_of(KeyWord)] = "caller"
    """`caller`: the workload, or the token's subject, or the address. `header`: a request header. `client-id`: field 6
    of a PredictRequest, if the message is short enough to be read before it is forwarded; the caller otherwise.
    `cookie`: a cookie. Keys are hashed: a share of 10 % gets about a tenth of many keys, and of two callers most likely
    none."""
    header: HeaderName | None = None
    """The name of the header. If a request lacks it, the key is the caller."""
    cookie: Cookie | None = None
    """The cookie; for gRPC it is read from metadata and set in it."""

    def __post_init__(self) -> None:
        for name, value in (("header", self.header), ("cookie", self.cookie)):
            if self.by == name and value is None:
                raise ValueError(f'"by: {name}" requires "{name}"')
            if self.by != name and value is not None:
                raise ValueError(f'"{name}" is used with "by: {name}" only')


class Balancing(Part, frozen=True):
    """Load balancing. Each request is balanced individually, also those of one connection."""

    policy: Annotated[BalancingWord, one_of(BalancingWord)] = "least-request"
    """`least-request`: of two random endpoints, the one with the smaller product of recent latency (peak EWMA) and
    requests in flight. `round-robin`: in turn. `ring-hash`: the same key goes to the same endpoint as long as that is
    available."""
    key: Key = Key()
    """What `ring-hash` hashes."""
    prefer_locality: bool = True
    """Endpoints of the Sidecar's own locality get all requests while at least 70 % of them are available."""
    warm_up: DurationOrZero = 10.0
    """Slow start: an endpoint that is added to others begins with a tenth of its share and has all of it after this
    time, counted from when its model is AVAILABLE, if health is checked, and from its first response otherwise. An
    endpoint that loads another version of a model begins anew when it has loaded it (`check: model-status`)."""


class BreakerSettings(Part, frozen=True):
    """Stops calls to an endpoint that fails while others can be called, and lets a single probe through from time to
    time. The last endpoint that can be called is called however it answers: only connections that cannot be opened take
    it out.

    There is one breaker for each endpoint, which counts failures that do not depend on a model (no connection,
    connection reset, no answer in time), and one for each model on each endpoint, which counts answers: UNAVAILABLE,
    INTERNAL, UNKNOWN and DATA_LOSS, and 500, 502, 503 and 504."""

    enabled: bool = True
    """`false`: an endpoint is called however often it fails."""
    consecutive_failures: Count = 5
    """Consecutive failures that open the breaker."""
    failing_for: DurationOrZero = 1.0
    """They must have gone on for this long without a success, unless connections are refused: a server that is
    overloaded, or is sent bad input, fails some calls and serves others."""
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
    """The longest that it stays open. While no endpoint can be called, one is tried each second at least."""

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
    """Active health checks."""

    enabled: bool = True
    """`false`: no checks, not even of several endpoints."""
    check: Annotated[CheckWord, one_of(CheckWord)] = "model-status"
    """`answer`: GET / over REST, or grpc.health.v1.Health/Check, is answered, whatever the status: the process does not
    hang. `tcp`: a connection can be opened. `http`: GET `path` is answered with 2xx. `grpc`: grpc.health.v1.Health
    reports SERVING for each model. `model-status`: GetModelStatus reports an AVAILABLE version of each model;
    TensorFlow Serving supports this one, a sidecar supports `grpc`."""
    path: CheckPath = "/"
    """The path of `http`."""
    models: tuple[Text, ...] = ()
    """The models to check. Left out: those that routes to this server name."""
    interval: Duration = 1.0
    """Time between two checks, with 10 % jitter."""
    timeout: Duration = 1.0
    """A check that takes longer has failed."""
    unhealthy_after: Count = 2
    """Consecutive failed checks before an endpoint, or a model on it, is marked unhealthy."""
    healthy_after: Count = 1
    """Consecutive successful checks before it is marked healthy again."""


class ServerSpec(Part, frozen=True):
    """A set of model servers."""

    endpoints: tuple[Endpoint, ...] = ()
    """Processes that serve the same models. This, or `dns`, or `service`."""
    dns: Dns | None = None
    """Endpoints are resolved by DNS."""
    service: Service | None = None
    """Endpoints are those of a Kubernetes Service."""
    tls: ServerTls | None = None
    """TLS to a model server with an ordinary certificate. Left out: plain text to model servers."""
    workload: WorkloadSubject | None = None
    """The workload of these model servers: a `sidecar` endpoint must present its certificate, since any process that
    took over an address could answer. A control plane gives roles and bindings to the sidecars of workloads that a
    ModelServer names, and takes their word for who has called."""
    models: tuple[ModelName, ...] = ()
    """All models that it serves, by their names in inbound calls, and the names that inbound routes and rollouts put in
    their place. Its sidecar refuses calls of others (`not-listed`), denies by default also without any `ModelRole`, and
    takes a call about the server as a whole to be about these. So it decides by the roles that are about one of them,
    and a control plane sends it no others. Left out: any model, and all roles."""
    hosts: tuple[HostName, ...] = ()
    """Host names (host or `:authority`, ignoring the port) that select this server on the outbound port. Its own name
    is always one of them."""
    metrics_path: MetricsPath = "/monitoring/prometheus/metrics"
    """Where its metrics page is, on the port of REST: `prometheus_config.path` of TensorFlow Serving's
    `--monitoring_config_file`. The verb `metrics` is GET of this path, and of no other."""
    connect_timeout: Duration = 1.0
    """For opening a connection to an endpoint. On loopback this takes microseconds."""
    max_connections: Count | None = None
    """Concurrent connections to one endpoint; further requests wait for one. Left out: a quarter of the process's limit
    of open files (RLIMIT_NOFILE); less below 128."""
    idle_timeout: Duration = 60.0
    """How long a connection to an endpoint stays open without a request."""
    balancing: Balancing = Balancing()
    """Load balancing."""
    breaker: BreakerSettings = BreakerSettings()
    """Circuit breaking."""
    ejection: EjectionSettings = EjectionSettings()
    """Outlier ejection."""
    health: Health | None = None
    """Active health checks. Left out: several endpoints are checked with `check: answer`, and a single one is not
    checked. If none of several passes that check, all of them are called."""

    def __post_init__(self) -> None:
        if bool(self.endpoints) + (self.dns is not None) + (self.service is not None) != 1:
            raise ValueError('expected one endpoint or more under "endpoints", or "dns", or "service"')
        calls_sidecars = self._serves("sidecar")
        if calls_sidecars and self.workload is None:
            raise ValueError('"workload" is missing: name the workload whose certificate these sidecars present')
        if self.tls is not None:
            self._check_tls(self.tls, calls_sidecars)
        if not calls_sidecars and self.health is not None and self.health.enabled:
            self._check_health(self.health)
        if self.workload is not None and self.workload.one_id("") is None:
            raise ValueError(
                '"workload" must be a single one: expected "namespace" and "serviceAccount", without globs, or '
                '"spiffeId"'
            )

    def _serves(self, surface: SurfaceWord) -> bool:
        """Whether an endpoint has, or may be found to have, an address for this."""
        written = any(getattr(each, surface) is not None for each in self.endpoints)
        found = any(getattr(each, surface) is not None for each in (self.dns, self.service) if each is not None)
        return written or found or (self.dns is not None and self.dns.srv == surface)

    def _check_health(self, health: Health) -> None:
        """An endpoint without what its check asks never passes it, and gets no calls. Raises ValueError."""
        surfaces: dict[str, SurfaceWord] = {"http": "rest", "grpc": "grpc"}
        surface = surfaces.get(health.check)
        if surface is None:
            return
        for index, each in enumerate(self.endpoints):
            if getattr(each, surface) is None:
                raise ValueError(
                    f'"health.check": {health.check} asks "{surface}", which endpoints[{index}] does not have'
                )
        if not self._serves(surface):
            raise ValueError(f'"health.check": {health.check} asks "{surface}", which no endpoint has')

    def _check_tls(self, tls: ServerTls, calls_sidecars: bool) -> None:
        """Raises ValueError."""
        if calls_sidecars:
            raise ValueError('"tls" is for model servers: sidecars are called over mTLS, as "workload" says')
        surfaces: tuple[SurfaceWord, ...] = ("rest", "grpc")
        for surface in surfaces:
            settings: NamedTls | None = getattr(tls, surface)
            if settings is None:
                continue
            if not self._serves(surface):
                raise ValueError(f'"tls.{surface}": no endpoint has "{surface}"')
            addresses = [address for each in self.endpoints if (address := getattr(each, surface)) is not None]
            if settings.server_name is None and any(address.startswith("unix:") for address in addresses):
                raise ValueError(f'"tls.{surface}.serverName" is missing: a UNIX socket has no host')


class ModelServer(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelServer"):
    """A set of endpoints that serve the same models."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: ServerSpec
