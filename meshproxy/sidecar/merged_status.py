"""The status of a sidecar with several workers, from the status of each: sums where they share the work, the worst
where each has a state of its own. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from meshproxy.sidecar.attention import HEAD, attention, unmet
from meshproxy.telemetry.last_refusals import KEPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Found = dict[str, Any]

_BREAKERS = ("closed", "half_open", "open")
"""From the best to the worst."""


def merge(own: Found, workers: Sequence[Found], statuses: Sequence[Found], now: float) -> Found:
    """One status for all.

    Args:
        own: of the supervisor: `version`, `pid`, `startedAt`, `state`, `conditions`.
        workers: each worker, as the supervisor sees it (`Worker.describe`).
        statuses: of the workers that have answered (`Status.status`).
        now: seconds since the epoch.
    """
    found = {**own, **_shared(statuses), "workers": list(workers)}
    silent = len(workers) - len(statuses)
    complaints = attention(found, now) if statuses else unmet(own["conditions"])
    if silent:
        complaints.append(f"{silent} of {len(workers)} workers did not tell their status: it is missing here")
    if len({each["documents"]["fingerprint"] for each in statuses}) > 1:
        complaints.append("the workers use different documents")
    return {**HEAD, **found, "attention": complaints}


def _shared(statuses: Sequence[Found]) -> Found:
    """What the workers tell together."""
    if not statuses:
        nothing: Found = {"documents": None, "mtls": None, "identity": None, "issuers": [], "directions": {}}
        return {**nothing, "servers": {}, "refusals": {"total": {}, "last": []}, "hopLag": {"raised": []}}
    first = statuses[0]
    rejected = [each["documents"] for each in statuses if (each["documents"]["lastReload"] or {}).get("problems")]
    identities = [each["identity"] for each in statuses if each["identity"] is not None]
    return {
        "documents": (rejected or [first["documents"]])[0],
        "mtls": first["mtls"],
        "identity": min(identities, key=lambda each: (each["problem"] is None, each["notAfter"]), default=None),
        "issuers": _by_name([each["issuers"] for each in statuses], _issuer),
        "directions": _by_key([each["directions"] for each in statuses], _direction),
        "servers": _by_key([each["servers"] for each in statuses], _server),
        "refusals": _refusals([each["refusals"] for each in statuses]),
        "hopLag": {"raised": sorted({model for each in statuses for model in each["hopLag"]["raised"]})},
    }


def _by_key(tables: Iterable[dict[str, Found]], merged: Callable[[Sequence[Found]], Found]) -> dict[str, Found]:
    """Tables with the same keys, entry by entry; an entry may be missing in some."""
    groups: dict[str, list[Found]] = {}
    for table in tables:
        for key, entry in table.items():
            groups.setdefault(key, []).append(entry)
    return {key: merged(group) for key, group in groups.items()}


def _by_name(
    lists: Iterable[Sequence[Found]], merged: Callable[[Sequence[Found]], Found], name: str = "name"
) -> list[Found]:
    return list(_by_key(({entry[name]: entry for entry in entries} for entries in lists), merged).values())


def _sum(group: Sequence[Found], field: str) -> int:
    return sum(entry[field] for entry in group)


def _issuer(group: Sequence[Found]) -> Found:
    """The one that is worst off."""
    return min(group, key=lambda each: (each["problem"] is None, each["keys"], each["fetchedAt"] or ""))


def _direction(group: Sequence[Found]) -> Found:
    return {
        "address": group[0]["address"],
        "state": group[0]["state"],
        **{
            field: {security: sum(each[field][security] for each in group) for security in group[0][field]}
            for field in ("connections", "connectionsTotal")
        },
        "inFlight": _sum(group, "inFlight"),
        "served": _sum(group, "served"),
    }


def _server(group: Sequence[Found]) -> Found:
    return {
        "source": group[0]["source"],
        "known": all(each["known"] for each in group),
        "endpoints": _by_name([each["endpoints"] for each in group], _endpoint, "endpoint"),
    }


def _endpoint(group: Sequence[Found]) -> Found:
    latencies = [each["latencySeconds"] for each in group if each["latencySeconds"] is not None]
    breakers = [each["breaker"] for each in group if each["breaker"] is not None]
    healths = [each["healthy"] for each in group if each["healthy"] is not None]
    return {
        **group[0],
        "takesCalls": all(each["takesCalls"] for each in group),
        "healthy": all(healths) if healths else None,
        "unavailableModels": sorted({model for each in group for model in each["unavailableModels"]}),
        "loadingModels": sorted({model for each in group for model in each["loadingModels"]}),
        "ejected": any(each["ejected"] for each in group),
        "breaker": max(breakers, key=_BREAKERS.index, default=None),
        "modelBreakers": {model: state for each in group for model, state in each["modelBreakers"].items()},
        "inFlight": _sum(group, "inFlight"),
        "latencySeconds": max(latencies, default=None),
        "connections": _sum(group, "connections"),
    }


def _refusals(group: Sequence[Found]) -> Found:
    totals: Counter[str] = Counter()
    for each in group:
        totals.update(each["total"])
    last = sorted((refusal for each in group for refusal in each["last"]), key=lambda each: str(each["at"]))
    return {"total": dict(totals.most_common()), "last": last[::-1][:KEPT]}
