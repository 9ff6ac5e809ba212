"""Real handshakes in memory between workloads of two trust domains, and with those who pretend to be one."""

from __future__ import annotations

import ssl
from pathlib import Path
from time import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity import mesh_context as module
from meshproxy.identity.certificates import (
    CertificateError,
    Credentials,
    OwnIdentity,
    own_identity,
    read_bundle,
)
from meshproxy.identity.mesh_context import Handshake, MeshContext, alerts_go_to, identify
from meshproxy.identity.peer import PeerRefused, PeerRole
from tests.identity.handshakes import handshake

A, B = DevelopmentCA.create("a.example"), DevelopmentCA.create("b.example")
ID_A, ID_B = "spiffe://a.example/ns/x/sa/y", "spiffe://b.example/ns/x/sa/y"
LEAF = A.issue(ID_A)


def own(
    leaf: IssuedCertificate = LEAF, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, **others: bytes
) -> OwnIdentity:
    """A workload of a.example; `others`: bundles of the other domains, by the first label of their names."""
    credentials = Credentials(
        leaf.certificate_pem,
        leaf.key_pem,
        A.bundle_pem,
        other_bundles={f"{name}.example": read_bundle(pem) for name, pem in others.items()},
    )
    return own_identity(credentials, "a.example", time(), minimum_version=minimum)


OWN = own(b=B.bundle_pem)


