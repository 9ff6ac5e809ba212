"""Fields of ours that stand in the wrong place: `retries` in a ModelServer, `mtls` in a Sidecar."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct, inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 3
"""Places that a message names. A name with more of them, such as `name` or `file`, says nothing of what is meant."""
DEEPEST = 2
"""How far below a kind a place is: `port` of `spec.aws.callerIdentity` is not what is meant elsewhere."""


def elsewhere(name: str, kind: str) -> str:
    """Where a field of this name is, the nearest to the top and those of the same `kind`, as the end of a sentence;
    empty: nowhere, or in many places."""
    places = [place for place in _places().get(name, []) if place.count(".") <= DEEPEST]
    nearest = {*_nearest(places), *_nearest([place for place in places if place.startswith(f"{kind}.")])}
    if not 0 < len(nearest) <= MOST:
        return ""
    *others, last = sorted(nearest)
    return f': "{name}" is a field of {", ".join(others)}{" and " if others else ""}{last}'


def _nearest(places: list[str]) -> list[str]:
    least = min((place.count(".") for place in places), default=0)
    return [place for place in places if place.count(".") == least]


@cache
def _places() -> dict[str, list[str]]:
    """The first place of each struct that has a field, by its name."""
    from meshproxy.config.fields import Metadata
    from meshproxy.config.schema import KINDS

    found: dict[str, list[str]] = {}
    seen: set[type[Struct]] = {Metadata}
    for kind in KINDS:
        for place, struct in _below(kind, kind.__name__, seen):
            for field in _fields(struct):
                found.setdefault(field.encode_name, []).append(place)
    return found


def _below(struct: type[Struct], place: str, seen: set[type[Struct]]) -> Iterator[tuple[str, type[Struct]]]:
    for field in _fields(struct):
        below = is_struct(field.type)
        if below is not None and below not in seen:
            seen.add(below)
            inner = f"{place}.{field.encode_name}" + ("[]" if isinstance(field.type, inspect.VarTupleType) else "")
            yield inner, below
            yield from _below(below, inner, seen)


def _fields(struct: type[Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return info.fields


def is_struct(kind: inspect.Type) -> type[Struct] | None:
    """The struct behind a field's type: itself, the one that may be left out, or that of a list's items or a mapping's
    values."""
    match kind:
        case inspect.StructType():
            return kind.cls
        case inspect.Metadata():
            return is_struct(kind.type)
        case inspect.VarTupleType():
            return is_struct(kind.item_type)
        case inspect.DictType():
            return is_struct(kind.value_type)
        case inspect.UnionType():
            return next((found for each in kind.types if (found := is_struct(each))), None)
        case _:
            return None
