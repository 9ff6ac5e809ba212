"""`Sidecar`: where one sidecar listens, which model server is its own, and where its identity comes from."""

from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config.fields import (
    API_VERSION,
    AccessLog,
    Count,
    DurationOrZero,
    Folder,
    HostPort,
    ListenAddress,
    Metadata,
    Name,
    Part,
    Path,
    Port,
    Size,
    Socket,
    SpiffeId,
    Text,
    one_of,
)
from meshproxy.config.telemetry import AuditLog
from meshproxy.config.values import Address

CONTROL_PLANE_PORTS = (18510, 18511, 18512)
"""A sidecar keeps clear of these: the control plane may run on the same host."""
MAX_PORT = 65_535


class IdentityFiles(Part, frozen=True):
    """PEM files. They are read again when they change. Certificate and key may be one file; the leaf comes first."""

    certificate: Path
    """Our certificate, then its intermediates. Must hold a SPIFFE id of the trust domain."""
    key: Path
    """The private key of the certificate."""
    trust_bundle: Path
    """The CA certificates that peers' certificates must chain to."""


class WorkloadApi(Part, frozen=True):
    """The SPIFFE Workload API, as an agent of SPIRE serves it."""

    socket: Socket
    """The UNIX socket of the agent."""
    spiffe_id: SpiffeId | None = None
    """Which identity to use if the agent issues several. Left out: the first one, which is the default of the API."""


class Identity(Part, frozen=True):
    """The identity of this sidecar. Exactly one of the fields."""

    files: IdentityFiles | None = None
    """Certificate, key and trust bundle on disk."""
    workload_api: WorkloadApi | None = None
    """The Workload API delivers certificate, key and trust bundle, and newer ones before they expire."""

    def __post_init__(self) -> None:
        if (self.files is not None) + (self.workload_api is not None) != 1:
            raise ValueError('expected exactly one of "files" and "workloadApi"')


class ControlPlane(Part, frozen=True):
    """The control plane that issues the certificate of this sidecar and renews it, and may send the documents."""

    address: HostPort
    """Where it listens for sidecars."""
    spiffe_id: SpiffeId
    """Its SPIFFE id: another server at this address is refused."""
    trust_bundle: Path
    """The CA certificates that its certificate must chain to. Those that it sends are trusted, too."""
    folder: Folder
    """Where the certificate, its key and the trust bundle are kept, with mode 0600, so that a restart needs no control
    plane. For this sidecar alone, and in memory where there is such a volume."""
    join_token: Path | None = None
    """A file with the token of `meshproxy control join-token`, read when there is no valid certificate in `folder`."""
    service_account_token: Path | None = None
    """In Kubernetes, in place of `joinToken`: the file of a projected service-account token with audience
    `identity.meshproxy.dev`. Read whenever there is no valid certificate in `folder`, as the kubelet replaces it."""
    documents: bool = False
    """Whether it sends all documents but this one, and newer ones at any time (`meshproxy control run --documents`).
    Paths in them are those of this host, and relative ones start in `folder`."""

    def __post_init__(self) -> None:
        if self.join_token is not None and self.service_account_token is not None:
            raise ValueError('"joinToken" and "serviceAccountToken" both say how to join: keep one')

    @property
    def files(self) -> IdentityFiles:
        """What is kept in `folder`. Certificate and key are one file, so that they are replaced together."""
        pair = f"{self.folder}/identity.pem"
        return IdentityFiles(pair, pair, f"{self.folder}/roots.pem")


class Inbound(Part, frozen=True, kw_only=True):
    """Requests to our model server."""

    listen: ListenAddress = Address("0.0.0.0", 18500)
    """Where clients connect, for both REST and gRPC."""
    server: Name
    """The name of our ModelServer."""
    forward_identity: bool = False
    """Send the caller's identity to the model server, in headers. TensorFlow Serving ignores them."""
    forward_token: bool = False
    """Forward the caller's tokens to the model server, which could then use them itself: `authorization`, what
    `tokenFrom` names, and the headers of common gateways (docs/behaviour.md, Header and path rewriting)."""


class Outbound(Part, frozen=True):
    """Calls of our application to model servers elsewhere."""

    listen: ListenAddress = Address("127.0.0.1", 18501)
    """Where the application connects, in plaintext, for both REST and gRPC. It selects a server by host or
    `:authority`, by the header `x-model-server`, or by the model alone, if that has a route."""
    server: Name | None = None
    """The ModelServer of calls that select none and whose model has no route. Left out: they are refused."""
    transparent: bool = False
    """Connections are redirected here by nftables (`meshproxy capture`) or iptables: the original destination
    (SO_ORIGINAL_DST) selects the server, if nothing else does. `listen` on 127.0.0.1 includes ::1 then."""


class Admin(Part, frozen=True):
    """Health, metrics and endpoints for operators."""

    listen: ListenAddress = Address("127.0.0.1", 18502)
    """Where `/livez`, `/readyz` and `/metrics` are served. The other endpoints answer on loopback only."""
    first_worker_port: Port | None = None
    """With several `workers`: the admin port of worker 0, on the same address; worker 1 has the next port, and so on.
    Each serves its own `/metrics`. Left out: the port after that of `listen`."""


FsyncWord = Literal["always", "interval", "never"]


