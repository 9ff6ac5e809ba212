"""A process whose file descriptors run out."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest


def refuse_accepts(monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
    """The next sockets cannot be accepted, with this errno."""
    refusals = [OSError(number, os.strerror(number))] * times
    accept = socket.socket.accept

    def accept_or_fail(self: socket.socket) -> Any:
        if refusals:
            raise refusals.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_or_fail)
