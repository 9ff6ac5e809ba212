"""TLS contexts of the mesh: a handshake with one tells which workload the peer is."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Protocol

from meshproxy.identity.trust import Trust

if TYPE_CHECKING:
    from meshproxy.identity.caller import Workload
    from meshproxy.identity.peer import PeerRole

KEPT = 1_024
"""Chains that a context remembers, for sessions of TLS 1.2 that are resumed."""


class Sender(Protocol):
    """A socket that does not block, for what takes no place in a queue."""

    def send(self, data: bytes, /) -> object:
        """Raises OSError."""


alerts_go_to: ContextVar[list[Sender]] = ContextVar("alerts_go_to")
"""The socket of the handshake that begins next in this context, for the alert with which it may fail. The handshake
takes it out: what a connection causes inherits its context, and other connections are among that."""


class Handshake(ssl.SSLObject):
    """A handshake that sends the alert with which it fails (RFC 8446 section 6.2).

    asyncio and uvloop close the connection at once then, and drop what OpenSSL has left for the peer: it would see the
    end of the connection, and not that a certificate is required or has expired, or which version of TLS is.
    """

    outgoing: ssl.MemoryBIO
    sender: Sender | None

    def do_handshake(self) -> None:
        """As that of `ssl.SSLObject`."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            # The peer has answered all that was written before, so this overtakes nothing.
            if self.sender is not None and (alert := self.outgoing.read()):
                with suppress(OSError):
                    self.sender.send(alert)
            raise
        self.sender = None


class MeshContext(ssl.SSLContext):
    """A context with the trust domains whose workloads its handshakes may identify, and the end of its certificate.

    They belong together: a handshake that begins before a change of the trust bundles is verified with the
    authorities of its context, and is judged by the same.
    """

    trust = Trust({})
    """Nobody, until it is set."""
    not_after = inf
    """When the certificate that it shows expires, seconds since the epoch; infinite if it shows none."""
    _chains: dict[bytes, Sequence[bytes]]
    sslobject_class = Handshake

    def __init__(self, protocol: int) -> None:
        super().__init__()
        self._chains = {}

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As that of `ssl.SSLContext`, for a handshake whose alert goes to `alerts_go_to`."""
        tls = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(tls, Handshake)
        senders = alerts_go_to.get(None)
        tls.outgoing, tls.sender = outgoing, senders.pop() if senders else None
        return tls

    def verified_chain(self, tls: ssl.SSLObject, leaf: bytes) -> Sequence[bytes]:
        """The chain that a handshake with this context has verified, DER: `leaf`, intermediates, the trusted authority.

        A resumed session of TLS 1.2 has none: for it, what a handshake with the same leaf has verified.
        """
        chain = _verified_chain(tls)
        if tls.version() != "TLSv1.2":
            return chain
        if not chain:
            return self._chains.get(leaf, ())
        self._chains.pop(leaf, None)  # in the order of the last handshakes
        if len(self._chains) >= KEPT:
            del self._chains[next(iter(self._chains))]
        self._chains[leaf] = chain
        return chain


def identify(tls: ssl.SSLObject, now: float, role: PeerRole) -> Workload | None:
    """The peer of a completed handshake with a `MeshContext`; None if it has shown no certificate.

    Raises:
        PeerRefused: its certificate does not identify a workload of a trusted domain.
    """
    leaf = tls.getpeercert(binary_form=True)
    if leaf is None:
        return None
    context = tls.context
    assert isinstance(context, MeshContext)
    return context.trust.identify(leaf, lambda: context.verified_chain(tls, leaf), now, role)


def _verified_chain(tls: ssl.SSLObject) -> Sequence[bytes]:
    if sys.version_info >= (3, 13):
        return tls.get_verified_chain()
    # Python 3.11 and 3.12 have the method too, and have not made it public (https://bugs.python.org/issue18233).
    found = tls._sslobj.get_verified_chain()  # type: ignore[attr-defined]
    return [certificate.public_bytes(_DER) for certificate in found or ()]


_DER = 2
"""`_ssl.ENCODING_DER`."""
