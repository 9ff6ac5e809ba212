"""Opens connections to servers: in plaintext, over mTLS to peers of the mesh, whose identity is verified, or over TLS
to servers whose name is.

An HTTP/2 connection is ready when the server's SETTINGS have been received. That costs one round trip per connection
and finds what otherwise only a request would: with TLS 1.3 a client finishes before the server has verified its
certificate, a kernel accepts connections for a process that hangs, and a server may allow no streams. (grpc-core and
grpc-go wait for the same frame.)
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.codec.h2.frames import SETTINGS
from meshproxy.identity.mesh_context import alerts_go_to
from meshproxy.transport.certificate_age import leaves_after, time_left
from meshproxy.transport.connect_failures import NAMED, SIDECAR, UNIX, ConnectError, ConnectFailure, Hints, explain
from meshproxy.transport.connection import Reading, keep_alive
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1_client import H1Client, H1Owner
from meshproxy.transport.h2_client import H2Client, H2Owner
from meshproxy.transport.listener import PeerRejected

if TYPE_CHECKING:
    from meshproxy.transport.connection import ConnectionContext

PROBES = (2, 2)
"""Seconds of keepalive: of silence before the first probe, and between probes. A host that is gone is known after
8, and what the kernel's timers add: within the 10 s of the PINGs of HTTP/2 (`Times`)."""
BACKLOG_PAUSE = 0.01
"""Seconds between two attempts at a UNIX socket whose queue of connections is full."""


class Peer(Protocol):
    """The identity of a certificate, such as `identity.caller.Workload`."""

    @property
    def not_after(self) -> float:
        """When the certificate expires, seconds since the epoch; 0.0 for never."""


class PeerSecurity(msgspec.Struct, frozen=True):
    """How connections to a server are secured. Called per connection, so that rotations take effect."""

    context: Callable[[], ssl.SSLContext]
    """The trusted authorities, our certificate, ALPN. Requires a server certificate. Checks the name of the server, or
    else `verify` identifies it. Raises OSError, as a connection that fails does."""
    verify: Callable[[ssl.SSLObject], Peer]
    """Tells who the server of a completed handshake is. Raises PeerRejected if that is not the expected one."""
    server_name: str | None = None
    """A DNS name or IP address: what the context checks, if it does, and SNI. None: the host of the address."""
    hints: Hints = SIDECAR
    """What to check if a connection fails."""


class NamedPeer(msgspec.Struct, frozen=True):
    """The identity of a server whose name the TLS context has checked (`Peer`)."""

    not_after: float = 0.0


def named_server(
    context: Callable[[], ssl.SSLContext], server_name: str | None = None, hints: Hints = NAMED
) -> PeerSecurity:
    """TLS to a server that is known by its name: `context` checks chain and name (`check_hostname`)."""
    return PeerSecurity(context, lambda tls: NamedPeer(), server_name=server_name, hints=hints)


async def connect_h1(
    shared: ConnectionContext, address: str, owner: H1Owner, timeout: float, peer: PeerSecurity | None = None
) -> H1Client:
    """An HTTP/1.1 connection.

    Args:
        shared: what all connections share.
        address: `host:port`, or `unix:` and the absolute path of a UNIX socket.
        owner: is notified about the connection.
        timeout: seconds, until it is connected, and over TLS until the handshake is complete.
        peer: TLS. None: plaintext.

    Raises:
        ConnectError: the connection could not be established.
    """
    client = H1Client(shared, upstream_info(address, "HTTP/1.1"), owner)
    is_well = False
    try:
        async with asyncio.timeout(timeout):
            transport = await _dial(shared, address, client, peer)
        if peer is not None:
            tls = transport.get_extra_info("ssl_object")
            identity = _verify(address, client, peer, tls)
            client.good_until = shared.loop.time() + leaves_after(time_left(tls, identity.not_after))
        is_well = True
    except TimeoutError as error:
        raise _late(address, _awaited(peer), timeout) from error
    except OSError as error:
        raise explain(address, error, peer.hints if peer is not None else None) from error
    finally:
        if not is_well:
            client.give_up()
    return client


