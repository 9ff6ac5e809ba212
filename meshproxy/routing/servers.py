"""The `ModelServer` that an outbound request selects by header, authority or original destination."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshproxy.config.servers import ModelServer

HEADER = b"x-model-server"
UNKNOWN: Final = ""
"""The header names a server that does not exist: the call must not go to another one."""

MEMO_ENTRIES = 1_024
AUTHORITY_BYTES = 512
"""A longer authority selects no server, as host names have 253 characters at most, and is not cached."""

_PORT = re.compile(rb":[0-9]*\Z")


class Servers:
    """Model servers by the names and addresses that applications use for them."""

    __slots__ = ("_by_address", "_by_header", "_by_host", "_known")

    def __init__(self, servers: Sequence[ModelServer]) -> None:
        """
        Args:
            servers: of two with the same endpoint, the first is the one that its address means. Loading has made sure
                that they share no host.
        """
        self._by_header = {server.metadata.name.encode(): server.metadata.name for server in servers}
        self._by_host = {host: server.metadata.name for server in servers for host in server.spec.hosts}
        self._by_host |= {server.metadata.name: server.metadata.name for server in servers}
        self._by_address = {
            str(address): server.metadata.name
            for server in reversed(servers)
            for endpoint in server.spec.endpoints
            for address in (endpoint.rest, endpoint.grpc, endpoint.sidecar)
            if address is not None
        }
        self._known: dict[bytes, str | None] = {}
        """Authorities looked up so far, bounded: the application chooses them."""

    def find(self, authority: bytes, header: bytes | None, original: str) -> str | None:
        """The name of the server, by the first of these that selects one; None if none does.

        Args:
            authority: `:authority` or `host`; its port does not matter, nor does case. Several addresses that do not
                all select the same server, or none: `UNKNOWN`.
            header: the value of `x-model-server`, None if there is none. A name that no server has: `UNKNOWN`.
            original: the address that a redirected connection was meant for, as `Address` is written (`10.0.0.1:8500`,
                `[::1]:8500`); empty if it was not redirected. Static endpoints are found by it.
        """
        if header is not None:
            return self._by_header.get(header, UNKNOWN)
        try:
            found = self._known[authority]
        except KeyError:
            found = self._look(authority)
        if found is None and original:
            return self._by_address.get(original)
        return found

    def _look(self, authority: bytes) -> str | None:
        if len(authority) > AUTHORITY_BYTES:
            return None
        found = {self._find_host(host) for host in authority.split(b",")}
        # The addresses of a gRPC target, `ipv4:10.0.0.1:8500,10.0.0.2:8500`: they may select one server, or none.
        selected = found.pop() if len(found) == 1 else UNKNOWN
        if len(self._known) >= MEMO_ENTRIES:
            self._known.clear()
        self._known[authority] = selected
        return selected

    def _find_host(self, authority: bytes) -> str | None:
        # The brackets of an IPv6 address stay, so that nothing in it is taken for a port; no host is written like that.
        host = _PORT.sub(b"", authority).decode("latin-1").lower().removesuffix(".")
        return self._by_host.get(host)
