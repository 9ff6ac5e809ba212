"""Accepts the connections of a port, and hands them on as sockets.

It is not asyncio's server, which binds a socket to one SSLContext permanently, while a rotation needs a new context
(loading a bad pair into a live one breaks it; see docs/behaviour.md), and which retries at full speed when there are no
file descriptors left (cpython issue 151615), where this one pauses.
"""

from __future__ import annotations

import logging
import os
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, Any

from meshproxy.config.descriptors import SHORTAGES, cure
from meshproxy.transport.bound_socket import format_address

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

logger = logging.getLogger(__name__)

ACCEPTS_PER_TURN = 64
PAUSE_SECONDS = 0.1
SHORTAGE_PERIOD = 10.0
"""Seconds between two log lines about descriptors or memory that are short."""


class Room(Enum):
    """Whether one more connection is accepted now. Others wait in the kernel's backlog."""

    YES = auto()
    LATER = auto()
    """Not now: it is asked again in a moment."""
    WHEN_TOLD = auto()
    """Not before `Acceptor.go_on`."""


class Acceptor:
    """Accepts at any number of sockets.

    Attributes:
        address: of the first; empty before there is one.
        is_held: until `go_on`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[socket.socket, tuple[Any, ...]], None],
        *,
        on_shortage: Callable[[], None],
        room: Callable[[], Room] = lambda: Room.YES,
    ) -> None:
        """
        Args:
            take: gets each connection, which does not block, and the address of its client (`socket.accept`).
            on_shortage: is called at each attempt that fails for want of descriptors or memory.
            room: is asked before each connection.
        """
        self._loop = loop
        self._take = take
        self._on_shortage = on_shortage
        self._room = room
        self._sockets: list[socket.socket] = []
        self._resume: asyncio.TimerHandle | None = None
        self._silent_until = -inf
        """When a shortage may be logged again."""
        self.address = ""
        self.is_held = False

    def listen(self, sock: socket.socket, backlog: int) -> None:
        """Accept at a socket that is bound, and that is closed with the others or if it cannot listen.

        Args:
            backlog: connections that wait in the kernel, at most (listen(2)).

        Raises:
            OSError
        """
        try:
            sock.listen(backlog)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        if not self._sockets:
            self.address = format_address(sock.getsockname())
        self._sockets.append(sock)
        self._loop.add_reader(sock, self._accept, sock)

    def take_queued(self) -> None:
        """Take what the kernel has queued, as far as there is room."""
        for sock in self._sockets:
            while self._accept(sock):
                pass

    def close(self) -> None:
        """Close the sockets; whoever is in their queues is reset."""
        self._stop()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def go_on(self) -> None:
        """There is room again."""
        self.is_held = False
        if self._resume is None:
            self._start()

    def _accept(self, sock: socket.socket) -> bool:
        """Accept some of the queued connections. True: there may be more."""
        for _ in range(ACCEPTS_PER_TURN):
            if (room := self._room()) is not Room.YES:
                self._stop()
                if room is Room.LATER:
                    self._pause()
                else:
                    self.is_held = True
                return False
            try:
                client, address = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                self._on_shortage()
                self._tell_of_shortage(error.errno)
                self._stop()
                self._pause()
                return False
            client.setblocking(False)
            self._take(client, address)
        return True

    def _start(self) -> None:
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)

    def _stop(self) -> None:
        if self._resume is not None:
            self._resume.cancel()
            self._resume = None
        for sock in self._sockets:
            self._loop.remove_reader(sock)

    def _pause(self) -> None:
        self._resume = self._loop.call_later(PAUSE_SECONDS, self._paused)

    def _paused(self) -> None:
        self._resume = None
        if not self.is_held:
            self._start()

    def _tell_of_shortage(self, number: int) -> None:
        """Once in a while: there are ten attempts a second, for as long as clients like."""
        if (now := self._loop.time()) < self._silent_until:
            return
        self._silent_until = now + SHORTAGE_PERIOD
        logger.error("cannot accept on %s: %s; retrying%s", self.address, os.strerror(number), cure(number))
