"""Two sets of documents compared by what is written in them: which roles, bindings and issuers differ, and in what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from meshproxy.config import schema

_ABSENT = object()


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """One value that is in one of the sets only."""

    document: str
    """`ModelRole/finance-reader`."""
    field: str
    """`spec.rules[]`: an item of a list, wherever it stands in it; `spec` for a document that the other set lacks."""
    is_new: bool
    value: str
    """JSON in one line."""


def differences(
    old: Sequence[schema.ModelRole | schema.ModelRoleBinding | schema.MeshConfig],
    new: Sequence[schema.ModelRole | schema.ModelRoleBinding | schema.MeshConfig],
) -> list[Difference]:
    """What differs, by document, in the order of their names; of a value that has changed, the old one first. Order
    matters nowhere: neither that of documents, nor that of rules, subjects or words."""
    before, after = _specs(old), _specs(new)
    found = []
    for name in sorted(before.keys() | after.keys()):
        for field, value, is_new in _compare("spec", before.get(name, _ABSENT), after.get(name, _ABSENT)):
            found.append(Difference(name, field, is_new, msgspec.json.encode(value, order="sorted").decode()))
    return found


def _specs(documents: Sequence[Any]) -> dict[str, Any]:
    """By kind and name. There is one MeshConfig, whatever its name. Defaults are left out, as writing one changes
    nothing."""
    return {_label(each): msgspec.to_builtins(each.spec) for each in documents}


def _label(document: Any) -> str:
    kind = type(document).__name__
    return kind if kind == "MeshConfig" else f"{kind}/{document.metadata.name}"


def _compare(field: str, old: Any, new: Any) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from _compare(f"{field}.{name}", old.get(name, _ABSENT), new.get(name, _ABSENT))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple):
        for item in old:
            if _canonical(item) not in map(_canonical, new):
                yield f"{field}[]", item, False
        for item in new:
            if _canonical(item) not in map(_canonical, old):
                yield f"{field}[]", item, True
    elif old is _ABSENT or new is _ABSENT or _canonical(old) != _canonical(new):
        if old is not _ABSENT:
            yield field, old, False
        if new is not _ABSENT:
            yield field, new, True


def _canonical(value: Any) -> Any:
    """Equal for values that mean the same: lists of rules, subjects and words are sets."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, _canonical(item)) for name, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(sorted(map(repr, map(_canonical, value))))
    return type(value).__name__, value
