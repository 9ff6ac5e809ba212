"""The schema of all documents as JSON Schema 2020-12, for editors: `meshproxy config schema`.

What it accepts is what `config check` accepts, or a little more: fields, types, words and bounds are here; fields that
exclude or require each other, and names that other documents must have, are `config check`'s.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, inspect

from meshproxy.config import crds, schema
from meshproxy.config.fields import API_VERSION
from meshproxy.config.parse import SERVER_METADATA
from meshproxy.config.reference import description
from meshproxy.config.reference import fields as described_fields

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INT_OR_TEXT = "x-kubernetes-int-or-string"


def json_schema() -> Schema:
    """Of one document of any kind, or a `List` of them."""
    made = _Maker()
    kinds = {kind.__name__: made.document(kind) for kind in schema.KINDS}
    of_kind = [
        {"if": {"properties": {"kind": {"const": name}}, "required": ["kind"]}, "then": {"$ref": f"#/$defs/{name}"}}
        for name in (*kinds, "List")
    ]
    listed = {"apiVersion": {"const": "v1"}, "kind": True, "metadata": True}
    return {
        "$schema": DIALECT,
        "title": f"A document of meshproxy, {API_VERSION}",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"kind": {"enum": [*kinds, "List"]}},
        "allOf": of_kind,
        "$defs": made.defs
        | kinds
        | {"List": _object(listed | {"items": {"type": "array", "items": {"$ref": "#"}}}, ["items"])},
    }


def _object(properties: Schema, required: list[str], text: str = "") -> Schema:
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        made["required"] = required
    return {"description": text} | made if text else made


class _Maker:
    """Makes the schema of types, and of each struct once."""

    def __init__(self) -> None:
        self.defs: Schema = {}

    def document(self, kind: type[Struct]) -> Schema:
        info = inspect.type_info(kind)
        assert isinstance(info, inspect.StructType)
        parts = {field.encode_name: self._of(field.type) for field in info.fields}
        properties = {
            "apiVersion": {"const": API_VERSION},
            "kind": {"const": kind.__name__},
            "metadata": parts["metadata"],
            "spec": parts["spec"],
            "status": {"description": "What the control plane says of it.", "type": "object"},
        }
        return _object(properties, ["apiVersion", "kind", "metadata", "spec"], _text(kind))

    def _of(self, kind: inspect.Type) -> Schema:
        match kind:
            case inspect.StructType():
                return self._struct(kind)
            case inspect.VarTupleType():
                return {"type": "array", "items": self._of(kind.item_type)} | (
                    {"minItems": kind.min_length} if kind.min_length else {}
                )
            case inspect.DictType():
                return {"type": "object", "additionalProperties": self._of(kind.value_type)}
            case inspect.UnionType():
                return {"anyOf": [self._of(each) for each in kind.types]}
            case inspect.NoneType():
                return {"type": "null"}
            case inspect.AnyType():
                return {}
            case inspect.Metadata() if _is_plain(kind):
                return self._of(kind.type)
            case _:
                return _value(crds.type_schema(kind))

    def _struct(self, info: inspect.StructType) -> Schema:
        name = info.cls.__name__
        if name not in self.defs:
            self.defs[name] = {}  # a struct may be inside itself
            texts = {field.name: field.text for field in described_fields(info.cls)}
            properties: Schema = {
                field.encode_name: {"description": texts[field.encode_name]} | self._of(field.type)
                for field in info.fields
            }
            if info.cls is schema.Metadata:
                properties |= dict.fromkeys(sorted(SERVER_METADATA), True)
            required = [field.encode_name for field in info.fields if field.required]
            self.defs[name] = _object(properties, required, _text(info.cls))
        return {"$ref": f"#/$defs/{name}"}


def _is_plain(kind: inspect.Metadata) -> bool:
    """Its type says everything: there is no reader that takes other forms."""
    extra = kind.extra or {}
    return "read" not in extra and "type" not in extra


def _value(made: Schema) -> Schema:
    """Of the schema of a CustomResourceDefinition."""
    if _INT_OR_TEXT not in made:
        return made
    return {"type": ["number", "string"]} | {name: value for name, value in made.items() if name != _INT_OR_TEXT}


def _text(cls: type[Struct]) -> str:
    return " ".join(description(cls).split("\n\n")[0].split())
