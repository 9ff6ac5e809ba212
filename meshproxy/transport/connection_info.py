"""The properties of an established connection."""

from __future__ import annotations

from math import inf


class ConnectionInfo:
    """What all exchanges of one connection share. Fixed when it is established, but for `caller`,
    `inflating` and `unnamed_bytes`; `leaves_at` and `expires_at` are set with it, and cleared when they have passed."""

    __slots__ = (
        "alpn",
        "caller",
        "direction",
        "expires_at",
        "inflating",
        "leaves_at",
        "local",
        "original",
        "peer",
        "protocol",
        "remote",
        "server_name",
        "tls_version",
        "unnamed_bytes",
    )

    def __init__(
        self,
        *,
        direction: str,
        protocol: str,
        remote: str,
        local: str,
        tls_version: str = "",
        alpn: str = "",
        server_name: str = "",
        peer: object = None,
        original: str = "",
    ) -> None:
        self.direction = direction
        """`inbound`, `outbound`, `admin`, or `upstream` for a connection that we opened."""
        self.protocol = protocol
        """`HTTP/1.1` or `HTTP/2`."""
        self.remote = remote
        """`address:port` of the other end."""
        self.local = local
        self.tls_version = tls_version
        """Empty on plaintext."""
        self.alpn = alpn
        self.server_name = server_name
        """The host name that the client asked for in the TLS handshake (SNI); empty if it asked for none."""
        self.peer = peer
        """The identity in the peer's certificate, as the listener's `identify` or the connector's `verify` returned it;
        None without a certificate."""
        self.original = original
        """`address:port` that the client connected to before the kernel redirected it to us; empty if it was not
        redirected."""
        self.leaves_at = inf
        """`loop.time()` at which the client is asked to leave (`certificate_age`)."""
        self.expires_at = inf
        """`loop.time()` at which the first of both certificates expires."""
        self.caller: object = None
        """The caller of the last request: a cache, since the next request usually comes from the same one."""
        self.inflating = 0
        """Bodies of its requests that are being inflated."""
        self.unnamed_bytes = 0
        """Held of the bodies of its requests whose model is not known yet."""

    @property
    def security(self) -> str:
        """`mtls`: the peer's certificate was verified; `tls`: it presented none; `plaintext`."""
        return ("tls" if self.peer is None else "mtls") if self.tls_version else "plaintext"
