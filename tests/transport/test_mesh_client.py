"""Clients by their certificates; `test_mesh_context` has who is who."""

from __future__ import annotations

import ssl
import time

import pytest

from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity.certificates import Credentials, own_identity
from meshproxy.transport.listener import PeerRejected
from meshproxy.transport.mesh_client import identify_client
from tests.identity.handshakes import handshake

CA = DevelopmentCA.create("m.example")
SERVER = CA.issue("spiffe://m.example/ns/a/sa/server")


def connected(client: IssuedCertificate) -> ssl.SSLObject:
    """The server's end of a handshake in memory."""
    credentials = Credentials(SERVER.certificate_pem, SERVER.key_pem, CA.bundle_pem)
    own = own_identity(credentials, "m.example", time.time(), calls=False)
    other = own_identity(
        Credentials(client.certificate_pem, client.key_pem, CA.bundle_pem), "m.example", time.time(), serves=False
    )
    server, _ = handshake(own.server, other.client)
    return server


def test_a_workload() -> None:
    found = identify_client(connected(CA.issue("spiffe://m.example/ns/a/sa/client")))
    assert found is not None
    assert found.spiffe_id == "spiffe://m.example/ns/a/sa/client"


def test_without_tls_there_is_nobody() -> None:
    assert identify_client(None) is None


def test_one_that_has_expired_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    tls = connected(CA.issue("spiffe://m.example/ns/a/sa/client"))
    later = time.time() + 2 * 86_400.0
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(PeerRejected, match="has expired") as caught:
        identify_client(tls)
    assert caught.value.reason == "expired"
