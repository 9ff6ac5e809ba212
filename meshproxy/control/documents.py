"""The documents of the mesh: read from their source, checked as far as that is possible without a sidecar, and kept as
they are sent. A change costs what it takes to read the texts that have changed, and to check names across all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from meshproxy.config.check import check_set, find
from meshproxy.config.codes import Code
from meshproxy.config.parse import PROBLEMS, Parsed, parse
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import KINDS
from meshproxy.config.sent import Total
from meshproxy.control.scope import Change, Held
from meshproxy.control.selection import select

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from meshproxy.config.check import Placed
    from meshproxy.config.files import Source
    from meshproxy.control.sources import DocumentSource

logger = logging.getLogger(__name__)

SET_BYTES = 16 << 20
"""Of all texts: what a sidecar may receive at once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """One text as it was read."""

    source: Source
    parsed: Parsed
    order: str
    """Of its documents among those of other texts: not its folder, which another control plane may call otherwise."""
    held: dict[str, Held] = field(default_factory=dict)
    """Its documents; empty if it has problems."""

    @classmethod
    def read(cls, source: Source, order: str) -> _Text:
        parsed = Parsed()
        parse(source, parsed)
        for each in parsed.placed:
            if each.kind == "Sidecar":
                message = "a sidecar reads its own document from a file of its own"
                parsed.problems.append(each.at(each.node, "", message, Code.CONFLICTING_FIELDS))
        text = cls(source, parsed, order)
        if not parsed.problems:
            for place, each in enumerate(parsed.placed):
                held = Held.of(each.document, f"{order}\0{place:06}")
                text.held[held.key] = held
        return text

    def is_harmless(self, *, is_open: bool) -> bool:
        """Whether callers cannot do more without it. `is_open`: without it there is no ModelRole."""

        def is_harmless(each: Placed) -> bool:
            if each.kind == "ModelRoleBinding" and not is_open:
                action = find(each.node, "spec", "action")
                return action is None or action.value in ("allow", "audit")
            return each.kind in ("ModelServer", "ModelRoute", "Sidecar")

        return bool(self.parsed.placed) and all(map(is_harmless, self.parsed.placed))


def _rank(name: str) -> int:
    """Documents refer to those of lower rank only. The name begins with the kind."""
    return [kind.__name__ for kind in KINDS].index(name.partition("/")[0])