def peer_context(leaf: IssuedCertificate | None, tmp_path: Path, *, is_server: bool = False) -> ssl.SSLContext:
    """Of a stranger, who verifies nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if leaf is not None:
        context.load_cert_chain(*leaf.write(tmp_path, "peer"))
    return context


def client_of(leaf: IssuedCertificate, tmp_path: Path, identity: OwnIdentity = OWN) -> str:
    """Who a client with this certificate is to `identity`."""
    server_end, _ = handshake(identity.server, peer_context(leaf, tmp_path))
    workload = identify(server_end, time(), PeerRole.CLIENT)
    assert workload is not None
    return workload.spiffe_id


def reason(leaf: IssuedCertificate, tmp_path: Path, identity: OwnIdentity = OWN) -> str:
    with pytest.raises(PeerRefused) as caught:
        client_of(leaf, tmp_path, identity)
    return caught.value.reason


def test_clients_of_both_trust_domains(tmp_path: Path) -> None:
    assert client_of(A.issue(ID_A), tmp_path) == ID_A
    assert client_of(B.issue(ID_B), tmp_path) == ID_B
    assert client_of(A.intermediate().issue(ID_A), tmp_path) == ID_A
    assert client_of(B.intermediate().issue(ID_B), tmp_path) == ID_B


def test_no_authority_issues_ids_of_the_other_trust_domain(tmp_path: Path) -> None:
    for forger, forged in ((B, ID_A), (A, ID_B), (B.intermediate(), ID_A), (A.intermediate(), ID_B)):
        assert reason(forger.issue(forged), tmp_path) == "wrong-authority"


def test_a_chain_with_an_authority_of_the_claimed_domain_as_decoration(tmp_path: Path) -> None:
    """What a client sends beside its chain is no part of what was verified."""
    forged = B.issue(ID_A)
    dressed = IssuedCertificate(
        forged.certificate_pem + A.bundle_pem + A.intermediate().issue(ID_A).certificate_pem, forged.key_pem
    )
    assert reason(dressed, tmp_path) == "wrong-authority"


def test_an_authority_that_takes_the_name_of_another(tmp_path: Path) -> None:
    """The forger's intermediate bears the subject of the other domain's root."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = A.certificate
    certificate = (
        x509.CertificateBuilder()
        .subject_name(root.subject)
        .issuer_name(B.certificate.subject)
        .public_key(key.public_key())
        .serial_number(root.serial_number)
        .not_valid_before(root.not_valid_before_utc)
        .not_valid_after(root.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(B.certificate.public_key()), critical=False)  # type: ignore[arg-type]
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(B._key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    impostor = DevelopmentCA("a.example", certificate, key, pem)
    assert reason(impostor.issue(ID_A), tmp_path) == "wrong-authority"
    assert client_of(impostor.issue(ID_B), tmp_path) == ID_B


def test_a_certificate_that_both_domains_have_signed(tmp_path: Path) -> None:
    """An intermediate of theirs that our root has cross-signed speaks for whom the chain that is sent leads to."""
    theirs = B.intermediate()
    subject, public = theirs.certificate.subject, theirs.certificate.public_key()
    cross = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(A.certificate.subject)
        .public_key(public)
        .serial_number(7)
        .not_valid_before(A.certificate.not_valid_before_utc)
        .not_valid_after(A.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(A.certificate.public_key()), critical=False)  # type: ignore[arg-type]
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(A._key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    as_ours = DevelopmentCA("a.example", theirs.certificate, theirs._key, cross)
    assert client_of(as_ours.issue(ID_A), tmp_path) == ID_A
    assert client_of(theirs.issue(ID_B), tmp_path) == ID_B
    assert reason(theirs.issue(ID_A), tmp_path) == "wrong-authority"
    assert reason(as_ours.issue(ID_B), tmp_path) == "wrong-authority"


def test_servers_of_both_trust_domains(tmp_path: Path) -> None:
    for leaf, expected in ((A.issue(ID_A), ID_A), (B.issue(ID_B), ID_B)):
        _, client_end = handshake(peer_context(leaf, tmp_path, is_server=True), OWN.client)
        workload = identify(client_end, time(), PeerRole.SERVER)
        assert workload is not None
        assert workload.spiffe_id == expected
    _, client_end = handshake(peer_context(B.issue(ID_A), tmp_path, is_server=True), OWN.client)
    with pytest.raises(PeerRefused, match=r"names trust domain a\.example"):
        identify(client_end, time(), PeerRole.SERVER)


def test_nobody_without_a_certificate(tmp_path: Path) -> None:
    credentials = Credentials(LEAF.certificate_pem, LEAF.key_pem, A.bundle_pem)
    server = own_identity(credentials, "a.example", time(), mtls="permissive").server
    server_end, _ = handshake(server, peer_context(None, tmp_path))
    assert identify(server_end, time(), PeerRole.CLIENT) is None


def test_a_context_whose_trust_is_not_set_identifies_nobody() -> None:
    server_end, _ = handshake(OWN.server, OWN.client)
    assert isinstance(server_end.context, MeshContext)
    bare = MeshContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(PeerRefused):
        bare.trust.identify(LEAF.der, lambda: (), time(), PeerRole.CLIENT)


def test_our_own_certificate_must_be_of_our_own_trust_domain() -> None:
    with pytest.raises(CertificateError) as caught:
        own(B.issue(ID_A), b=B.bundle_pem)
    assert caught.value.reason == "untrusted"
    for serves in (True, False):
        leaf = B.issue(ID_A)
        credentials = Credentials(
            leaf.certificate_pem, leaf.key_pem, A.bundle_pem, other_bundles={"b.example": read_bundle(B.bundle_pem)}
        )
        with pytest.raises(CertificateError, match="not signed by an authority of the trust bundle"):
            own_identity(credentials, "a.example", time(), serves=serves, calls=not serves)


class TestResumedSessions:
    """TLS 1.2 resumes by session id, which cannot be turned off, and a resumed session has no chain."""

    def resume(self, identity: OwnIdentity, leaf: IssuedCertificate, tmp_path: Path) -> list[ssl.SSLObject]:
        client = peer_context(leaf, tmp_path)
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        first, client_end = handshake(identity.server, client)
        self.identify(first)
        second, _ = handshake(identity.server, client, client_end.session)
        assert second.session_reused
        return [first, second]

    def identify(self, end: ssl.SSLObject) -> str:
        try:
            workload = identify(end, time(), PeerRole.CLIENT)
        except PeerRefused as refused:
            return refused.reason
        return workload.spiffe_id if workload is not None else ""

    def test_they_are_what_their_first_handshake_was(self, tmp_path: Path) -> None:
        identity = own(minimum=ssl.TLSVersion.TLSv1_2, b=B.bundle_pem)
        for leaf, expected in ((A.issue(ID_A), ID_A), (B.issue(ID_B), ID_B), (B.issue(ID_A), "wrong-authority")):
            _, resumed = self.resume(identity, leaf, tmp_path)
            assert self.identify(resumed) == expected

    def test_so_many_are_remembered(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "KEPT", 1)
        identity = own(minimum=ssl.TLSVersion.TLSv1_2, b=B.bundle_pem)
        _, resumed = self.resume(identity, A.issue(ID_A), tmp_path)
        assert self.identify(resumed) == ID_A
        self.resume(identity, B.issue(ID_B), tmp_path)
        assert self.identify(resumed) == "wrong-authority"

    def test_another_handshake_of_a_leaf_makes_it_the_last_to_be_forgotten(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "KEPT", 3)
        identity = own(minimum=ssl.TLSVersion.TLSv1_2, b=B.bundle_pem)
        leaves = [A.issue(ID_A), B.issue(ID_B), A.issue(ID_A)]
        resumed = [self.resume(identity, leaf, tmp_path)[1] for leaf in leaves]
        self.resume(identity, leaves[1], tmp_path)
        assert [self.identify(end) for end in resumed] == [ID_A, ID_B, ID_A]
        for _ in range(2):
            self.resume(identity, B.issue(ID_B), tmp_path)
        assert [self.identify(end) for end in resumed] == ["wrong-authority", ID_B, "wrong-authority"]


class Socket:
    """Takes what is sent, unless it is full."""

    def __init__(self, is_full: bool = False) -> None:
        self.is_full = is_full
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> int:
        if self.is_full:
            raise BlockingIOError
        self.sent.append(data)
        return len(data)


@pytest.mark.parametrize("is_full", [False, True], ids=["sent", "full"])
def test_the_alert_of_a_failed_handshake_goes_to_its_socket(is_full: bool) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    sock = Socket(is_full)
    token = alerts_go_to.set([sock])
    try:
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            handshake(OWN.server, old)
    finally:
        alerts_go_to.reset(token)
    assert sock.sent == ([] if is_full else [b"\x15\3\3\0\2\2\x46"])  # fatal, protocol_version


def test_nothing_is_sent_without_a_failure_and_the_socket_is_forgotten() -> None:
    sock = Socket()
    token = alerts_go_to.set([sock])
    try:
        server_end, _ = handshake(OWN.server, OWN.client)
    finally:
        alerts_go_to.reset(token)
    assert isinstance(server_end, Handshake)
    assert server_end.sender is None
    assert sock.sent == []


def test_a_later_handshake_in_the_same_context_sends_its_alert_to_nobody() -> None:
    """An inbound request opens connections, in the context of its own: their alerts are nothing for its client."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    sock = Socket()
    token = alerts_go_to.set([sock])
    try:
        handshake(OWN.server, OWN.client)
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            handshake(OWN.server, old)
    finally:
        alerts_go_to.reset(token)
    assert sock.sent == []