async def connect_h2(
    shared: ConnectionContext, address: str, owner: H2Owner, timeout: float, peer: PeerSecurity | None = None
) -> H2Client:
    """An HTTP/2 connection whose handshake is complete.

    Args:
        shared: what all connections share.
        address: as for `connect_h1`.
        owner: is notified about the connection, also if it is not returned.
        timeout: seconds, from the first packet to the server's SETTINGS.
        peer: TLS with ALPN. None: plaintext with prior knowledge (RFC 9113 section 3.3), as gRPC servers expect.

    Raises:
        ConnectError: the connection could not be established.
    """
    handshake = Handshake(H2Client(shared, upstream_info(address, "HTTP/2"), owner), address, peer)
    is_well = False
    try:
        async with asyncio.timeout(timeout):
            await _dial(shared, address, handshake, peer)
            error = await handshake.outcome
            if error is not None:
                raise error
            is_well = True
    except TimeoutError as late:
        raise _late(address, handshake.awaits, timeout) from late
    except OSError as problem:
        raise explain(address, problem, peer.hints if peer is not None else None) from problem
    finally:
        if not is_well:
            handshake.abandon()
    return handshake.client


def upstream_info(address: str, protocol: str) -> ConnectionInfo:
    return ConnectionInfo(direction="upstream", protocol=protocol, remote=address, local="")


def _awaited(peer: PeerSecurity | None) -> str:
    return "accept a connection" if peer is None else "accept a connection and complete the TLS handshake"


def _late(address: str, awaited: str, timeout: float) -> ConnectError:
    return ConnectError(f"{address} did not {awaited} within {timeout:g} s", ConnectFailure.TIMEOUT)


async def _dial(
    shared: ConnectionContext, address: str, protocol: asyncio.BaseProtocol, peer: PeerSecurity | None
) -> asyncio.BaseTransport:
    """Connect, complete TLS and start `protocol`. Raises OSError, of which ssl.SSLError is one."""
    loop = shared.loop
    context = name = None
    if peer is not None:
        context, name = peer.context(), peer.server_name
    if address.startswith(UNIX):
        sock = await _connect_unix(address.removeprefix(UNIX))
        transport, _ = await loop.create_unix_connection(
            lambda: protocol, sock=sock, ssl=context, server_hostname=None if context is None else name or ""
        )
        return transport
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if context is not None and name is None:
        name = host.removesuffix(".")  # RFC 6066 section 3
    if context is not None and (family := _family(host)) is not None:
        sock = await _connect_tcp(loop, family, host, int(port))
        token = alerts_go_to.set([sock])
        try:
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock, ssl=context, server_hostname=name)
        finally:
            alerts_go_to.reset(token)
    else:
        transport, _ = await loop.create_connection(
            lambda: protocol, host, int(port), ssl=context, server_hostname=name
        )
    sock = transport.get_extra_info("socket")
    if sock is not None:  # otherwise it was lost already, and its driver knows
        with contextlib.suppress(OSError):
            keep_alive(sock, *PROBES)
    return transport


