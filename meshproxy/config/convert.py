"""A tree of nodes -> the structs of `schema`, with every problem of the tree reported, not the first.

msgspec's own `convert` stops at the first problem and knows no lines; this walks the same type descriptions
(`msgspec.inspect`) and never stops early: each field, list item and unknown name is checked separately.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import NODEFAULT, inspect

from meshproxy.config import values
from meshproxy.config.codes import Code
from meshproxy.config.hints import of_field, of_value
from meshproxy.config.nodes import BROKEN, Node, Report
from meshproxy.config.problems import closest
from meshproxy.config.values import shown


def convert(node: Node, kind: inspect.Type, base: Path, report: Report) -> Any:
    """The struct that the node describes, or `BROKEN` after at least one problem went to `report`.

    Args:
        kind: the description of the struct (`inspect.type_info`).
        base: the folder that relative paths are relative to.
    """
    name = kind.cls.__name__ if isinstance(kind, inspect.StructType) else ""
    return _Walk(base, report, name).value(node, kind, "")


class _Walk:
    def __init__(self, base: Path, report: Report, kind: str) -> None:
        self.base = base
        self.report = report
        self.kind = kind

    def value(self, node: Node, kind: inspect.Type, path: str) -> Any:
        if node.value is BROKEN:
            return BROKEN
        match kind:
            case inspect.UnionType():
                return self._union(node, kind, path)
            case inspect.StructType():
                return self._struct(node, kind, path)
            case inspect.VarTupleType():
                return self._list(node, kind, path)
            case inspect.DictType():
                return self._dict(node, kind, path)
            case inspect.AnyType():
                return self._plain(node)
            case _:
                return self._scalar(node, kind, path)

    def _wrong(self, node: Node, path: str, message: str, code: Code = Code.INVALID_VALUE) -> Any:
        self.report(node.line, path, message, code)
        return BROKEN

    def _union(self, node: Node, kind: inspect.UnionType, path: str) -> Any:
        kinds = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        if node.value is None and len(kinds) < len(kind.types):
            return None
        structs = [each for each in kinds if isinstance(each, inspect.StructType)]
        if structs and isinstance(node.value, dict):
            return self.value(node, structs[0], path)
        scalars = [each for each in kinds if each not in structs]
        if len(kinds) == 1 or (len(scalars) == 1 and isinstance(node.value, str | int | float)):
            return self.value(node, (scalars or kinds)[0], path)
        # What is left in the schema are unions of plain scalars.
        if type(node.value) in [_PYTHON.get(type(each)) for each in scalars]:
            return node.value
        return self._wrong(node, path, f"expected {' or '.join(map(words, kinds))}, got {shown(node.value)}")

    def _struct(self, node: Node, kind: inspect.StructType, path: str) -> Any:
        if not isinstance(node.value, dict):
            return self._wrong(node, path, f"expected a mapping, got {shown(node.value)}")
        given: dict[str, Node] = node.value
        fields = {field.encode_name: field for field in kind.fields}
        if kind.tag_field:  # the choice of this kind has read it
            given = {name: item for name, item in given.items() if name not in (kind.tag_field, "apiVersion")}
        arguments: dict[str, Any] = {}
        for name, item in given.items():
            if name in fields:
                arguments[fields[name].name] = self.value(item, fields[name].type, _join(path, name))
            else:
                hint = (
                    f': it is called "{RENAMED[name]}" now' if name in RENAMED else _hint(name, list(fields), self.kind)
                )
                self.report(item.key_line, _join(path, name), f"no such field{hint}", Code.UNKNOWN_FIELD)
                arguments[name] = BROKEN
        for name, field in fields.items():
            if field.required and name not in given:
                message = f"is missing: expected {words(field.type)}"
                self.report(node.key_line, _join(path, name), message, Code.MISSING_FIELD)
                arguments[field.name] = BROKEN
        if any(argument is BROKEN for argument in arguments.values()):
            return BROKEN
        try:
            return kind.cls(**arguments)
        except ValueError as error:
            return self._wrong(node, path, str(error), Code.CONFLICTING_FIELDS)

    def _list(self, node: Node, kind: inspect.VarTupleType, path: str) -> Any:
        if not isinstance(node.value, list):
            return self._wrong(node, path, f"expected a list, got {shown(node.value)}")
        if len(node.value) < (kind.min_length or 0):
            return self._wrong(node, path, f"an empty list: expected {words(kind.item_type)}, one or more")
        items = tuple(self.value(item, kind.item_type, f"{path}[{index}]") for index, item in enumerate(node.value))
        return BROKEN if any(item is BROKEN for item in items) else items

    def _dict(self, node: Node, kind: inspect.DictType, path: str) -> Any:
        if not isinstance(node.value, dict):
            return self._wrong(node, path, f"expected a mapping, got {shown(node.value)}")
        given: dict[str, Node] = node.value
        items: dict[Any, Any] = {}
        for name, item in given.items():
            key = self.value(Node(name, item.key_line), kind.key_type, path)
            value = self.value(item, kind.value_type, _join(path, name))
            items[name if key is BROKEN else key] = BROKEN if key is BROKEN else value
        return BROKEN if any(item is BROKEN for item in items.values()) else items

    def _plain(self, node: Node) -> Any:
        """Any value, as `json` would have read it."""
        if isinstance(node.value, list):
            items = [BROKEN if item.value is BROKEN else self._plain(item) for item in node.value]
            return BROKEN if BROKEN in items else items
        if isinstance(node.value, dict):
            members = {name: BROKEN if item.value is BROKEN else self._plain(item) for name, item in node.value.items()}
            return BROKEN if BROKEN in members.values() else members
        return node.value

    def _scalar(self, node: Node, kind: inspect.Type, path: str) -> Any:
        extra: dict[str, Any] = {}
        expected = words(kind)
        if isinstance(kind, inspect.Metadata):
            extra = kind.extra or {}
            kind = kind.type
        value: Any = node.value
        read = extra.get("read") or _READERS.get(extra.get("type", ""))
        if read is not None:
            try:
                value = read(value)
                if (resolve := extra.get("resolve")) is not None:
                    value = resolve(self.base, value)
            except ValueError as error:
                return self._wrong(node, path, str(error))
        elif isinstance(kind, inspect.LiteralType):
            if not isinstance(value, str) or value not in kind.values:
                hint = _value_hint(value, list(map(str, kind.values)))
                if isinstance(value, float) and str(value) in kind.values:
                    hint = f': write it in quotes, "{value}"'
                return self._wrong(node, path, f"expected {expected}, got {shown(value)}{hint}")
        elif isinstance(kind, inspect.FloatType) and type(value) is int:
            value = float(value)
        elif type(value) is not _PYTHON[type(kind)]:
            return self._wrong(node, path, f"expected {expected}, got {shown(value)}")
        if isinstance(kind, inspect.IntType | inspect.FloatType):
            if kind.ge is not None and value < kind.ge:
                return self._wrong(node, path, f"{shown(node.value)} is too small: at least {kind.ge:,}")
            if kind.le is not None and value > kind.le:
                return self._wrong(node, path, f"{shown(node.value)} is too large: at most {kind.le:,}")
        return value


RENAMED = {
    "heldBodyBytes": "scanBufferBytes",
    "heldTotalBytes": "scanBufferTotalBytes",
    "keptTotalBytes": "replayBufferTotalBytes",
    "unreadTotalBytes": "responseBufferTotalBytes",
}
"""Fields that had another name before."""
_READERS: dict[str, Callable[[object], Any]] = {
    "size": values.read_size,
    "count": values.read_count,
    "rate": values.read_rate,
}
"""For types that are declared below this package (`codec.limits`)."""
_PYTHON: dict[type[inspect.Type], type] = {
    inspect.StrType: str,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.BoolType: bool,
}
_WORDS: dict[type[inspect.Type], str] = {
    inspect.StrType: "text",
    inspect.IntType: "whole number",
    inspect.FloatType: "number",
    inspect.BoolType: "true or false",
    inspect.StructType: "mapping",
    inspect.DictType: "mapping",
    inspect.AnyType: "anything",
}


def words(kind: inspect.Type) -> str:
    """The name of a type in messages to authors of documents."""
    match kind:
        case inspect.Metadata():
            return str((kind.extra or {}).get("words") or words(kind.type))
        case inspect.UnionType():
            return " or ".join(words(each) for each in kind.types if not isinstance(each, inspect.NoneType))
        case inspect.VarTupleType():
            return "list of " + words(kind.item_type).removeprefix("one of ")
        case inspect.LiteralType():
            return "one of " + ", ".join(map(str, kind.values))
        case _:
            return _WORDS[type(kind)]


def default_of(field: inspect.Field) -> Any:
    """The default of a field, `NODEFAULT` if it must be given."""
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return field.default


def _hint(name: str, known: list[str], kind: str) -> str:
    """What takes the place of a field of another mesh, or which field is like it, and where one of this name is."""
    from meshproxy.config.elsewhere import elsewhere  # only when there is a mistake to explain

    return of_field(name, known) or closest(name, known) + elsewhere(name, kind)


def _value_hint(value: object, known: list[str]) -> str:
    return of_value(value) or closest(value, known) if isinstance(value, str) else ""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
