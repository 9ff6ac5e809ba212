from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from meshproxy.control.authority import BACKDATED
from meshproxy.devtools.ca import DevelopmentCA

ID = "spiffe://dev.example/ns/pricing/sa/quoter"


def test_a_leaf_is_an_svid() -> None:
    before = datetime.now(UTC)
    leaf = x509.load_der_x509_certificate(DevelopmentCA.create("dev.example").issue(ID).der)
    found = {extension.oid: extension.value for extension in leaf.extensions}
    assert found[x509.SubjectAlternativeName.oid] == x509.SubjectAlternativeName([x509.UniformResourceIdentifier(ID)])
    assert found[x509.BasicConstraints.oid] == x509.BasicConstraints(False, None)
    usage = found[x509.KeyUsage.oid]
    assert isinstance(usage, x509.KeyUsage)
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert len(list(found[x509.ExtendedKeyUsage.oid])) == 2
    assert timedelta() <= leaf.not_valid_before_utc - (before - BACKDATED).replace(microsecond=0) < timedelta(minutes=1)


def test_an_authority_can_sign_and_names_its_trust_domain() -> None:
    certificate = DevelopmentCA.create("dev.example").certificate
    found = {extension.oid: extension.value for extension in certificate.extensions}
    assert found[x509.BasicConstraints.oid] == x509.BasicConstraints(True, 1)
    assert found[x509.SubjectAlternativeName.oid] == x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://dev.example")]
    )


def test_chains_verify_with_the_root_alone() -> None:
    root = DevelopmentCA.create("dev.example")
    issued = root.intermediate().issue(ID)
    leaf, *chain = x509.load_pem_x509_certificates(issued.certificate_pem)
    assert len(chain) == 1
    verifier = PolicyBuilder().store(Store([root.certificate])).build_client_verifier()
    assert verifier.verify(leaf, chain).subjects == [x509.UniformResourceIdentifier(ID)]
    with pytest.raises(VerificationError):
        verifier.verify(leaf, [])
    deeper = root.intermediate().intermediate().issue(ID)
    leaf, *chain = x509.load_pem_x509_certificates(deeper.certificate_pem)
    with pytest.raises(VerificationError):
        verifier.verify(leaf, chain)  # the path length of the first intermediate forbids another


def test_two_authorities_do_not_trust_each_other() -> None:
    leaf = x509.load_der_x509_certificate(DevelopmentCA.create("dev.example").issue(ID).der)
    other = DevelopmentCA.create("dev.example")
    with pytest.raises(VerificationError):
        PolicyBuilder().store(Store([other.certificate])).build_client_verifier().verify(leaf, [])


def test_written_and_loaded(tmp_path: Path) -> None:
    authority = DevelopmentCA.create("dev.example")
    assert authority.write(tmp_path / "new") == tmp_path / "new" / "ca.pem"
    loaded = DevelopmentCA.load(tmp_path / "new")
    assert (loaded.trust_domain, loaded.bundle_pem) == ("dev.example", authority.bundle_pem)
    certificate, key = loaded.issue(ID).write(tmp_path / "new", "server")
    assert [path.name for path in (certificate, key)] == ["server.pem", "server-key.pem"]
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    assert serialization.load_pem_private_key(key.read_bytes(), None).public_key() == leaf.public_key()
    leaf.verify_directly_issued_by(authority.certificate)


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    authority = DevelopmentCA.create("dev.example")
    (tmp_path / "server-key.pem").touch(0o644)
    for _ in range(2):
        authority.write(tmp_path)
        authority.issue(ID).write(tmp_path, "server")
        for name in ("ca-key.pem", "server-key.pem"):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca-key.pem", "ca.pem", "server-key.pem", "server.pem"]


@pytest.mark.parametrize("name", ["ca.pem", "ca-key.pem"])
def test_half_an_authority_is_not_loaded(tmp_path: Path, name: str) -> None:
    DevelopmentCA.create("dev.example").write(tmp_path)
    DevelopmentCA.create("dev.example").write(tmp_path / "other")
    (tmp_path / "other" / name).replace(tmp_path / name)
    with pytest.raises(ValueError, match="not the key of"):
        DevelopmentCA.load(tmp_path)
