"""The authority: what it signs, and what it refuses to sign."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.control import authority as module
from meshproxy.control.authority import (
    BACKDATED,
    REASONS,
    REQUEST_BYTES,
    Authority,
    AuthorityError,
    RequestRefused,
    SigningRequest,
)
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import Credentials, own_identity
from meshproxy.identity.peer import PeerRole, read_peer

NOW = datetime.now(UTC).timestamp()
ID = "spiffe://m.example/ns/models/sa/resnet"
CA = DevelopmentCA.create("m.example")


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None, *names: x509.GeneralName) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    request = builder.sign(key if key is not None else ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def refusal(call: object) -> str:
    assert callable(call)
    with pytest.raises(RequestRefused) as caught:
        call()
    assert caught.value.reason in REASONS
    assert str(caught.value) == caught.value.message
    return caught.value.reason


# What it signs


def test_a_leaf_is_an_svid_that_a_sidecar_can_use() -> None:
    authority = Authority.create("m.example", NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue(SigningRequest.read(csr(key)), ID, NOW, 3_600.0)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    identity = own_identity(Credentials(issued.certificate_pem, pem, authority.bundle_pem), "m.example", NOW)
    assert identity.workload.spiffe_id == ID
    assert int(identity.serial, 16) == int(issued.serial, 16)
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem)
    assert leaf.subject == x509.Name([])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical  # RFC 5280 section 4.2.1.6: there is no subject
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_times() -> None:
    authority = Authority.create("m.example", NOW)
    issued = authority.issue(SigningRequest.read(csr()), ID, NOW, 20.0)
    assert issued.not_before == NOW - BACKDATED.total_seconds()
    assert issued.not_after == NOW + 20.0
    der = x509.load_pem_x509_certificate(issued.certificate_pem).public_bytes(serialization.Encoding.DER)
    for clock in (NOW - 599.0, NOW + 19.0):  # of a host whose clock is nearly ten minutes behind
        assert read_peer(der, "m.example", clock, PeerRole.CLIENT).spiffe_id == ID


def test_a_leaf_does_not_outlive_its_authority() -> None:
    authority = Authority.create("m.example", NOW, lifetime=timedelta(seconds=60))
    assert authority.issue(SigningRequest.read(csr()), ID, NOW, 3_600.0).not_after <= NOW + 60.0
    assert refusal(lambda: authority.issue(SigningRequest.read(csr()), ID, NOW + 61.0, 60.0)) == "authority-expired"


def test_names_beside_the_identity() -> None:
    authority = Authority.create("m.example", NOW)
    issued = authority.issue(SigningRequest.read(csr()), ID, NOW, 60.0, dns=["control.example"])
    names = x509.load_pem_x509_certificate(issued.certificate_pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["control.example"]


def test_an_intermediate_sends_its_chain() -> None:
    root = DevelopmentCA.create("m.example")
    below = root.intermediate()
    authority = Authority(
        below.certificate,
        below._key,
        intermediates_pem=below.bundle_pem,
        bundle_pem=root.bundle_pem,
    )
    key = ec.generate_private_key(ec.SECP256R1())
    # OpenSSL looks at the clock: this must be valid still when the test runs, minutes after this file was loaded.
    issued = authority.issue(SigningRequest.read(csr(key)), ID, NOW, 3_600.0)
    credentials = Credentials(issued.certificate_pem, module.private_pem(key), root.bundle_pem)
    assert own_identity(credentials, "m.example", NOW).workload.spiffe_id == ID


@pytest.mark.parametrize("identifier", [b"of another method...", bytes(32), None], ids=["20 bytes", "32 bytes", "none"])
def test_an_authority_whose_key_identifier_is_made_in_another_way(identifier: bytes | None) -> None:
    ca, key = DevelopmentCA.create("m.example"), ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(module.common_name("an authority of Go 1.25"))
        .issuer_name(ca.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(NOW - 60, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + 86_400, UTC))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://m.example")]), False)
    )
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    certificate = builder.sign(ca._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    authority = Authority.load(certificate, module.private_pem(key), ca.bundle_pem)
    workload = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue(SigningRequest.read(csr(workload)), ID, NOW, 3_600.0)
    credentials = Credentials(issued.certificate_pem, module.private_pem(workload), authority.bundle_pem)
    assert own_identity(credentials, "m.example", NOW).workload.spiffe_id == ID
    leaf = x509.load_pem_x509_certificate(issued.certificate_pem).public_bytes(serialization.Encoding.DER)
    assert module.authority_of(leaf) == authority.id
    assert identifier is None or authority.id == identifier.hex()


# What it refuses


def test_an_identity_that_was_not_attested() -> None:
    authority = Authority.create("m.example", NOW)
    uri = x509.UniformResourceIdentifier
    mine, other = uri(ID), uri("spiffe://m.example/ns/models/sa/other")
    authority.issue(SigningRequest.read(csr(None, mine)), ID, NOW, 60.0)
    for names in ((other,), (mine, other)):
        request = SigningRequest.read(csr(None, *names))
        assert refusal(lambda request=request: authority.issue(request, ID, NOW, 60.0)) == "identity"
    assert refusal(lambda: SigningRequest.read(csr(None, x509.DNSName("a.example")))) == "identity"
    request = SigningRequest.read(csr())
    for identity in ("spiffe://else.example/ns/a/sa/b", "spiffe://m.example", "m.example", "spiffe://m.example/\u00e4"):
        assert refusal(lambda identity=identity: authority.issue(request, identity, NOW, 60.0)) == "identity"


def test_keys_that_are_not_p256() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65_537, 2_048)):
        assert refusal(lambda key=key: SigningRequest.read(csr(key))) == "key"


def test_the_kind_of_key_is_looked_at_before_the_signature() -> None:
    der = bytearray(csr(rsa.generate_private_key(65_537, 2_048)))
    der[-1] ^= 1
    assert refusal(lambda: SigningRequest.read(bytes(der))) == "key"


def test_a_request_whose_signature_is_not_its_keys() -> None:
    der = bytearray(csr())
    der[-1] ^= 1
    assert refusal(lambda: SigningRequest.read(bytes(der))) in ("signature", "malformed")


def test_requests_that_are_too_large() -> None:
    assert refusal(lambda: SigningRequest.read(bytes(REQUEST_BYTES + 1))) == "malformed"


SAMPLE = csr()


def changed(place: int, value: int) -> bytes:
    return SAMPLE[:place] + bytes((value,)) + SAMPLE[place + 1 :]


@given(st.binary(max_size=64) | st.builds(changed, st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)))
def test_bytes_that_are_no_request_are_refused_and_nothing_else(der: bytes) -> None:
    try:
        SigningRequest.read(der)
    except RequestRefused as refused:
        assert refused.reason in REASONS  # noqa: PT017
    else:
        assert der == SAMPLE


# Itself


def test_it_is_read_as_it_was_written() -> None:
    authority = Authority.create("m.example", NOW)
    read = Authority.load(authority.certificate_pem, authority.key_pem)
    assert (read.trust_domain, read.bundle_pem) == ("m.example", authority.bundle_pem)
    read.issue(SigningRequest.read(csr()), ID, NOW, 60.0)


def test_an_intermediate_is_read_with_its_root() -> None:
    root = DevelopmentCA.create("m.example")
    below = root.intermediate()
    key = module.private_pem(below._key)
    with pytest.raises(AuthorityError, match="the roots above it are needed"):
        Authority.load(below.bundle_pem, key)
    authority = Authority.load(below.bundle_pem + root.bundle_pem, key, root.bundle_pem)
    issued = authority.issue(SigningRequest.read(csr()), ID, NOW, 60.0)
    assert issued.certificate_pem.count(b"BEGIN CERTIFICATE") == 2  # the root is not sent


def test_of_its_roots_the_certificates_count() -> None:
    """All sidecars get them. Bundles have comments, and a key that somebody has put there is for nobody."""
    root, other = DevelopmentCA.create("m.example"), DevelopmentCA.create("m.example")
    below = root.intermediate()
    key, comment = module.private_pem(below._key), "# M\u00fcller GmbH\r\n".encode("latin-1")
    roots = comment + root.bundle_pem + module.private_pem(root._key) + other.bundle_pem
    authority = Authority.load(below.bundle_pem, key, roots)
    assert authority.bundle_pem == root.bundle_pem + other.bundle_pem


@pytest.mark.parametrize(
    "roots",
    [b"", b"nothing", CA.bundle_pem[:200], CA.bundle_pem + CA.issue(ID).certificate_pem],
    ids=["empty", "no PEM", "half", "with a leaf"],
)
def test_roots_that_no_sidecar_could_use(roots: bytes) -> None:
    with pytest.raises(AuthorityError, match="its roots cannot be used"):
        Authority.load(CA.bundle_pem, module.private_pem(CA._key), roots)


def test_what_is_no_authority() -> None:
    ca = DevelopmentCA.create("m.example")
    other = DevelopmentCA.create("m.example")
    leaf = ca.issue(ID)
    pem = module.private_pem(ca._key)
    with pytest.raises(AuthorityError, match="the key is not the key"):
        Authority.load(ca.bundle_pem, module.private_pem(other._key))
    with pytest.raises(AuthorityError, match="exactly one trust domain"):
        Authority.load(leaf.certificate_pem, leaf.key_pem, ca.bundle_pem)
    with pytest.raises(AuthorityError, match="must be PEM"):
        Authority.load(b"", pem)
    with pytest.raises(AuthorityError, match="not encrypted"):
        Authority.load(ca.bundle_pem, b"nothing")
    key = rsa.generate_private_key(65_537, 2_048)
    rsa_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(AuthorityError, match="elliptic curve"):
        Authority.load(ca.bundle_pem, rsa_pem)


@pytest.mark.parametrize(
    "content",
    [b"\x01", b"\x30\x04\xa3\x02\x30\x00", None],
    ids=["no DER", "a name of EDI", "an extension twice"],
)
def test_a_certificate_that_cannot_be_read_to_its_end(content: bytes | None) -> None:
    """The library reads an extension when it is asked for one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = module.common_name("some authority")
    builder = module.authority_certificate(name, key.public_key(), "m.example", NOW, timedelta(days=1), 0)
    if content is not None:
        names = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, content)
        others = [each for each in builder._extensions if each.oid != names.oid]
        builder._extensions = [*others, x509.Extension(names.oid, False, names)]
    else:
        builder._extensions = [*builder._extensions, builder._extensions[-1]]
    certificate = builder.issuer_name(name).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(AuthorityError, match=r"the certificate cannot be read \(.+\): it must be PEM of RFC 5280"):
        Authority.load(certificate, module.private_pem(key))


def test_an_authority_without_trust_domain() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = module.common_name("some authority")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(NOW, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + 60, UTC))
        .add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(AuthorityError, match="names no trust domain"):
        Authority(certificate, key)
