"""Reads document files: which files a path selects, within limits, and their fingerprint. Parses nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from meshproxy.config.codes import Code
from meshproxy.config.problems import Problem
from meshproxy.config.unreadable import may_pass, not_followed, why

Paths = Sequence[str | os.PathLike[str]]

SUFFIXES = (".yaml", ".yml", ".json")
"""Of names in a folder, in any case: a `deny.YML` that nobody reads would permit."""
FILES = 1_000
FILE_BYTES = 8 << 20
TOTAL_BYTES = 32 << 20
"""Kubernetes keeps a ConfigMap below 1 MiB; 10,000 rules written out are about 2 MiB."""


class Written(msgspec.Struct, frozen=True):
    """Who has written a text last and when, as far as whoever gives the text can tell."""

    by: str
    """The owner of a file; the field manager of an object."""
    at: str
    """As RFC 3339; empty if that is not known."""
    is_software: bool
    """`by` is a program that has applied it for somebody."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file."""

    path: Path
    content: bytes
    is_named: bool
    """Given as a path itself, not found in a folder."""
    is_local: bool = True
    """A file of this host; otherwise it came from standard input."""
    root: Path | None = None
    """Where relative paths in it start; None: in its own folder."""
    edition: str = ""
    """Of an object: which of those that have had this name, and which generation. Another one may say the same."""
    written: Written | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """As problems name it."""
        return str(self.path)

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from, absolute unless it is `root`. Links are not resolved:
        those of a mounted volume change their target."""
        if self.root is not None:
            return self.root
        folder = self.path.parent  # of an absolute path, which needs no working directory: that may be gone
        return folder if folder.is_absolute() else Path.cwd() / folder


def read_file(path: Path) -> bytes:
    """Its content, as far as a byte beyond `FILE_BYTES`. Raises OSError."""
    with path.open("rb") as file:
        return file.read(FILE_BYTES + 1)


def open_regular(path: Path) -> BinaryIO:
    """Open a file that is read again and again, without waiting for anybody: the reader of a named pipe waits until
    somebody writes to it, and with it whoever reads in the event loop. Raises OSError, also of what is no regular file.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_files(paths: Paths, problems: list[Problem], read: Callable[[Path], bytes] = read_file) -> list[Source]:
    """Every file that the paths select, each once. Files that cannot be read are added to `problems`.

    A folder selects its `*.yaml`, `*.yml` and `*.json` files, sorted by name, without its sub-folders. Names that
    begin with a dot are skipped, so the files of a mounted ConfigMap (`x.yaml -> ..data/x.yaml`) are read once.

    Args:
        read: as `read_file`.
    """

    def wrong(path: Path, message: str, code: Code = Code.UNREADABLE) -> None:
        problems.append(Problem(str(path), 0, "", "", message, code))

    sources: list[Source] = []
    seen: set[str] = set()
    left = TOTAL_BYTES
    for path, real, is_named in _expand(paths, wrong):
        if real in seen:
            continue
        seen.add(real)
        if len(seen) > FILES:
            wrong(path, f"more than {FILES:,} files")
            break
        try:
            content = read(path)
        except OSError as error:
            wrong(path, *_unread(path, error))
            continue
        if stale := not_followed(path):
            wrong(path, stale)
            continue
        left -= len(content)
        if not content and path.is_fifo():
            wrong(path, "a pipe with nothing in it: it can be read once, so name a file where documents are read again")
        elif not content and not is_named:
            # A file that is overwritten is empty for a moment: without its roles and bindings everybody is permitted.
            wrong(path, "empty: it may be about to be written. Remove it if it is to hold nothing")
        elif len(content) > FILE_BYTES:
            wrong(path, f"larger than {FILE_BYTES >> 20} MiB")
        elif left < 0:
            wrong(path, f"all files together are larger than {TOTAL_BYTES >> 20} MiB")
            break
        else:
            sources.append(Source(path, content, is_named))
    return sources


def _unread(path: Path, error: OSError | ValueError) -> tuple[str, Code]:
    """What to say of it, and whether that may pass."""
    if not isinstance(error, OSError):
        return f"cannot be read: {error}", Code.UNREADABLE
    return f"cannot be read: {why(path, error)}", Code.NOT_LOADED if may_pass(error) else Code.UNREADABLE


def _expand(paths: Paths, wrong: Callable[..., None]) -> Iterator[tuple[Path, str, bool]]:
    """Every file, its real path, and whether it is one of `paths`. No file of a folder costs a system call."""
    for named in paths:
        path = Path(named)
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                yield path, os.path.realpath(path), True
                continue
            inside = documents_in(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            wrong(path, *_unread(path, error))
            continue
        files = [each for each in inside if _is_document(each)]
        if not files:
            _, inner, _ = next(os.walk(path), ("", [], []))  # which never raises
            folders = sorted(name for name in inner if not name.startswith("."))
            hint = f": sub-folders are not read, name them ({', '.join(folders[:8])})" if folders else ""
            wrong(path, not_followed(path) or f"no *.yaml, *.yml or *.json in this folder{hint}")
        folder = os.path.realpath(path)
        for each in files:
            real = os.path.realpath(each) if each.is_symlink() else f"{folder}{os.sep}{each.name}"
            yield Path(each), real, False


def _is_document(entry: os.DirEntry[str]) -> bool:
    """Whether it is to be read. A link that leads nowhere, or where we may not go, is: reading it reports it. A folder
    or a pipe named x.yaml is not a document."""
    try:
        return entry.is_file() or not Path(entry).exists()
    except OSError:
        return True


def is_read(name: str) -> bool:
    """Whether a file of this name in a folder is read."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def documents_in(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder whose names are a document's, sorted. Raises OSError or ValueError."""
    with os.scandir(folder) as entries:
        inside = [each for each in entries if is_read(each.name)]
    return sorted(inside, key=lambda each: each.name)


def files_of(paths: Paths) -> Iterator[Path]:
    """Every path, and the documents in those that are folders, for a `FileWatch`. What cannot be listed is left to
    `read_files` to report."""
    for path in map(Path, paths):
        yield path
        with suppress(OSError):  # a file, or a folder that is gone
            yield from map(Path, documents_in(path))


def digest(sources: Iterable[Source]) -> str:
    """SHA-256 over the contents in order, 64 hexadecimal digits."""
    whole = hashlib.sha256()
    for source in sources:
        whole.update(len(source.content).to_bytes(8, "big"))
        whole.update(source.content)
    return whole.hexdigest()
