"""The documents, as msgspec structs: every kind, every field, its default, and what it means.

`servers` and `routes` have the two kinds that are about traffic, `fields` what kinds share. The docstring below a field
is its documentation: `config explain` and `docs/configuration.md` show it. Field names are camelCase in documents.
Everything is frozen, and nothing here is the form that a station works with: stations compile what they need once per
snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from meshproxy.codec import limits
from meshproxy.config import values
from meshproxy.config.fields import (
    API_VERSION,
    AccessLog,
    Action,
    Algorithm,
    BindingSubject,
    ClaimPattern,
    Count,
    Duration,
    DurationOrZero,
    Folder,
    Glob,
    HostPort,
    IssuerId,
    Lifetime,
    ListenAddress,
    Mtls,
    Name,
    Part,
    Path,
    Port,
    Size,
    Socket,
    SpiffeId,
    Text,
    TlsVersion,
    TrustDomain,
    Url,
    Verb,
    Version,
)
from meshproxy.config.fields import Metadata as Metadata
from meshproxy.config.routes import ModelRoute as ModelRoute
from meshproxy.config.servers import ModelServer as ModelServer
from meshproxy.config.values import Address, shown

CONTROL_PLANE_PORTS = (18510, 18511, 18512)
"""A sidecar keeps clear of these: the control plane may run on the same host."""
MAX_PORT = 65_535

# --- MeshConfig ------------------------------------------------------------------------------------------------------


class KeySource(Part, frozen=True):
    """Where an issuer's public keys are. Exactly one of the fields."""

    file: Path | None = None
    """A JWK set (RFC 7517 section 5) on disk. Relative to the document."""
    url: Url | None = None
    """A JWK set behind a URL. Fetched without following redirects."""
    inline: Mapping[str, Any] | None = None
    """A JWK set, written out: `{keys: [...]}`. Public keys only."""

    def __post_init__(self) -> None:
        if (self.file is not None) + (self.url is not None) + (self.inline is not None) != 1:
            raise ValueError(
                'expected exactly one of "file", "url" and "inline"; leave "keys" out for OpenID discovery'
            )
        if self.inline is not None:
            _check_key_set(self.inline)


def _check_key_set(key_set: Mapping[str, Any]) -> None:
    """Check that it is a set of public keys, as far as possible without cryptography. Raises ValueError."""
    keys = key_set.get("keys")
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise ValueError('"inline" is not a JWK set: expected {keys: [{kty: ..., ...}, ...]} with one key at least')
    for key in keys:
        if key.get("kty") == "oct" or "k" in key:
            raise ValueError('"inline" holds a symmetric key, with which anyone who can read it can issue tokens')
        if "d" in key:
            raise ValueError('"inline" holds a private key: only public keys belong here')


