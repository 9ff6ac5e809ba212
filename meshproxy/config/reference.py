"""The reference of all documents, taken from the schema: docstrings, types, bounds and defaults as they are declared.

`page` is `docs/configuration.md`; `meshproxy config explain` shows the same piece by piece.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from inspect import cleandoc, getsource
from typing import Any

from msgspec import NODEFAULT, Struct, inspect

from meshproxy.codec import limits
from meshproxy.config import cors, issuers, rollouts, routes, schema, servers, sidecars, telemetry
from meshproxy.config import fields as shared
from meshproxy.config.convert import default_of, words
from meshproxy.config.elsewhere import is_struct

_INTRODUCTION = """\
# Configuration

<!-- Made from meshproxy/config by `meshproxy config explain -o markdown`; a test keeps it up to date. -->

Documents are YAML (or JSON) in the shape of Kubernetes objects; [first.yaml](../deploy/examples/first.yaml) is a
complete set. `meshproxy sidecar --config PATH` reads a file, or a folder: then its `*.yaml`, `*.yml` and `*.json` (in
any case) in the order of their names, without sub-folders and without names that begin with a dot, so that a mounted
ConfigMap is read once. JWK sets in such a folder are skipped. `meshproxy config check PATH` reports every problem of
the documents at once, as `file:line: Kind/name: field: message`, and exits with status 3 if there is one.

Unknown fields are errors. So is YAML on which parsers disagree: duplicate keys, tags, merge keys (`<<`), bare `on`,
`off`, `yes`, `no`, `y` and `n`, dates, and numbers like `010`, `1e3` or `12:30`. Quote text that looks like one of
these.

A **duration** is `"250ms"`, `"5s"`, `"1m30s"`, `"1h"`, or a number of seconds; in objects of Kubernetes that is a whole
one: write `"500ms"` for 0.5. A **size** is a number of bytes, or one with `KiB`, `MiB` or `GiB`. A **path** is relative
to the file that contains it. A **name** consists of lower-case letters, digits, `-` and `.`, as in Kubernetes.
"""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a struct, for people."""

    name: str
    words: str
    """What to write, with its bounds."""
    default: str
    """As it would be written; empty for nothing, `required` if there is none."""
    text: str
    """What it means, on one line."""
    struct: type[Struct] | None
    """What is below it."""
    is_list: bool


def kinds() -> dict[str, type[Struct]]:
    """Every kind by its name."""
    return {kind.__name__: kind for kind in schema.KINDS}


def description(struct: type[Struct]) -> str:
    """The docstring of a struct: paragraphs of Markdown."""
    return cleandoc(struct.__doc__ or "")


def fields(struct: type[Struct]) -> list[Field]:
    """The fields of a struct in the order of their declaration. `apiVersion` and `kind` are left out."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    texts = {name: text for each in reversed(struct.__mro__) for name, text in _texts().get(_key(each), {}).items()}
    return [
        Field(
            name=field.encode_name,
            words=words(field.type) + _bounds(field.type),
            default="required" if field.required else _default(field),
            text=texts.get(field.name) or _summary(is_struct(field.type)),
            struct=is_struct(field.type),
            is_list=isinstance(field.type, inspect.VarTupleType),
        )
        for field in info.fields
        if field.name != "api_version"
    ]


def _summary(struct: type[Struct] | None) -> str:
    """The first paragraph of a struct's description, on one line."""
    return " ".join(description(struct).split("\n\n")[0].split()) if struct else ""


def find(path: str) -> tuple[str, Field | None, type[Struct] | None]:
    """What a path such as `ModelRole.spec.rules.verbs` names: its path with list brackets, the field (None for a kind),
    and the struct that is there or below.

    Raises:
        LookupError: with the name that was not found and those that would have been.
    """
    first, *rest = [part.removesuffix("[]") for part in path.split(".")]
    if first not in kinds():
        raise LookupError(first, list(kinds()))
    struct: type[Struct] | None = kinds()[first]
    field = None
    full = first
    for part in rest:
        known = {each.name: each for each in fields(struct)} if struct else {}
        if part not in known:
            raise LookupError(part, list(known))
        field = known[part]
        struct = field.struct
        full += f".{part}" + ("[]" if field.is_list and struct else "")
    return full, field, struct


