"""Where the control plane's documents come from: a folder of files, or anything else that gives texts with a name."""

from __future__ import annotations

import asyncio
import pwd
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from meshproxy.config.file_watch import FileWatch
from meshproxy.config.files import Source, Written, files_of, read_file, read_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshproxy.config.problems import Problem

PERIOD = 0.05
"""Seconds between two looks at the files."""


def _written(path: Path) -> Written | None:
    """The owner of a file, and when it was written. Whoever may write the file may be another one."""
    try:
        found = path.stat()
    except OSError:
        return None
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    at = datetime.fromtimestamp(found.st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Written(owner, at, is_software=False)


class DocumentSource(Protocol):
    """Gives texts with documents in them, and says when they change."""

    name: str
    """What to call it in a problem that none of its texts has."""
    is_whole: bool
    """Its texts are taken together, or not at all. Otherwise each has an author of its own (`selection`)."""

    @property
    def problem(self) -> str:
        """Why it cannot be read now; empty if it can. What was read before stays."""

    async def read(self) -> tuple[Mapping[str, Source | None], Sequence[Problem]]:
        """The texts that are different from those at the last read, by name, and what cannot be read. None: it is gone.
        A text is one file, or one object of an API server: its name is where problems are said to be."""

    def start(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `read` may give something else than it gave last."""

    def stop(self) -> None:
        """Stop; `changed` is not called any more."""


class Files:
    """Files and folders (`DocumentSource`)."""

    problem = ""  # each file has its own
    is_whole = True

    def __init__(self, paths: Sequence[str]) -> None:
        self.name = ", ".join(paths)
        self._paths = list(paths)
        self._watch = FileWatch(lambda: files_of(self._paths), PERIOD)
        self._known: dict[Path, tuple[object, bytes]] = {}
        """What was read last, with the state of the file at that time."""
        self._sources: dict[str, Source] = {}

    async def read(self) -> tuple[Mapping[str, Source | None], Sequence[Problem]]:
        changed: dict[str, Source | None] = {}
        for _ in self._watch.reads():
            found, problems = await asyncio.to_thread(self._read)
            changed |= found
        if any(problem.may_pass for problem in problems):
            self._watch.again()
        return changed, problems

    def _read(self) -> tuple[dict[str, Source | None], list[Problem]]:
        problems: list[Problem] = []
        found = read_files(self._paths, problems, self._content)
        before = self._sources
        self._sources = {source.name: self._same(source) for source in found}
        present = {source.path for source in found}
        self._known = {path: known for path, known in self._known.items() if path in present}
        gone = dict.fromkeys(before.keys() - self._sources.keys())
        return gone | {name: each for name, each in self._sources.items() if before.get(name) is not each}, problems

    def _content(self, path: Path) -> bytes:
        state = self._watch.seen.get(path)
        known = self._known.get(path)
        if known is not None and known[0] == state:
            return known[1]
        content = read_file(path)
        if state is not None:  # it has come since: the next look finds it
            self._known[path] = state, content
        return content

    def _same(self, source: Source) -> Source:
        """As it was given before, if it has not changed. Its paths are those of the sidecars' hosts."""
        before = self._sources.get(source.name)
        if before is not None and before.content is source.content:
            return before
        return replace(source, root=Path(), written=_written(source.path))

    def start(self, changed: Callable[[], None]) -> None:
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()
