"""Values as expressions of CEL, the Common Expression Language of Kubernetes."""

from __future__ import annotations

import json
from typing import Any


def text(value: str) -> str:
    """A text literal."""
    return json.dumps(value, ensure_ascii=False)


def literal(value: Any) -> str:
    """A value of JSON. What mappings and lists hold is `dyn`: they must be of one type otherwise."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{text(key)}: dyn({literal(each)})" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(f"dyn({literal(each)})" for each in value) + "]"
    if isinstance(value, str):
        return text(value)
    return json.dumps(value)


def operation(op: str, path: str, value: str) -> str:
    """An operation of a JSON patch.

    Args:
        op: `add` or `replace`.
        path: an expression of text.
        value: an expression.
    """
    return f"JSONPatch{{op: {text(op)}, path: {path}, value: {value}}}"
