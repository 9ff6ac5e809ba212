"""The files of a ConfigMap, as a volume has them (`ConfigMap` of Kubernetes' core/v1)."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from meshproxy.config.nodes import Node


class MountedFile(NamedTuple):
    """One key."""

    name: str
    field: str
    """`data` or `binaryData`."""
    node: Node
    text: str
    problem: str = ""
    """Why there is no text."""


def files_of(config_map: Node) -> list[MountedFile]:
    """Those of `data`, then those of `binaryData`, where kubectl puts what is not UTF-8, such as files from Windows."""
    texts = [MountedFile(name, "data", node, value) for name, node, value in _texts(config_map, "data")]
    return [*texts, *(_decoded(name, node, value) for name, node, value in _texts(config_map, "binaryData"))]


def _texts(config_map: Node, field: str) -> list[tuple[str, Node, str]]:
    found = config_map.value.get(field) if isinstance(config_map.value, dict) else None
    files = found.value if found is not None and isinstance(found.value, dict) else {}
    return [(name, node, node.value) for name, node in files.items() if isinstance(node.value, str)]


def _decoded(name: str, node: Node, value: str) -> MountedFile:
    try:
        content = base64.b64decode("".join(value.split()), validate=True)
        return MountedFile(name, "binaryData", node, content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        problem = "not UTF-8: save the file in that encoding"
    except (binascii.Error, ValueError):
        problem = "not base64"
    return MountedFile(name, "binaryData", node, "", problem)
