"""What a connection says of itself."""

from __future__ import annotations

import pytest

from meshproxy.transport.connection_info import ConnectionInfo


@pytest.mark.parametrize(
    ("tls_version", "peer", "security"),
    [("TLSv1.3", "a workload", "mtls"), ("TLSv1.3", None, "tls"), ("", None, "plaintext")],
)
def test_how_it_is_secured(tls_version: str, peer: object, security: str) -> None:
    info = ConnectionInfo(
        direction="inbound", protocol="HTTP/2", remote="", local="", tls_version=tls_version, peer=peer
    )
    assert info.security == security
