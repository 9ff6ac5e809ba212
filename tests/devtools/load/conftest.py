"""A transport that keeps what is written, and a finished-callback that keeps what it is told."""

from __future__ import annotations

from typing import Any

import pytest


class FakeTransport:
    """As much of `asyncio.Transport` as a connection uses."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_aborted = False

    def write(self, data: bytes | memoryview) -> None:
        self.written.append(bytes(data))

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
        self.errors: list[str | None] = []

    def __call__(self, slot: Any, error: str | None) -> None:
        self.errors.append(error)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def finishes() -> Finishes:
    return Finishes()
