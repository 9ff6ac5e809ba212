"""Which fields of an object were written by whom (`managedFields`), and which of them nobody asks for any more.

Server-side apply takes a field away only from the manager that it applies as. Whoever has applied the object before
(kubectl on the client's side, Helm) takes away what is not in the new form any more: that is worked out here.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Path = tuple[str, ...]
    """Steps as `fieldsV1` writes them: `f:NAME`, `k:{KEYS OF AN ELEMENT}`, `v:VALUE`."""

APPLY_BY_UPDATE = frozenset({"kubectl-client-side-apply", "helm"})
"""Managers that take fields away that they do not write any more, though the API server sees an update."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""The annotation in which kubectl remembers what it has applied."""
_BOOKKEEPING: set[Path] = {
    ("f:metadata", "f:annotations"),
    ("f:metadata", "f:annotations", f"f:{LAST_APPLIED}"),
    ("f:metadata", "f:annotations", "f:meta.helm.sh/release-name"),
    ("f:metadata", "f:annotations", "f:meta.helm.sh/release-namespace"),
    ("f:metadata", "f:labels", "f:app.kubernetes.io/managed-by"),
}
"""What kubectl and Helm add themselves each time."""


def dropped(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]], manager: str) -> list[Path]:
    """The fields that were applied, and that nobody wants any more.

    Args:
        before: `managedFields` of an object.
        after: those of it after `manager` has applied what is wanted.
        manager: what it is applied as.
    """
    wanted: set[Path] = set()
    for entry in after:
        if entry["manager"] == manager and entry["operation"] == "Apply":
            wanted |= _paths(entry)
    applied: set[Path] = set()
    for entry in before:
        if is_of_an_apply(entry):
            applied |= _paths(entry)
        else:
            wanted |= _paths(entry)
    gone = applied - wanted
    gone -= _BOOKKEEPING
    kept = {path[:length] for path in wanted for length in range(1, len(path))}
    gone -= kept
    # What is in something that goes need not be named.
    return sorted(path for path in gone if not any(path[:length] in gone for length in range(1, len(path))))


def is_of_an_apply(entry: Mapping[str, Any]) -> bool:
    """Whether fields are those of an apply, which takes them away once they are not in it any more."""
    is_apply = entry["operation"] == "Apply" or entry["manager"] in APPLY_BY_UPDATE
    return is_apply and not entry.get("subresource")


def without(content: Any, paths: Iterable[Path]) -> Any:
    """An object without these fields."""
    for path in paths:
        content = _without(content, path)
    return content


def _paths(entry: Mapping[str, Any]) -> set[Path]:
    return set(_leaves(entry.get("fieldsV1") or {}, ()))


def _leaves(fields: Mapping[str, Any], path: Path) -> Iterator[Path]:
    for step, below in fields.items():
        if step == ".":
            yield path
        elif below:
            yield from _leaves(below, (*path, step))
        else:
            yield (*path, step)


def _without(content: Any, path: Path) -> Any:
    step, *rest = path
    kind, _, value = step.partition(":")
    if kind == "f" and isinstance(content, dict):
        if value not in content:
            return content
        if rest:
            return {**content, value: _without(content[value], tuple(rest))}
        return {name: each for name, each in content.items() if name != value}
    if kind in ("k", "v") and isinstance(content, list):
        wanted = json.loads(value)
        changed = []
        for element in content:
            if not (_has(element, wanted) if kind == "k" else element == wanted):
                changed.append(element)
            elif rest:
                changed.append(_without(element, tuple(rest)))
        return changed
    return content


def _has(element: Any, keys: Mapping[str, Any]) -> bool:
    return isinstance(element, dict) and all(element.get(name) == value for name, value in keys.items())
