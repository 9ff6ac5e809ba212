"""What sidecars and the control plane send each other: gRPC methods, whose messages are JSON.

Both sides ignore members that they do not know, and what is added later has a default: a sidecar works with a control
plane that is one minor version older or newer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

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


class RootsReport(msgspec.Struct, frozen=True):
    """What a sidecar has of its identity."""

    sidecar: str
    """The name of its document."""
    leaf: str
    """`leaf_name` of its certificate."""
    roots: str
    """`roots_digest` of its trust bundle."""
    software: str = ""
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