class AuditFile(Part, frozen=True):
    """How the audit trail is written."""

    signing_key: Path | None = None
    """A private key (Ed25519, PEM) that signs the trail about every minute, and whenever the sidecar starts or stops
    (`meshproxy audit key`). Left out: nothing is signed, and who can write the file can write another trail."""
    fsync: Annotated[FsyncWord, one_of(FsyncWord)] = "interval"
    """When lines of a file are forced to the disk, which matters if the machine stops: `always`, up to ten times a
    second; `interval`, once a second; `never`."""
    rotate_bytes: Annotated[Size, Meta(ge=65_536)] | None = 134_217_728
    """The file is renamed to its name and the number of its last line when it has so many bytes, and another one is
    begun. `null`: never; another program may do it, and send SIGUSR1."""
    keep_files: Count = 10
    """How many renamed files are kept."""


class SidecarSpec(Part, frozen=True, kw_only=True):
    """One sidecar."""

    identity: Identity | None = None
    """The identity of this sidecar. Required unless the mesh has `mtls: disabled`, or there is a `controlPlane`, which
    issues it."""
    control_plane: ControlPlane | None = None
    """The control plane of this sidecar. With an `identity` it gives the documents only: it has to trust the domain of
    that (`meshproxy control run --trust`)."""
    inbound: Inbound | None = None
    """Requests to our model server. Left out: there is none, and `outbound` is required."""
    outbound: Outbound | None = None
    """Calls of our application to model servers elsewhere. Left out: none are accepted."""
    locality: Text | None = None
    """The locality of this sidecar, such as a zone. Endpoints of the same locality are preferred."""
    admin: Admin = Admin()
    """Health, metrics and endpoints for operators."""
    audit_log: AuditLog = "off"
    """Where the audit trail goes (`telemetry.audit` of the MeshConfig, docs/audit.md): `stdout`, `"off"` (in quotes), a
    file's path, which must contain a `/`, or the base URL of a collector, such as `http://otel-collector:4318`, to
    which `/v1/logs` is appended. The file is for this process alone: each of several `workers` has one with its number,
    `audit-0.jsonl`."""
    audit: AuditFile = AuditFile()
    """How it is written."""
    access_log: AccessLog = "stdout"
    """Where one line per request goes: `stdout`, `"off"` (in quotes: YAML reads the bare word as false), or a file's
    path, which must contain a `/`. `/dev/stdout` is `stdout`."""
    express_lane: bool = True
    """Whether requests that repeat earlier ones of their connection, REST over HTTP/1.1 and gRPC, are carried by a plan
    that was made of those, for about half of the CPU. Nothing else changes by it; false is for finding out whether that
    is so."""
    drain_timeout: DurationOrZero = 25.0
    """How long in-flight requests may take after a stop signal. Below the 30 s of Kubernetes' default grace period."""
    workers: Annotated[Count, Meta(le=64)] = 1
    """Processes that share the inbound port: each uses one core. Limits that count (connections, buffered bytes,
    connections to an endpoint) apply to each of them. With several there is a supervisor, which restarts them when they
    exit, and answers `/livez`, `/readyz`, `/config` and `/drain` for all of them; metrics are scraped from each worker
    (`admin.firstWorkerPort`)."""

    def __post_init__(self) -> None:
        if self.inbound is None and self.outbound is None:
            raise ValueError('expected "inbound", "outbound" or both')
        if self.identity is not None and self.control_plane is not None:
            if not self.control_plane.documents:
                raise ValueError(
                    '"identity" and "controlPlane" both say where the certificate comes from: keep one, or set'
                    ' "controlPlane.documents", and only the documents come from there'
                )
            if self.control_plane.join_token or self.control_plane.service_account_token:
                raise ValueError('with "identity", no certificate is asked for: "controlPlane" needs no token')
        if self.audit_log == self.access_log and "/" in self.audit_log and not self.audit_log.startswith("/dev/"):
            raise ValueError('"accessLog" and "auditLog" are one file, and its lines no chain: give each its own')
        taken = {port: f"port {port} is used by the control plane" for port in CONTROL_PLANE_PORTS}
        for name, part in (("inbound", self.inbound), ("outbound", self.outbound), ("admin", self.admin)):
            if part is not None and part.listen.port:
                taken[part.listen.port] = f"port {part.listen.port} is {name}.listen"
        for number, port in enumerate(self.worker_ports):
            if port > MAX_PORT or port in taken:
                reason = taken.get(port, f"{port} is not a port")
                raise ValueError(f"no admin port for worker {number}: {reason}; set admin.firstWorkerPort")

    @property
    def own_identity(self) -> Identity | None:
        """Where the identity is read, whoever writes it."""
        if self.identity is not None or self.control_plane is None:
            return self.identity
        return Identity(files=self.control_plane.files)

    @property
    def worker_ports(self) -> tuple[int, ...]:
        """The admin port of each worker; empty without a supervisor, zeros where the kernel chooses."""
        if self.workers == 1:
            return ()
        first = self.admin.first_worker_port
        if first is None:
            if not self.admin.listen.port:
                return (0,) * self.workers
            first = self.admin.listen.port + 1
        return tuple(range(first, first + self.workers))


class Sidecar(Part, frozen=True, kw_only=True, tag_field="kind", tag="Sidecar"):
    """Where this sidecar listens and which model server is its own. Exactly one is loaded."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: SidecarSpec
