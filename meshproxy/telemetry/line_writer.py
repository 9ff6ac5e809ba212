"""Where lines go: gathered, then written in one go from the event loop, without ever waiting for who reads them.

Lines wait in a bounded buffer while the other end takes nothing (a full pipe, a full disk). Beyond the bound new lines
are dropped and counted, and their loss is said in the application's log as soon as lines are taken again (not before:
that log may go to the very pipe that nobody reads, and wait for it). Lines that wait are never torn, and go out first.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from pathlib import Path

GATHER_BYTES = 32_768
"""Gathered before a write. A pipe takes 64 KiB: more at once would leave a rest each time, and the rests add up."""

WAITING_BYTES = 1_048_576
"""The bound: at 5,000 lines a second a fifth of a second of silence of the reader."""

CLOSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


class LineWriter:
    """Lines on their way to one file descriptor, which the sink owns from now on.

    The caller owns the timer: `flush()` every half second or so, besides what `write` does by itself.

    Args:
        descriptor: where to write; non-blocking, or with `polls`.
        path: set for a file, which then can be opened again after rotation.
        polls: ask before each write whether it would wait. For a descriptor that could not be made non-blocking without
            making it so for everybody who shares it.

    Attributes:
        dropped: lines that were lost.
    """

    def __init__(self, descriptor: int, *, path: Path | None = None, polls: bool = False) -> None:
        self._descriptor = descriptor
        self._path = path
        self._lines: list[bytes] = []
        self._size = 0
        self._flush_at = GATHER_BYTES
        self._told = 0
        """How much of `dropped` the application's log has been told."""
        self._has_failed = False
        """An error was told, and lines have waited ever since."""
        self._is_torn = False
        """The first line that waits was written in part."""
        self.dropped = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._polls = polls
        # Others may write to the same pipe: a write of up to PIPE_BUF bytes is never mixed with theirs (pipe(7)), and
        # never waits where poll says that there is room.
        self._write_bytes = 0 if stat.S_ISREG(os.fstat(descriptor).st_mode) else select.PIPE_BUF

    @classmethod
    def stdout(cls) -> LineWriter:
        """Standard output. A pipe or terminal is opened anew, which makes a description of its own that can be
        non-blocking without the application's log, or the shell, finding theirs changed."""
        if not stat.S_ISREG(os.fstat(1).st_mode):
            try:
                return cls(os.open("/proc/self/fd/1", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
            except OSError:
                return cls(os.dup(1), polls=True)  # a socket, or another user's pipe
        return cls(os.dup(1))

    @classmethod
    def file(cls, path: Path) -> LineWriter:
        """A file, made if need be and appended to.

        Raises:
            OSError: it cannot be opened.
        """
        return cls(_open(path), path=path)

    def write(self, line: bytes) -> None:
        """Take one line, with its line feed."""
        size = self._size + len(line)
        if size > WAITING_BYTES:
            self.dropped += 1
            return
        self._lines.append(line)
        self._size = size
        if size >= self._flush_at:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as far as it is taken now. Never raises and never waits."""
        if not self._size:
            return
        waiting = b"".join(self._lines)
        taken = self._write_out(waiting)
        if taken:
            self._is_torn = not waiting.endswith(b"\n", 0, taken)
        self._size = len(waiting) - taken
        self._lines = [waiting[taken:]] if self._size else []
        # While nobody reads, a try for each line would cost more than the line.
        self._flush_at = self._size + GATHER_BYTES
        if self._size:
            return
        self._has_failed = False
        if self.dropped > self._told:
            logger.warning("%d lines were dropped while nobody took them", self.dropped - self._told)
            self._told = self.dropped

    def reopen(self) -> None:
        """Open the file again by its name, after rotation. What waits goes to the new one.

        Raises:
            OSError: it cannot be opened; the old one stays in use.
        """
        if self._path is None:
            return
        self.flush()
        descriptor = _open(self._path)
        if self._is_torn:
            # Half a line has no business at the head of the new file.
            rest = b"".join(self._lines).partition(b"\n")[2]
            self._lines = [rest]
            self._size = len(rest)
            self._is_torn = False
            self.dropped += 1
        # dup2 keeps the number, and with it everything that was registered for it.
        os.dup2(descriptor, self._descriptor, inheritable=False)
        os.close(descriptor)

    def close(self) -> None:
        """Write what waits, waiting for the other end for `CLOSE_SECONDS` at most; what is left then is dropped."""
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
        """How many bytes were taken."""
        begin = 0
        end = len(waiting)
        try:
            while begin < end:
                stop = end
                if self._write_bytes and end - begin > self._write_bytes:
                    # Cut after the last line that fits; a line that is longer than that goes in pieces.
                    stop = begin + self._write_bytes
                    stop = waiting.rfind(b"\n", begin, stop) + 1 or stop
                if self._polls and not self._poll.poll(0):
                    break
                taken = os.write(self._descriptor, waiting[begin:stop])
                begin += taken
        except BlockingIOError:
            pass
        except OSError as error:
            # Disk full, reader gone: lines wait and are tried again, as far as the bound allows.
            if not self._has_failed:
                self._has_failed = True
                logger.error("cannot write to %s: %s", self._path or "standard output", error.strerror)
        return begin


def _open(path: Path) -> int:
    # Non-blocking is for a path that names a pipe.
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o640)
