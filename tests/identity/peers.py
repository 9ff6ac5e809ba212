"""A completed handshake without one: what `mesh_context.identify` asks of a TLS connection."""

from __future__ import annotations

import ssl
from typing import cast

from meshproxy.identity.mesh_context import MeshContext
from meshproxy.identity.trust import Trust


class Handshaken:
    """The end of a connection whose peer has shown `leaf`, with a context that trusts one trust domain."""

    def __init__(self, leaf: bytes | None, trust_domain: str) -> None:
        self.context = MeshContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.trust = Trust({trust_domain: ()})
        self._leaf = leaf

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self._leaf


def handshaken(leaf: bytes | None, trust_domain: str) -> ssl.SSLObject:
    return cast(ssl.SSLObject, Handshaken(leaf, trust_domain))
