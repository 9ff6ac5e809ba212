"""Sets connections up: TLS or plaintext, the handshake, and the detection of the HTTP version."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import sys
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from meshproxy.codec.h2.frames import PREFACE
from meshproxy.identity.mesh_context import alerts_go_to
from meshproxy.transport import certificate_age
from meshproxy.transport.acceptor import Acceptor, Room
from meshproxy.transport.bound_socket import bind, format_address
from meshproxy.transport.connection import LARGE_READ, Reading, keep_alive
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.h2_server import H2Server
from meshproxy.transport.handshake_failures import OF_IDENTITY, HandshakeFailure, classify, detail
from meshproxy.transport.original_destination import original_destination
from meshproxy.transport.server_name import keep_server_name, requested_server_name
from meshproxy.transport.strangers import Strangers
from meshproxy.transport.tls_buffer import map_apart

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.transport.connection import ConnectionContext
    from meshproxy.transport.stream import Reject, Serve

logger = logging.getLogger(__name__)

TLS_HANDSHAKE = 0x16
"""Content type of a TLS record that carries a ClientHello (RFC 8446 section 5.1). No HTTP method begins with it."""
LIKE_A_REQUEST = re.compile(rb"[A-Za-z]{1,32} +(?:/|\*|https?:)")
"""A request line, with a version or without one (HTTP/0.9): it gets a status."""
BACKLOG = 1024
"""Connections that wait in the kernel: 2.5 s of handshakes on one core. With more, the last ones would wait for longer
than clients do, and be accepted when nobody is there any more."""
UNSENT = 131_072
"""Unsent bytes that the kernel buffers. Its default is megabytes: the progress of a slow reader would then show in
jumps of many seconds, which look like a stall, and the memory is not counted."""
STAY_WHILE_DRAINING = 1.0
"""Seconds after which a client that connects during a drain is asked to leave. Asked with its first response, it would
make a handshake for each request where no other endpoint is known to it."""
PATIENCE_WHILE_DRAINING = 2.0
"""Seconds for which a GOAWAY waits until no stream of the connection is open (`h2_server.H2Server`)."""
CLOSE_SECONDS = 1.0
CLOSE_WAIT = 8
"""The other side has sent its FIN: a state of the kernel (`include/net/tcp_states.h`), the first byte of TCP_INFO."""


class Security(Enum):
    """What a port speaks: the `mtls` modes of `MeshConfig`."""

    TLS = "strict"
    EITHER = "permissive"
    PLAINTEXT = "disabled"


class ListenerState(Enum):
    """Whether clients are welcome. The order is that of a shutdown."""

    SERVING = "serving"
    DRAINING = "draining"
    """Clients are served and asked to leave."""
    REFUSING = "refusing"
    """No connections are accepted; clients that are connected are asked to leave soon."""


class PeerRejected(Exception):
    """The peer's certificate has no accepted identity. Raised by `Identify`.

    Attributes:
        reason: which rule it broke (`handshake_failures.OF_IDENTITY`); empty if that does not matter.
    """

    def __init__(self, message: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Identify(Protocol):
    """Tells who the peer of a completed handshake is, once per connection; None without TLS or without a certificate.

    Raises:
        PeerRejected: the connection is closed.
    """

    def __call__(self, tls: ssl.SSLObject | None) -> object: ...


class ListenerEvents(Protocol):
    """Counts what happens at a port."""

    def handshake(self, result: str, reason: str) -> None:
        """A TLS handshake ended: `ok`, `failed`, `timeout`, `rejected`, or `probe` if none began. `reason`: the label
        of a `HandshakeFailure`, empty for `ok`."""

    def connected(self, info: ConnectionInfo) -> None:
        """A connection was established, and its HTTP version is known."""

    def disconnected(self, info: ConnectionInfo) -> None:
        """A connection was lost."""

    def limit(self, name: str) -> None:
        """A limit was reached."""


class Listener:
    """One port. `context`, `identify` and `shared` may be replaced at any time, for new connections."""

    def __init__(
        self,
        *,
        direction: str,
        shared: ConnectionContext,
        serve: Serve,
        reject: Reject,
        events: ListenerEvents,
        security: Security,
        context: ssl.SSLContext | None,
        identify: Identify,
        max_connections: int,
        max_handshakes: int = sys.maxsize,
        admits: Callable[[str], bool] | None = None,
        reads_original_destination: bool = False,
        stranger_seconds: float | None = None,
        welcomes: Callable[[ConnectionInfo], bool] | None = None,
    ) -> None:
        """
        Args:
            max_handshakes: that are made at once; other connections wait in the kernel's backlog. If thousands come
                together, each makes its handshake in time. Whoever has not said a word yet keeps nobody waiting.
            admits: whether a connection from an IP address is set up; otherwise it is closed, before a handshake.
            reads_original_destination: of redirected connections (`ConnectionInfo.original`).
            stranger_seconds: for which clients may stay whom `identify` does not know (`Strangers`). None: as others.
            welcomes: whether a client may stay, once it is known who it is; otherwise its connection is closed.

        Raises:
            ValueError: the port needs a context and has none.
        """
        if context is None and security is not Security.PLAINTEXT:
            raise ValueError(f"mtls {security.value} needs a certificate")
        self.direction = direction
        self.shared = shared
        self.serve = serve
        self.reject = reject
        self.events = events
        self.security = security
        self.context = context
        self.identify = identify
        self.max_connections = max_connections
        self.max_handshakes = max_handshakes
        self.admits = admits
        self.welcomes = welcomes
        self.reads_original_destination = reads_original_destination
        self.connections: set[H1Server | H2Server] = set()
        self._ages = certificate_age.CertificateAge(self.connections)
        self._strangers: Strangers | None = None
        if stranger_seconds is not None:
            self._strangers = Strangers(stranger_seconds, lambda: events.limit("stranger_time"))
            shared.reaper.add(self._strangers)
        self._detectors: set[ProtocolDetector] = set()
        """Connections whose HTTP version is not known yet."""
        self._is_empty = asyncio.Event()
        self.state = ListenerState.SERVING
        self._patience = 0.0
        self._acceptor = Acceptor(
            shared.loop, self._take, on_shortage=lambda: events.limit("descriptors"), room=self._room
        )
        self._pending: set[asyncio.Task[None]] = set()
        self._handshakes = 0
        """That have begun, and have not ended."""
        self._loop = shared.loop

    @property
    def context(self) -> ssl.SSLContext | None:
        """Of new connections. None: plaintext only."""
        return self._context

    @context.setter
    def context(self, context: ssl.SSLContext | None) -> None:
        if context is not None:
            context.sni_callback = keep_server_name
        self._context = context

    # The port

    def listen(self, host: str, port: int, *, is_shared: bool = False) -> None:
        """Bind and accept. With `is_shared` other processes of the same user may listen on the port too, and the kernel
        distributes the connections (SO_REUSEPORT, socket(7)). May be called for several addresses; `address` is the
        first one. Raises OSError."""
        sock = bind(host, port, is_shared=is_shared)
        try:
            # Accepted sockets inherit these (tcp(7), socket(7)): six system calls fewer per connection.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            keep_alive(sock)
        except OSError:
            sock.close()
            raise
        self._acceptor.listen(sock, BACKLOG)

    @property
    def address(self) -> str:
        """Of the first port; empty before there is one."""
        return self._acceptor.address

    def stop_accepting(self) -> None:
        """Close the port. Established connections are not affected."""
        self._acceptor.close()

    def drain(self) -> None:
        """Ask every client to reconnect elsewhere; keep serving meanwhile."""
        self.state = ListenerState.DRAINING
        self._ask_to_leave(PATIENCE_WHILE_DRAINING)

    def refuse(self, patience: float) -> None:
        """Accept no more connections, apart from those that the kernel has queued already, and ask every client to send
        no more requests, within `patience` seconds. What is in flight continues."""
        self._acceptor.take_queued()
        self._acceptor.close()
        self.state = ListenerState.REFUSING
        self._ask_to_leave(patience)

    def _ask_to_leave(self, patience: float) -> None:
        self._patience = patience
        for connection in list(self.connections):
            connection.drain(patience=patience)

    @property
    def is_announced(self) -> bool:
        """Every client knows that it should send no more requests."""
        return not self._pending and not self._detectors and all(each.is_announced for each in self.connections)

    @property
    def is_quiet(self) -> bool:
        """No request is in flight and no connection is being set up."""
        return not self._pending and all(connection.is_idle for connection in self.connections)

    @property
    def size(self) -> int:
        """Established connections, and those being set up."""
        return len(self.connections) + len(self._pending) + len(self._detectors)

    async def close(self) -> None:
        """Close the port and every connection; abort those with a request in flight."""
        self.stop_accepting()
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        for detector in list(self._detectors):
            detector.close()
        for connection in list(self.connections):
            if connection.is_idle:
                connection.close()
            else:
                connection.abort()
        if self.connections:
            self._is_empty.clear()
            try:
                # The last output and the close_notify of TLS are still being sent.
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._is_empty.wait()
            except TimeoutError:
                for connection in list(self.connections):
                    connection.abort()

    # A connection

    def _room(self) -> Room:
        if self.size >= self.max_connections and not self._strangers:
            self.events.limit("connections")
            return Room.LATER
        return Room.YES if self._handshakes < self.max_handshakes else Room.WHEN_TOLD

    def _take(self, client: socket.socket, address: tuple[Any, ...]) -> None:
        if self.admits is not None and not self.admits(address[0]):
            client.close()
            self._turned_away(address[0])
            return
        if self.size >= self.max_connections and self._strangers:
            self.events.limit("connections")
            self._strangers.give_way()
        task = self._loop.create_task(self._set_up(client, format_address(address)))
        self._pending.add(task)
        task.add_done_callback(self._set_up_ended)

    def _set_up_ended(self, task: asyncio.Task[None]) -> None:
        self._pending.discard(task)
        if self._acceptor.is_held and self._handshakes <= self.max_handshakes // 2:
            self._acceptor.go_on()

    def _turned_away(self, address: str) -> None:
        self.events.limit("connection_rate")
        self.shared.notices.info(
            logger,
            f"{address} connection_rate",
            self._loop.time(),
            f"connections from {address} are closed: it opens too many a second",
        )

    async def _set_up(self, client: socket.socket, remote: str) -> None:
        """Choose TLS or plaintext, then detect the HTTP version."""
        due = self._loop.time() + self.shared.times.handshake
        context = self.context
        try:
            if self.security is Security.PLAINTEXT:
                context = None
            else:
                first = await self._peek(client, due)
                if not first:
                    client.close()
                    self.events.handshake("probe", HandshakeFailure.PROBE.label)
                    return
                if first[0] != TLS_HANDSHAKE:
                    if self.security is Security.TLS:
                        client.close()
                        self.failed("failed", HandshakeFailure.NOT_TLS, remote, "")
                        return
                    context = None
                elif _has_left(client):
                    client.close()
                    self.failed("failed", HandshakeFailure.CLOSED, remote, "before it was its turn")
                    return
            original = (original_destination(client) or "") if self.reads_original_destination else ""
            self._handshakes += 1
            if context is not None:
                map_apart(self._loop)
                alerts_go_to.set([client])
            try:
                await self._loop.connect_accepted_socket(
                    lambda: ProtocolDetector(self, remote, original),
                    client,
                    ssl=context,
                    ssl_handshake_timeout=max(0.001, due - self._loop.time()) if context is not None else None,
                )
            finally:
                self._handshakes -= 1
        except asyncio.CancelledError:
            client.close()
            raise
        except (OSError, ssl.CertificateError) as error:
            client.close()
            failure = classify(error)
            self.failed("timeout" if failure is HandshakeFailure.TIMEOUT else "failed", failure, remote, detail(error))
        except Exception:
            client.close()
            self.events.handshake("failed", HandshakeFailure.OTHER.label)
            logger.exception("internal error in setting up the connection from %s", remote)

    def failed(self, result: str, failure: HandshakeFailure, remote: str, why: str) -> None:
        """Count a failed handshake, and log its reason and cure (`notices` bounds what clients can cause)."""
        self.events.handshake(result, failure.label)
        message = f"TLS handshake with {remote} failed ({failure.label}): {failure.cure}" + (f" ({why})" if why else "")
        key = f"{remote.rpartition(':')[0]} {failure.label}"
        self.shared.notices.info(logger, key, self._loop.time(), message)

    async def _peek(self, client: socket.socket, due: float) -> bytes:
        """The first byte, which stays in the socket; empty if the client left without one. Raises TimeoutError."""
        try:
            return client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            await self._readable(client, due)
        except ConnectionError:
            return b""
        try:
            return client.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return b""

    async def _readable(self, client: socket.socket, due: float) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(client, _set, ready)
        try:
            async with asyncio.timeout_at(due):
                await ready
        finally:
            self._loop.remove_reader(client)

    def arrived(self, connection: H1Server | H2Server) -> None:
        """The HTTP version is known: the connection takes part in drains from now on."""
        connection.on_lost = self.left
        self.connections.add(connection)
        if connection.info.leaves_at != inf:
            self._ages.watch(connection.info)
            self.shared.reaper.add(self._ages)
        if self._strangers is not None and connection.info.peer is None:
            self._strangers.add(connection, self._loop.time())
        self.events.connected(connection.info)
        if self.state is not ListenerState.SERVING:
            delay = STAY_WHILE_DRAINING if self.state is ListenerState.DRAINING else 0.0
            connection.drain(delay, self._patience)

    def left(self, connection: H1Server | H2Server) -> None:
        self.connections.discard(connection)
        if self._strangers is not None:
            self._strangers.discard(connection)
        self.events.disconnected(connection.info)
        if not self.connections:
            self._is_empty.set()
            self.shared.reaper.discard(self._ages)

    def waiting(self, detector: ProtocolDetector) -> None:
        """Wait for the first bytes of a connection."""
        self._detectors.add(detector)
        self.shared.reaper.add(detector)

    def waited(self, detector: ProtocolDetector) -> None:
        """The connection sent its first bytes, or was lost."""
        self._detectors.discard(detector)
        self.shared.reaper.discard(detector)


class ProtocolDetector(Reading):
    """Detects the HTTP version of a connection: by ALPN, or by the HTTP/2 preface (RFC 9113 section 3.4)."""

    def __init__(self, listener: Listener, remote: str, original: str) -> None:
        super().__init__(listener.shared)
        self._listener = listener
        self._remote = remote
        self._original = original
        self._received = b""
        self._transport: asyncio.Transport
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected, and over TLS the handshake is complete."""
        self._transport = transport  # type: ignore[assignment]
        listener = self._listener
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        alpn = ""
        peer: object = None
        try:
            if tls is not None:
                alpn = tls.selected_alpn_protocol() or ""
                peer = listener.identify(tls)
                listener.events.handshake("ok", "")
            else:
                peer = listener.identify(None)
        except PeerRejected as rejected:
            failure = OF_IDENTITY.get(rejected.reason, HandshakeFailure.NOT_A_WORKLOAD)
            listener.failed("rejected", failure, self._remote, str(rejected))
            self._transport.abort()
            return
        self._info = ConnectionInfo(
            direction=listener.direction,
            protocol="",
            remote=self._remote,
            local=listener.address,
            tls_version=(tls.version() or "") if tls is not None else "",
            alpn=alpn,
            server_name=requested_server_name(tls) if tls is not None else "",
            peer=peer,
            original=self._original,
        )
        if tls is not None:
            self.is_encrypted = True
            # What asyncio has read of the certificate is 2 KB, and of no use to us.
            (transport.get_extra_info("peercert") or {}).clear()
            certificate_age.note(self._info, tls, listener.shared.loop.time())
        if listener.welcomes is not None and not listener.welcomes(self._info):
            self._transport.abort()
        elif alpn == "h2":
            self._become(H2Server, b"")
        elif alpn == "http/1.1":
            self._become(H1Server, b"")
        else:
            self.deadline = listener.shared.loop.time() + listener.shared.times.head
            listener.waiting(self)

    def data_received(self, data: bytes) -> None:
        """Without ALPN: compare the first bytes with the preface."""
        if self._transport.is_closing():
            return
        self._received += data
        if self._received.startswith(PREFACE):
            self._become(H2Server, self._received)
        elif not PREFACE.startswith(self._received[: len(PREFACE)]):
            line, ending, _ = self._received.partition(b"\n")
            if not ending or line == b"\r" or b"HTTP/" in line or LIKE_A_REQUEST.match(line):
                self._become(H1Server, self._received)
            else:
                # Not HTTP: the client could not read an answer either, least of all an HTTP/2 client with a broken
                # preface (RFC 9113 section 3.4).
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: lost before the version was known."""
        self._listener.waited(self)

    def close(self) -> None:
        """Abort: no request was received."""
        self._transport.abort()

    def expire(self, now: float) -> None:
        """The first bytes were not received in time (`reaper.Expirable`)."""
        self._listener.shared.on_limit("head_time")
        self._transport.abort()

    def _become(self, driver: type[H1Server] | type[H2Server], received: bytes) -> None:
        listener = self._listener
        listener.waited(self)
        self._info.protocol = "HTTP/2" if driver is H2Server else "HTTP/1.1"
        connection = driver(listener.shared, self._info, listener.serve, listener.reject)
        connection.attach(self._transport)
        self._transport.set_protocol(connection)
        listener.arrived(connection)
        if received:
            connection.data_received(received)
            if len(received) >= LARGE_READ:
                connection.give_way()


def _has_left(client: socket.socket) -> bool:
    """Whether the other side has closed the connection, with or without reading what it gets.

    Who has waited for too long in the kernel's backlog leaves a ClientHello behind. To answer it would be most of the
    work of a handshake, and of 10,000 clients that come together the later ones would wait for longer still.
    """
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == CLOSE_WAIT


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
