"""Types of single fields of documents, and the structs that several kinds share.

`schema` says how all of it reads together.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, get_args

from msgspec import Meta, Struct

from meshproxy.codec.limits import Count as Count
from meshproxy.codec.limits import Rate as Rate
from meshproxy.codec.limits import Size as Size
from meshproxy.config import addresses, ip_blocks, values
from meshproxy.config.certificates import read_certificates
from meshproxy.config.globs import is_literal
from meshproxy.config.values import Address

API_VERSION: Final = "meshproxy.dev/v1alpha1"

# `extra` tells `convert` how a value is read, and made independent of its document's folder, and `reference` how it is
# called; msgspec itself ignores it.
# Bounds that hold wherever a type is used are the reader's, because `Meta` can be given only once for each: a field
# adds its own.
Duration = Annotated[float, Meta(extra={"read": values.read_duration, "words": "duration"})]
DurationOrZero = Annotated[float, Meta(extra={"read": values.read_duration_or_zero, "words": "duration"})]
Lifetime = Annotated[float, Meta(extra={"read": values.read_lifetime, "words": "duration"})]
ListenAddress = Annotated[Address, Meta(extra={"read": values.read_listen_address, "words": "IP:PORT"})]
HostPort = Annotated[Address, Meta(extra={"read": values.read_endpoint_address, "words": "HOST:PORT"})]
ServerAddress = Annotated[
    str,
    Meta(
        extra={
            "read": addresses.read_server_address,
            "words": "HOST:PORT or unix:PATH",
            "resolve": addresses.resolve_server_address,
        }
    ),
]
ServerName = Annotated[str, Meta(extra={"read": addresses.read_server_name, "words": "host name or IP address"})]
MetricsPath = Annotated[str, Meta(extra={"read": addresses.read_metrics_path, "words": "path of a URL"})]
CheckPath = Annotated[str, Meta(extra={"read": addresses.read_check_path, "words": "path of a URL"})]
Name = Annotated[str, Meta(extra={"read": values.read_name, "words": "name"})]
Label = Annotated[str, Meta(extra={"read": values.read_label, "words": "name without dots"})]
PortName = Annotated[str, Meta(extra={"read": values.read_port_name, "words": "name of a port"})]
Glob = Annotated[str, Meta(extra={"read": values.read_glob, "words": "model name or glob"})]
NameGlob = Annotated[str, Meta(extra={"read": values.read_name_glob, "words": "name or glob"})]
ModelName = Annotated[str, Meta(extra={"read": values.read_model_name, "words": "model name"})]
TrustDomain = Annotated[str, Meta(extra={"read": values.read_trust_domain, "words": "trust domain"})]
SpiffeId = Annotated[str, Meta(extra={"read": values.read_spiffe_id, "words": "SPIFFE id"})]
RoleArn = Annotated[str, Meta(extra={"read": values.read_role_arn, "words": "role ARN"})]
Url = Annotated[str, Meta(extra={"read": values.read_url, "words": "URL"})]
KeysUrl = Annotated[str, Meta(extra={"read": values.read_any_url, "words": "URL"})]
AccountId = Annotated[str, Meta(extra={"read": values.read_account_id, "words": "number of an AWS account"})]
LoadBalancerArn = Annotated[
    str, Meta(extra={"read": values.read_load_balancer, "words": "ARN of an Application Load Balancer"})
]
IssuerId = Annotated[str, Meta(extra={"read": values.read_issuer, "words": "URL or text"})]
Text = Annotated[str, Meta(extra={"read": values.read_text, "words": "text"})]
RegularExpression = Annotated[str, Meta(extra={"read": values.read_regex, "words": "regular expression"})]
Path = Annotated[str, Meta(extra={"read": values.read_path, "words": "path", "resolve": values.resolve_path})]
Folder = Annotated[str, Meta(extra={"read": values.read_path, "words": "folder", "resolve": values.resolve_path})]
Socket = Annotated[str, Meta(extra={"read": values.read_path, "words": "socket", "resolve": values.resolve_path})]
AccessLog = Annotated[
    str,
    Meta(
        extra={
            "read": values.read_access_log,
            "words": "stdout, off or path",
            "resolve": values.resolve_access_log,
        }
    ),
]
Certificates = Annotated[str, Meta(extra={"read": read_certificates, "words": "certificates (PEM)"})]
Percent = Annotated[float, Meta(extra={"read": values.read_percent, "words": "percentage"})]
Ratio = Annotated[float, Meta(extra={"read": values.read_ratio, "words": "number from 0 to 1"})]
Weight = Annotated[int, Meta(extra={"read": values.read_weight, "words": "whole number"})]
Port = Annotated[int, Meta(extra={"read": values.read_port, "words": "port"})]
HostName = Annotated[str, Meta(extra={"read": values.read_host_name, "words": "host name"})]
DnsName = Annotated[str, Meta(extra={"read": values.read_dns_name, "words": "DNS name"})]
HeaderName = Annotated[str, Meta(extra={"read": values.read_header_name, "words": "header name"})]
ConditionHeader = Annotated[str, Meta(extra={"read": values.read_condition_header, "words": "header name"})]
IpBlock = Annotated[str, Meta(extra={"read": ip_blocks.read_ip_block, "words": "IP address or block"})]
CookieName = Annotated[str, Meta(extra={"read": values.read_cookie_name, "words": "cookie name"})]
CookiePath = Annotated[str, Meta(extra={"read": values.read_cookie_path, "words": "URL path"})]
HttpStatus = Annotated[int, Meta(extra={"read": values.read_http_status, "words": "status from 400 to 599"})]
Version = Annotated[str, Meta(extra={"read": values.read_version, "words": "whole number or text"})]


def one_of(literal: object) -> Meta:
    """Keeps the order of the declaration for people; msgspec sorts."""
    return Meta(extra={"words": "one of " + ", ".join(get_args(literal))})


VerbWord = Literal[
    "predict", "classify", "regress", "multi-inference", "metadata", "status",
    "reload", "metrics", "profile", "reflect", "unlisted",
]  # fmt: skip
AlgorithmWord = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA",
]  # fmt: skip
MtlsWord = Literal["strict", "permissive", "disabled"]
ActionWord = Literal["allow", "deny", "audit"]
Verb = Annotated[VerbWord, one_of(VerbWord)]
Algorithm = Annotated[AlgorithmWord, one_of(AlgorithmWord)]
Mtls = Annotated[MtlsWord, one_of(MtlsWord)]
Action = Annotated[ActionWord, one_of(ActionWord)]
TlsVersion = Annotated[Literal["1.3", "1.2"], Meta(extra={"words": '"1.3" or "1.2"'})]


class Part(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """What all structs of documents share. Written out, they leave defaults out: each reader has its own."""


class Metadata(Part, frozen=True):
    """The name of a document, in the form of Kubernetes object metadata."""

    name: Name
    """Unique among the documents of its kind that are loaded together. Other documents refer to it by this name."""
    namespace: Name | None = None
    """For Kubernetes only: a sidecar loads one set of documents and refers to them by name."""
    labels: Mapping[str, str] = {}
    """For people and kubectl; ignored by the sidecar."""
    annotations: Mapping[str, str] = {}
    """For people and kubectl; ignored by the sidecar."""


class TextMatch(Part, frozen=True):
    """What a text must be like: exactly one of these fields. Case matters."""

    exact: Text | None = None
    """The whole text. The same as writing the text itself instead of this mapping."""
    prefix: Text | None = None
    """How it begins."""
    suffix: Text | None = None
    """How it ends."""
    contains: Text | None = None
    """What is somewhere in it."""
    regex: RegularExpression | None = None
    """A regular expression in the syntax of RE2 that matches the whole text, as in Envoy and the Gateway API:
    `.*canary.*` finds a word. It is matched in linear time; `\\b`, `\\p{...}`, the flag `m`, and expressions whose
    table would be large (`.*a.{10}`) are errors. `(?i)` folds the letters a to z only."""
    present: bool | None = None
    """true: there is one, whatever it says. false: there is none. Without this field there must be one."""

    def __post_init__(self) -> None:
        if self.text_fields() != 1:
            raise ValueError('expected one of "exact", "prefix", "suffix", "contains", "regex" and "present"')

    def text_fields(self) -> int:
        """How many of the fields are given."""
        fields = (self.exact, self.prefix, self.suffix, self.contains, self.regex, self.present)
        return sum(field is not None for field in fields)


class ClaimPattern(TextMatch, frozen=True):
    """What a claim must be like: exactly one of these fields. A claim that is a list matches if one of its items does;
    of `scope` and `scp`, one of the words."""

    all_of: Annotated[tuple[str | int | bool | TextMatch, ...], Meta(min_length=1)] | None = None
    """The claim matches each of these: a list has them all."""
    any_of: Annotated[tuple[str | int | bool | TextMatch, ...], Meta(min_length=1)] | None = None
    """The claim matches one of these."""
    words: bool = False
    """true: a text is a set of words with spaces between them, as `scope` and `scp` are without this field, and what
    is demanded are words of it. Not an alternative to the other fields: one of them stands beside it."""

    def __post_init__(self) -> None:
        if self.all_of and self.any_of:
            raise ValueError('"allOf" and "anyOf" exclude each other')
        if not self.all_of and not self.any_of:
            TextMatch.__post_init__(self)
        elif self.text_fields():
            raise ValueError('"allOf" and "anyOf" stand alone: write the other fields into their items')


class ClaimAtPath(ClaimPattern, frozen=True, kw_only=True):
    """A claim that is found by a list of names, one for each level, and what it must be like."""

    path: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=16)]
    """The names of the members, from the outermost: `[resource_access, models.example, roles]`. Each is taken as it is
    written, so it may hold dots, and there is one way to read the path."""


def claims_of(
    by_name: Mapping[str, str | int | bool | ClaimPattern], by_path: Sequence[ClaimAtPath]
) -> tuple[tuple[str | tuple[str, ...], str | int | bool | TextMatch], ...]:
    """The claims that are demanded, by dotted name or by list of names, and what each must be like."""
    return (*by_name.items(), *((each.path, each) for each in by_path))


class WorkloadSubject(Part, frozen=True):
    """Workloads, by their certificates: everything that is named here must match, or a whole SPIFFE id."""

    namespace: NameGlob | None = None
    """The namespace in `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, or a glob such as `team-*`. Left out:
    any."""
    service_account: NameGlob | None = None
    """The service account, or a glob. Left out: any. Without `namespace`: in whichever namespace it is."""
    trust_domain: TrustDomain | None = None
    """One of the mesh's `trustDomains`. Left out: the mesh's own. Without the other fields: every workload of this
    trust domain, also those whose SPIFFE IDs have another path."""
    spiffe_id: SpiffeId | None = None
    """The whole SPIFFE ID, for workloads with another path. Not together with the other fields. Its trust domain must
    be the mesh's own or one of its `trustDomains`: others cannot connect."""

    def __post_init__(self) -> None:
        parts = (self.namespace, self.service_account, self.trust_domain)
        if self.spiffe_id is not None and parts != (None, None, None):
            raise ValueError('"spiffeId" names a workload completely: leave the other fields out')
        if self.spiffe_id is None and parts == (None, None, None):
            raise ValueError('expected "namespace", "serviceAccount", "trustDomain" or several of them, or "spiffeId"')

    def one_id(self, trust_domain: str) -> str | None:
        """The SPIFFE ID, if it names a single workload. `trust_domain`: the mesh's own."""
        if self.spiffe_id is not None:
            return self.spiffe_id
        namespace, account = self.namespace, self.service_account
        if namespace is None or account is None or not is_literal(namespace) or not is_literal(account):
            return None
        return f"spiffe://{self.trust_domain or trust_domain}/ns/{namespace}/sa/{account}"


class TokenSubject(Part, frozen=True):
    """A token of an issuer with these claims."""

    issuer: Name
    """The name of an issuer in the MeshConfig."""
    claims: Mapping[str, str | int | bool | ClaimPattern] = {}
    """Every claim named must be in the token: equal to the value, or a list that holds it, or as a mapping says
    (`{prefix: team-}`, `{anyOf: [a, b]}`). Text, numbers and booleans are never equal to each other. `scope` and `scp`
    are words separated by spaces: all words of the value must be among them. A name resolves at the longest claim that
    exists, and dots select members below it (`realm_access.roles`, `kubernetes.io.namespace`). A claim that cannot be
    compared (another type, a path that continues below a value, a path that could be read in two ways) never allows,
    and counts as a match for `deny` and `audit`."""
    claim_paths: tuple[ClaimAtPath, ...] = ()
    """The same for claims that a list of names finds: `- {path: [resource_access, models.example, roles], anyOf:
    [caller]}`. Numbers and booleans are demanded with `anyOf` or `allOf`."""

    def __post_init__(self) -> None:
        if "" in self.claims:
            raise ValueError('"claims": the name of a claim is empty')


class Subject(Part, frozen=True):
    """A caller: everything that is named here (workload, token and role) must match."""

    workload: WorkloadSubject | None = None
    """The workload identity in the peer's certificate."""
    token: TokenSubject | None = None
    """The bearer token."""
    iam_role: RoleArn | None = None
    """The AWS IAM role that the caller has proven, by a token (`sts:GetWebIdentityToken`) or a pre-signed request
    (`aws.callerIdentity`), compared character for character. The account may be a name of `aws.accounts`."""

    def __post_init__(self) -> None:
        if self.workload is None and self.token is None and self.iam_role is None:
            raise ValueError('expected "workload", "token" or "iamRole"')


class BindingSubject(Subject, frozen=True):
    """A caller, and where and how it calls: everything that is named here must match."""

    ip_blocks: Annotated[tuple[IpBlock, ...], Meta(min_length=1)] | None = None
    """The address that the connection comes from is in one of these blocks: `10.0.0.0/8`, `fd00::/8`, or a single
    address. It is the peer's address of the TCP connection, so behind a load balancer that does not preserve it, the
    balancer's; `x-forwarded-for` is not looked at. IPv4-mapped addresses (`::ffff:10.0.0.1`) are IPv4 addresses."""
    not_ip_blocks: Annotated[tuple[IpBlock, ...], Meta(min_length=1)] | None = None
    """The address is in none of these."""
    headers: Mapping[ConditionHeader, Text | TextMatch] = {}
    """What each header must be: exactly this text, or what a mapping says (`prefix`, `suffix`, `contains`, `regex`,
    `present`). A header that occurs more than once matches nothing but `present`, and counts as a match for `deny` and
    `audit`. Callers choose their headers: a condition on one restricts only callers who are trusted to send it as it
    is, such as a gateway that sets it. In names `_` and `.` are not taken for `-`, but a header that is spelled so
    counts as one that cannot be evaluated."""

    def __post_init__(self) -> None:
        if self.ip_blocks or self.not_ip_blocks or self.headers:
            return
        if self.workload is None and self.token is None and self.iam_role is None:
            raise ValueError('expected "workload", "token", "iamRole", "ipBlocks", "notIpBlocks" or "headers"')
