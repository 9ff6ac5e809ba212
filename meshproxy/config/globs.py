"""Globs over model names: `*` is any run of characters, also none; `?` is exactly one; everything else matches
itself.

Not `fnmatch`, whose brackets are a class: model names may hold any character, and a rule that reads `[` in two ways is
a hole.
"""

from __future__ import annotations

import re
from collections.abc import Callable


def is_literal(pattern: str) -> bool:
    """The pattern matches one name only: itself."""
    return "*" not in pattern and "?" not in pattern


def compile_glob(pattern: str) -> Callable[[str], object]:
    """A predicate over names, true when the whole name matches. Case matters; line breaks are characters like any
    other.

    Each run between two stars is an atomic group: once found it is not looked for again further right, so a hostile
    name costs (stars x length) and never more. The leftmost place of a run is always a right one, whatever follows it.
    """
    head, *runs = pattern.split("*")
    expression = _run(head)
    if runs:
        *inner, tail = runs
        expression += "".join(f"(?>.*?{_run(run)})" for run in inner if run) + f".*{_run(tail)}"
    return re.compile(expression, re.DOTALL).fullmatch


def specificity(pattern: str) -> tuple[bool, int, str]:
    """A sort key: of two patterns that match the same name, the greater one says more about it. Literals are greatest,
    then counts how many characters are fixed (`?` counts as one); the text itself breaks ties, so that the order never
    depends on the order of documents."""
    return is_literal(pattern), len(pattern.replace("*", "")), pattern


def _run(text: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in text)