class Issuer(Part, frozen=True):
    """A trusted token issuer."""

    name: Name
    """The name that bindings use for this issuer, so that they stay the same where URL and audience differ."""
    issuer: IssuerId
    """The `iss` of its tokens, compared character for character."""
    audiences: tuple[Text, ...] = ()
    """A token must have one of these as an `aud`. Left out: tokens of this issuer have no `aud` (Amazon Cognito and
    others), those that have one are refused, and `requiredClaims` says which tokens are for this mesh."""
    required_claims: Mapping[str, str | int | bool | ClaimPattern] = {}
    """Claims that every token of this issuer must have, compared as in a ModelRoleBinding, such as
    `{client_id: {anyOf: [4f5rg, 7h2k]}, token_use: access}` or `{scope: models/predict}`. Required without
    `audiences`."""
    subject_fallback: Text | None = None
    """The claim that names the subject of tokens without `sub`, such as `client_id`: in logs, for rate limits by caller
    and in forwarded headers. Choose one whose values no `sub` can have. Left out: tokens without `sub` are refused."""
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256")
    """Accepted signature algorithms; the token's header cannot extend them. Symmetric algorithms and `none` are not
    supported."""
    keys: KeySource | None = None
    """Where the keys are. Left out: OpenID discovery at `issuer`, which then must be an https URL."""
    leeway: Annotated[DurationOrZero, Meta(le=300)] = 60.0
    """Tolerated clock skew between the issuer and the sidecar, for `exp`, `nbf` and `iat`."""
    max_lifetime: Lifetime = 86_400.0
    """The longest time from a token's `iat` to its `exp`; tokens issued for longer are refused. At most `8784h`, a
    year. Access tokens commonly live for minutes or hours; one that is valid for a year is a password that cannot be
    revoked."""
    ca_file: Path | None = None
    """CA certificates (PEM) that are trusted when keys are fetched. Left out: the system's. Required for a `jwks_uri`
    at an IP address, as the API server of Kubernetes has it."""
    bearer_token_file: Path | None = None
    """A file with a token that is sent when keys are fetched, read for each fetch: the API server of Kubernetes gives
    its keys to service accounts only, so name the pod's own token,
    `/var/run/secrets/kubernetes.io/serviceaccount/token`. Requires `caFile`: the token goes to servers of that
    authority only. Left out: none is sent."""

    def __post_init__(self) -> None:
        if not self.audiences and not self.required_claims:
            raise ValueError(
                'expected "audiences", or "requiredClaims" for an issuer whose tokens have no "aud": without either,'
                " tokens that were issued for others would be accepted"
            )
        if not self.audiences and all(
            isinstance(wanted, ClaimPattern) and wanted.present is not None for wanted in self.required_claims.values()
        ):
            raise ValueError('"requiredClaims": whether a claim is present does not tell what a token is for')
        for name in self.required_claims:
            if name in ("", "iss", "aud", "exp", "nbf", "iat"):
                what = 'write audiences into "audiences"' if name == "aud" else "this name says nothing about that"
                raise ValueError(f'"requiredClaims": {shown(name)} does not tell what a token is for: {what}')
        if self.keys is None:
            try:
                values.read_url(self.issuer)
            except ValueError as error:
                raise ValueError(f'without "keys" they are discovered at "issuer": {error}') from None
        if self.bearer_token_file is not None and self.ca_file is None:
            raise ValueError('"bearerTokenFile" requires "caFile": the token is sent to servers of that authority only')
        if self.ca_file is not None and self.keys is not None and self.keys.url is None:
            raise ValueError('"caFile" is used only when keys are fetched; leave it out, or give "keys" a "url"')


class MeshLimits(limits.Limits, frozen=True):
    """Limits of one client connection, one request or the process. Sizes are bytes."""

    handshake_timeout: Duration = 5.0
    """From accepting the TCP connection to the end of the TLS handshake."""
    head_timeout: Duration = 10.0
    """From the first byte of a request's head to its last."""
    idle_timeout: Duration = 75.0
    """How long a client connection stays open without a request. Longer than the 60 s of most load balancers and client
    pools: if the client closes first, no request is lost to a close that crosses it."""
    body_stall_timeout: Duration = 30.0
    """The longest pause between two pieces of a request's body while the sidecar is ready to read."""
    request_timeout: Duration | None = None
    """From a request's head to the end of its response. Left out: the client's own deadline, if it sends one."""
    connections: Count | None = None
    """Concurrent client connections; further ones wait to be accepted. Left out: half of the process's limit of open
    files (RLIMIT_NOFILE), as each may need another one to the model server."""
    scan_buffer_bytes: Annotated[Size, Meta(ge=1024)] = 4 << 20
    """Bytes of one gRPC request body that are buffered until it names its model."""
    scan_buffer_total_bytes: Annotated[Size, Meta(ge=1024)] = 64 << 20
    """The same for all requests together."""
    replay_buffer_total_bytes: Annotated[Size, Meta(ge=0)] = 64 << 20
    """Request bodies of all requests together that are buffered for retries. Requests beyond that are not retried."""
    response_buffer_total_bytes: Annotated[Size, Meta(ge=1 << 20)] = 64 << 20
    """Unsent response data of all requests together; beyond that the response that has waited longest is aborted."""
    inflated_bytes: Annotated[Size, Meta(ge=1024)] = 64 << 20
    """The compressed gRPC messages of one request, after they are inflated to read their model. Tensors of one value
    compress 1000:1."""

    def __post_init__(self) -> None:
        if self.scan_buffer_bytes > self.scan_buffer_total_bytes:
            raise ValueError('"scanBufferBytes" is one request\'s share and cannot be above "scanBufferTotalBytes"')


class Tls(Part, frozen=True):
    """TLS between workloads."""

    min_version: TlsVersion = "1.3"
    """The oldest accepted TLS version. Write it in quotes: it is text, not a number."""


class TrustBundle(Part, frozen=True):
    """Where the CA certificates of a trust domain are."""

    file: Path
    """PEM, read again when it changes. Each certificate must have a subject key identifier."""


