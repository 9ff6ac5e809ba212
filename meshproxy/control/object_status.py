"""What the control plane says of an object in the cluster: its `status`, as pure decisions.

status:
  conditions:
  - type: Accepted            # True: sidecars are given this generation
    status: "False"
    observedGeneration: 4
    reason: Invalid           # or HeldBack: it is good by itself, but others have to change with it
    message: ...
  sidecars: {concerned: 12, updated: 11}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ACCEPTED = "Accepted"
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
class Verdict:
    """About one object as it was read last."""

    content: bytes
    """Of the object: the verdict is about nothing else."""
    problems: tuple[str, ...]
    is_in_force: bool


def condition(verdict: Verdict, generation: int, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The condition `Accepted`.

    Args:
        verdict: about the object.
        generation: `metadata.generation` of the object that it is about.
        before: the status that the object has.
        now: RFC 3339.
    """
    if verdict.problems:
        reason, message = "Invalid", _joined(verdict.problems)
    elif not verdict.is_in_force:
        reason = "HeldBack"
        message = "it has no problem itself, but others have while it is in force: see those that are not accepted"
    else:
        reason, message = ACCEPTED, ""
    status = "True" if verdict.is_in_force and not verdict.problems else "False"
    last = accepted(before)
    is_same = last is not None and last.get("status") == status
    return {
        "type": ACCEPTED,
        "status": status,
        "observedGeneration": generation,
        "lastTransitionTime": last["lastTransitionTime"] if last is not None and is_same else now,
        "reason": reason,
        "message": message,
    }


def status_of(
    verdict: Verdict, sidecars: Sidecars, generation: int, before: Mapping[str, Any], now: str
) -> dict[str, Any]:
    """The whole status. Of an object whose newest generation is not in force, no sidecar has that."""
    updated = sidecars.updated if verdict.is_in_force else 0
    return {
        "conditions": [condition(verdict, generation, before, now)],
        "sidecars": {"concerned": sidecars.concerned, "updated": updated},
    }


def says(before: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether an object has this status already."""
    return accepted(before) == accepted(status) and before.get("sidecars") == status["sidecars"]


def accepted(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The condition of ours in a status; a new object has none, or null for all of them."""
    return next((each for each in status.get("conditions") or () if each.get("type") == ACCEPTED), None)


def _joined(problems: Sequence[str]) -> str:
    """As many problems as there is space for."""
    message = ""
    for number, problem in enumerate(problems):
        longer = f"{message}\n{problem}" if message else problem
        if len(longer) > MESSAGE_CHARACTERS:
            return f"{message or problem[:MESSAGE_CHARACTERS]}\n(and {len(problems) - number} more)"
        message = longer
    return message