def page() -> str:
    """The whole reference in Markdown."""
    sections = [_INTRODUCTION, "## Every document\n", _every_document()]
    shown: dict[type[Struct], str] = {}
    for name, kind in kinds().items():
        sections.append(f"## {name}\n\n{description(kind)}\n")
        shown_again = "."
        for path, struct in _below(kind, ""):
            if struct is shared.Metadata or path.startswith(shown_again):
                continue
            first = shown.setdefault(struct, f"{name}.{path}")
            is_new = first == f"{name}.{path}"
            text = f"{description(struct)}\n\n{_table(struct)}" if is_new else f"As `{first}`.\n"
            sections.append(f"### `{path}`\n\n{text}")
            if not is_new:
                shown_again = f"{path}."
    return "\n".join(sections)


def _every_document() -> str:
    head = [
        _row("field", "what to write", "default", "meaning"),
        _row("---", "---", "---", "---"),
        _row("`apiVersion`", f"`{shared.API_VERSION}`", "required", "The version of the schema."),
        _row("`kind`", "one of " + ", ".join(kinds()), "required", "What the document is."),
    ]
    head += [
        _row(f"`metadata.{each.name}`", each.words, _code(each.default), each.text) for each in fields(shared.Metadata)
    ]
    return "\n".join(head) + "\n"


def _below(struct: type[Struct], path: str) -> Iterator[tuple[str, type[Struct]]]:
    for field in fields(struct):
        if field.struct:
            place = (f"{path}.{field.name}" if path else field.name) + ("[]" if field.is_list else "")
            yield place, field.struct
            yield from _below(field.struct, place)


def _table(struct: type[Struct]) -> str:
    rows = [_row("field", "what to write", "default", "meaning"), _row("---", "---", "---", "---")]
    rows += [_row(f"`{each.name}`", each.words, _code(each.default), each.text) for each in fields(struct)]
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(default: str) -> str:
    return default if default in ("", "required") else f"`{default}`"


def _bounds(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata():
            return _bounds(kind.type) if (kind.extra or {}).get("words") != "duration" else ""
        case inspect.UnionType():
            return "".join(_bounds(each) for each in kind.types)
        case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high):
            if low is not None and high is not None:
                return f", {low:,} to {high:,}"
            return f", at least {low:,}" if low is not None else f", at most {high:,}" if high is not None else ""
        case _:
            return ""


def _default(field: inspect.Field) -> str:
    value = default_of(field)
    assert value is not NODEFAULT
    kind = field.type.types[0] if isinstance(field.type, inspect.UnionType) else field.type
    called = (kind.extra or {}).get("words") if isinstance(kind, inspect.Metadata) else None
    return _written(value, called)


def _written(value: Any, called: object) -> str:
    """A default as it would be written in a document."""
    if value is None or isinstance(value, Struct) or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    if isinstance(value, str) and value[0].isdigit():
        return f'"{value}"'
    if called == "duration":
        if 0 < value < 1:
            return f"{value * 1000:g}ms"
        return f"{value / 3600:g}h" if value and value % 3600 == 0 else f"{value:g}s"
    if called == "size":
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % size == 0:
                return f"{value // size}{unit}"
    return f"{value:.9f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


@cache
def _texts() -> dict[str, dict[str, str]]:
    """Struct -> field -> the string below it in the source: Python keeps docstrings of classes only."""
    texts: dict[str, dict[str, str]] = {}
    for module in (limits, shared, issuers, servers, cors, routes, rollouts, sidecars, telemetry, schema):
        for node in ast.parse(getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                texts[f"{module.__name__}.{node.name}"] = dict(_strings_below_fields(node))
    return texts


def _key(struct: type) -> str:
    return f"{struct.__module__}.{struct.__name__}"


def _strings_below_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            yield field.target.id, " ".join(str(below.value.value).split())
