"""What a control plane says about itself and its sidecars: the page /status of its web port.

`meshproxy proxy-status` and `meshproxy check` read it, also from a control plane that is one minor version older or
newer: members that are not known are ignored, and what is added later has a default. All times are in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum

import msgspec

from meshproxy.view.graph import Reports

API_VERSION = "meshproxy.dev/v1alpha1"
KIND = "ControlStatus"
LOOPBACK_PEERS = ("127.", "::1", "::ffff:127.")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})


class SidecarState(Enum):
    """Whether a sidecar has the documents in force."""

    IN_SYNC = "in-sync"
    BEHIND = "behind"
    """It has not answered yet."""
    REFUSED = "refused"
    GONE = "gone"
    """It was lost: it did not say that it stops."""


class Page(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A part of the page. Its members are in camel case."""


class SidecarEntry(Page, frozen=True, kw_only=True):
    """One sidecar."""

    sidecar: str
    """The name of its document."""
    spiffe_id: str
    state: SidecarState
    since: datetime
    """When it connected; when it was lost, if it is gone."""
    sent_at: datetime | None = None
    """When it was given documents last; None: it had the current ones when it connected."""
    version: str = ""
    """Of the documents that it uses."""
    wanted: str = ""
    """The version that it should use."""
    problems: tuple[str, ...] = ()
    """Why it refused that."""
    peer: str = ""
    host: str = ""
    software: str = ""
    """The version of meshproxy."""
    certificate_issued: datetime | None = None
    """None: it does not say."""
    certificate_expires: datetime


class Refusal(Page, frozen=True, kw_only=True):
    """A certificate that was not issued, or documents that were not given."""

    at: datetime
    reason: str
    problem: str
    peer: str
    spiffe_id: str | None = None


class WaitingToken(Page, frozen=True, kw_only=True):
    """A join token that nobody has used yet. Not the token itself, which is not kept."""

    identity: str
    expires: datetime


class DocumentsEntry(Page, frozen=True, kw_only=True):
    """The documents that sidecars are given."""

    version: str
    problems: tuple[str, ...] = ()
    """Of the files as they are now; until they are mended, sidecars keep the version."""
    source_problem: str = ""
    """Why there may be newer ones that are not known."""


class ServiceEntry(Page, frozen=True, kw_only=True):
    """A Kubernetes Service that documents name."""

    service: str
    """`NAMESPACE/NAME`."""
    endpoints: int
    """That take calls."""
    sidecars: int
    """That need them."""
    problem: str = ""
    """Why they are not known, or what is wrong with some."""


class ControlStatus(Page, frozen=True, kw_only=True):
    """The page."""

    api_version: str = API_VERSION
    kind: str = KIND
    software: str
    """The version of meshproxy."""
    pid: int
    started_at: datetime
    now: datetime
    """By the clock of the control plane."""
    trust_domain: str
    spiffe_id: str
    """Its own identity."""
    certificate_issued: datetime
    """Its own."""
    certificate_expires: datetime
    authority: str
    """SHA-256 of the authority's certificate."""
    authority_expires: datetime
    lifetime_seconds: float
    """Of the certificates that it issues."""
    rotation_step: str = ""
    """How far the rotation of the root is (`root_rotation.Step`); empty if none is under way."""
    rotation_since: datetime | None = None
    """When that step was taken."""
    refusals: tuple[Refusal, ...] = ()
    """The last ones, the newest first."""
    waiting_tokens: tuple[WaitingToken, ...] = ()
    """The ones that expire first."""
    records_used: float | None = None
    """How full the ConfigMaps with the certificates that are out are, from 0 to 1; None: they are in a folder."""
    issues_until: datetime | None = None
    """A day after all that it has issued could last be recorded; None: the records are in a folder."""
    store_problem: str = ""
    """Why what it keeps cannot be read."""
    documents: DocumentsEntry | None = None
    """None: it gives no documents, and knows no sidecars."""
    document_refusals: tuple[Refusal, ...] = ()
    """The last sidecars that asked for documents that their identity may not have, the newest first."""
    services: tuple[ServiceEntry, ...] = ()
    sidecars: tuple[SidecarEntry, ...] = ()
    forgotten: int = 0
    """Sidecars that are gone, and are not in the list because that is full."""
    reports: Reports | None = None
    """How complete the reports of calls are; None: a control plane of an earlier version does not say."""


def is_local(peer: str, host: str) -> bool:
    """Whether a client is on this host, and no browser that was led here under another name (DNS rebinding).

    Args:
        peer: its IP address.
        host: the Host that it asked for, with or without a port.
    """
    name = host.rpartition(":")[0] if host[-1:].isdecimal() and ":" in host else host
    return peer.startswith(LOOPBACK_PEERS) and name.lower() in LOOPBACK_HOSTS


def read_status(page: bytes) -> ControlStatus:
    """A page. Raises ValueError if it is none."""
    found = msgspec.json.decode(page, type=ControlStatus)
    if found.kind != KIND:
        raise ValueError(f"it is a {found.kind}")
    return found


def moment(seconds: float) -> datetime:
    """Seconds since the epoch."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def moment_or_none(seconds: float) -> datetime | None:
    """Seconds since the epoch; None for 0, which means that they are not known."""
    return moment(seconds) if seconds else None
