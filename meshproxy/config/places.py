"""Paths into the nodes of documents: what stands at a place, whether or not the document as a whole is good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshproxy.config.values import read_version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.nodes import Node


class Located(Protocol):
    """A document with its position (`check.Placed`)."""

    @property
    def node(self) -> Node: ...

    @property
    def label(self) -> str: ...

    @property
    def place(self) -> str: ...


def find(node: Node, *names: str) -> Node | None:
    """The node at the end of a path of fields, if there is one."""
    for name in names:
        found = node.value.get(name) if isinstance(node.value, dict) else None
        if found is None:
            return None
        node = found
    return node


def items(node: Node | None) -> list[Node]:
    """The items of a list; none if it is no list."""
    return node.value if node is not None and isinstance(node.value, list) else []


def value_at(node: Node | None) -> object:
    """The plain value of a node; None if there is none. What should not be there is like nothing else."""
    return None if node is None else node.value if isinstance(node.value, str | int | None) else node


def version_at(node: Node | None) -> object:
    """A version in its one form: 3 and "3" are the same."""
    value = value_at(node)
    try:
        return None if value is None else read_version(value)
    except ValueError:
        return value


def directions_of(route: Located) -> list[str]:
    given = find(route.node, "spec", "directions")
    if given is None:
        return ["inbound", "outbound"]
    return [direction.value for direction in items(given) if isinstance(direction.value, str)]


def is_numbered(servers: Sequence[Located]) -> bool:
    """It is TensorFlow Serving for sure, whose versions are whole numbers: it is asked for the status of its models."""
    health = find(servers[0].node, "spec", "health") if servers else None
    return health is not None and value_at(find(health, "check")) in (None, "model-status")
