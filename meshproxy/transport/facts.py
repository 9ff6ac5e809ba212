"""What is known of a connection once it stands, and never changes afterwards."""

from __future__ import annotations


class ConnectionFacts:
    """What every exchange of one downstream connection shares. Made once per connection."""

    __slots__ = (
        "alpn",
        "caller",
        "direction",
        "local",
        "original",
        "peer",
        "protocol",
        "remote",
        "server_name",
        "tls_version",
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
        """`inbound`, `outbound`, `admin`, or `upstream` for those that we open."""
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
        """What the listener's `identify`, or the connector's `verify`, made of the peer's certificate; None without
        one."""
        self.original = original
        """`address:port` that the client dialled before the kernel redirected it to us; empty if it meant us."""
        self.caller: object = None
        """Who the last request of this connection came from: most often the next one comes from the same."""
