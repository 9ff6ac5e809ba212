"""Writes files that others must not read, or must never read by halves."""

from __future__ import annotations

import os
import threading
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