def _family(host: str) -> socket.AddressFamily | None:
    """Of an IP address; None: it is a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return family
    return None


async def _connect_tcp(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, host: str, port: int
) -> socket.socket:
    """A connected socket, which can be given to the handshake for its alert. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # or asyncio leaves TCP_NODELAY out
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix(path: str) -> socket.socket:
    """A connected socket. Raises OSError.

    While the server's queue is full, connect(2) fails with EAGAIN and nothing tells when to try again. asyncio takes
    that for a connection, and uvloop for a failure.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
            except BlockingIOError:
                await asyncio.sleep(BACKLOG_PAUSE)
            else:
                return sock
    except BaseException:
        sock.close()
        raise


def _verify(address: str, client: H1Client | H2Client, peer: PeerSecurity, tls: ssl.SSLObject | None) -> Peer:
    """Identify the server of a connection whose TLS handshake is complete. Raises ConnectError."""
    if tls is None or not tls.getpeercert(binary_form=True):
        raise ConnectError(f"{address} presented no certificate", ConnectFailure.BAD_CERTIFICATE)
    try:
        identity = peer.verify(tls)
    except PeerRejected as rejected:
        message = f"{address} has an unexpected identity: {rejected}"
        raise ConnectError(message, ConnectFailure.OTHER_WORKLOAD) from rejected
    except Exception as mistake:
        # Fail closed, and report it: there is no other reader of this error.
        raise ConnectError(f"the certificate of {address} cannot be verified: {mistake!r}") from mistake
    info = client.info
    info.peer, info.tls_version = identity, tls.version() or ""
    info.alpn = tls.selected_alpn_protocol() or ""
    return identity


class Handshake(Reading):
    """Verifies the peer of a new connection and waits for its first frame, SETTINGS. Then the client takes over the
    transport."""

    def __init__(self, client: H2Client, address: str, peer: PeerSecurity | None) -> None:
        super().__init__(client.shared)
        self.client = client
        self._address = address
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._is_attached = False
        self.outcome: asyncio.Future[ConnectError | None] = client.shared.loop.create_future()
        """None on success. Errors are results too: an exception that is never retrieved would be logged."""

    @property
    def awaits(self) -> str:
        """What the server has not done yet, for the message of a timeout."""
        if self._transport is not None:
            return "complete the HTTP/2 handshake"
        return _awaited(self._peer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected, and over TLS the handshake is complete."""
        self._transport = transport  # type: ignore[assignment]
        if self._peer is not None:
            try:
                self._verify(self._peer, transport.get_extra_info("ssl_object"))
            except ConnectError as error:
                self._end(error)
                transport.abort()  # type: ignore[attr-defined]
                return
        self._is_attached = True
        self.client.attach(transport)  # type: ignore[arg-type]

    def _verify(self, peer: PeerSecurity, tls: ssl.SSLObject) -> None:
        """Raises ConnectError."""
        client = self.client
        identity = _verify(self._address, client, peer, tls)
        alpn = client.info.alpn
        if alpn != "h2":
            raise ConnectError(
                f"{self._address} does not agree on HTTP/2 (ALPN {alpn or 'none'}): {peer.hints.port}",
                ConnectFailure.NOT_HTTP2,
            )
        left = time_left(tls, identity.not_after)
        if left != inf:
            client.good_until = self.shared.loop.time() + leaves_after(left)

    def data_received(self, data: bytes) -> None:
        """Pass the first bytes to the client, and see whether SETTINGS was among them."""
        client = self.client
        if not self._is_attached or self._transport is None:
            return
        client.data_received(data)
        has_settings = client.codec.frames_received[SETTINGS] > 0
        if client.is_closing:
            self._end(
                ConnectError(
                    f"{self._address} closed the connection immediately after the HTTP/2 handshake"
                    if has_settings
                    else f"{self._address} does not speak HTTP/2: check whether the port is its gRPC port, and whether "
                    "it expects TLS",
                    ConnectFailure.CLOSED if has_settings else ConnectFailure.NOT_HTTP2,
                )
            )
        elif has_settings:
            self._transport.set_protocol(client)
            self._end(None)

    def eof_received(self) -> bool:
        """asyncio: the server closed its half."""
        return self._is_attached and self.client.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection was lost."""
        if self._is_attached:
            self.client.connection_lost(exc)
        self._end(explain(self._address, exc, self._peer.hints if self._peer is not None else None))

    def abandon(self) -> None:
        """Close the connection, if there is one."""
        if self._is_attached:
            self.client.give_up()
        elif self._transport is not None:
            self._transport.abort()

    def _end(self, error: ConnectError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)
