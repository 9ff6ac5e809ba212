"""The documents of the mesh: read from their source, checked as far as that is possible without a sidecar, and kept as
they are sent. A change costs what it takes to read the texts that have changed, and to check names across all."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from meshproxy.config.check import check_set
from meshproxy.config.codes import Code
from meshproxy.config.parse import PROBLEMS, Parsed, parse
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.sent import Total
from meshproxy.control.scope import Change, Held

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


class MeshDocuments:
    """The set in force: the last good one while newer texts have problems.

    Attributes:
        held: its documents by `Kind/name`.
        version: of all of them (`sent.Total`).
        problems: of the texts as they are now.
        on_change: called with the changes whenever another set is in force.
    """

    def __init__(self, source: DocumentSource) -> None:
        self._source = source
        self._texts: dict[str, _Text] = {}
        """As they were read last, by name."""
        self._in_force: dict[str, _Text] = {}
        self._total = Total()
        self.held: Mapping[str, Held] = {}
        self.problems: tuple[Problem, ...] = ()
        self.on_change: Callable[[Sequence[Change]], None] = lambda changes: None

    @property
    def version(self) -> str:
        return self._total.version

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
        try:
            while True:
                await changed.wait()
                changed.clear()
                await self.reload()
        finally:
            self._source.stop()

    async def reload(self) -> None:
        """Read the documents again. If anything is wrong with them, nothing changes."""
        try:
            await self._read()
        except ConfigError as error:
            if error.problems != self.problems:
                fields = {"problems": [str(problem) for problem in error.problems]}
                logger.error("documents rejected; sidecars keep the previous ones", extra={"fields": fields})
            self.problems = error.problems
        else:
            self.problems = ()

    async def _read(self) -> None:
        """Raises ConfigError."""
        sources, problems = await self._source.read()
        self._texts = await asyncio.to_thread(self._examine, sources, problems)
        changes = self._take(self._texts)
        if changes:
            logger.info("documents changed", extra={"fields": {"version": self.version, "changed": len(changes)}})
            self.on_change(changes)

    def _examine(self, sources: Sequence[Source], problems: Sequence[Problem]) -> dict[str, _Text]:
        """Raises ConfigError."""
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
        found = [*problems, *(problem for text in texts.values() for problem in text.parsed.problems)]
        is_whole = not problems and all(text.parsed.is_whole for text in texts.values())
        placed = [each for text in texts.values() for each in text.parsed.placed]
        where = self._source.name
        found += islice(check_set(placed, is_whole=is_whole, where=where, is_partial=True), PROBLEMS)
        if is_whole and not any(each.kind == "MeshConfig" for each in placed):
            found.append(Problem(where, 0, "", "", "there is no MeshConfig", Code.MISSING_DOCUMENT))
        if sum(len(source.content) for source in sources) > SET_BYTES:
            found.append(Problem(where, 0, "", "", f"larger than {SET_BYTES >> 20} MiB", Code.UNREADABLE))
        if found:
            raise ConfigError(tuple(sorted(found)))
        return texts

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