class TrustedDomain(Part, frozen=True):
    """Another trust domain, whose workloads may call and be called: a mesh that is migrated, or federated with."""

    name: TrustDomain
    """The trust domain. Bindings name its workloads by `trustDomain` or `spiffeId`."""
    bundle: TrustBundle | None = None
    """Its authorities. They vouch for SPIFFE IDs of this trust domain only: a certificate of theirs with an ID of
    another domain is refused, also if that domain is trusted. Left out: the Workload API of sidecars delivers them, as
    a federated bundle."""


class MeshSpec(Part, frozen=True):
    """Settings of the whole mesh."""

    trust_domain: TrustDomain
    """The SPIFFE trust domain of this mesh: of the sidecar's own identity, and of workloads that bindings name without
    a trust domain."""
    trust_domains: tuple[TrustedDomain, ...] = ()
    """Other trust domains whose workloads are authenticated. What they may do is up to bindings that name them."""
    mtls: Mtls = "strict"
    """`strict`: every client must present a certificate of the trust domain. `permissive`: plaintext connections are
    served too, and their callers have no workload identity. `disabled`: no TLS and no workload identities; tokens
    still work."""
    issuers: tuple[Issuer, ...] = ()
    """Trusted token issuers."""
    limits: MeshLimits = MeshLimits()
    """Limits of clients and requests. The defaults fit almost everyone."""
    tls: Tls = Tls()
    """TLS between workloads."""

    def __post_init__(self) -> None:
        if self.trust_domains and self.mtls == "disabled":
            raise ValueError('"trustDomains" are of certificates, and mtls is "disabled": leave them out')
        named = {self.trust_domain}
        for domain in self.trust_domains:
            if domain.name in named:
                raise ValueError(f'"trustDomains": {shown(domain.name)} is there twice, or is the mesh\'s own')
            named.add(domain.name)
        for field in ("name", "issuer"):
            seen: set[str] = set()
            for issuer in self.issuers:
                value = getattr(issuer, field)
                if value in seen:
                    raise ValueError(f"two issuers have the {field} {shown(value)}: it must be unique")
                seen.add(value)


class MeshConfig(Part, frozen=True, kw_only=True, tag_field="kind", tag="MeshConfig"):
    """What differs between environments: trust domain, mTLS mode, token issuers, limits. The other documents stay the
    same. Exactly one is loaded."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: MeshSpec


# --- ModelRole, ModelRoleBinding -------------------------------------------------------------------------------------


class Rule(Part, frozen=True):
    """Calls that a role covers: those that match everything the rule names.

    What a call does not state counts against the caller. REST never shows the signature (it is inside the JSON body),
    and a call that names no version gets the one that was loaded last. So in a binding that allows, `versions`,
    `labels` and `signatures` match only calls that name one of them; in a binding that denies or audits they also match
    calls that name none. Denying version 3 therefore makes callers name another version.

    A call about the server as a whole (`reload`, `metrics`, `profile`, ...) names no model. A rule allows it only if it
    lists `*` itself among its models and has neither versions, labels nor signatures; a rule that denies matches it
    even if the rule names a few models, as the server has all of them.
    """

    models: Annotated[tuple[Glob, ...], Meta(min_length=1)]
    """Model names, compared character for character after percent-decoding. `*` matches any characters, `?` any single
    one; nothing else is special."""
    verbs: Annotated[tuple[Verb, ...], Meta(min_length=1)]
    """The allowed verbs, always listed: a rule must not cover more when a later release adds verbs. `reload`,
    `metrics`, `profile`, `reflect` and `unlisted` (gRPC methods that no surface knows) are for administrators: they are
    denied unless granted, even where no role exists."""
    versions: tuple[Version, ...] = ()
    """Only these versions. Left out: all, also calls that name none. Not together with `labels`."""
    labels: tuple[Text, ...] = ()
    """Only these version labels, named as such. Left out: all, also calls that name none. Not together with
    `versions`."""
    signatures: tuple[Text, ...] = ()
    """Only these signatures. Left out: all. An empty signature in a gRPC message is `serving_default`."""

    def __post_init__(self) -> None:
        if self.versions and self.labels:
            raise ValueError(
                'a call names a version or a label, never both: write two rules for "versions" and "labels"'
            )


class RoleSpec(Part, frozen=True):
    """The calls that the role covers."""

    rules: Annotated[tuple[Rule, ...], Meta(min_length=1)]
    """A call is covered if one of the rules matches it."""


class ModelRole(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelRole"):
    """A set of calls: which models, which verbs. It grants nothing by itself; a ModelRoleBinding does.

    While no ModelRole is loaded, everything but the administrators' verbs is permitted. Once there is one, everything
    is denied that no binding allows.
    """

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: RoleSpec


class BindingSpec(Part, frozen=True):
    """Subjects, their role, and the action."""

    role: Name
    """The name of a ModelRole."""
    subjects: Annotated[tuple[BindingSubject, ...], Meta(min_length=1)]
    """The binding applies to callers that match one of these. A subject matches only what it names: a caller can leave
    the token out and so escape a denial that names a token, so do not allow such callers in the first place."""
    action: Action = "allow"
    """`allow` grants. `deny` beats every `allow`. `audit` decides nothing: it records that the binding matched."""


class ModelRoleBinding(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelRoleBinding"):
    """Grants a role to callers, denies it, or audits its use."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: BindingSpec


