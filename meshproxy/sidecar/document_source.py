"""Where documents come from: files now, any other source behind the same protocol."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.config.child import load_in_child
from meshproxy.config.codes import Code
from meshproxy.config.file_watch import FileWatch
from meshproxy.config.files import digest, files_of, read_files
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.sidecar.worker import NEWEST, read_documents, write_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshproxy.config.schema import Documents

logger = logging.getLogger(__name__)

SHARED_PERIOD = 0.05
"""Seconds between two looks at what the supervisor has stored."""


class DocumentSource(Protocol):
    """Delivers whole sets of documents."""

    async def load(self) -> Documents:
        """The current set, checked as a whole.

        Raises:
            ConfigError: it has problems, all of which the error lists.
        """

    def start(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever `load` may return another set than it returned last."""

    def stop(self) -> None:
        """Stop; `changed` is not called any more."""

    def applied(self, documents: Documents) -> None:
        """This set is in use now. Never raises."""

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        """What `load` gave last, or could not give, is not taken into use. Never raises. `is_to_retry`: it is not to
        blame, and `load` is to give it again."""


class FileDocuments:
    """Documents in files and folders, read in a child process (`DocumentSource`)."""

    def __init__(self, paths: Sequence[str], watch: FileWatch | None = None, *, in_use: str = "") -> None:
        """
        Args:
            watch: of the files, from before they were read; None: they are read later, or others have read them.
            in_use: the fingerprint of what others have read at some time, and is in use.
        """
        self._paths = list(paths)
        self._watch = watch or FileWatch(lambda: files_of(self._paths))
        self._in_use = in_use

    async def load(self) -> Documents:
        for _ in self._watch.reads():
            documents = await load_in_child(self._paths)
        return documents

    def start(self, changed: Callable[[], None]) -> None:
        self._watch.start(changed)
        if self._in_use and digest(read_files(self._paths, [])) != self._in_use:
            changed()

    def stop(self) -> None:
        self._watch.stop()

    def applied(self, documents: Documents) -> None:
        """Files need no acknowledgement."""

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        """The log has the problems."""


class SharedDocuments:
    """What the supervisor of a worker has taken from the control plane (`DocumentSource`)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watch = FileWatch(lambda: [folder / NEWEST], SHARED_PERIOD)

    @staticmethod
    def are_in(folder: Path) -> bool:
        """Whether the supervisor has a control plane that sends documents."""
        return (folder / NEWEST).exists()

    async def load(self) -> Documents:
        self._watch.mark()
        try:
            return read_documents(self._folder, NEWEST)
        except (OSError, msgspec.DecodeError) as error:
            message = f"what the supervisor has stored cannot be read: {error}"
            raise ConfigError((Problem("", 0, "", "", message, Code.NOT_LOADED),)) from error

    def start(self, changed: Callable[[], None]) -> None:
        self._watch.start(changed)

    def stop(self) -> None:
        self._watch.stop()

    def applied(self, documents: Documents) -> None:
        """The supervisor has acknowledged them."""

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        """The log has the problems."""


class LastGoodDocuments:
    """Any source, with the set that was applied last stored on disk (`DocumentSource`).

    A process that starts while its source has nothing usable starts from the stored set (`worker.read_documents`).
    """

    def __init__(self, source: DocumentSource, folder: Path) -> None:
        self._source = source
        self._folder = folder

    async def load(self) -> Documents:
        return await self._source.load()

    def start(self, changed: Callable[[], None]) -> None:
        self._source.start(changed)

    def stop(self) -> None:
        self._source.stop()

    def applied(self, documents: Documents) -> None:
        """Store the set. A failure is logged: it must not stop a configuration that is already in use."""
        self._source.applied(documents)
        try:
            write_documents(self._folder, documents)
        except OSError as error:
            logger.error(
                "configuration could not be stored; restarted workers will start from the previous one",
                extra={"fields": {"problem": str(error)}},
            )

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        self._source.refused(problems, is_to_retry=is_to_retry)
