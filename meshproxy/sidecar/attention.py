"""What needs attention in the status of a sidecar, one sentence each. `meshproxy status` fails if there is any."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD: dict[str, object] = {"apiVersion": "meshproxy.dev/v1alpha1", "kind": "SidecarStatus"}


MOST_NAMED = 8
"""Models that one sentence names."""


def attention(status: dict[str, Any], now: float) -> list[str]:
    """Everything of a status (`Status.status`) that an operator should look at. `now`: seconds since the epoch."""
    found = unmet(status["conditions"])
    found += _documents(status["documents"])
    found += _identity(status["identity"], now)
    for issuer in status["issuers"]:
        if issuer["problem"] is not None:
            use = "those fetched before are in use" if issuer["keys"] else "its tokens are refused"
            found.append(f"keys of issuer {issuer['name']} could not be fetched, {use}: {issuer['problem']}")
    for name, server in status["servers"].items():
        found += _server(name, server)
    return found + hop_lag(status["hopLag"]["raised"])


def hop_lag(raised: Sequence[str]) -> list[str]:
    """The models whose hop lag has risen."""
    if not raised:
        return []
    more = f" (and {len(raised) - MOST_NAMED} more)" if len(raised) > MOST_NAMED else ""
    return [f"the hop lag of these models has risen: {', '.join(raised[:MOST_NAMED])}{more}"]


def unmet(conditions: dict[str, bool]) -> list[str]:
    """The conditions of readiness that do not hold."""
    return [f"not ready, as this does not hold: {name}" for name, holds in conditions.items() if not holds]


def _documents(documents: dict[str, Any]) -> list[str]:
    last = documents["lastReload"]
    if last is None or not last["problems"]:
        return []
    first, *more = last["problems"]
    also = f" (and {len(more)} more)" if more else ""
    return [f"the last documents were rejected, the previous ones are in use: {first}{also}"]


def _identity(identity: dict[str, Any] | None, now: float) -> list[str]:
    if identity is None:
        return []
    found = []
    if datetime.fromisoformat(identity["notAfter"]).timestamp() <= now:
        found.append("the certificate has expired: clients cannot connect")
    if identity["problem"] is not None:
        found.append(f"a new certificate was rejected, the previous one is in use: {identity['problem']}")
    return found


def _server(name: str, server: dict[str, Any]) -> list[str]:
    endpoints = server["endpoints"]
    if not server["known"]:
        return [f"the endpoints of {name} are not known yet"]
    if not endpoints:
        return [f"{name} has no endpoints"]
    away = sum(not each["takesCalls"] or each["breaker"] not in (None, "closed") for each in endpoints)
    found = [f"{away} of {len(endpoints)} endpoints of {name} take no calls, or single ones"] if away else []
    models = sorted({model for endpoint in endpoints for model in endpoint["unavailableModels"]})
    if models:
        found.append(f"models of {name} that are not available everywhere: {', '.join(models[:8])}")
    return found
