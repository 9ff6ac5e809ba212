"""Writes lines to a file descriptor: buffered, in batches, from the event loop, and without ever blocking on a reader.

Lines wait in a bounded buffer while the descriptor accepts nothing (a full pipe, a full disk). Beyond the bound new
lines are dropped and counted. The drop is logged as soon as lines are accepted again, not before: the process log may
go to the same pipe. Buffered lines are written first and never truncated.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import time
from pathlib import Path

GATHER_BYTES = 32_768
"""Buffered before a write. A pipe takes 64 KiB: larger batches would leave a remainder each time."""

WAITING_BYTES = 1_048_576
"""The bound of the buffer: a fifth of a second at 5,000 lines a second."""

CLOSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class LineWriter:
    """Writes lines to one file descriptor, which it owns.

    The caller flushes periodically, every half second or so; `write` flushes when the buffer is full.

    Args:
        descriptor: where to write; non-blocking, unless `polls` is set.
        path: of a file, which can then be reopened after rotation.
        polls: poll before each write whether it would block: for a descriptor that cannot be made non-blocking without
            making it so for other processes that share it.

    Attributes:
        dropped: the number of lines that were lost.
    """

    def __init__(self, descriptor: int, *, path: Path | None = None, polls: bool = False) -> None:
        self._descriptor = descriptor
        self._path = path
        self._lines: list[bytes] = []
        self._size = 0
        self._flush_at = GATHER_BYTES
        self._logged = 0
        """How many of `dropped` have been logged."""
        self._has_failed = False
        """An error was logged, and lines have been waiting since."""
        self._is_torn = False
        """The first line in the buffer was written in part."""
        self.dropped = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._polls = polls
        # Other processes may write to the same pipe: a write of up to PIPE_BUF bytes is atomic (pipe(7)), and does not
        # block if poll reports room.
        self._write_bytes = 0 if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF

    @classmethod
    def stdout(cls) -> LineWriter:
        """Standard output."""
        descriptor, may_block = own_descriptor(1)
        return cls(descriptor, polls=may_block)

    @classmethod
    def file(cls, path: Path) -> LineWriter:
        """A file, created if it does not exist and appended to.

        Raises:
            OSError: it cannot be opened.
        """
        return cls(_open(path), path=path)

    def write(self, line: bytes) -> None:
        """Buffer one line, with its line feed."""
        size = self._size + len(line)
        if size > WAITING_BYTES:
            self.dropped += 1
            return
        self._lines.append(line)
        self._size = size
        if size >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Write as much of the buffer as is accepted now. Never raises and never blocks."""
        if not self._size:
            return
        waiting = b"".join(self._lines)
        taken = self._write_out(waiting)
        if taken:
            self._is_torn = not waiting.endswith(b"\n", 0, taken)
        self._size = len(waiting) - taken
        self._lines = [waiting[taken:]] if self._size else []
        # While the descriptor accepts nothing, an attempt for each line would cost more than the line.
        self._flush_at = self._size + GATHER_BYTES
        if self._size:
            return
        self._has_failed = False
        if self.dropped > self._logged:
            logger.warning(
                "%d log lines were dropped because the output did not accept them", self.dropped - self._logged
            )
            self._logged = self.dropped

    def reopen(self) -> None:
        """Reopen the file by its name, after rotation. Buffered lines go to the new one.

        Raises:
            OSError: it cannot be opened; the old file stays in use.
        """
        if self._path is None:
            return
        self.flush()
        descriptor = _open(self._path)
        if self._is_torn and not os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor)):
            # Do not begin the new file with the rest of a line.
            rest = b"".join(self._lines).partition(b"\n")[2]
            self._lines = [rest]
            self._size = len(rest)
            self._is_torn = False
            self.dropped += 1
        # dup2 keeps the descriptor's number, and with it what was registered for it.
        os.dup2(descriptor, self._descriptor, inheritable=False)
        os.close(descriptor)

    def close(self) -> None:
        """Write the buffer, waiting up to `CLOSE_SECONDS` for the reader; drop the remainder."""
        give_up = time.monotonic() + CLOSE_SECONDS
        self.flush()
        while self._size and not self._has_failed and (left := give_up - time.monotonic()) > 0:
            self._poll.poll(left * 1_000)
            self.flush()
        if self._size:
            self.dropped += sum(line.count(b"\n") for line in self._lines)
        self._lines = []
        self._size = 0
        os.close(self._descriptor)

    def _write_out(self, waiting: bytes) -> int:
        """Returns the number of bytes accepted."""
        begin = 0
        end = len(waiting)
        try:
            while begin < end:
                stop = end
                if self._write_bytes and end - begin > self._write_bytes:
                    # Cut after the last line that fits; a longer line is written in pieces.
                    stop = begin + self._write_bytes
                    stop = waiting.rfind(b"\n", begin, stop) + 1 or stop
                if self._polls and not self._poll.poll(0):
                    break
                taken = os.write(self._descriptor, waiting[begin:stop])
                begin += taken
        except BlockingIOError:
            pass
        except OSError as error:
            # Disk full, reader gone: lines stay in the buffer and are retried.
            if not self._has_failed:
                self._has_failed = True
                logger.error("cannot write to %s: %s", self._path or "standard output", error.strerror)
        return begin


def own_descriptor(number: int) -> tuple[int, bool]:
    """Another descriptor of what `number` is, and whether writing to it may block. A pipe or terminal is reopened: the
    new file description can be non-blocking without changing that of the shell, or of others that write there."""
    if not stat.S_ISREG(os.fstat(number).st_mode):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{number}", flags), False
        except OSError:
            return os.dup(number), True  # a socket, or another user's pipe
    return os.dup(number), False


def open_unblocked(path: Path, flags: int) -> int:
    """Open what may be a pipe, with `flags` beside those that it takes. Raises OSError, which says what to do."""
    try:
        return os.open(path, flags | os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o640)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads this pipe yet: start its reader first", str(path)) from None
        raise


def _open(path: Path) -> int:
    return open_unblocked(path, os.O_APPEND | os.O_CREAT)
