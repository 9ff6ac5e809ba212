"""The documents of the mesh: read from their source, checked as far as that is possible without a sidecar, and kept as
they are sent. A change costs what it takes to read the texts that have changed, and to check what refers to them."""

from __future__ import annotations

import asyncio
import bisect
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import KINDS
from meshproxy.config.sent import Total
from meshproxy.control.scope import Change, Held
from meshproxy.control.selection import select
from meshproxy.control.texts import Text, TextSet

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from meshproxy.config.files import Source
    from meshproxy.config.sent import SentKind
    from meshproxy.control.sources import DocumentSource

logger = logging.getLogger(__name__)


def _rank(name: str) -> int:
    """Documents refer to those of lower rank only. The name begins with the kind."""
    return [kind.__name__ for kind in KINDS].index(name.partition("/")[0])


@dataclass(frozen=True, slots=True)
class _Examined:
    """What has become of texts that are different, by name; None for those that are gone."""

    newest: dict[str, Text | None]
    """As they were read last, also those that were held back before."""
    taken: dict[str, Text | None]
    """Of the same names, what can be used."""
    problems: tuple[Problem, ...]
    is_usable: bool


class MeshDocuments:
    """The set in force: the last good one while newer texts have problems.

    Attributes:
        held: its documents by `Kind/name`.
        version: of all of them (`sent.Total`).
        problems: of the texts as they are now.
        held_back: the names of the texts of which another version is in force than the newest, or none.
        listeners: called with the changes whenever another set is in force.
        on_rejected: called with the problems of newer texts, once for each set of them.
    """

    def __init__(self, source: DocumentSource) -> None:
        self._source = source
        self._reading = asyncio.Lock()
        self._texts: dict[str, Text] = {}
        """As they were read last, by name."""
        self._in_force: dict[str, Text] = {}
        self._checked = TextSet(source.name)
        """Those in force, and others while they are examined."""
        self._namesakes: dict[str, list[str]] = {}
        """The names of the texts that have one name but for their folder, in order."""
        self._total = Total()
        self._held: dict[str, Held] = {}
        self.held_back: Collection[str] = frozenset()
        self.problems: tuple[Problem, ...] = ()
        self.listeners: list[Callable[[Sequence[Change]], None]] = []
        self.on_rejected: list[Callable[[Sequence[Problem]], None]] = []

    @property
    def held(self) -> Mapping[str, Held]:
        return self._held

    @property
    def documents(self) -> list[SentKind]:
        """Those in force."""
        return [each.document for each in self._held.values()]

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
    def text(self) -> str:
        """All texts of the set in force, as one of YAML."""
        texts = sorted(self._in_force.values(), key=lambda text: text.order)
        return "\n---\n".join(text.source.content.decode("utf-8-sig", "replace") for text in texts)

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
            for tell in self.on_rejected:
                tell(problems)
        self.problems = problems

    async def _read(self) -> tuple[Problem, ...]:
        """Read the documents, and put what can be used into force. Returns the problems of what cannot.

        Raises:
            ConfigError: nothing can be used.
        """
        async with self._reading:
            sources, problems = await self._source.read()
            examined = await asyncio.to_thread(self._examine, sources, problems)
            for name, text in examined.newest.items():
                _put(self._texts, name, text)
            changes = self._take(examined.taken)
            self.held_back = {name for name in examined.newest if self._texts.get(name) is not self._in_force.get(name)}
        if changes:
            logger.info("documents changed", extra={"fields": {"version": self.version, "changed": len(changes)}})
            for listener in self.listeners:
                listener(changes)
        if not examined.is_usable:
            raise ConfigError(examined.problems)
        return examined.problems

    def _examine(self, sources: Mapping[str, Source | None], problems: Sequence[Problem]) -> _Examined:
        """What can be used of texts that are different, and what is wrong with the others."""
        newest = {name: self._texts.get(name) for name in self.held_back} | self._parse(sources)
        in_force = {name: self._in_force.get(name) for name in newest}
        taken = newest
        self._checked.put(newest)
        found = missing = (*problems, *self._checked.problems())
        if found and not self._source.is_whole:
            taken = self._select(newest, in_force)
            self._checked.put(taken)
            missing = self._checked.problems()  # of the set, which is no text's
            if not self._in_force and not _is_harmless(newest, taken):
                missing = found
        if missing:
            taken = in_force
            self._checked.put(in_force)
        return _Examined(newest, taken, tuple(sorted({*found, *missing})), not missing)

    def _parse(self, sources: Mapping[str, Source | None]) -> dict[str, Text | None]:
        """Read texts that are different, and those that have another place now."""
        # In the order of all texts, whatever the source gives first: who reads them may take the first ones.
        newest = dict(sorted(sources.items(), key=lambda item: (item[0].rpartition("/")[2], item[0])))
        for name, source in sources.items():
            known = self._texts[name].source if name in self._texts else None
            if (source is None) == (known is None):
                continue
            path = (source or known).path  # type: ignore[union-attr]
            namesakes = self._namesakes.setdefault(path.name, [])
            if source is not None:
                bisect.insort(namesakes, name)
            else:
                namesakes.remove(name)
                if not namesakes:
                    del self._namesakes[path.name]
            newest |= {each: self._texts[each].source for each in namesakes if each not in sources}
        return {name: self._read_text(name, source) for name, source in newest.items()}

    def _read_text(self, name: str, source: Source | None) -> Text | None:
        if source is None:
            return None
        order = f"{source.path.name}\0{bisect.bisect_left(self._namesakes[source.path.name], name):03}"
        before = self._texts.get(name)
        is_known = before is not None and before.source is source and before.order == order
        return before if is_known else Text.read(source, order)

    def _select(self, newest: Mapping[str, Text | None], in_force: Mapping[str, Text | None]) -> dict[str, Text | None]:
        """Of texts that are different, the newest version of each with which the set has no problems."""

        def blame(texts: Mapping[str, Text]) -> Collection[str]:
            self._checked.put({name: texts.get(name) for name in newest})
            return self._checked.blamed()

        taken = select(_present(newest), _present(in_force), blame, _rank)
        return {name: taken.get(name) for name in newest}

    def _take(self, texts: Mapping[str, Text | None]) -> list[Change]:
        """Put texts into force. Returns what is different from before."""
        old = [before for name, text in texts.items() if (before := self._in_force.get(name)) and before is not text]
        new = [text for name, text in texts.items() if text and self._in_force.get(name) is not text]
        new.sort(key=lambda text: text.order)
        known = {key: self._held.get(key) for text in (*old, *new) for key in text.held}
        for text in old:
            for key in text.held:
                self._held.pop(key, None)
        for text in new:
            for key, held in text.held.items():
                was = known[key]
                self._held[key] = was if was is not None and was.digest == held.digest else held
        for name, taken in texts.items():
            _put(self._in_force, name, taken)
        changes = [Change(key, was, now) for key, was in known.items() if (now := self._held.get(key)) is not was]
        for change in changes:
            self._total = self._total.changed(
                change.after.digest if change.after else 0, change.before.digest if change.before else 0
            )
        return changes


def _is_harmless(newest: Mapping[str, Text | None], taken: Mapping[str, Text | None]) -> bool:
    """Whether callers cannot do more without what is left out of the first set."""
    is_open = not any(each.kind == "ModelRole" for text in _present(taken).values() for each in text.parsed.placed)
    return all(text.is_harmless(is_open=is_open) for name, text in _present(newest).items() if taken[name] is None)


def _present(texts: Mapping[str, Text | None]) -> dict[str, Text]:
    return {name: text for name, text in texts.items() if text is not None}


def _put(texts: dict[str, Text], name: str, text: Text | None) -> None:
    if text is None:
        texts.pop(name, None)
    else:
        texts[name] = text
