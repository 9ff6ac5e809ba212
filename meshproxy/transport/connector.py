"""Opens connections to servers: in plaintext, or over mTLS to peers of the mesh, whose identity is verified.

An HTTP/2 connection is ready when the server's SETTINGS have been received. That costs one round trip per connection
and finds what otherwise only a request would: with TLS 1.3 a client finishes before the server has verified its
certificate, a kernel accepts connections for a process that hangs, and a server may allow no streams. (grpc-core and
grpc-go wait for the same frame.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.h2.frames import SETTINGS
from meshproxy.transport.connection import Reading, keep_alive
from meshproxy.transport.connection_info import ConnectionInfo
from meshproxy.transport.h1 import H1Client, H1Owner
from meshproxy.transport.h2_client import H2Client, H2Owner
from meshproxy.transport.handshake_failures import HAS_EXPIRED, NOT_YET_VALID, UNKNOWN_AUTHORITY
from meshproxy.transport.listener import PeerRejected

if TYPE_CHECKING:
    from meshproxy.transport.connection import ConnectionContext

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


class ConnectError(Exception):
    """A server could not be reached, and nothing of a request was sent: any request may be tried elsewhere. The message
    says which server, why, and what to check."""


class Peer(Protocol):
    """The identity of a certificate, such as `identity.caller.Workload`."""

    @property
    def not_after(self) -> float:
        """When the certificate expires, seconds since the epoch; 0.0 for never."""


@dataclass(frozen=True, slots=True)
class PeerSecurity:
    """How connections to peers of the mesh are secured. Called per connection, so that rotations take effect."""

    context: Callable[[], ssl.SSLContext]
    """Our certificate, the trusted authorities, ALPN `h2`. Requires a server certificate, and does not check host
    names: the server is identified by its SPIFFE id."""
    verify: Callable[[bytes], Peer]
    """Reads the server's leaf (DER), whose chain has been verified. Raises PeerRejected if its identity is not the
    expected one."""
    own_not_after: Callable[[], float] = lambda: inf
    """Until when the certificate in `context` is good enough for new requests, seconds since the epoch."""


async def connect_h1(shared: ConnectionContext, address: str, owner: H1Owner, timeout: float) -> H1Client:
    """An HTTP/1.1 connection to `host:port` or a UNIX socket's path. Raises ConnectError."""
    client = H1Client(shared, upstream_info(address, "HTTP/1.1"), owner)
    try:
        async with asyncio.timeout(timeout):
            await _dial(shared, address, client, None)
    except TimeoutError as error:
        raise ConnectError(f"{address} did not accept a connection within {timeout:g} s") from error
    except OSError as error:
        raise _failure(address, error) from error
    return client


async def connect_h2(
    shared: ConnectionContext, address: str, owner: H2Owner, timeout: float, peer: PeerSecurity | None = None
) -> H2Client:
    """An HTTP/2 connection whose handshake is complete.

    Args:
        shared: what all connections share.
        address: `host:port` or a UNIX socket's path.
        owner: is notified about the connection, also if it is not returned.
        timeout: seconds, from the first packet to the server's SETTINGS.
        peer: mTLS with ALPN. None: plaintext with prior knowledge (RFC 9113 section 3.3), as gRPC servers expect.

    Raises:
        ConnectError: the connection could not be established.
    """
    handshake = Handshake(H2Client(shared, upstream_info(address, "HTTP/2"), owner), address, peer)
    is_well = False
    try:
        async with asyncio.timeout(timeout):
            await _dial(shared, address, handshake, peer.context() if peer is not None else None)
            error = await handshake.outcome
            if error is not None:
                raise error
            is_well = True
    except TimeoutError as late:
        raise ConnectError(f"{address} did not {handshake.awaits} within {timeout:g} s") from late
    except OSError as problem:
        raise _failure(address, problem, is_tls=peer is not None) from problem
    finally:
        if not is_well:
            handshake.abandon()
    return handshake.client


def upstream_info(address: str, protocol: str) -> ConnectionInfo:
    return ConnectionInfo(direction="upstream", protocol=protocol, remote=address, local="")


