"""Keys of a terminal: a pair of pseudo-terminals stands for it."""

from __future__ import annotations

import os
import pty
import sys
import termios

import pytest

from meshproxy.cli._keys import Keys
from tests.processes.waiting import look_until


def test_keys_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(terminal)
        with Keys() as keys:
            assert keys.pressed() == ""
            assert not termios.tcgetattr(terminal)[3] & (termios.ECHO | termios.ICANON)
            os.write(ours, b"sq")
            assert look_until(keys.pressed, bool, 5) == "s"
            assert keys.pressed() == "q"
            assert keys.pressed() == ""
        assert termios.tcgetattr(terminal) == before
    os.close(ours)


def test_without_a_terminal_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nothing:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", nothing)
        with Keys() as keys:
            assert keys.pressed() == ""
