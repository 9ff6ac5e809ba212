"""A transport that keeps what is written, and a finished-callback that keeps what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest


class FakeTransport(asyncio.Transport):
    """As much of `asyncio.Transport` as a connection uses."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_aborted = False
        self.fills_up: Callable[[], None] | None = None
        """Called after each write, as a socket that is full then pauses its writer."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        if self.fills_up is not None:
            self.fills_up()

    def abort(self) -> None:
        self.is_aborted = True

    def take(self) -> bytes:
        """Everything written since the last time."""
        data = b"".join(self.written)
        self.written.clear()
        return data


class Finishes:
    """What slots reported, in order."""

    def __init__(self) -> None:
        self.errors: list[Any] = []
        """None, or what went wrong in a few words."""

    def __call__(self, slot: Any, error: str | None) -> None:
        self.errors.append(error)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def finishes() -> Finishes:
    return Finishes()
