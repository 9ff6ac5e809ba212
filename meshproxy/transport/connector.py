"""Opens connections to servers: in plain, or over TLS to peers of the mesh, whose identity the caller verifies.

An HTTP/2 connection is handed over when the server's SETTINGS have come. That costs one round trip for each connection
and answers what could otherwise only be found out with a request: TLS 1.3 has a client finish before the server has
read its certificate, a kernel accepts connections for a process that hangs, and a server may allow no stream at all.
(grpc-core and grpc-go wait for the same frame before they call a channel ready.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.h2.frames import SETTINGS
from meshproxy.transport.connection import Reading, keep_alive
from meshproxy.transport.facts import ConnectionFacts
from meshproxy.transport.h1 import H1Client
from meshproxy.transport.h1 import Owner as H1Owner
from meshproxy.transport.h2_client import H2Client
from meshproxy.transport.h2_client import Owner as H2Owner
from meshproxy.transport.listener import PeerRejected

if TYPE_CHECKING:
    from meshproxy.transport.connection import Driving

# OpenSSL's names for why a chain does not verify (x509_vfy.h).
_NOT_YET_VALID, _HAS_EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


class ConnectError(Exception):
    """A server could not be reached, and nothing of a request was sent to it: any request may be tried elsewhere. The
    message says which server, why, and what to look at."""


class Peer(Protocol):
    """Whom a certificate names: `identity.caller.Workload` is one."""

    @property
    def not_after(self) -> float:
        """When the certificate expires, seconds since the epoch; 0.0 for never."""


@dataclass(frozen=True, slots=True)
class PeerSecurity:
    """How connections to peers of the mesh are secured. Asked for each connection, so that what rotates is new."""

    context: Callable[[], ssl.SSLContext]
    """Ours: the certificate that we show, the authorities that we trust, ALPN `h2`. It must demand a certificate, and
    not check host names: who the server is, its SPIFFE id says."""
    verify: Callable[[bytes], Peer]
    """Reads the leaf that the server showed (DER), whose chain has been verified. Raises PeerRejected if it is not the
    server's that is meant."""


async def connect_h1(driving: Driving, address: str, owner: H1Owner, timeout: float) -> H1Client:
    """An HTTP/1.1 connection to `host:port` or a UNIX socket's path. Raises ConnectError."""
    client = H1Client(driving, _facts(address, "HTTP/1.1"), owner)
    try:
        async with asyncio.timeout(timeout):
            await _dial(driving, address, client, None)
    except TimeoutError as error:
        raise ConnectError(f"{address} did not accept a connection within {timeout:g} s") from error
    except OSError as error:
        raise _failure(address, error) from error
    return client


async def connect_h2(
    driving: Driving, address: str, owner: H2Owner, timeout: float, peer: PeerSecurity | None = None
) -> H2Client:
    """An HTTP/2 connection, and the server at its other end speaks it.

    Args:
        driving: what all connections share.
        address: `host:port` or a UNIX socket's path.
        owner: hears what becomes of the connection, also of one that is not returned.
        timeout: seconds, from the first packet to the server's SETTINGS.
        peer: of the mesh: over TLS, with ALPN. None: in plain, with prior knowledge (RFC 9113 section 3.3), as to gRPC
            servers.

    Raises:
        ConnectError: there is no such connection to be had.
    """
    greeting = Greeting(H2Client(driving, _facts(address, "HTTP/2"), owner), address, peer)
    is_well = False
    try:
        async with asyncio.timeout(timeout):
            await _dial(driving, address, greeting, peer.context() if peer is not None else None)
            error = await greeting.outcome
            if error is not None:
                raise error
            is_well = True
    except TimeoutError as late:
        raise ConnectError(f"{address} did not {greeting.awaits} within {timeout:g} s") from late
    except OSError as problem:
        raise _failure(address, problem, is_tls=peer is not None) from problem
    finally:
        if not is_well:
            greeting.abandon()
    return greeting.client


def _facts(address: str, protocol: str) -> ConnectionFacts:
    return ConnectionFacts(direction="upstream", protocol=protocol, remote=address, local="")


async def _dial(driving: Driving, address: str, protocol: asyncio.BaseProtocol, context: ssl.SSLContext | None) -> None:
    """The socket stands, TLS is done, `protocol` is on it. Raises OSError, of which ssl.SSLError is one."""
    loop = driving.loop
    name = None if context is None else ""
    if address.startswith("/"):
        await loop.create_unix_connection(lambda: protocol, address, ssl=context, server_hostname=name)
        return
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if context is not None:
        name = host  # not checked; whatever stands before the server may choose by it
    transport, _ = await loop.create_connection(lambda: protocol, host, int(port), ssl=context, server_hostname=name)
    sock = transport.get_extra_info("socket")
    if sock is not None:  # or it is gone already, and its driver has heard
        with contextlib.suppress(OSError):
            keep_alive(sock)


