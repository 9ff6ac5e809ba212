"""What the pages of the admin port say, for tests of those who read it."""

from __future__ import annotations

from typing import Any

import pytest


def endpoint(name: str = "127.0.0.1:8501", **fields: Any) -> dict[str, Any]:
    """An endpoint that is well."""
    return {
        "endpoint": name,
        "locality": None,
        "takesCalls": True,
        "healthy": None,
        "unavailableModels": [],
        "loadingModels": [],
        "ejected": False,
        "breaker": "closed",
        "modelBreakers": {},
        "inFlight": 1,
        "latencySeconds": 0.002,
        "connections": 2,
        "security": {"rest": "plaintext"},
        **fields,
    }


def status(**fields: Any) -> dict[str, Any]:
    """The status of a sidecar that is well, at 12:00."""
    return {
        "apiVersion": "meshproxy.dev/v1alpha1",
        "kind": "SidecarStatus",
        "version": "1.2.3",
        "pid": 7,
        "startedAt": "2026-01-01T09:00:00.000+00:00",
        "state": "ready",
        "conditions": {"configured": True},
        "documents": {
            "fingerprint": "ab" * 32,
            "appliedAt": "2026-01-01T10:00:00.000+00:00",
            "lastReload": None,
            "counts": {"roles": 2, "bindings": 1, "servers": 1, "routes": 0},
        },
        "mtls": "strict",
        "identity": {
            "spiffeId": "spiffe://prod.example/ns/serving/sa/tfs",
            "serial": "0a",
            "notAfter": "2026-01-01T13:00:00.000+00:00",
            "problem": None,
        },
        "issuers": [issuer()],
        "directions": {"inbound": direction()},
        "servers": {"local": {"source": "static", "known": True, "endpoints": [endpoint()]}},
        "refusals": {"total": {}, "last": []},
        "hopLag": {"raised": []},
        "workers": [],
        "attention": [],
        **fields,
    }


def issuer(**fields: Any) -> dict[str, Any]:
    at = "2026-01-01T11:59:00.000+00:00"
    return {"name": "corp", "keys": 2, "unused": [], "fetchedAt": at, "failures": 0, "problem": None, **fields}


def direction(**fields: Any) -> dict[str, Any]:
    return {
        "address": "0.0.0.0:18500",
        "state": "serving",
        "connections": {"mtls": 3, "tls": 0, "plaintext": 1},
        "connectionsTotal": {"mtls": 30, "tls": 0, "plaintext": 10},
        "inFlight": 4,
        "served": 1_000,
        **fields,
    }


def rejected(*problems: str) -> dict[str, Any]:
    """The documents of `status()` after a reload that was rejected."""
    last = {"at": "2026-01-01T11:00:00.000+00:00", "result": "rejected", "problems": list(problems)}
    return {**status()["documents"], "lastReload": last}


def refusal(**fields: Any) -> dict[str, Any]:
    return {
        "at": "2026-01-01T11:59:30.000+00:00",
        "direction": "inbound",
        "reason": "permission-denied",
        "message": "No.",
        "call": "predict fraud",
        "caller": "spiffe://prod.example/ns/pricing/sa/quoter",
        "remote": "10.0.0.1:4000",
        "policy": "default-deny",
        "code": 403,
        "grpcStatus": None,
        **fields,
    }


@pytest.fixture
def noon() -> float:
    """2026-01-01T12:00:00Z, in seconds since the epoch."""
    return 1_767_268_800.0
