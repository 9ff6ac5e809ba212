"""A port of an aiohttp application, with a bounded number of connections.

aiohttp's own sites accept whatever comes. Strangers may connect to the webhook, and to the web port: they could take
all file descriptors of the control plane, and sidecars would find nobody. Here the client address with the most
connections loses its oldest one for each that comes beyond the limit, so a probe, a scrape or a review by others gets
in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from meshproxy.transport.acceptor import Acceptor
from meshproxy.transport.bound_socket import bind, format_address
from meshproxy.transport.handshake_failures import classify, detail
from meshproxy.transport.notices import Notices

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from meshproxy.config.values import Address

logger = logging.getLogger(__name__)

BACKLOG = 128
HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 120.0
"""Without a whole request head, the first one or the next, after which a connection is closed. The API server closes
its own after 90: were it shorter here, a review could meet the close."""


class HttpPort:
    """Accepts for one application.

    Attributes:
        address: where it listens.
    """

    def __init__(
        self,
        name: str,
        runner: web.AppRunner,
        listen: Address,
        most: int,
        exceeded: Callable[[str], None],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Bind.

        Args:
            name: of the port, in log lines.
            runner: is set up, and has no sites. Who cleans it up stops the port first.
            listen: where.
            most: connections at once, those included whose handshake goes on.
            exceeded: is told `connections` of each that is closed for a newer one, `descriptors` of each pause.
            context: for TLS.

        Raises:
            OSError
        """
        assert runner.server is not None
        self._name = name
        self._server = runner.server
        self._most = most
        self._exceeded = exceeded
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._held: dict[_Connection, str] = {}
        """The client's address of each, the oldest first."""
        self._notices = Notices()
        self._acceptor = Acceptor(self._loop, self._take, on_shortage=lambda: exceeded("descriptors"))
        self._socket = bind(listen.host, listen.port)
        self.address = format_address(self._socket.getsockname())

    def __len__(self) -> int:
        return len(self._held)

    def start(self) -> None:
        """Accept. Raises OSError."""
        self._acceptor.listen(self._socket, BACKLOG)

    def stop(self) -> None:
        """Close the port, and connections whose handshake goes on; the runner closes the others."""
        self._acceptor.close()
        self._socket.close()
        for connection in list(self._held):
            if not connection.connected:
                connection.give_way()

    def _take(self, client: socket.socket, address: tuple[Any, ...]) -> None:
        if len(self._held) >= self._most:
            self._make_room()
        connection = _Connection(self._server, self._held)
        self._held[connection] = address[0]
        task = self._loop.create_task(self._set_up(connection, client, format_address(address)))
        task.add_done_callback(partial(self._set_up_ended, connection, client))
        connection.setting_up = task

    def _make_room(self) -> None:
        crowd = Counter(self._held.values()).most_common(1)[0][0]
        oldest = next(each for each, address in self._held.items() if address == crowd)
        oldest.give_way()
        self._exceeded("connections")
        text = f"{self._name}: {self._most} connections are open: the oldest of {crowd}, which has most, is closed"
        self._notices.info(logger, crowd, self._loop.time(), text)

    async def _set_up(self, connection: _Connection, client: socket.socket, remote: str) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection,
                client,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if self._context is not None else None,
            )
        except OSError as error:
            failure = classify(error)
            why = detail(error)
            text = f"{self._name}: TLS handshake with {remote} failed ({failure.label})" + (f": {why}" if why else "")
            self._notices.info(logger, f"{remote.rpartition(':')[0]} {failure.label}", self._loop.time(), text)

    def _set_up_ended(self, connection: _Connection, client: socket.socket, task: asyncio.Task[None]) -> None:
        """Also of one that gave way before its turn: then nothing of the task has run."""
        connection.setting_up = None
        if not connection.connected:
            self._held.pop(connection, None)
            client.close()


class _Connection(web.RequestHandler):
    """aiohttp's, which leaves the port when it is lost."""

    def __init__(self, server: web.Server, held: dict[_Connection, str]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, keepalive_timeout=IDLE_SECONDS, access_log=None)  # type: ignore[arg-type]
        self._held = held
        self.setting_up: asyncio.Task[None] | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._held.pop(self, None)
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Be closed at once, and counted no more."""
        self._held.pop(self, None)
        if self.setting_up is not None:
            self.setting_up.cancel()
        if self.transport is not None:
            self.transport.abort()
