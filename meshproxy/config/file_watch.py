"""Watches files for changes by polling, which works on every file system and through the links of a mounted volume."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

READS = 3
"""Of files that change while they are read. What is read last is taken, and read again after the next look."""
PERIOD = 0.5
"""Seconds between two checks: a change takes effect within a second. (The kubelet takes up to a minute to update a
mounted volume.)"""


AGAIN = 10.0
"""Seconds until files that could not be used are read again without a change: descriptors may be there again."""
SHARE = 0.05
"""Of the time that looks may take: of a thousand files they are fewer."""


class FileWatch:
    """Calls back when a file changes, appears or disappears since it was created. Links are followed.

    Args:
        files: the files to watch, listed again at every check.
        period: seconds between two checks, or more where they take long; None: `PERIOD`.

    Attributes:
        seen: each file as it was at the last `mark` or look: its state (`state_of`), or why it has none.
    """

    def __init__(self, files: Callable[[], Iterable[Path]], period: float | None = None) -> None:
        self._files = files
        self._period = period
        self._timer: asyncio.TimerHandle | None = None
        self._changed: Callable[[], None] | None = None
        self._due = inf
        """When to call back also without a change."""
        self.seen: dict[Path, tuple[object, ...]] = {}
        self.mark()

    def mark(self) -> bool:
        """Take the files as they are now for known: for a reader that is about to read them all anyway. Called before
        the read, so that a change during it is noticed. Returns whether anything is different from the last `mark` or
        look."""
        self._due = inf
        return self._take()

    def _take(self) -> bool:
        before, self.seen = self.seen, self._now()
        return self.seen != before

    def again(self) -> None:
        """What was read last could not be used, and may be usable later as it is: call back in `AGAIN` seconds, unless
        `mark` is called before."""
        self._due = time.monotonic() + AGAIN

    @property
    def is_stale(self) -> bool:
        """Whether anything is different from the last `mark` or look: what was read since may be of two times."""
        return self.seen != self._now()

    def reads(self) -> Iterator[None]:
        """Once for each time that all files are to be read, marked before: again, `READS` times at most, if they have
        changed meanwhile. Roles of one time and bindings of another may permit what neither does."""
        for _ in range(READS):
            self.mark()
            yield
            if not self.is_stale:
                return

    def _now(self) -> dict[Path, tuple[object, ...]]:
        return {file: _seen(file) for file in self._files()}

    def start(self, changed: Callable[[], None]) -> None:
        """Call `changed` when a look finds anything different from the last `mark` or look."""
        self._changed = changed
        self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, took: float = 0.0) -> None:
        """`took`: seconds, the last look."""
        import asyncio  # not above: a process that has no event loop yet watches, too

        delay = max(self._period or PERIOD, took / SHARE)
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        assert self._changed is not None
        begun = time.thread_time()
        is_different = False
        try:
            is_different = self._take()
        finally:
            self._schedule(time.thread_time() - begun)
        if is_different or time.monotonic() >= self._due:
            self._due = inf
            self._changed()


def state_of(file: Path) -> tuple[int, ...]:
    """Another one when the file may have another content, or other readers, or has lost its name, as one that is
    mounted and was replaced outside. Links are followed. Raises OSError."""
    status = file.stat()
    has_no_name = status.st_nlink == 0
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid, status.st_gid, has_no_name


def _seen(file: Path) -> tuple[object, ...]:
    try:
        return state_of(file)
    except OSError as error:
        return (error.errno,)
