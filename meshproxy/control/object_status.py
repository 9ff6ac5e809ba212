"""What the control plane says of an object in the cluster: its `status`, as pure decisions.

status:
  conditions:
  - type: Accepted            # True: sidecars are given this generation
    status: "False"
    observedGeneration: 4
    reason: Invalid           # or HeldBack: it is good by itself, but others have to change with it
    message: ...
  - type: ResolvedRefs        # of a ModelServer with a Service, while it is in force; as in the Gateway API
    status: "False"
    observedGeneration: 4
    reason: BackendNotFound
    message: ...
  sidecars: {concerned: 12, updated: 11}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.servers import Service
    from meshproxy.control_api import ServiceEndpoints

ACCEPTED = "Accepted"
RESOLVED = "ResolvedRefs"
OURS = (ACCEPTED, RESOLVED)
"""Conditions, by their types."""
MESSAGE_CHARACTERS = 4_096
"""A condition may have 32,768."""


@dataclass(frozen=True, slots=True)
class Sidecars:
    """Of those that are connected to the leader."""

    concerned: int = 0
    """Have the object among their documents."""
    updated: int = 0
    """Use it as it is in force."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What became of the Service that an object names."""

    is_found: bool | None
    """None: not known."""
    problem: str = ""
    """Why it is not found, or not known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """About one object as it was read last."""

    content: bytes
    """Of the object: the verdict is about nothing else."""
    problems: tuple[str, ...]
    is_in_force: bool
    reference: Reference | None = None
    """None: it names no Service."""
    edition: str = ""
    """Of the object, too (`config.files.Source`). One that was deleted and comes again says nothing yet."""


def reference_to(service: Service, found: ServiceEndpoints, *, is_known: bool) -> Reference:
    """Whether there is a Service with the ports that a document names. While it has no endpoints, its ports are not
    known.

    Args:
        service: as the document has it.
        found: its endpoints.
        is_known: it has been read from the cluster.
    """
    if not is_known:
        return Reference(None, found.problem)
    if not found.version:
        return Reference(is_found=False, problem=found.problem)
    named = [name for name in (service.rest, service.grpc, service.sidecar) if name is not None]
    # All objects are looked at every second: most endpoints have all ports, so the first one tells.
    missing = [name for name in named if not any(name in endpoint.ports for endpoint in found.endpoints)]
    if found.endpoints and missing:
        there = {name for endpoint in found.endpoints for name in endpoint.ports}
        ports = ", ".join(f'"{name}"' for name in sorted(there))
        problem = f'Service {service.key}: no endpoint has the TCP port "{missing[0]}"; there are: {ports}'
        return Reference(is_found=False, problem=problem[:MESSAGE_CHARACTERS])
    return Reference(is_found=True)


def _accepted(verdict: Verdict) -> tuple[str, str, str]:
    """Status, reason and message of the condition `Accepted`."""
    if verdict.problems:
        reason, message = "Invalid", _joined(verdict.problems)
    elif not verdict.is_in_force:
        reason = "HeldBack"
        message = "it has no problem itself, but others have while it is in force: see those that are not accepted"
    else:
        reason, message = ACCEPTED, ""
    return "True" if verdict.is_in_force and not verdict.problems else "False", reason, message


def _resolved(reference: Reference) -> tuple[str, str, str]:
    """The same of `ResolvedRefs`."""
    if reference.is_found is None:
        return "Unknown", "NotRead", reference.problem
    return ("True", RESOLVED, "") if reference.is_found else ("False", "BackendNotFound", reference.problem)


def status_of(
    verdict: Verdict, sidecars: Sidecars, generation: int, before: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The whole status. Of an object whose newest generation is not in force, no sidecar has that.

    Args:
        verdict: about the object.
        sidecars: that have it.
        generation: `metadata.generation` of the object that it is about.
        before: the status that the object has.
        now: RFC 3339.
    """
    told = {ACCEPTED: _accepted(verdict)}
    if verdict.reference is not None and told[ACCEPTED][0] == "True":
        told[RESOLVED] = _resolved(verdict.reference)
    conditions = []
    for kind, (status, reason, message) in told.items():
        last = _ours(before).get(kind, {})
        conditions.append(
            {
                "type": kind,
                "status": status,
                "observedGeneration": generation,
                "lastTransitionTime": last["lastTransitionTime"] if last.get("status") == status else now,
                "reason": reason,
                "message": message,
            }
        )
    updated = sidecars.updated if verdict.is_in_force else 0
    return {"conditions": conditions, "sidecars": {"concerned": sidecars.concerned, "updated": updated}}


def says(before: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether an object has this status already."""
    return _ours(before) == _ours(status) and before.get("sidecars") == status["sidecars"]


def _ours(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of ours in a status; a new object has none, or null for all of them."""
    return {each["type"]: each for each in status.get("conditions") or () if each.get("type") in OURS}


def _joined(problems: Sequence[str]) -> str:
    """As many problems as there is space for."""
    message = ""
    for number, problem in enumerate(problems):
        longer = f"{message}\n{problem}" if message else problem
        if len(longer) > MESSAGE_CHARACTERS:
            return f"{message or problem[:MESSAGE_CHARACTERS]}\n(and {len(problems) - number} more)"
        message = longer
    return message
