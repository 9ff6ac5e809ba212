"""The documents, as msgspec structs: every kind, every field, its default, and what it means.

`sidecars`, `servers`, `routes` and `rollouts` have a kind each, `fields` what kinds share. The docstring below a field
is its documentation: `config explain` and `docs/configuration.md` show it. Field names are camelCase in documents.
Everything is frozen, and nothing here is the form that a station works with: stations compile what they need once per
snapshot.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from meshproxy.codec import limits
from meshproxy.config.fields import (
    API_VERSION,
    Action,
    BindingSubject,
    Certificates,
    Count,
    Duration,
    Glob,
    Mtls,
    Name,
    Part,
    Path,
    Size,
    Text,
    TlsVersion,
    TrustDomain,
    Verb,
    Version,
)
from meshproxy.config.fields import Metadata as Metadata
from meshproxy.config.issuers import Aws as Aws
from meshproxy.config.issuers import CallerIdentity as CallerIdentity
from meshproxy.config.issuers import Issuer as Issuer
from meshproxy.config.issuers import KeySource as KeySource
from meshproxy.config.issuers import TokenPlace as TokenPlace
from meshproxy.config.issuers import check_apart
from meshproxy.config.rollouts import ModelRollout as ModelRollout
from meshproxy.config.routes import ModelRoute as ModelRoute
from meshproxy.config.servers import ModelServer as ModelServer
from meshproxy.config.sidecars import Sidecar as Sidecar
from meshproxy.config.telemetry import Telemetry
from meshproxy.config.values import shown

# --- MeshConfig ------------------------------------------------------------------------------------------------------


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
    """Concurrent client connections of inbound, and of outbound; further ones wait to be accepted. Left out: half of
    the process's limit of open files (RLIMIT_NOFILE), as each may need another one to the model server, which both
    share equally; less below 128, of which the sidecar keeps 32."""
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
    """The CA certificates of a trust domain, PEM. Exactly one of the fields. Each certificate must have a subject key
    identifier."""

    file: Path | None = None
    """A file, read again when it changes."""
    inline: Certificates | None = None
    """The certificates, written out: a control plane sends them with the documents, and no host needs a file."""

    def __post_init__(self) -> None:
        if (self.file is not None) + (self.inline is not None) != 1:
            raise ValueError('expected exactly one of "file" and "inline"; leave "bundle" out if the agent delivers it')


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
    aws: Aws = Aws()
    """Names of AWS accounts, and callers that prove an IAM role with a pre-signed request to STS."""
    limits: MeshLimits = MeshLimits()
    """Limits of clients and requests. The defaults fit almost everyone."""
    tls: Tls = Tls()
    """TLS between workloads."""
    telemetry: Telemetry = Telemetry()
    """What sidecars export."""

    def __post_init__(self) -> None:
        if self.trust_domains and self.mtls == "disabled":
            raise ValueError('"trustDomains" are of certificates, and mtls is "disabled": leave them out')
        named = {self.trust_domain}
        for domain in self.trust_domains:
            if domain.name in named:
                raise ValueError(f'"trustDomains": {shown(domain.name)} is there twice, or is the mesh\'s own')
            named.add(domain.name)
        check_apart(self.issuers)


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
    """Only these signatures. Left out: all. An empty signature in a gRPC message is `serving_default`. `metadata` and
    `status` show all signatures, whichever a call names, so a rule that allows some does not allow these verbs."""

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


KINDS: tuple[type[Part], ...] = (
    MeshConfig, ModelRole, ModelRoleBinding, ModelServer, ModelRoute, ModelRollout, Sidecar,
)  # fmt: skip


class Documents(Struct, frozen=True, kw_only=True):
    """All documents that were loaded together, checked as a whole: every referenced name exists."""

    mesh: MeshConfig
    sidecar: Sidecar
    roles: tuple[ModelRole, ...] = ()
    bindings: tuple[ModelRoleBinding, ...] = ()
    servers: tuple[ModelServer, ...] = ()
    routes: tuple[ModelRoute, ...] = ()
    rollouts: tuple[ModelRollout, ...] = ()
    fingerprint: str
    """SHA-256 of the content, in hexadecimal. Equal fingerprints mean equal documents."""
