"""Texts with documents in them: what each says, and what is wrong with a set of them that changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from meshproxy.config.checked_set import CheckedSet
from meshproxy.config.codes import Code
from meshproxy.config.parse import PROBLEMS, Parsed, parse
from meshproxy.config.places import find
from meshproxy.config.problems import Problem
from meshproxy.control.scope import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.config.check import Placed
    from meshproxy.config.files import Source

SET_BYTES = 16 << 20
"""Of all texts: what a sidecar may receive at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """One text as it was read."""

    source: Source
    parsed: Parsed
    order: str
    """Of its documents among those of other texts: not its folder, which another control plane may call otherwise."""
    held: dict[str, Held] = field(default_factory=dict)
    """Its documents; empty if it has problems."""

    @classmethod
    def read(cls, source: Source, order: str) -> Text:
        """Parse a text."""
        parsed = Parsed()
        parse(source, parsed)
        for each in parsed.placed:
            if each.kind == "Sidecar":
                message = "a sidecar reads its own document from a file of its own"
                parsed.problems.append(each.at(each.node, "", message, Code.CONFLICTING_FIELDS))
        text = cls(source, parsed, order)
        if not parsed.problems:
            for each, place in text.places().items():
                held = Held.of(each.document, place, source.written)
                text.held[held.key] = held
        return text

    def places(self) -> dict[Placed, str]:
        """Its documents, with the place of each among those of all texts."""
        return {each: f"{self.order}\0{place:06}" for place, each in enumerate(self.parsed.placed)}

    def is_harmless(self, *, is_open: bool) -> bool:
        """Whether callers cannot do more without it. `is_open`: without it there is no ModelRole."""

        def is_harmless(each: Placed) -> bool:
            if each.kind == "ModelRoleBinding" and not is_open:
                action = find(each.node, "spec", "action")
                return action is None or action.value in ("allow", "audit")
            return each.kind in ("ModelServer", "ModelRoute", "ModelRollout", "Sidecar")

        return bool(self.parsed.placed) and all(map(is_harmless, self.parsed.placed))


class TextSet:
    """Texts by name, and what is wrong with them, each by itself and all together. A change costs what it touches."""

    def __init__(self, where: str) -> None:
        """`where`: what to call the set in a problem that no text has."""
        self._where = where
        self._texts: dict[str, Text] = {}
        self._documents = CheckedSet()
        self._faulty: dict[str, Text] = {}
        """Those with problems of their own."""
        self._bytes = 0

    def put(self, texts: Mapping[str, Text | None]) -> None:
        """Replace texts; None takes one out."""
        gone: list[Placed] = []
        come: dict[Placed, str] = {}
        for name, text in texts.items():
            before = self._texts.get(name)
            if before is text:
                continue
            if before is not None:
                gone += before.parsed.placed
                self._bytes -= len(self._texts.pop(name).source.content)
                self._faulty.pop(name, None)
            if text is not None:
                come |= text.places()
                self._bytes += len(text.source.content)
                self._texts[name] = text
                if text.parsed.problems:
                    self._faulty[name] = text
        self._documents.change(gone, come)

    def blamed(self) -> set[str]:
        """The names of those that have problems, alone or with others."""
        return {problem.file for problem in self.problems()} & self._texts.keys()

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with them, in the order of their names and lines."""
        is_whole = all(text.parsed.is_whole for text in self._faulty.values())
        found = [problem for text in self._faulty.values() for problem in text.parsed.problems]
        found += islice(self._documents.problems(is_whole=is_whole), PROBLEMS)
        if is_whole and not self._documents.has_any("MeshConfig"):
            found.append(Problem(self._where, 0, "", "", "there is no MeshConfig", Code.MISSING_DOCUMENT))
        if self._bytes > SET_BYTES:
            found.append(Problem(self._where, 0, "", "", f"larger than {SET_BYTES >> 20} MiB", Code.UNREADABLE))
        return tuple(sorted(found))
