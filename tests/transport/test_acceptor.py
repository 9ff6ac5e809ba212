"""Connections that come to a port, over loopback."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meshproxy.config.descriptors import cure
from meshproxy.transport import acceptor as module
from meshproxy.transport.acceptor import ACCEPTS_PER_TURN, Acceptor, Room
from meshproxy.transport.bound_socket import bind, format_address
from tests.processes.waiting import until
from tests.transport.short_of_descriptors import refuse_accepts

pytestmark = pytest.mark.timeout(60)


class Door:
    """A port, who came, and whether there is room."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.asked = 0
        self.short = 0
        self.rooms: list[Room] = []
        """Answers in order; then there is room."""
        self.acceptor = Acceptor(
            asyncio.get_running_loop(), self._take, on_shortage=self._note_shortage, room=self._answer
        )
        self.acceptor.listen(bind("127.0.0.1", 0), 128)

    def _take(self, client: socket.socket, address: tuple[Any, ...]) -> None:
        assert not client.getblocking()
        self.came.append(format_address(address))
        client.close()

    def _note_shortage(self) -> None:
        self.short += 1

    def _answer(self) -> Room:
        self.asked += 1
        return self.rooms.pop(0) if self.rooms else Room.YES

    def knock(self) -> str:
        """Connect, and leave. Returns from where."""
        host, _, port = self.acceptor.address.rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            return format_address(client.getsockname())


@contextmanager
def door() -> Iterator[Door]:
    door = Door()
    try:
        yield door
    finally:
        door.acceptor.close()


async def test_who_comes_is_handed_on() -> None:
    with door() as one:
        assert one.acceptor.address.startswith("127.0.0.1:")
        callers = [one.knock() for _ in range(3)]
        await until(lambda: len(one.came) == 3)
        assert one.came == callers


async def test_of_several_sockets_the_first_names_it() -> None:
    with door() as one:
        address = one.acceptor.address
        another = bind("127.0.0.1", 0)
        one.acceptor.listen(another, 128)
        assert one.acceptor.address == address
        with socket.create_connection(another.getsockname()):
            await until(lambda: len(one.came) == 1)


async def test_a_socket_that_cannot_listen_is_closed() -> None:
    with door() as one:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(OSError, match="not supported"):
            one.acceptor.listen(sock, 128)
        assert sock.fileno() == -1


async def test_where_there_is_no_room_it_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    with door() as one:
        one.rooms = [Room.LATER, Room.LATER]
        one.knock()
        await until(lambda: one.asked == 2)
        assert one.came == []
        await until(lambda: len(one.came) == 1)


async def test_or_waits_until_it_is_told() -> None:
    with door() as one:
        one.rooms = [Room.WHEN_TOLD]
        one.knock()
        await until(lambda: one.acceptor.is_held)
        asked = one.asked
        await asyncio.sleep(0)
        assert (one.asked, one.came) == (asked, [])
        one.acceptor.go_on()
        assert not one.acceptor.is_held
        await until(lambda: len(one.came) == 1)


async def test_a_pause_goes_on_although_it_is_told_of_room() -> None:
    with door() as one:
        one.rooms = [Room.LATER]
        one.knock()
        await until(lambda: one.asked == 1)
        one.acceptor.go_on()
        for _ in range(3):
            await asyncio.sleep(0)
        assert one.asked == 1


async def test_who_is_queued_is_taken_at_once() -> None:
    with door() as one:
        callers = [one.knock() for _ in range(ACCEPTS_PER_TURN + 6)]
        one.acceptor.take_queued()
        assert one.came == callers


async def test_a_socket_that_has_more_is_no_longer_looked_at_than_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACCEPTS_PER_TURN", 2)
    with door() as one:
        callers = [one.knock() for _ in range(5)]
        sizes = set()
        while len(one.came) < 5:
            await asyncio.sleep(0)
            sizes.add(len(one.came))
        assert one.came == callers
        assert {2, 4} <= sizes


async def test_closed_nobody_comes_and_no_pause_goes_on() -> None:
    with door() as one:
        one.rooms = [Room.LATER]
        one.knock()
        await until(lambda: one.asked == 1)
        pause = one.acceptor._resume
        assert pause is not None
        one.acceptor.close()
        assert pause.cancelled()
        with pytest.raises(ConnectionRefusedError):
            one.knock()


@pytest.mark.parametrize(
    ("number", "end"),
    [
        (errno.EMFILE, "Too many open files; retrying" + cure(errno.EMFILE)),
        (errno.ENFILE, "Too many open files in system; retrying"),
    ],
)
async def test_a_shortage_is_waited_out_and_told_once(
    number: int, end: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    refuse_accepts(monkeypatch, number, 3)
    with door() as one:
        one.knock()
        await until(lambda: len(one.came) == 1)
        assert one.short == 3
        assert caplog.record_tuples == [
            (module.__name__, logging.ERROR, f"cannot accept on {one.acceptor.address}: {end}")
        ]


async def test_any_other_error_is_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: mistakes.append(context))
    refuse_accepts(monkeypatch, errno.EINVAL, 1)
    with door() as one:
        one.knock()
        await until(lambda: len(one.came) == 1)
        assert [context["exception"].errno for context in mistakes] == [errno.EINVAL]
        assert one.short == 0