class Greeting(Reading):
    """A connection until its server has greeted us: the peer is verified, then its first frame, SETTINGS, is awaited.
    From there on the client is on the socket itself."""

    def __init__(self, client: H2Client, address: str, peer: PeerSecurity | None) -> None:
        self.client = client
        self.driving = client.driving
        self._address = address
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._is_attached = False
        self.outcome: asyncio.Future[ConnectError | None] = client.driving.loop.create_future()
        """None if all is well. A result either way: an exception that nobody is left to hear would be logged."""

    @property
    def awaits(self) -> str:
        """What the server has not done yet."""
        if self._transport is not None:
            return "say anything in HTTP/2, although it took the connection,"
        return "accept a connection" if self._peer is None else "accept a connection and complete the TLS handshake"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket stands, TLS is done."""
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
            raise ConnectError(f"{address} shows no certificate")
        try:
            identity = peer.verify(der)
        except PeerRejected as rejected:
            raise ConnectError(f"{address} is not the server that is meant: {rejected}") from rejected
        except Exception as mistake:
            # Whatever it is: nobody else hears of it, and who is not verified is not talked to.
            raise ConnectError(f"the certificate of {address} cannot be verified: {mistake!r}") from mistake
        alpn = tls.selected_alpn_protocol()
        if alpn != "h2":
            raise ConnectError(
                f"{address} does not agree on HTTP/2 (ALPN {alpn or 'none'}): look whether the port is a sidecar's"
            )
        client = self.client
        facts = client.facts
        facts.peer, facts.alpn, facts.tls_version = identity, alpn, tls.version() or ""
        if identity.not_after:
            client.good_until = self.driving.loop.time() + identity.not_after - time.time()

    def data_received(self, data: bytes) -> None:
        """What came first."""
        client = self.client
        if not self._is_attached or self._transport is None:
            return
        client.data_received(data)
        has_greeted = client.codec.frames_received[SETTINGS] > 0
        if client.is_closing:
            self._end(
                ConnectError(
                    f"{self._address} takes no requests: it ended the connection as soon as it stood"
                    if has_greeted
                    else f"{self._address} does not speak HTTP/2: look whether the port is its gRPC port, and whether "
                    "it expects TLS"
                )
            )
        elif has_greeted:
            self._transport.set_protocol(client)
            self._end(None)

    def eof_received(self) -> bool:
        """asyncio: the server's half is closed."""
        return self._is_attached and self.client.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        if self._is_attached:
            self.client.connection_lost(exc)
        self._end(_failure(self._address, exc, is_tls=self._peer is not None))

    def abandon(self) -> None:
        """Nobody wants the connection any more, if there is one."""
        if self._is_attached:
            self.client.abort()
        elif self._transport is not None:
            self._transport.abort()

    def _end(self, error: ConnectError | None) -> None:
        if not self.outcome.done():
            self.outcome.set_result(error)


def _failure(address: str, error: Exception | None, *, is_tls: bool = False) -> ConnectError:
    """What went wrong, for whoever has to mend it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectError(f"the certificate of {address} {_distrust(error)}")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or ""
        words = reason.lower().replace("_", " ") or "a TLS error"
        if reason in _NO_TLS:
            return ConnectError(f"{address} does not speak TLS ({words}): look whether the port is a sidecar's")
        if "APPLICATION_PROTOCOL" in reason:
            return ConnectError(f"{address} does not agree on HTTP/2 ({words}): look whether the port is a sidecar's")
        if "ALERT" in reason:
            return ConnectError(
                f"{address} refused us ({words}): look whether our certificate is valid, and of an authority that the "
                "server trusts"
            )
        return ConnectError(f"TLS with {address} failed: {words}")
    if error is not None and not isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        why = str(error)
        if isinstance(error, OSError):
            # asyncio puts the address into `strerror`; errors of name look-ups have negative numbers.
            why = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror or why
        return ConnectError(f"{address} cannot be reached: {why}")
    if is_tls:
        return ConnectError(
            f"{address} closed the connection instead of greeting us: its log says whether it refused us"
        )
    return ConnectError(f"{address} closed the connection at once")


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _HAS_EXPIRED:
        return "has expired: see why the server did not renew it"
    if error.verify_code == _NOT_YET_VALID:
        return "is not valid yet: compare the clocks of this host and of the authority"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return (
            "is of no authority that we trust: while an authority rotates, the trust bundle must hold the old one and "
            "the new one"
        )
    return f"does not verify: {error.verify_message}"
