"""Values that a pod has from its own object: its environment, and files of the downward API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshproxy.devtools.node.spec import Container

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_REFERENCE = re.compile(r"\$(\$)?\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


def field_of(pod: Mapping[str, Any], path: str) -> str:
    """A field of the pod by its `fieldPath`; empty if it has none. Raises ValueError for one that is not offered."""
    if found := _SUBSCRIPT.fullmatch(path):
        return str((pod["metadata"].get(found[1]) or {}).get(found[2], ""))
    part, _, name = path.partition(".")
    offered = {
        "metadata": ("name", "namespace", "uid"),
        "spec": ("nodeName", "serviceAccountName"),
        "status": ("podIP", "hostIP"),
    }
    if name not in offered.get(part, ()):
        raise ValueError(f"no field {path}")
    return str((pod.get(part) or {}).get(name) or "")


def environment(container: Container, pod: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container, after those that are given. Raises ValueError."""
    found = dict(given)
    for each in container.env:
        reference = (each.value_from or {}).get("fieldRef")
        found[each.name] = field_of(pod, reference["fieldPath"]) if reference else expand(each.value, found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """A text with `$(NAME)` replaced; `$$(NAME)` stands for itself, as does a name that is not known."""
    return _REFERENCE.sub(lambda found: found[0][1:] if found[1] else variables.get(found[2], found[0]), text)


def command_line(container: Container, entry: Sequence[str], variables: Mapping[str, str]) -> list[str]:
    """What a container runs.

    Args:
        entry: what its image runs if it names no command.
    """
    own = [expand(word, variables) for word in container.command] or list(entry)
    return [*own, *(expand(word, variables) for word in container.args)]
