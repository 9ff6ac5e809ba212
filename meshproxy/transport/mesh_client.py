"""Who has connected to a port of the mesh, by the certificate of its TLS handshake."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meshproxy.identity.mesh_context import identify
from meshproxy.identity.peer import PeerRefused, PeerRole
from meshproxy.transport.listener import PeerRejected

if TYPE_CHECKING:
    import ssl

    from meshproxy.identity.caller import Workload


def identify_client(tls: ssl.SSLObject | None) -> Workload | None:
    """The client of a connection; None without a certificate (`listener.Identify`). The TLS context is a `MeshContext`.

    Raises:
        PeerRejected: its certificate does not identify a workload of a trusted domain.
    """
    if tls is None:
        return None
    try:
        return identify(tls, time.time(), PeerRole.CLIENT)
    except PeerRefused as refused:
        raise PeerRejected(str(refused), refused.reason) from refused