# --- Sidecar ---------------------------------------------------------------------------------------------------------


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
    documents: bool = False
    """Whether it sends all documents but this one, and newer ones at any time (`meshproxy control run --documents`).
    Paths in them are those of this host, and relative ones start in `folder`."""

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
    """Forward the caller's bearer token to the model server, which could then use it itself."""


class Outbound(Part, frozen=True):
    """Calls of our application to model servers elsewhere."""

    listen: ListenAddress = Address("127.0.0.1", 18501)
    """Where the application connects, in plaintext, for both REST and gRPC. It selects a server by host or
    `:authority`, by the header `x-model-server`, or by the model alone, if that has a route."""
    server: Name | None = None
    """The ModelServer of calls that select none and whose model has no route. Left out: they are refused."""
    transparent: bool = False
    """Connections are redirected here by iptables or nftables: the original destination (SO_ORIGINAL_DST) selects the
    server, if nothing else does."""


class Admin(Part, frozen=True):
    """Health, metrics and endpoints for operators."""

    listen: ListenAddress = Address("127.0.0.1", 18502)
    """Where `/livez`, `/readyz` and `/metrics` are served. The other endpoints answer on loopback only."""
    first_worker_port: Port | None = None
    """With several `workers`: the admin port of worker 0, on the same address; worker 1 has the next port, and so on.
    Each serves its own `/metrics`. Left out: the port after that of `listen`."""


class SidecarSpec(Part, frozen=True, kw_only=True):
    """One sidecar."""

    identity: Identity | None = None
    """The identity of this sidecar. Required unless the mesh has `mtls: disabled`, or there is a `controlPlane`, which
    issues it."""
    control_plane: ControlPlane | None = None
    """The control plane of this sidecar."""
    inbound: Inbound | None = None
    """Requests to our model server. Left out: there is none, and `outbound` is required."""
    outbound: Outbound | None = None
    """Calls of our application to model servers elsewhere. Left out: none are accepted."""
    locality: Text | None = None
    """The locality of this sidecar, such as a zone. Endpoints of the same locality are preferred."""
    admin: Admin = Admin()
    """Health, metrics and endpoints for operators."""
    audit_log: AccessLog = "off"
    """Where one line goes for every call that authentication or authorization refused, or that an `audit` binding
    matched: `stdout`, `"off"` (in quotes) or a file's path, which must contain a `/`."""
    access_log: AccessLog = "stdout"
    """Where one line per request goes: `stdout`, `"off"` (in quotes: YAML reads the bare word as false), or a file's
    path, which must contain a `/`."""
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
            raise ValueError('"identity" and "controlPlane" both say where the certificate comes from: keep one')
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
        return Identity(files=self.control_plane.files) if self.control_plane is not None else self.identity

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


KINDS: tuple[type[Part], ...] = (MeshConfig, ModelRole, ModelRoleBinding, ModelServer, ModelRoute, Sidecar)


class Documents(Struct, frozen=True, kw_only=True):
    """All documents that were loaded together, checked as a whole: every referenced name exists."""

    mesh: MeshConfig
    sidecar: Sidecar
    roles: tuple[ModelRole, ...] = ()
    bindings: tuple[ModelRoleBinding, ...] = ()
    servers: tuple[ModelServer, ...] = ()
    routes: tuple[ModelRoute, ...] = ()
    fingerprint: str
    """SHA-256 of the content, in hexadecimal. Equal fingerprints mean equal documents."""
