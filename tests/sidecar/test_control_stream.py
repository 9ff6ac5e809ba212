"""One stream, with a control plane that is played: what is told of its end, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from meshproxy.identity.certificates import CertificateError
from meshproxy.refusal import GrpcStatus
from meshproxy.sidecar import control_stream as module
from meshproxy.sidecar.control_stream import follow_stream
from meshproxy.transport.client import ClientError, ClientFailure, StatusError

UNIMPLEMENTED = StatusError("no such method", 200, GrpcStatus.UNIMPLEMENTED)


class Played:
    """A control plane, its channel and its one call."""

    def __init__(self, *messages: bytes | Exception, ends: bool = True) -> None:
        self._messages = messages
        self._ends = ends
        self.said: list[bytes] = []
        self.heard: list[bytes] = []
        self.left = False
        self.open_calls = 0
        self.open_while_taking: list[int] = []

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Any]:
        yield self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(0)  # whoever talks begins
        for message in self._messages:
            if isinstance(message, Exception):
                raise message
            yield message
        if not self._ends:
            await asyncio.get_running_loop().create_future()

    async def send(self, message: bytes) -> None:
        self.said.append(message)
        raise ClientError(ClientFailure.RESET, "the stream has ended")

    # What the sidecar does

    async def talk(self, call: Any) -> None:
        await call.send(b"hello")

    async def take(self, message: bytes) -> None:
        self.heard.append(message)
        self.open_while_taking.append(self.open_calls)

    async def leave(self, call: Any) -> None:
        self.left = True

    async def follow(self, **more: Any) -> str:
        channel: Any = self
        return await follow_stream(channel, b"/s/M", 100, talk=self.talk, take=self.take, **more)


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_call(channel: Any, method: bytes, *, max_message_bytes: int) -> Any:
        @asynccontextmanager
        async def call() -> AsyncIterator[Any]:
            yield channel

        return call()

    monkeypatch.setattr(module, "open_call", open_call)


async def test_messages_are_taken_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    played = Played(b"one", b"two")
    assert await played.follow(leave=played.leave) == "it ended the stream"
    assert (played.said, played.heard, played.left) == ([b"hello"], [b"one", b"two"], False)
    assert (played.open_while_taking, played.open_calls) == ([1, 1], 0)
    assert not caplog.records  # that nothing could be said is no news of its own


@pytest.mark.parametrize(
    "error",
    [
        ClientError(ClientFailure.PROTOCOL, "why"),
        StatusError("why", 200, GrpcStatus.UNAVAILABLE),
        UNIMPLEMENTED,
        CertificateError("expired", "why"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_why_it_ended(error: Exception) -> None:
    played = Played(b"one", error)
    assert await played.follow() == str(error)
    assert played.open_calls == 0


async def test_an_older_control_plane_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OLDER_SECONDS", 0.01)
    told: list[str] = []

    def older(problem: str) -> str:
        told.append(problem)
        return "no news"

    loop = asyncio.get_running_loop()
    begun = loop.time()
    assert await Played(UNIMPLEMENTED).follow(older=older) == "no news"
    assert loop.time() > begun + 0.005
    assert told == [str(UNIMPLEMENTED)]
    assert await Played(StatusError("why", 200, GrpcStatus.INTERNAL)).follow(older=older) != "no news"


async def test_leave_is_taken_when_it_is_cancelled() -> None:
    played = Played(b"one", ends=False)
    following = asyncio.create_task(played.follow(leave=played.leave))
    while not played.heard:
        await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert played.left
