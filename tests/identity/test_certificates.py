from __future__ import annotations

import errno
import os
import ssl
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from time import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import AuthorityKeyIdentifier, CertificateBuilder, load_der_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshproxy.config import unreadable
from meshproxy.control.authority import authority_certificate
from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity import certificates
from meshproxy.identity.certificates import (
    FILE_BYTES,
    CertificateError,
    Credentials,
    IdentityFiles,
    OwnIdentity,
    client_context,
    own_identity,
    read_file,
    self_test,
    server_context,
)
from meshproxy.identity.mesh_context import MeshContext
from meshproxy.identity.peer import PeerRefused, read_peer
from tests.identity.handshakes import handshake

DOMAIN = "dev.example"
ID = "spiffe://dev.example/ns/models/sa/serving"
CA = DevelopmentCA.create(DOMAIN)
OTHER = DevelopmentCA.create(DOMAIN)
LEAF = CA.issue(ID)


def credentials(leaf: IssuedCertificate = LEAF, bundle: bytes = CA.bundle_pem) -> Credentials:
    return Credentials(leaf.certificate_pem, leaf.key_pem, bundle)


def own(leaf: IssuedCertificate = LEAF, bundle: bytes = CA.bundle_pem) -> OwnIdentity:
    return own_identity(credentials(leaf, bundle), DOMAIN, time())


