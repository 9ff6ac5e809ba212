"""Clients that come on time, wait for a free stream, and give up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks.works import overload
from benchmarks.works.overload import Crowd
from meshproxy.devtools.load.schedule import uniform


class Server:
    """Answers a call after a while, if at all."""

    def __init__(self, slots: int) -> None:
        self.crowd = Crowd([Slot(self) for _ in range(slots)])  # type: ignore[misc]
        self.left = 0
        self.begun = 0

    def begin(self, slot: Any) -> None:
        self.begun += 1
        if self.begun % 3:  # every third is never answered
            error = None if self.begun % 2 else "refused"
            asyncio.get_running_loop().call_soon(self.crowd.finished, slot, error)


class Slot:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.begun = 0.0
        self.is_open = True

    def begin(self) -> None:
        self.server.begin(self)

    def give_up(self) -> None:
        self.server.left += 1


async def test_every_call_is_answered_refused_or_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "PATIENCE", 0.02)
    server = Server(slots=4)
    await server.crowd.play(uniform(3_000, 0.1))
    crowd = server.crowd
    assert len(crowd.answers) + len(crowd.refusals) + crowd.given_up == 300
    # Those that wait for a stream in vain are given up without having been sent.
    assert crowd.answers
    assert crowd.refusals
    assert 0 < server.left <= crowd.given_up
    assert server.left + len(crowd.answers) + len(crowd.refusals) == server.begun
    assert all(0 <= due < 0.1 and took >= 0 for due, took in crowd.answers)


async def test_calls_of_a_closed_connection_are_lost_and_its_slots_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy closes the connections of clients that reset many streams soon after they began."""
    monkeypatch.setattr(overload, "PATIENCE", 0.02)

    class Closing(Server):
        def begin(self, slot: Any) -> None:
            assert slot.is_open
            self.begun += 1
            slot.is_open = False
            self.crowd.finished(slot, "the connection was closed")  # before this returns, as some do

    server = Closing(slots=4)
    await server.crowd.play(uniform(3_000, 0.1))
    crowd = server.crowd
    assert server.begun == crowd.lost == 4
    assert not crowd.answers
    assert not crowd.refusals
    assert crowd.given_up == 300 - 4
