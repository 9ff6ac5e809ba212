"""Part of the schema: who vouches for callers beside certificates. Token issuers, and AWS.

`schema` says how all of it reads together.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta

from meshproxy.config import values
from meshproxy.config.addresses import is_inside_cluster
from meshproxy.config.fields import (
    AccountId,
    Algorithm,
    ClaimAtPath,
    ClaimPattern,
    CookieName,
    DurationOrZero,
    HeaderName,
    IssuerId,
    KeysUrl,
    Lifetime,
    LoadBalancerArn,
    Name,
    Part,
    Path,
    ServerName,
    Text,
    TextMatch,
    claims_of,
)
from meshproxy.config.values import shown


class KeySource(Part, frozen=True):
    """Where an issuer's public keys are. Exactly one of the fields."""

    file: Path | None = None
    """A JWK set (RFC 7517 section 5) on disk. Relative to the document."""
    url: KeysUrl | None = None
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
        if key.get("kty") == "oct" or key.get("k") is not None:
            raise ValueError('"inline" holds a symmetric key, with which anyone who can read it can issue tokens')
        if key.get("d") is not None:
            raise ValueError('"inline" holds a private key: only public keys belong here')


SHOWN_HEADERS = frozenset({"user-agent", "x-request-id", "x-forwarded-for", "tracestate", "b3"})
"""Headers whose values stand in the access log, in spans and in live views, beside `x-b3-*`."""


