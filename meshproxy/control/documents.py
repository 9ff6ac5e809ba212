"""The documents of the mesh: read from files, checked as far as that is possible without a sidecar, and handed to all
who wait for a newer set."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from meshproxy.config.codes import Code
from meshproxy.config.files import digest
from meshproxy.config.load import named, parse_set
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.control_api import DocumentSet

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

PERIOD = 0.1
"""Seconds between two looks at the files."""
SET_BYTES = 16 << 20
"""Of one set: what a sidecar receives at once."""


def read_set(paths: Sequence[str]) -> DocumentSet:
    """The documents in files and folders.

    Raises:
        ConfigError: with all problems.
    """
    parsed, sources = parse_set(paths, is_partial=True)
    where = named(paths)
    if parsed.is_whole and not any(each.kind == "MeshConfig" for each in parsed.placed):
        parsed.problems.append(Problem(where, 0, "", "", "there is no MeshConfig", Code.MISSING_DOCUMENT))
    for each in parsed.placed:
        if each.kind == "Sidecar":
            message = "a sidecar reads its own document from a file of its own"
            parsed.problems.append(each.at(each.node, "", message, Code.CONFLICTING_FIELDS))
    text = "\n---\n".join(source.content.decode("utf-8-sig", "replace") for source in sources)
    if len(text) > SET_BYTES:
        parsed.problems.append(Problem(where, 0, "", "", f"larger than {SET_BYTES >> 20} MiB", Code.UNREADABLE))
    parsed.raise_problems()
    return DocumentSet(digest(sources), text)


class MeshDocuments:
    """The set in force.

    Attributes:
        current: what sidecars are given; the last good one while newer files have problems.
        problems: of the files as they are now.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Raises ConfigError."""
        self._paths = list(paths)
        self.current = read_set(self._paths)
        self.problems: tuple[str, ...] = ()
        self._changed = asyncio.Event()

    async def newer(self, version: str) -> DocumentSet:
        """The set in force, as soon as it is another version than this."""
        while self.current.version == version:
            await self._changed.wait()
        return self.current

    async def reload(self) -> None:
        """Read the files again. If anything is wrong with them, nothing changes."""
        try:
            found = await asyncio.to_thread(read_set, self._paths)
        except ConfigError as error:
            problems = tuple(str(problem) for problem in error.problems)
            if problems != self.problems:
                logger.error(
                    "documents rejected; sidecars keep the previous ones", extra={"fields": {"problems": problems}}
                )
            self.problems = problems
            return
        self.problems = ()
        if found.version != self.current.version:
            self.current = found
            logger.info("documents changed", extra={"fields": {"version": found.version}})
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
