"""The certificates of the control plane itself."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from meshproxy.config.values import Address
from meshproxy.control.authority import Authority
from meshproxy.control.current_authority import CurrentAuthority
from meshproxy.control.own_certificate import OwnCertificate
from meshproxy.control.settings import Settings
from meshproxy.control.store import FolderStore
from meshproxy.identity.peer import PeerRole, read_peer
from meshproxy.identity.trust_bundles import BundleSource, OtherBundles
from meshproxy.telemetry.control_metrics import ControlMetrics

FREE = Address("127.0.0.1", 0)
ID = "spiffe://m.example/ns/meshproxy/sa/control"


class Made:
    """A certificate's maker and what it is made of."""

    def __init__(self, folder: Path, **changed: object) -> None:
        self.settings = replace(Settings(folder, "m.example", ID, listen=FREE, web=FREE, lifetime=3_600.0), **changed)  # type: ignore[arg-type]
        self.authority = CurrentAuthority(FolderStore(folder), "m.example", time.time())
        self.metrics = ControlMetrics()
        trusted = {name: BundleSource.file(path) for name, path in self.settings.trusted.items()}
        self.own = OwnCertificate(self.settings, self.authority, OtherBundles(trusted), self.metrics)


def test_each_one_is_new_and_of_the_authority_in_force(tmp_path: Path) -> None:
    made = Made(tmp_path)
    assert made.own.issued_at == 0.0
    before = time.time()
    first, second = made.own.renew(), made.own.renew()
    assert first.server is not second.server
    assert before <= made.own.issued_at <= time.time()
    assert made.metrics.certificate_start.labels().value == second.not_before
    expires = made.metrics.certificate_expiry.labels().value
    assert before + 3_599.0 <= expires <= time.time() + 3_600.0


def test_the_webhooks_has_host_names_too(tmp_path: Path) -> None:
    made = Made(tmp_path)
    credentials = made.own.for_webhook(["meshproxy-injector.meshproxy.svc"])
    certificate = x509.load_pem_x509_certificate(credentials.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["meshproxy-injector.meshproxy.svc"]
    der = certificate.public_bytes(Encoding.DER)
    assert read_peer(der, "m.example", time.time(), PeerRole.SERVER).spiffe_id == ID
    assert credentials.bundle_pem == made.authority().bundle_pem
    assert made.own.issued_at == 0.0, "it is not what sidecars are shown"


def test_a_bundle_that_cannot_be_used_is_reported_and_keeps_nobody_else_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = tmp_path / "theirs.pem"
    bundle.write_bytes(b"nothing yet")
    made = Made(tmp_path / "control", trusted={"n.example": bundle})
    assert isinstance(made.authority(), Authority)
    made.own.renew()
    assert "trust domain n.example: " in caplog.records[-1].__dict__["fields"]["problem"]
