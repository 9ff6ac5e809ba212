"""A stream that is opened again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from meshproxy.sidecar import reconnect
from meshproxy.sidecar.control_channel import CONNECT_SECONDS
from meshproxy.sidecar.reconnect import FIRST_RETRY, LASTED, keep_open


class Stream:
    """Ends each time; what `keep_open` did then, with time as a number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.received = 0
        self.delays: list[float] = []
        self.reasons: list[str] = []
        self.problems: list[str] = []
        """Why streams end, if not each for a reason of its own."""
        self.ends: list[tuple[float, int]] = []
        """How long each stream lasts, and how many messages it brings."""
        monkeypatch.setattr("random.uniform", lambda least, most: most)
        monkeypatch.setattr(reconnect, "asyncio", self)

    def get_running_loop(self) -> Stream:
        return self

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)

    async def follow(self) -> str:
        if not self.ends:
            raise asyncio.CancelledError
        lasted, messages = self.ends.pop(0)
        self.now += lasted
        self.received += messages
        return self.problems.pop(0) if self.problems else f"end {len(self.reasons)}"

    async def run(self, *ends: tuple[float, int]) -> list[float]:
        self.ends = list(ends)
        with pytest.raises(asyncio.CancelledError):
            await keep_open(self.follow, lambda: self.received, self.reasons.append)
        return self.delays


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    return Stream(monkeypatch)


async def test_attempts_that_come_to_nothing_back_off(stream: Stream) -> None:
    assert await stream.run(*[(0.1, 0)] * 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert stream.reasons == [f"end {number}" for number in range(8)]


@pytest.mark.parametrize("good", [(0.1, 1), (LASTED, 0)], ids=["it brought something", "it lasted"])
async def test_after_a_good_stream_the_next_one_comes_soon(stream: Stream, good: Any) -> None:
    assert await stream.run((0.1, 0), (0.1, 0), good, (0.1, 0)) == [1.0, 2.0, FIRST_RETRY, 1.0]


def test_connecting_in_vain_does_not_last() -> None:
    assert CONNECT_SECONDS < LASTED


async def test_a_reason_is_told_once_until_a_message_comes(stream: Stream) -> None:
    stream.problems = ["a", "a", "b", "", "b", "b", "b"]
    await stream.run((0.1, 0), (0.1, 0), (0.1, 0), (0.1, 0), (0.1, 0), (0.1, 1), (0.1, 0))
    assert stream.reasons == ["a", "b", "b"]
