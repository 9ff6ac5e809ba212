"""The documents, as msgspec structs: every kind, every field, its default, and what it means.

`sidecars`, `servers` and `routes` have a kind each, `fields` what kinds share. The docstring below a field
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
    Action,
    Algorithm,
    BindingSubject,
    Certificates,
    ClaimPattern,
    Count,
    Duration,
    DurationOrZero,
    Glob,
    IssuerId,
    Lifetime,
    Mtls,
    Name,
    Part,
    Path,
    Size,
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
from meshproxy.config.sidecars import Sidecar as Sidecar
from meshproxy.config.telemetry import Telemetry
from meshproxy.config.values import shown

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
