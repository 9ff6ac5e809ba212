"""Writes files that others must not read, or must never read by halves."""

from __future__ import annotations

import os
import stat
import threading
from errno import EACCES, EDQUOT, ENOSPC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int, *, survives: bool = True) -> None:
    """Write a file atomically: a reader never sees half of it, nor wider permissions than `mode`.

    Args:
        survives: it is complete also if the host fails. fsync(2) takes as long as the disk likes, so not in the event
            loop of a process that serves calls.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    # Of the thread, whose number no other one has at the time, in whatever process: several may write the same file.
    new = path.with_name(f".{path.name}.{threading.get_native_id()}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            if survives:
                file.flush()
                os.fsync(descriptor)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)  # the next attempt may be another thread's, which would not find it
        raise


def replace_or_overwrite(path: Path, content: bytes, mode: int) -> bool:
    """Write a file as `replace_file` does, or over the one before where there is no room for another.

    A reader may see half of it then, and the host may fail meanwhile. So it is for what would expire: a disk that is
    full for hours is more likely.

    Returns:
        Whether it was written over the one before.

    Raises:
        OSError: there is no room for it there either, or it has another mode, or it cannot be written for another
            reason; the one before is still there.
    """
    try:
        replace_file(path, content, mode)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT) or not path.exists():
            raise
        _overwrite(path, content, mode)
        return True
    return False


def _overwrite(path: Path, content: bytes, mode: int) -> None:
    """Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "wb") as file:
        before = os.fstat(descriptor)
        if stat.S_IMODE(before.st_mode) != mode:  # others may have it open, whatever it becomes now
            raise PermissionError(EACCES, os.strerror(EACCES))
        try:
            os.posix_fallocate(descriptor, 0, len(content))
        except OSError:
            os.ftruncate(descriptor, before.st_size)  # there was room for a part
            raise
        file.write(content)
        file.truncate()
        file.flush()
        os.fsync(descriptor)