class TokenPlace(Part, frozen=True):
    """Where callers of one issuer have their token, if not in `authorization`. Exactly one of the fields."""

    header: HeaderName | None = None
    """A header whose value is the token, with or without `Bearer` before it: `x-goog-iap-jwt-assertion` (Google IAP),
    `x-amzn-oidc-accesstoken` (AWS ALB), `cf-access-jwt-assertion` (Cloudflare), `x-forwarded-access-token`."""
    cookie: CookieName | None = None
    """A cookie whose value is the token. Browsers send cookies by themselves, also for pages of other sites: set it
    with `SameSite`."""

    def __post_init__(self) -> None:
        if (self.header is None) is (self.cookie is None):
            raise ValueError('expected exactly one of "header" and "cookie"')
        if self.header == "authorization":
            raise ValueError('"header": tokens are in "authorization" without "tokenFrom": leave it out')
        if self.header in ("cookie", "content-type") or self._is_ours():
            raise ValueError(f'"header": no token is in {shown(self.header)}')
        if self.header is not None and (self.header in SHOWN_HEADERS or self.header.startswith("x-b3-")):
            raise ValueError(
                f'"header": logs and spans show {shown(self.header)}, and whoever reads them could use the token: have'
                " the gateway put it into another header"
            )

    def _is_ours(self) -> bool:
        """Whether it is a header that frames a message, or one that only sidecars may send."""
        try:
            return self.header is not None and values.read_condition_header(self.header) is None
        except ValueError:
            return True

    @property
    def name(self) -> str:
        """For messages, and to tell places apart."""
        return f"header {self.header}" if self.header is not None else f"cookie {self.cookie}"


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
    required_claim_paths: tuple[ClaimAtPath, ...] = ()
    """The same for claims that a list of names finds: `- {path: ["https://corp.example/app"], anyOf: [mesh]}`. Numbers
    and booleans are demanded with `anyOf` or `allOf`."""
    subject_fallback: Text | None = None
    """The claim that names the subject of tokens without `sub`, such as `client_id`: in logs, for rate limits by caller
    and in forwarded headers. Choose one whose values no `sub` can have. Left out: tokens without `sub` are refused."""
    subject_fallback_path: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=16)] | None = None
    """The same for a claim that a list of names finds: `["https://corp.example/client"]`. Not together with
    `subjectFallback`."""
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ("RS256", "ES256")
    """Accepted signature algorithms; the token's header cannot extend them. Symmetric algorithms and `none` are not
    supported."""
    keys: KeySource | None = None
    """Where the keys are. Left out: OpenID discovery at `issuer`, which then must be an https URL."""
    token_from: TokenPlace | None = None
    """Where its tokens are. Left out: in `authorization`. Where a request has a token in such a place, it is the token
    of the caller, and `authorization`, which is of the gateway in front then, is not looked at. Tokens of this issuer
    are refused elsewhere. Neither is forwarded, unless `forwardToken` of the Sidecar says so."""
    load_balancers: tuple[LoadBalancerArn, ...] = ()
    """Application Load Balancers of AWS, by ARN, that sign people in at this issuer and say so in the header
    `x-amzn-oidc-data`: `issuer` is its `iss`, `audiences` are the client ids that the listeners have at the issuer.
    Bindings match what the issuer's user info says. All of one region, whose public keys are fetched, one by one;
    `keys.url` is for another place of theirs. Requires `tokenFrom`; its tokens are signed
    with ES256, whatever `algorithms` says. Tokens of other load balancers are refused."""
    leeway: Annotated[DurationOrZero, Meta(le=300)] = 60.0
    """Tolerated clock skew between the issuer and the sidecar, for `exp`, `nbf` and `iat`."""
    max_lifetime: Lifetime = 86_400.0
    """The longest time from a token's `iat` to its `exp`; tokens issued for longer are refused. At most `8784h`, a
    year. Access tokens commonly live for minutes or hours; one that is valid for a year is a password that cannot be
    revoked."""
    inside_cluster: bool = False
    """true: the keys are fetched over http from a server inside of the cluster, whose network is trusted not to change
    them: whoever can answer in that server's place can make tokens. Only for `http` URLs of names without dots, of
    names with the label `svc`, and of private addresses. Left out: https, or http on this host."""
    ca_file: Path | None = None
    """CA certificates (PEM) that are trusted when keys are fetched. Left out: the system's. Required for a `jwks_uri`
    at an IP address, as the API server of Kubernetes has it."""
    bearer_token_file: Path | None = None
    """A file with a token that is sent when keys are fetched, read for each fetch: the API server of Kubernetes gives
    its keys to service accounts only, so name the pod's own token,
    `/var/run/secrets/kubernetes.io/serviceaccount/token`. Requires `caFile`: the token goes to servers of that
    authority only. Left out: none is sent."""

    def __post_init__(self) -> None:
        if self.subject_fallback is not None and self.subject_fallback_path is not None:
            raise ValueError('"subjectFallback" and "subjectFallbackPath" both name one claim: keep one')
        required = claims_of(self.required_claims, self.required_claim_paths)
        if not self.audiences and not required:
            raise ValueError(
                'expected "audiences", or "requiredClaims" for an issuer whose tokens have no "aud": without either,'
                " tokens that were issued for others would be accepted"
            )
        if not self.audiences and all(is_about_presence(wanted) for _, wanted in required):
            raise ValueError('"requiredClaims": whether a claim is present does not tell what a token is for')
        for path, _ in required:
            name = path if isinstance(path, str) else path[0] if len(path) == 1 else path
            if name in ("", "iss", "aud", "exp", "nbf", "iat"):
                what = 'write audiences into "audiences"' if name == "aud" else "this name says nothing about that"
                raise ValueError(f'"requiredClaims": {shown(name)} does not tell what a token is for: {what}')
        if self.load_balancers:
            self._check_load_balancers()
        if self.keys is None and not self.load_balancers:
            try:
                _check_url(values.read_any_url(self.issuer), is_inside=self.inside_cluster)
            except ValueError as error:
                raise ValueError(f'without "keys" they are discovered at "issuer": {error}') from None
        elif self.keys is not None and self.keys.url is not None:
            _check_url(self.keys.url, is_inside=self.inside_cluster)
        elif self.inside_cluster:
            raise ValueError('"insideCluster" is about where keys are fetched: leave it out, or give "keys" a "url"')
        if self.bearer_token_file is not None and self.ca_file is None:
            raise ValueError('"bearerTokenFile" requires "caFile": the token is sent to servers of that authority only')
        if self.ca_file is not None and self.keys is not None and self.keys.url is None:
            raise ValueError('"caFile" is used only when keys are fetched; leave it out, or give "keys" a "url"')

    def _check_load_balancers(self) -> None:
        """Raises ValueError."""
        if self.token_from is None:
            raise ValueError('"loadBalancers" requires "tokenFrom": {header: x-amzn-oidc-data}')
        if not self.audiences:
            raise ValueError('"loadBalancers" requires "audiences": the client ids of their listeners at the issuer')
        if len({arn.split(":")[3] for arn in self.load_balancers}) > 1:
            raise ValueError('"loadBalancers" are of several regions, which have keys of their own: list two issuers')
        if self.keys is not None and self.keys.url is None:
            raise ValueError('"keys": those of load balancers are fetched one by one: leave it out, or give the "url"')