async def _dial(
    shared: ConnectionContext, address: str, protocol: asyncio.BaseProtocol, context: ssl.SSLContext | None
) -> None:
    """Connect, complete TLS and start `protocol`. Raises OSError, of which ssl.SSLError is one."""
    loop = shared.loop
    name = None if context is None else ""
    if address.startswith("/"):
        await loop.create_unix_connection(lambda: protocol, address, ssl=context, server_hostname=name)
        return
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if context is not None:
        name = host  # SNI only: not verified
    transport, _ = await loop.create_connection(lambda: protocol, host, int(port), ssl=context, server_hostname=name)
    sock = transport.get_extra_info("socket")
    if sock is not None:  # otherwise it was lost already, and its driver knows
        with contextlib.suppress(OSError):
            keep_alive(sock)


class Handshake(Reading):
    """Verifies the peer of a new connection and waits for its first frame, SETTINGS. Then the client takes over the
    transport."""

    def __init__(self, client: H2Client, address: str, peer: PeerSecurity | None) -> None:
        self.client = client
        self.shared = client.shared
        self._address = address
        self._peer = peer
        # Read with the context, before anything is awaited: a rotation during the handshake does not reach it.
        self._own_not_after = peer.own_not_after() if peer is not None else inf
        self._transport: asyncio.Transport | None = None
        self._is_attached = False
        self.outcome: asyncio.Future[ConnectError | None] = client.shared.loop.create_future()
        """None on success. Errors are results too: an exception that is never retrieved would be logged."""

    @property
    def awaits(self) -> str:
        """What the server has not done yet, for the message of a timeout."""
        if self._transport is not None:
            return "complete the HTTP/2 handshake"
        return "accept a connection" if self._peer is None else "accept a connection and complete the TLS handshake"

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
        address = self._address
        der = tls.getpeercert(binary_form=True)
        if der is None:
            raise ConnectError(f"{address} presented no certificate")
        try:
            identity = peer.verify(der)
        except PeerRejected as rejected:
            raise ConnectError(f"{address} has an unexpected identity: {rejected}") from rejected
        except Exception as mistake:
            # Fail closed, and report it: there is no other reader of this error.
            raise ConnectError(f"the certificate of {address} cannot be verified: {mistake!r}") from mistake
        alpn = tls.selected_alpn_protocol()
        if alpn != "h2":
            raise ConnectError(
                f"{address} does not agree on HTTP/2 (ALPN {alpn or 'none'}): check whether the port is a sidecar's"
            )
        client = self.client
        info = client.info
        info.peer, info.alpn, info.tls_version = identity, alpn, tls.version() or ""
        not_after = min(identity.not_after or inf, self._own_not_after)
        if not_after != inf:
            client.good_until = self.shared.loop.time() + not_after - time.time()

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
                    "it expects TLS"
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
        self._end(_failure(self._address, exc, is_tls=self._peer is not None))

    def abandon(self) -> None:
        """Close the connection, if there is one."""
        if self._is_attached:
            self.client.abort()
        elif self._transport is not None:
            self._transport.abort()

    def _end(self, error: ConnectError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)


def _failure(address: str, error: Exception | None, *, is_tls: bool = False) -> ConnectError:
    """The error with a hint what to check."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(f"the certificate of {address} {_distrust(error)}")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        words = reason.lower().replace("_", " ") or "a TLS error"
        if reason in _NO_TLS:
            return ConnectError(f"{address} does not speak TLS ({words}): check whether the port is a sidecar's")
        if "APPLICATION_PROTOCOL" in reason:
            return ConnectError(f"{address} does not agree on HTTP/2 ({words}): check whether the port is a sidecar's")
        if "ALERT" in reason:
            return ConnectError(
                f"{address} rejected the TLS handshake ({words}): check that our certificate is valid and of an "
                "authority that the server trusts"
            )
        return ConnectError(f"TLS with {address} failed: {words}")
    if error is not None and not isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        return ConnectError(f"{address} cannot be reached: {why}")
    if is_tls:
        return ConnectError(f"{address} closed the connection before the HTTP/2 handshake: its log has the reason")
    return ConnectError(f"{address} closed the connection immediately")


def reason_of(error: OSError) -> str:
    """Why, without the address, which asyncio puts into `strerror`; resolver errors have negative numbers."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == HAS_EXPIRED:
        return "has expired: check why the server did not renew it"
    if error.verify_code == NOT_YET_VALID:
        return "is not valid yet: compare the clocks of this host and of the authority"
    if error.verify_code in UNKNOWN_AUTHORITY:
        return (
            "is not issued by a trusted authority: while an authority rotates, the trust bundle must hold the old "
            "one and the new one"
        )
    return f"does not verify: {error.verify_message}"
