"""Single keys of a terminal, without waiting for them."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class Keys:
    """Reads keys without Enter and does not show them. Ctrl-C interrupts as ever. Without a terminal there are none."""

    def __init__(self) -> None:
        self._file = -1
        self._before: Any = None
        self._waiting = ""

    def __enter__(self) -> Keys:
        if sys.stdin.isatty():
            self._file = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """The next key; empty if none was pressed."""
        if not self._waiting and self._before is not None and select.select([self._file], [], [], 0)[0]:
            self._waiting = os.read(self._file, 64).decode("latin-1")
        key, self._waiting = self._waiting[:1], self._waiting[1:]
        return key
