"""Pages of control planes, as `meshproxy check` and `meshproxy proxy-status` get them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from meshproxy.control.check import Answer
from meshproxy.control.status import ControlStatus, DocumentsEntry, SidecarEntry, SidecarState

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
VERSION = "0123456789abcdef"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def entry(state: SidecarState = SidecarState.IN_SYNC, **more: Any) -> SidecarEntry:
    """A sidecar whose certificate was issued an hour ago, for a day."""
    found: dict[str, Any] = {
        "sidecar": "resnet",
        "spiffe_id": "spiffe://m.example/ns/models/sa/resnet",
        "state": state,
        "since": ago(100),
        "version": VERSION if state is SidecarState.IN_SYNC else "older",
        "wanted": VERSION,
        "peer": "10.0.0.1:4711",
        "host": "resnet-0",
        "software": "0.1.0",
        "certificate_issued": ago(3_600),
        "certificate_expires": ago(-23 * 3_600),
    }
    return SidecarEntry(**{**found, **more})


def status(*sidecars: SidecarEntry, **more: Any) -> ControlStatus:
    """A control plane where all is well."""
    found: dict[str, Any] = {
        "software": "0.1.0",
        "pid": 7,
        "started_at": ago(7_200),
        "now": NOW,
        "trust_domain": "m.example",
        "spiffe_id": "spiffe://m.example/ns/meshproxy/sa/control",
        "certificate_issued": ago(3_600),
        "certificate_expires": ago(-23 * 3_600),
        "authority": "a" * 64,
        "authority_expires": ago(-365 * 86_400),
        "lifetime_seconds": 86_400.0,
        "documents": DocumentsEntry(version=VERSION),
        "sidecars": sidecars,
    }
    return ControlStatus(**{**found, **more})


def answer(found: ControlStatus | None = None, address: str = "127.0.0.1:18512", **more: Any) -> Answer:
    return Answer(address, NOW, found, **more)