def _check_url(url: str, *, is_inside: bool) -> None:
    """Check that keys may be fetched there. Raises ValueError."""
    host = values.host_of(url)
    if url.startswith("https:") or values.is_loopback(host):
        if is_inside:
            raise ValueError('"insideCluster" allows http, and the URL is https or on this host: leave it out')
    elif not is_inside:
        raise ValueError(
            f"{shown(url)} would be fetched in plaintext: use https, or set insideCluster if it is inside the cluster"
        )
    elif not is_inside_cluster(host):
        raise ValueError(
            f"{shown(url)} would be fetched in plaintext: insideCluster allows that for names without dots, names with "
            "the label svc, and private addresses"
        )


def check_apart(issuers: Sequence[Issuer]) -> None:
    """Check that each token is of one of them at most. Raises ValueError."""
    names: set[str] = set()
    tokens: set[tuple[str, str]] = set()
    for issuer in issuers:
        if issuer.name in names:
            raise ValueError(f"two issuers have the name {shown(issuer.name)}: it must be unique")
        names.add(issuer.name)
        for balancer in issuer.load_balancers or ("",):
            if (balancer, issuer.issuer) in tokens:
                through = " of one load balancer" if balancer else ""
                raise ValueError(f"two issuers have the issuer {shown(issuer.issuer)}{through}: it must be unique")
            tokens.add((balancer, issuer.issuer))
    balanced = {issuer.token_from for issuer in issuers if issuer.load_balancers}
    for issuer in issuers:
        if issuer.token_from in balanced and not issuer.load_balancers:
            raise ValueError(
                f"issuer {shown(issuer.name)}: tokens of load balancers are in its {issuer.token_from.name}"  # type: ignore[union-attr]
            )


class CallerIdentity(Part, frozen=True):
    """Callers that prove their IAM role with a pre-signed request `sts:GetCallerIdentity`, as `aws eks get-token` makes
    it: `authorization: Bearer k8s-aws-v1.` and the URL in base64url. The sidecar sends the request to STS, which says
    who signed it. Newer clients get a token of STS instead (`sts:GetWebIdentityToken`), which needs no call: list its
    issuer under `issuers`."""

    audience: Text
    """What the signed header `x-k8s-aws-id` must be (`--cluster-name` of `aws eks get-token`). Give each environment a
    name of its own, which no cluster has: whoever accepts the same name can use what callers send here, and the other
    way round."""
    endpoints: Annotated[tuple[ServerName, ...], Meta(min_length=1, max_length=32)]
    """The hosts of STS that requests may be for, such as `sts.eu-central-1.amazonaws.com`. Requests for any other host
    are refused and not sent."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 443
    """The port of these hosts. Another one than 443 is for tests."""
    ca_file: Path | None = None
    """CA certificates (PEM) that are trusted for these hosts. Left out: the system's."""


class Aws(Part, frozen=True):
    """AWS: accounts by name, and pre-signed requests."""

    accounts: Mapping[Name, AccountId] = {}
    """The numbers of accounts by name: bindings may write `arn:aws:iam::NAME:role/ROLE`, and stay the same where the
    account differs."""
    caller_identity: CallerIdentity | None = None
    """Left out: pre-signed requests are not accepted."""


def is_about_presence(wanted: object) -> bool:
    """Whether a claim with any value at all can do, or one that is absent."""
    if not isinstance(wanted, TextMatch):
        return False
    if isinstance(wanted, ClaimPattern) and wanted.any_of:
        return any(map(is_about_presence, wanted.any_of))
    if isinstance(wanted, ClaimPattern) and wanted.all_of:
        return all(map(is_about_presence, wanted.all_of))
    return wanted.present is not None
