"""Warnings about files that documents name: certificates, keys, bundles, key sets."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import inspect

from meshproxy.config.codes import Code
from meshproxy.config.values import resolve_path, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshproxy.config.check import Placed
    from meshproxy.config.nodes import Node
    from meshproxy.config.problems import Problem


def warn_of_files(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Files that are not there. Documents from elsewhere (standard input, ConfigMaps) name files of another host."""
    for each in placed:
        if each.document is None or not each.is_local:
            continue
        for field, node, path in _paths(each.node, each.document, ""):
            if (problem := _problem(Path(path))) is not None:
                yield each.at(node, field, f"{shown(path, 1_024)} {problem}", Code.MISSING_FILE)


def _problem(path: Path) -> str | None:
    try:
        if not path.exists():
            return "does not exist"
        if path.is_dir():
            return "is a folder"
        return None if os.access(path, os.R_OK) else "cannot be read by this user"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _paths(node: Node, value: Any, path: str) -> Iterator[tuple[str, Node, str]]:
    """Every file that a document names to be read: the field, the node, the path."""
    if not isinstance(node.value, dict):
        return
    kind: Any = type(value)
    for attribute, written, is_file in _fields(kind):
        child = node.value.get(written)
        inner = getattr(value, attribute)
        if child is None or inner is None:
            continue
        name = f"{path}.{written}" if path else written
        if is_file:
            yield name, child, inner
        elif hasattr(inner, "__struct_fields__"):
            yield from _paths(child, inner, name)
        elif isinstance(inner, tuple) and isinstance(child.value, list):
            for index, (item, each) in enumerate(zip(child.value, inner, strict=True)):
                if hasattr(each, "__struct_fields__"):
                    yield from _paths(item, each, f"{name}[{index}]")


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, str, bool], ...]:
    """The fields of a struct: the attribute, the name in documents, whether it names a file. Looking into a kind takes
    milliseconds, and a set may have thousands of documents of it."""
    fields = inspect.type_info(kind).fields  # type: ignore[attr-defined]
    return tuple((field.name, field.encode_name, _is_file(field.type)) for field in fields)


def _is_file(kind: inspect.Type) -> bool:
    """A file that is read, unlike a log file, a socket, or a folder that the sidecar writes to."""
    if isinstance(kind, inspect.UnionType):
        return any(_is_file(each) for each in kind.types)
    extra = (kind.extra or {}) if isinstance(kind, inspect.Metadata) else {}
    return extra.get("resolve") is resolve_path and extra.get("words") == "path"
