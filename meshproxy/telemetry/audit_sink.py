"""Where the lines of the audit trail go: a file of its own, which is rotated, or standard output. Everything blocks: it
is called from the thread of `audit_writer`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from meshproxy.audit.chain import BEGINNING, LINE_BYTES, line_hash, read_head

if TYPE_CHECKING:
    from meshproxy.audit.chain import Head

FSYNC_SECONDS = 1.0
"""Between two of `fsync: interval`."""
BLOCK = 65_536
STUCK_SECONDS = 0.5
"""How long a write waits for a reader, before it says that it has written less."""

Fsync = Literal["always", "interval", "never"]


class Tail(NamedTuple):
    """The end of a trail that an earlier writer has left."""

    head: Head
    """Of its last whole line."""
    hash: str
    """What the line after that holds."""


class AuditSink(Protocol):
    """Takes lines."""

    def write(self, lines: bytes) -> int:
        """Write lines, or the rest of them. Returns how many bytes were taken, which are all of them unless nothing is
        taken for a moment. Raises OSError."""

    is_unsettled: bool
    """`settle` is to be called again after `FSYNC_SECONDS`, even if nothing is written until then."""
    lost: int
    """Lines that were taken and are not kept, since the start."""

    def settle(self, last: int) -> None:
        """What was written is whole lines, of which the last has this sequence number. Raises OSError."""

    def reopen(self) -> None:
        """The file may have been renamed. Raises OSError."""

    def close(self) -> None:
        """Nothing follows."""


class AuditStream:
    """Standard output, or a pipe: `descriptor` is owned. Other processes may write to it: a write of up to PIPE_BUF
    bytes is atomic (pipe(7))."""

    is_unsettled = False
    lost = 0

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write(self, lines: bytes) -> int:
        """As `AuditSink.write`."""
        end = min(len(lines), select.PIPE_BUF)
        if end < len(lines):
            end = lines.rfind(b"\n", 0, end) + 1 or end
        if not self._poll.poll(STUCK_SECONDS * 1_000):
            return 0
        try:
            return os.write(self._descriptor, lines[:end])
        except BlockingIOError:
            return 0

    def settle(self, last: int) -> None:
        """There is nothing to settle."""

    def reopen(self) -> None:
        """It has no name."""

    def close(self) -> None:
        """As `AuditSink.close`."""
        os.close(self._descriptor)


class AuditFile:
    """A file that no other process writes, and those before it: `audit.jsonl`, `audit.jsonl.000000123456`, where the
    number is that of the last line in it.

    Attributes:
        tail: what an earlier writer has left; None if there is nothing.
        torn: what was behind that: the beginning of a line that was never whole. It has been cut off.
        set_aside: how a file that had this name and is no trail is called now; None: there was none.
        unreadable: the file before, if its end is no line of a trail: the chain in it cannot be gone on with.

    Raises:
        OSError: it cannot be opened, or another process writes it.
    """

    lost = 0

    def __init__(self, path: Path, *, fsync: Fsync = "interval", rotate_bytes: int = 0, keep: int = 0) -> None:
        """
        Args:
            path: created if it does not exist.
            rotate_bytes: a file is ended when it has so many bytes; 0: never.
            keep: how many ended files are kept; 0: all.
        """
        self._path = path
        self._fsync = fsync
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._synced = 0.0
        self.is_unsettled = False
        self._descriptor, self._size = _open(path)
        self.tail: Tail | None = None
        self.torn = b""
        self.set_aside: Path | None = None
        self.unreadable: Path | None = None
        try:
            self._read_tail()
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, lines: bytes) -> int:
        """As `AuditSink.write`."""
        taken = os.write(self._descriptor, lines)
        self._size += taken
        self.is_unsettled = self._fsync == "interval"
        return taken

    def settle(self, last: int) -> None:
        """As `AuditSink.settle`."""
        is_due = self.is_unsettled and time.monotonic() - self._synced >= FSYNC_SECONDS
        if is_due or self._fsync == "always":
            os.fdatasync(self._descriptor)
            self._synced = time.monotonic()
            self.is_unsettled = False
        if self._rotate_bytes and self._size >= self._rotate_bytes:
            self._rotate(last)

    def reopen(self) -> None:
        """As `AuditSink.reopen`."""
        self._replace()

    def close(self) -> None:
        """As `AuditSink.close`."""
        if self._fsync != "never":
            with contextlib.suppress(OSError):
                os.fdatasync(self._descriptor)
        os.close(self._descriptor)

    def _rotate(self, last: int) -> None:
        if self._fsync != "never":
            os.fdatasync(self._descriptor)
        with contextlib.suppress(FileNotFoundError):  # it was renamed before, and the next one could not be begun
            self._path.rename(self._path.with_name(f"{self._path.name}.{last:012}"))
        self._replace()
        if self._keep:
            for old in ended_files(self._path)[: -self._keep]:
                old.unlink(missing_ok=True)

    def _replace(self) -> None:
        """Go on with what has the name now."""
        descriptor, size = _open(self._path, same_as=self._descriptor)
        if descriptor != self._descriptor:
            os.close(self._descriptor)
            self._descriptor, self._size = descriptor, size

    def _read_tail(self) -> None:
        line, self.torn = _last_line(self._descriptor, self._size)
        head = read_head(line)
        if (line and head is None) or (not line and not _may_begin_line(self.torn)):
            self.set_aside = self._path.with_name(f"{self._path.name}.other-{time.time_ns() // 1_000_000}")
            self._path.rename(self.set_aside)
            self._replace()
            self.torn = line = b""
        if self.torn:
            self._size -= len(self.torn)
            os.ftruncate(self._descriptor, self._size)
        if not line:
            # The writer may have been killed when it had ended a file, and not begun the next one.
            for ended in ended_files(self._path)[-1:]:
                with ended.open("rb") as file:
                    line, _ = _last_line(file.fileno(), ended.stat().st_size)
                head = read_head(line)
                self.unreadable = ended if head is None else None
        if head is not None:
            self.tail = Tail(head, line_hash(line))


def ended_files(path: Path) -> list[Path]:
    """The files before this one, the oldest first."""
    name = re.compile(re.escape(path.name) + r"\.\d{12,18}")
    found = [each for each in path.parent.iterdir() if name.fullmatch(each.name)]
    return sorted(found, key=lambda each: int(each.name.rpartition(".")[2]))


def _open(path: Path, same_as: int | None = None) -> tuple[int, int]:
    """The descriptor of a file, locked, and its size. `same_as`: returned if it is of the file that has this name."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o640)
    try:
        state = os.fstat(descriptor)
        if same_as is not None and os.path.samestat(state, os.fstat(same_as)):
            os.close(descriptor)
            return same_as, state.st_size
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another process writes {path}: give each an audit log of its own") from None
        return descriptor, state.st_size
    except OSError:
        os.close(descriptor)
        raise


def is_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, which has no end that can be read."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _last_line(descriptor: int, size: int) -> tuple[bytes, bytes]:
    """The last whole line of a file, with its line feed, and what comes after it; what is longer than a line can be is
    taken for the latter."""
    text = b""
    at = size
    while at > 0 and len(text) <= LINE_BYTES:
        start = max(0, at - BLOCK)
        text = os.pread(descriptor, at - start, start) + text
        at = start
        end = text.rfind(b"\n") + 1
        if end and ((begin := text.rfind(b"\n", 0, end - 1) + 1) or not at):
            return text[begin:end], text[end:]
    return b"", text


def _may_begin_line(text: bytes) -> bool:
    return text.startswith(BEGINNING) or BEGINNING.startswith(text)