def serial(leaf: IssuedCertificate) -> str:
    """As OpenSSL writes it: whole bytes."""
    number = load_der_x509_certificate(leaf.der).serial_number
    return number.to_bytes((number.bit_length() + 7) // 8, "big").hex()


def reason(given: Credentials, **uses: Any) -> str:
    with pytest.raises(CertificateError) as caught:
        own_identity(given, DOMAIN, time(), **uses)
    assert "\n" not in caught.value.message
    assert b"PRIVATE" not in caught.value.message.encode()
    return caught.value.reason


def bare_client(leaf: IssuedCertificate | None, tmp_path: Path) -> ssl.SSLContext:
    """A client that is not ours: shows whatever it has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=CA.bundle_pem.decode())
    if leaf is not None:
        certificate, key = leaf.write(tmp_path, "client")
        context.load_cert_chain(certificate, key)
    return context


def test_an_identity_speaks_tls_1_3_with_itself() -> None:
    identity = own()
    assert identity.workload.spiffe_id == ID
    assert identity.serial == serial(LEAF)
    server_end, client_end = handshake(identity.server, identity.client)
    assert client_end.version() == server_end.version() == "TLSv1.3"
    assert client_end.selected_alpn_protocol() == "h2"
    for end in (server_end, client_end):
        der = end.getpeercert(binary_form=True)
        assert der is not None
        assert read_peer(der, DOMAIN, time()) == identity.workload


def test_protocols_are_given() -> None:
    identity = own_identity(credentials(), DOMAIN, time(), client_protocols=["http/1.1"])
    assert handshake(identity.server, identity.client)[0].selected_alpn_protocol() == "http/1.1"


def test_a_context_for_http_1_differs_in_that_alone(tmp_path: Path) -> None:
    identity = own()
    end, ours = handshake(identity.server, identity.client_h1)
    assert end.selected_alpn_protocol() == "http/1.1"
    der = ours.getpeercert(binary_form=True)
    assert der is not None
    assert read_peer(der, DOMAIN, time()) == identity.workload
    assert isinstance(identity.client_h1, MeshContext)
    assert isinstance(identity.client, MeshContext)
    assert identity.client_h1.trust is identity.client.trust
    assert identity.client_h1.not_after == identity.client.not_after == identity.workload.not_after
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(own(OTHER.issue(ID), OTHER.bundle_pem).server, identity.client_h1)


def test_tls_1_2_only_when_asked_for(tmp_path: Path) -> None:
    client = bare_client(LEAF, tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        handshake(own().server, client)
    lenient = own_identity(credentials(), DOMAIN, time(), minimum_version=ssl.TLSVersion.TLSv1_2)
    server_end, _ = handshake(lenient.server, client)
    cipher = server_end.cipher()
    assert server_end.version() == "TLSv1.2"
    assert cipher is not None
    assert cipher[0].startswith("ECDHE-")
    assert server_end.compression() is None


@pytest.mark.parametrize("bad", [None, OTHER.issue(ID), CA.issue(ID, lifetime=timedelta(seconds=-1))])
def test_strict_demands_a_verified_client(bad: IssuedCertificate | None, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLError):
        handshake(own().server, bare_client(bad, tmp_path))


def test_permissive_takes_none_but_no_bad_one(tmp_path: Path) -> None:
    server = own_identity(credentials(), DOMAIN, time(), mtls="permissive").server
    assert handshake(server, bare_client(None, tmp_path))[0].getpeercert(binary_form=True) is None
    assert handshake(server, bare_client(LEAF, tmp_path))[0].getpeercert(binary_form=True) == LEAF.der
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, bare_client(OTHER.issue(ID), tmp_path))


def test_the_client_verifies_the_server() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(own(OTHER.issue(ID), OTHER.bundle_pem + CA.bundle_pem).server, own().client)


def test_sessions_are_not_resumed(tmp_path: Path) -> None:
    """A resumed session keeps a client that has expired, or whose authority is gone (threat of resumption)."""
    server, client = own().server, bare_client(LEAF, tmp_path)
    _, first = handshake(server, client)
    assert first.session is None or not first.session.has_ticket
    server_end, second = handshake(server, client, first.session)
    assert not second.session_reused
    assert not server_end.session_reused


def test_what_tls_1_2_may_resume_is_still_read(tmp_path: Path) -> None:
    server = own_identity(credentials(), DOMAIN, time(), minimum_version=ssl.TLSVersion.TLSv1_2).server
    client = bare_client(LEAF, tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    _, first = handshake(server, client)
    assert first.session is not None
    assert not first.session.has_ticket
    server_end, _ = handshake(server, client, first.session)
    der = server_end.getpeercert(binary_form=True)
    assert der is not None
    with pytest.raises(PeerRefused, match="expired"):
        read_peer(der, DOMAIN, time() + 90_000)
    # And a new context, which every change of trust makes, knows nothing of the old one's sessions.
    changed = own_identity(credentials(), DOMAIN, time(), minimum_version=ssl.TLSVersion.TLSv1_2).server
    assert not handshake(changed, client, first.session)[0].session_reused


def test_the_order_of_an_intermediate_that_two_authorities_have_signed() -> None:
    """OpenSSL takes the first that fits, and looks at no other: neither here nor where a peer does."""
    old, new = DevelopmentCA.create(DOMAIN), DevelopmentCA.create(DOMAIN)
    below = old.intermediate()
    unsigned = authority_certificate(
        below.certificate.subject, below._key.public_key(), DOMAIN, time(), timedelta(days=1), path_length=0
    )
    by_old, by_new = below.bundle_pem, new._sign(unsigned).public_bytes(serialization.Encoding.PEM)
    leaf = below.issue(ID)
    pem = leaf.certificate_pem[: -len(by_old)]
    assert pem + by_old == leaf.certificate_pem
    own_identity(Credentials(pem + by_new + by_old, leaf.key_pem, new.bundle_pem), DOMAIN, time())
    with pytest.raises(CertificateError, match="by an authority of the bundle comes first"):
        own_identity(Credentials(pem + by_old + by_new, leaf.key_pem, new.bundle_pem), DOMAIN, time())


def test_intermediates_travel_with_the_leaf() -> None:
    intermediate = CA.intermediate()
    leaf = intermediate.issue(ID)
    assert own(leaf).workload.spiffe_id == ID
    handshake(own().server, own(leaf).client)
    handshake(own(leaf).server, own().client)
    alone = leaf.certificate_pem[: leaf.certificate_pem.find(b"-----END") + 26]
    assert reason(Credentials(alone, leaf.key_pem, CA.bundle_pem)) == "untrusted"
    assert own(leaf, intermediate.bundle_pem).workload.spiffe_id == ID  # an intermediate may be the anchor


def test_authorities_rotate() -> None:
    both = CA.bundle_pem + OTHER.bundle_pem
    old, new = own(LEAF, both), own(OTHER.issue(ID), both)
    handshake(old.server, new.client)
    handshake(new.server, old.client)
    assert reason(credentials(OTHER.issue(ID))) == "untrusted"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(own(OTHER.issue(ID), OTHER.bundle_pem).server, old.client)


KEY = serialization.load_pem_private_key(LEAF.key_pem, None)
PASSWORD = serialization.BestAvailableEncryption(b"secret")
RSA_KEY = rsa.generate_private_key(65_537, 2_048).private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
ENCRYPTED = [
    KEY.private_bytes(serialization.Encoding.PEM, form, PASSWORD)
    for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL)
]
EXPIRED = DevelopmentCA.create(DOMAIN, lifetime=timedelta(seconds=-1))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(Credentials(LEAF.certificate_pem, CA.issue(ID).key_pem, CA.bundle_pem), "mismatch", id="old-key"),
        pytest.param(Credentials(LEAF.certificate_pem, RSA_KEY, CA.bundle_pem), "mismatch", id="key-of-another-type"),
        pytest.param(Credentials(LEAF.certificate_pem, b"", CA.bundle_pem), "unreadable", id="no-key"),
        pytest.param(
            Credentials(LEAF.certificate_pem, LEAF.key_pem[:80], CA.bundle_pem), "unreadable", id="half-a-key"
        ),
        pytest.param(Credentials(LEAF.certificate_pem, ENCRYPTED[0], CA.bundle_pem), "unreadable", id="encrypted"),
        pytest.param(Credentials(LEAF.certificate_pem, ENCRYPTED[1], CA.bundle_pem), "unreadable", id="encrypted-old"),
        pytest.param(Credentials(b"", LEAF.key_pem, CA.bundle_pem), "unreadable", id="no-certificate"),
        pytest.param(Credentials(LEAF.certificate_pem[:90], LEAF.key_pem, CA.bundle_pem), "unreadable", id="half"),
        pytest.param(
            Credentials(LEAF.certificate_pem.replace(b"MII", b"\xffII"), LEAF.key_pem, CA.bundle_pem),
            "unreadable",
            id="not-ascii",
        ),
        pytest.param(
            Credentials(LEAF.certificate_pem.replace(b"MII", b"AAA"), LEAF.key_pem, CA.bundle_pem),
            "unreadable",
            id="damaged",
        ),
        pytest.param(credentials(bundle=b""), "unreadable", id="no-bundle"),
        pytest.param(credentials(bundle=b"\xff"), "unreadable", id="bundle-not-ascii"),
        pytest.param(credentials(bundle=CA.bundle_pem + OTHER.bundle_pem[:200]), "unreadable", id="half-a-bundle"),
        pytest.param(credentials(bundle=CA.bundle_pem + LEAF.certificate_pem), "unreadable", id="leaf-in-bundle"),
        pytest.param(credentials(bundle=OTHER.bundle_pem), "untrusted", id="other-authority"),
        pytest.param(credentials(CA.issue(ID, lifetime=timedelta(seconds=-1))), "expired", id="expired"),
        pytest.param(credentials(EXPIRED.issue(ID), EXPIRED.bundle_pem), "expired", id="authority-expired"),
        pytest.param(credentials(CA.issue()), "not-an-svid", id="no-spiffe-id"),
        pytest.param(credentials(CA.issue("spiffe://other.example/a")), "not-an-svid", id="other-trust-domain"),
    ],
)
@pytest.mark.parametrize(
    "uses", [{}, {"calls": False}, {"serves": False}], ids=["both", "inbound only", "outbound only"]
)
def test_identities_that_cannot_be_used(given: Credentials, expected: str, uses: dict[str, Any]) -> None:
    assert reason(given, **uses) == expected


SERVER_ONLY = CA.issue(ID, dns=["models.example"], extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH])


@pytest.mark.parametrize("leaf", [LEAF, SERVER_ONLY])
def test_who_never_connects_needs_no_certificate_for_it(leaf: IssuedCertificate, tmp_path: Path) -> None:
    identity = own_identity(credentials(leaf), DOMAIN, time(), calls=False)
    assert identity.server is not None
    assert identity.client is None
    assert identity.workload.spiffe_id == ID
    # What the proof asked for and did not ask for is gone: clients are verified as ever.
    server_end, client_end = handshake(identity.server, bare_client(LEAF, tmp_path))
    assert client_end.getpeercert(binary_form=True) == leaf.der
    assert server_end.getpeercert(binary_form=True) == LEAF.der
    for bad in (None, OTHER.issue(ID), SERVER_ONLY):
        with pytest.raises(ssl.SSLError):
            handshake(identity.server, bare_client(bad, tmp_path))


def test_permissive_stays_permissive_without_a_client(tmp_path: Path) -> None:
    server = own_identity(credentials(SERVER_ONLY), DOMAIN, time(), calls=False, mtls="permissive").server
    assert handshake(server, bare_client(None, tmp_path))[0].getpeercert(binary_form=True) is None
    assert handshake(server, bare_client(LEAF, tmp_path))[0].getpeercert(binary_form=True) == LEAF.der
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, bare_client(OTHER.issue(ID), tmp_path))


CLIENT_ONLY = CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.CLIENT_AUTH])


@pytest.mark.parametrize("leaf", [LEAF, CLIENT_ONLY])
def test_who_never_serves_needs_no_certificate_for_it(leaf: IssuedCertificate) -> None:
    identity = own_identity(credentials(leaf), DOMAIN, time(), serves=False)
    assert identity.server is None
    assert (identity.workload.spiffe_id, identity.serial) == (ID, serial(leaf))
    # What the proof did not ask for is asked for again: servers are verified.
    server_end, client_end = handshake(server_context(credentials()), identity.client)
    assert server_end.getpeercert(binary_form=True) == leaf.der
    assert client_end.getpeercert(binary_form=True) == LEAF.der
    for bad in (OTHER.issue(ID), CLIENT_ONLY):
        with pytest.raises(ssl.SSLError):
            handshake(server_context(credentials(bad, CA.bundle_pem + OTHER.bundle_pem)), identity.client)


@pytest.mark.parametrize(
    ("leaf", "uses", "named"),
    [
        (SERVER_ONLY, {}, "for outbound (clientAuth): the certificate's extended key usage lacks clientAuth"),
        (SERVER_ONLY, {"serves": False}, "for outbound (clientAuth)"),
        (CLIENT_ONLY, {}, "for inbound (serverAuth): the certificate's extended key usage lacks serverAuth"),
        (CLIENT_ONLY, {"calls": False}, "for inbound (serverAuth)"),
    ],
)
def test_the_usage_that_is_missing_is_named(leaf: IssuedCertificate, uses: dict[str, Any], named: str) -> None:
    with pytest.raises(CertificateError) as caught:
        own_identity(credentials(leaf), DOMAIN, time(), **uses)
    assert caught.value.reason == "not-an-svid"
    assert named in caught.value.message


def test_dns_names_may_stand_beside_the_id() -> None:
    """X509-SVID section 2: one URI, and whatever names of other types."""
    leaf = CA.issue(ID, dns=["localhost", "serving.models.svc", "*.models.example"])
    assert own(leaf).workload.spiffe_id == ID


def test_a_failed_change_leaves_the_old_contexts_whole() -> None:
    """Loading a bad pair into a context in use breaks it for good: that is why a change makes new ones."""
    identity = own()
    assert reason(Credentials(CA.issue(ID).certificate_pem, LEAF.key_pem, CA.bundle_pem)) == "mismatch"
    handshake(identity.server, identity.client)


def test_contexts_that_do_not_fit_are_not_proven() -> None:
    stranger = client_context(credentials(OTHER.issue(ID), OTHER.bundle_pem))
    with pytest.raises(CertificateError) as caught:
        self_test(server_context(credentials()), stranger)
    assert caught.value.reason == "untrusted"
    old = client_context(credentials(), minimum_version=ssl.TLSVersion.TLSv1_2)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(CertificateError) as caught:
        self_test(server_context(credentials()), old)
    assert caught.value.reason == "handshake"


def write(directory: Path) -> IdentityFiles:
    certificate, key = LEAF.write(directory, "server")
    return IdentityFiles(certificate, key, CA.write(directory))


def test_read_from_files(tmp_path: Path) -> None:
    read = write(tmp_path).read()
    assert read == credentials()
    assert LEAF.key_pem.decode()[93:113] not in repr(read)  # of the secret: what is before it, each key has
    assert own_identity(read, DOMAIN, time()).warnings == ()


def test_files_that_their_mounts_do_not_follow_are_read_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path)
    monkeypatch.setattr(certificates, "not_followed", lambda path: "" if path == files.trust_bundle else "replaced")
    read = files.read()
    assert read.not_followed == f"{files.certificate}, {files.key}: replaced"
    assert read.fingerprint == credentials().fingerprint


def test_a_file_that_its_mount_does_not_follow_is_told_whoever_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unreadable, "_told", set())
    monkeypatch.setattr(unreadable, "not_followed", lambda path: "replaced outside")
    (path := tmp_path / "ca.pem").write_bytes(b"old")
    assert read_file(path, "caFile")[0] == b"old"
    assert not caplog.records
    with path.open() as file:
        path.unlink()
        mounted = Path(f"/proc/self/fd/{file.fileno()}")
        assert read_file(mounted, "caFile")[0] == b"old"
    assert [record.message for record in caplog.records] == [f"{mounted} was replaced outside"]


def test_certificate_and_key_in_one_file(tmp_path: Path) -> None:
    files = write(tmp_path)
    files.certificate.write_bytes(LEAF.certificate_pem + LEAF.key_pem)
    files.certificate.chmod(0o600)
    read = IdentityFiles(files.certificate, files.certificate, files.trust_bundle).read()
    assert own_identity(read, DOMAIN, time()).workload.spiffe_id == ID


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOENT, "certificate and key cannot be loaded: No such file or directory: mount /proc, through which "),
        (errno.EMFILE, "certificate and key cannot be loaded: Too many open files"),
    ],
)
def test_what_the_system_does_not_have_is_told(monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", fail)
    with pytest.raises(CertificateError, match=message):
        own_identity(credentials(), DOMAIN, time())


def test_the_fingerprint_tells_changes() -> None:
    given = credentials()
    others = [
        Credentials(given.certificate_pem + b"\n", given.key_pem, given.bundle_pem),
        Credentials(given.certificate_pem, given.key_pem + b"\n", given.bundle_pem),
        Credentials(given.certificate_pem, given.key_pem, given.bundle_pem + b"\n"),
        Credentials(given.certificate_pem + given.key_pem, b"", given.bundle_pem),
    ]
    assert credentials().fingerprint == given.fingerprint
    assert len({given.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_a_certificate_with_the_name_of_its_authority() -> None:
    """As rcgen makes it, whose names are all the same."""
    issued = load_der_x509_certificate(LEAF.der)
    builder = CertificateBuilder(
        CA.certificate.subject,
        CA.certificate.subject,
        issued.public_key(),
        issued.serial_number,
        issued.not_valid_before_utc,
        issued.not_valid_after_utc,
        [extension for extension in issued.extensions if not isinstance(extension.value, AuthorityKeyIdentifier)],
    )
    leaf = builder.sign(CA._key, SHA256()).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateError, match="or looks so, as") as caught:
        own_identity(Credentials(leaf, LEAF.key_pem, CA.bundle_pem), DOMAIN, time())
    assert caught.value.reason == "untrusted"


@pytest.mark.parametrize("uses", [{}, {"calls": False}, {"serves": False}], ids=["both", "serves", "calls"])
def test_a_key_that_tls_has_no_signature_for(monkeypatch: pytest.MonkeyPatch, uses: dict[str, Any]) -> None:
    monkeypatch.setattr(ec, "SECP256R1", ec.SECP256K1)
    with pytest.raises(CertificateError, match="this type of key: issue it for P-256") as caught:
        own_identity(credentials(CA.issue(ID)), DOMAIN, time(), **uses)
    assert caught.value.reason == "handshake"


def test_modes_of_the_key(tmp_path: Path) -> None:
    files = write(tmp_path)
    files.key.chmod(0o644)
    (warning,) = own_identity(files.read(), DOMAIN, time()).warnings
    assert "0644" in warning
    files.key.chmod(0o622)
    with pytest.raises(CertificateError, match="world-writable"):
        files.read()


@pytest.mark.parametrize("name", ["server.pem", "server-key.pem", "ca.pem"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    files = write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CertificateError, match=f"{name} cannot be read: No such file"):
        files.read()
    (tmp_path / name).mkdir()
    with pytest.raises(CertificateError, match="Is a directory"):
        files.read()
    (tmp_path / name).rmdir()
    (tmp_path / name).touch(0o600)
    os.truncate(tmp_path / name, FILE_BYTES + 1)
    with pytest.raises(CertificateError, match="larger than"):
        files.read()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name, 0o600)
    with pytest.raises(CertificateError, match="it is no regular file"):
        files.read()


def test_the_key_leaves_no_descriptor_behind() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    own()
    reason(Credentials(LEAF.certificate_pem, ENCRYPTED[0], CA.bundle_pem))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_tls_alone_loads_neither_cryptography_nor_jwt() -> None:
    """6.5 and 3 MB of memory that a sidecar without an issuer does not pay."""
    program = (
        "import sys; import meshproxy.identity.peer, meshproxy.identity.certificates, meshproxy.identity.tokens;"
        "import meshproxy.identity.keys, meshproxy.sidecar.key_refresher;"
        "print(sorted({'cryptography', 'jwt', 'aiohttp', 'click'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
