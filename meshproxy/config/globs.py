"""Globs over model names: `*` is any run of characters, also none; `?` is exactly one; everything else matches
itself.

Not `fnmatch`, whose brackets are a class: model names may hold any character, and a rule that reads `[` in two ways is
a hole.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

MEMO_ENTRIES = 1_024
"""Names of which `AnyOf` remembers whether they match."""

T = TypeVar("T")


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


class AnyOf(dict[str, bool]):
    """Whether a name matches one of some globs, by name. Callers choose names: `MEMO_ENTRIES` are remembered."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._globs = [compile_glob(pattern) for pattern in patterns]

    def __missing__(self, name: str) -> bool:
        if len(self) >= MEMO_ENTRIES:
            self.clear()
        found = self[name] = any(matches(name) for matches in self._globs)
        return found


class Patterns(Generic[T]):
    """What patterns say about names. What is said about one name is found without trying all of them.

    Literals are looked up. Of globs only those are tried whose head (what is before the first wildcard) the name begins
    with, and, of those without one, whose tail it ends in.
    """

    __slots__ = ("_heads", "_literals", "_tails")

    def __init__(self, said: Mapping[str, T]) -> None:
        """
        Args:
            said: by pattern.
        """
        self._literals = {pattern: value for pattern, value in said.items() if is_literal(pattern)}
        globs = [pattern for pattern in said if not is_literal(pattern)]
        heads = [(_head(pattern), pattern) for pattern in globs if _head(pattern)]
        tails = [(_head(pattern[::-1]), pattern) for pattern in globs if not _head(pattern)]
        self._heads = _Heads((head, _predicate(pattern), said[pattern]) for head, pattern in heads)
        self._tails = _Heads((tail, _predicate(pattern), said[pattern]) for tail, pattern in tails)

    def about(self, name: str) -> list[T]:
        """What the patterns say that match the name; what the literal says is first."""
        found = [self._literals[name]] if name in self._literals else []
        self._heads.collect(name, name, found)
        self._tails.collect(name[::-1], name, found)
        return found


class _Heads(Generic[T]):
    """Predicates by what a text must begin with.

    Heads that a text begins with begin with each other. Sorted, the longest of them is the last one that is not after
    the text, or is a head of that one.
    """

    __slots__ = ("_entries", "_heads", "_shorter")

    def __init__(self, entries: Iterable[tuple[str, Callable[[str], object] | None, T]]) -> None:
        by_head: dict[str, list[tuple[Callable[[str], object] | None, T]]] = {}
        for head, matches, value in entries:
            by_head.setdefault(head, []).append((matches, value))
        self._heads = sorted(by_head)
        self._entries = [by_head[head] for head in self._heads]
        self._shorter: list[int] = []
        """Of each, the place of the longest other one that it begins with; -1: none."""
        open_places: list[int] = []
        for place, head in enumerate(self._heads):
            while open_places and not head.startswith(self._heads[open_places[-1]]):
                open_places.pop()
            self._shorter.append(open_places[-1] if open_places else -1)
            open_places.append(place)

    def collect(self, text: str, name: str, found: list[T]) -> None:
        """Append what is said by predicates that hold of the name and whose head the text begins with."""
        place = bisect_right(self._heads, text) - 1
        while place >= 0:
            if text.startswith(self._heads[place]):
                for matches, value in self._entries[place]:
                    if matches is None or matches(name):
                        found.append(value)
            place = self._shorter[place]


def _head(pattern: str) -> str:
    return _WILDCARD.split(pattern, maxsplit=1)[0]


def _predicate(pattern: str) -> Callable[[str], object] | None:
    """None where a head or a tail says it all."""
    return (
        None
        if pattern.count("*") == 1 and (pattern[0] == "*" or pattern[-1] == "*") and "?" not in pattern
        else compile_glob(pattern)
    )


_WILDCARD = re.compile(r"[*?]")


def _run(text: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in text)
