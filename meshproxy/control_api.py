"""What sidecars and the control plane send each other: gRPC methods, whose messages are JSON.

Both sides ignore members that they do not know, and what is added later has a default: a sidecar works with a control
plane that is one minor version older or newer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

ISSUE = b"/meshproxy.control.v1alpha1.Identity/Issue"
"""Unary: `IssueRequest` -> `IssueResponse`."""
ROOTS = b"/meshproxy.control.v1alpha1.Identity/Roots"
"""Streams both ways, over mTLS: `RootsReport` whenever certificate or bundle of the sidecar have changed, the first one
at once; `Roots` whenever there is another bundle than the sidecar has."""
WATCH = b"/meshproxy.control.v1alpha1.Documents/Watch"
"""Streams both ways, over mTLS: `SidecarReport` whenever something has changed in the sidecar, the first one at once;
`DocumentSet` whenever there is another one than the sidecar has."""
WATCH_ENDPOINTS = b"/meshproxy.control.v1alpha1.Endpoints/Watch"
"""Streams both ways, over mTLS: `EndpointsRequest` at once and whenever the sidecar needs others; `ServiceEndpoints` of
each of these Services whenever they are others than the sidecar has."""
REPORT = b"/meshproxy.control.v1alpha1.Mesh/Report"
"""Streams both ways, over mTLS: `MeshReport` every few seconds, of each worker; `ReportReceipt` for each one, and one
without a run with `ReportReceipt.tap` when somebody wants to see calls."""
TAP = b"/meshproxy.control.v1alpha1.Mesh/Tap"
"""Streams, over mTLS: `TapLines` of the calls that an order asks for, until the control plane ends the call."""
ROLLOUTS = b"/meshproxy.control.v1alpha1.Rollouts/Watch"
"""Streams both ways, over mTLS: `rollout.link.RolloutsReport` every few seconds while there are rollouts, and at once
when the sidecar has taken a candidate out; `RolloutStates` whenever they are others than the sidecar was told."""

Text = Annotated[str, msgspec.Meta(max_length=256)]


class IssueRequest(msgspec.Struct, frozen=True):
    """Asks for a certificate. Whoever has one shows it, over mTLS; whoever has none shows one of the tokens."""

    csr: bytes
    """A signing request (PKCS #10, DER)."""
    join_token: str = ""
    service_account_token: str = ""
    """Of Kubernetes, with audience `identity.meshproxy.dev` and bound to the pod."""


class IssueResponse(msgspec.Struct, frozen=True):
    """A certificate."""

    certificate: str
    """PEM: the leaf first, then the intermediate authorities."""
    roots: str
    """PEM: the trust bundle."""
    now: float = 0.0
    """The time at the control plane, seconds since the epoch; 0 if it does not say."""


class Scope(msgspec.Struct, frozen=True):
    """Which documents concern a sidecar, by what it is."""

    server: str = ""
    """The name of its own ModelServer; empty without an inbound port."""
    outbound: bool = False
    """Whether its application makes calls through it."""
    outbound_server: str | None = None
    """Where those go that nothing else selects a server for. Empty: nowhere; None: the sidecar does not say."""
    rollouts: bool = False
    """Whether it knows the kind `ModelRollout`."""
    models: bool = False
    """Whether it refuses models that its ModelServer does not list, and so needs no roles of others."""


class SidecarReport(msgspec.Struct, frozen=True):
    """What a sidecar has."""

    sidecar: str
    """The name of its document."""
    software: str = ""
    """The version of meshproxy."""
    version: str = ""
    """Of the documents that are in use; empty if none are."""
    refused: str = ""
    """The version that was refused, if the newest one was."""
    problems: tuple[str, ...] = ()
    """Why."""
    host: str = ""
    """The name of its host, or pod: replicas have the same document and identity."""
    certificate_issued: float = 0.0
    """When it got its certificate, seconds since the epoch; 0 if it does not say."""
    certificate_expires: float = 0.0
    scope: Scope | None = None
    """It takes `DocumentSet.documents`, and only what is in its scope. None: it takes `DocumentSet.text`."""


class SentDocument(msgspec.Struct, frozen=True):
    """One document."""

    order: str
    """Documents of one kind are in the order of these texts: it matters to routes and bindings."""
    document: msgspec.Raw
    """JSON of the struct in `config.schema`, without defaults: each sidecar has its own."""


class DocumentSet(msgspec.Struct, frozen=True):
    """The documents of the mesh, apart from those of sidecars: `text`, or `documents`."""

    version: str
    """Differs when the documents do (`config.sent.Total`)."""
    text: str = ""
    """YAML: the whole set, for sidecars without a scope."""
    base: str = ""
    """The version of the set that `documents` and `removed` change; empty if `documents` is the whole set."""
    documents: tuple[SentDocument, ...] = ()
    removed: tuple[str, ...] = ()
    """Documents that are no longer in the set, as `Kind/name`."""
    server: str | None = None
    """`Scope.server` that it was selected for; None: the control plane does not say."""


class RootsReport(msgspec.Struct, frozen=True):
    """What a sidecar has of its identity. It is kept with the record of the certificate."""

    sidecar: Text
    """The name of its document."""
    leaf: Text
    """`leaf_name` of its certificate."""
    roots: Text
    """`roots_digest` of its trust bundle."""
    software: Text = ""
    """The version of meshproxy."""


class Roots(msgspec.Struct, frozen=True):
    """The trust bundle."""

    roots: str
    """PEM."""


def leaf_name(der: bytes, not_after: float) -> str:
    """What both sides call a certificate: when it expires, in seconds since the epoch, and a hash of it."""
    return f"{int(not_after)}-{hashlib.sha256(der).hexdigest()[:32]}"


def roots_digest(roots_pem: bytes) -> str:
    """What both sides call a trust bundle."""
    return hashlib.sha256(roots_pem).hexdigest()[:32]


class EndpointsRequest(msgspec.Struct, frozen=True):
    """The Services whose endpoints a sidecar needs, all of them."""

    services: Mapping[str, str]
    """`NAMESPACE/NAME` -> the version that it has; empty for none."""


class ServiceEndpoint(msgspec.Struct, frozen=True):
    """One process."""

    address: str
    """IPv4 or IPv6."""
    ports: Mapping[str, int]
    """By the names of the Service's ports."""
    zone: str = ""


class ServiceEndpoints(msgspec.Struct, frozen=True):
    """The endpoints of one Service that take calls, all of them."""

    service: str
    """`NAMESPACE/NAME`."""
    version: str = ""
    """Differs when the endpoints do. Empty: they are not known, and what was known before stays in use."""
    endpoints: tuple[ServiceEndpoint, ...] = ()
    problem: str = ""
    """Why they are not known, or what is wrong with some."""


Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Moment = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Seconds since the epoch, up to the end of the year 9999."""
Buckets = dict[Annotated[int, msgspec.Meta(ge=0, le=256)], Count]
"""Durations by bucket: the index of its upper bound in `telemetry.quantiles.BOUNDS` -> how many."""
Counts = Annotated[dict[Text, Count], msgspec.Meta(max_length=64)]


class ReportedCaller(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who has called, as far as it was proven. A request that proves nothing comes from an address."""

    workload: Text = ""
    """The SPIFFE id in the certificate."""
    token: Text = ""
    """`ISSUER:SUBJECT` of the verified token."""
    role: Text = ""
    """The IAM role of the token."""
    address: Text = ""
    """Without a port; only where there is neither workload nor token."""


class ReportedCalls(msgspec.Struct, omit_defaults=True):
    """Calls of one caller to one version of one model, which ended in the time of the report."""

    direction: Annotated[str, msgspec.Meta(pattern=r"\A(in|out)bound\Z")]
    """`inbound` or `outbound`. Of an outbound call the caller is the sidecar that reports it."""
    caller: ReportedCaller
    security: Text
    """`mtls`, `tls` or `plaintext`: of the caller's connection inbound, of the one to the endpoint outbound."""
    model: Text
    """`_none` if the request names none, `_other` if neither documents nor model server know it."""
    version: Text
    """Version or label; `latest` if neither request nor answer name one."""
    verb: Text
    codes: Counts = {}
    """By HTTP status, or name of the gRPC status: their sum is the number of calls."""
    failed: Count = 0
    """Of them, with an error of the server, or broken off."""
    allowed: Counts = {}
    """By the binding that permitted them; empty where no roles are in force."""
    denied: Counts = {}
    """By `BINDING: REASON`, or the reason alone: the sidecar answered, as the caller may not make them."""
    refused: Counts = {}
    """By reason: the sidecar answered, for another reason."""
    attempts: Count = 0
    retries: Count = 0
    """Attempts beyond the first of each call."""
    total: Buckets = {}
    """From the request's head to the last byte, of calls that the model server answered."""
    upstream: Buckets = {}
    """Of the same: model server and network, from the whole request to the answer's head."""
    proxy: Buckets = {}
    """Of those with small bodies: what the sidecar took."""


class ReportedDenial(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call that was denied, for people."""

    at: Moment
    """By the clock of the sidecar."""
    caller: ReportedCaller
    call: Text
    """Verb and model."""
    reason: Text
    message: Annotated[str, msgspec.Meta(max_length=512)]
    binding: Text = ""


class ReportedTime(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model server says of the calls of one model: how much of `upstream` is the model."""

    calls: Count
    model: Seconds
    """The sum of what it took, by its own clock."""
    network: Seconds
    """The sum of what lies between, as the sidecar saw it."""
    lag: Buckets = {}
    """The calls by the mean of `network` in the reading (`telemetry.hop_lag.Reading`) that they are of. Empty: an
    earlier version tells the sum alone."""


class ReportedAnswers(msgspec.Struct, omit_defaults=True):
    """What a sample of the answers of one version of one model says, as its own sidecars read them (`rollout.window`).
    The counts are of answers."""

    model: Text
    version: Text
    """As in `ReportedCalls`."""
    read: Count = 0
    nan: Count = 0
    """Of them, with NaN or an infinity."""
    classes: dict[Annotated[int, msgspec.Meta(ge=0, le=63)], Count] = {}
    """By the index of the largest number of a row, modulo 64."""
    scores: dict[Annotated[int, msgspec.Meta(ge=-768, le=768)], Count] = {}
    """By the bin of that number."""


class MeshReport(msgspec.Struct, omit_defaults=True):
    """What came through one process of a sidecar since its report before.

    Whose it is says the certificate of the connection; `sidecar`, `host` and `worker` tell its processes apart."""

    sidecar: Text
    """The name of its document."""
    run: Text
    """Of the process: differs after a restart."""
    sequence: Count
    """1, 2, 3, ... in a run. What was not acknowledged is sent again, under its number."""
    seconds: Seconds
    """How long a time it is of."""
    acknowledged: Count = 0
    """The last one of which there is a receipt, maybe of another control plane."""
    host: Text = ""
    """The name of its host, or pod."""
    worker: Count = 0
    age: Seconds = 0.0
    """Since the end of that time."""
    calls: Annotated[tuple[ReportedCalls, ...], msgspec.Meta(max_length=1_024)] = ()
    denials: Annotated[tuple[ReportedDenial, ...], msgspec.Meta(max_length=32)] = ()
    times: Annotated[dict[Text, ReportedTime], msgspec.Meta(max_length=256)] = {}
    """By model, where the model server's own page is read."""
    unnamed: Counts = {}
    """By limit: callers, or rows, that were counted under `_other`, and lost reports."""
    answers: Annotated[tuple[ReportedAnswers, ...], msgspec.Meta(max_length=256)] = ()
    """Where the documents ask for it (`telemetry.answers`)."""


TAP_QUERY_CHARACTERS = 2_048


class TapOrder(msgspec.Struct, frozen=True):
    """Calls that somebody wants to see."""

    id: Text
    """Of the order; `TapLines` name it."""
    query: Annotated[str, msgspec.Meta(max_length=TAP_QUERY_CHARACTERS, pattern=r"\A[!-~]*\Z")]
    """That of the page `/tap` of the admin port: filters and rate. Nothing that could end the line it stands in."""
    seconds: Seconds
    """For which to show them at most."""


class TapLines(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `/tap` of one process of a sidecar says."""

    id: Text
    worker: Count = 0
    lines: Annotated[tuple[dict[str, object], ...], msgspec.Meta(max_length=1_024)] = ()
    """Those of calls, as the access log has them, and counts of what was left out."""
    problem: Text = ""
    """Why it says nothing."""


class ReportReceipt(msgspec.Struct, frozen=True):
    """The control plane has it."""

    run: str
    sequence: int
    every: float = 0.0
    """Seconds between reports that it would like; 0 if it does not say."""
    tap: TapOrder | None = None
    """Show these calls as they end. It comes with an empty `run`, of which there is no report to receipt."""