class MeshDocuments:
    """The set in force: the last good one while newer texts have problems.

    Attributes:
        held: its documents by `Kind/name`.
        version: of all of them (`sent.Total`).
        problems: of the texts as they are now.
        listeners: called with the changes whenever another set is in force.
    """

    def __init__(self, source: DocumentSource) -> None:
        self._source = source
        self._texts: dict[str, _Text] = {}
        """As they were read last, by name."""
        self._in_force: dict[str, _Text] = {}
        self._total = Total()
        self.held: Mapping[str, Held] = {}
        self.problems: tuple[Problem, ...] = ()
        self.listeners: list[Callable[[Sequence[Change]], None]] = []

    @property
    def version(self) -> str:
        return self._total.version

    @property
    def newest(self) -> Mapping[str, Source]:
        """The texts as they were read last, by name."""
        return {name: text.source for name, text in self._texts.items()}

    @property
    def source_problem(self) -> str:
        """Why there may be newer texts that are not known; empty if there are none."""
        return self._source.problem

    @property
    def held_back(self) -> Collection[str]:
        """The names of the texts of which another version is in force than the newest, or none."""
        names = self._texts.keys() | self._in_force.keys()
        return {name for name in names if self._texts.get(name) is not self._in_force.get(name)}

    @property
    def text(self) -> str:
        """All texts of the set in force, as one of YAML."""
        texts = (text.source.content for text in self._in_force.values())
        return "\n---\n".join(text.decode("utf-8-sig", "replace") for text in texts)

    async def first(self) -> None:
        """Read the documents. Raises ConfigError."""
        await self._read()

    async def follow(self) -> None:
        """Read the documents again whenever they change, until cancelled."""
        changed = asyncio.Event()
        self._source.start(changed.set)
        if not self.held:
            changed.set()
        try:
            while True:
                await changed.wait()
                changed.clear()
                await self.reload()
        finally:
            self._source.stop()

    async def reload(self) -> None:
        """Read the documents again. If anything is wrong with them, as little changes as the source allows."""
        try:
            problems = await self._read()
        except ConfigError as error:
            problems = error.problems
        if problems and problems != self.problems:
            fields = {"problems": [str(problem) for problem in problems], "held_back": sorted(self.held_back)}
            logger.error("documents rejected; sidecars keep the previous ones", extra={"fields": fields})
        self.problems = problems

    async def _read(self) -> tuple[Problem, ...]:
        """Read the documents, and put what can be used into force. Returns the problems of what cannot.

        Raises:
            ConfigError: nothing can be used.
        """
        sources, problems = await self._source.read()
        texts, found = await asyncio.to_thread(self._examine, sources, problems)
        changes = self._take(texts)
        if changes:
            logger.info("documents changed", extra={"fields": {"version": self.version, "changed": len(changes)}})
            for listener in self.listeners:
                listener(changes)
        return found

    def _examine(
        self, sources: Sequence[Source], problems: Sequence[Problem]
    ) -> tuple[dict[str, _Text], tuple[Problem, ...]]:
        """The texts that can be used, and what is wrong with the others. Raises ConfigError."""
        texts = {}
        namesakes: Counter[str] = Counter()
        for source in sorted(sources, key=lambda source: (source.path.name, source.name)):
            name = source.path.name
            order = f"{name}\0{namesakes[name]:03}"
            namesakes[name] += 1
            before = self._texts.get(source.name)
            is_known = before is not None and before.source is source and before.order == order
            texts[source.name] = before if is_known and before is not None else _Text.read(source, order)
        self._texts = texts  # also if something is wrong: what is right in them need not be read again
        found = (*problems, *self._problems_of(texts))
        if found and not self._source.is_whole:
            texts = self._select(texts)
            missing = self._problems_of(texts)  # of the set, which is no text's
        else:
            missing = found
        if missing:
            raise ConfigError(tuple(sorted({*found, *missing})))
        return texts, tuple(sorted(found))

    def _problems_of(self, texts: Mapping[str, _Text]) -> tuple[Problem, ...]:
        """What is wrong with texts, each by itself and all together."""
        where = self._source.name
        found = [problem for text in texts.values() for problem in text.parsed.problems]
        is_whole = all(text.parsed.is_whole for text in texts.values())
        placed = [each for text in texts.values() for each in text.parsed.placed]
        found += islice(check_set(placed, is_whole=is_whole, where=where, needed=()), PROBLEMS)
        if is_whole and not any(each.kind == "MeshConfig" for each in placed):
            found.append(Problem(where, 0, "", "", "there is no MeshConfig", Code.MISSING_DOCUMENT))
        if sum(len(text.source.content) for text in texts.values()) > SET_BYTES:
            found.append(Problem(where, 0, "", "", f"larger than {SET_BYTES >> 20} MiB", Code.UNREADABLE))
        return tuple(found)

    def _select(self, newest: Mapping[str, _Text]) -> dict[str, _Text]:
        """The newest version of each text with which the set has no problems.

        Raises:
            ConfigError: there is no set in force yet, and callers could do more without what would be left out.
        """

        def blame(texts: Mapping[str, _Text]) -> set[str]:
            return {problem.file for problem in self._problems_of(texts) if problem.file in texts}

        taken = select(newest, self._in_force, blame, _rank)
        is_open = not any(each.kind == "ModelRole" for text in taken.values() for each in text.parsed.placed)
        left_out = [text for name, text in newest.items() if name not in taken]
        if not self._in_force and not all(text.is_harmless(is_open=is_open) for text in left_out):
            raise ConfigError(tuple(sorted(self._problems_of(newest))))
        return dict(sorted(taken.items(), key=lambda item: item[1].order))

    def _take(self, texts: dict[str, _Text]) -> list[Change]:
        """Put a set into force. Returns what is different from the one before."""
        old = [text for name, text in self._in_force.items() if texts.get(name) is not text]
        new = [text for name, text in texts.items() if self._in_force.get(name) is not text]
        before, after = self.held, dict(self.held)
        for text in old:
            for key in text.held:
                after.pop(key, None)
        for text in new:
            for key, held in text.held.items():
                known = before.get(key)
                after[key] = known if known is not None and known.digest == held.digest else held
        keys = dict.fromkeys(key for text in (*old, *new) for key in text.held)
        changes = [
            Change(key, before.get(key), after.get(key)) for key in keys if before.get(key) is not after.get(key)
        ]
        for change in changes:
            self._total = self._total.changed(
                change.after.digest if change.after else 0, change.before.digest if change.before else 0
            )
        self._in_force, self.held = texts, after
        return changes
