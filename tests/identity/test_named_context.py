"""Contexts for servers that are known by name: what they verify, and files that cannot be used."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity.certificates import CertificateError
from meshproxy.identity.named_context import NamedTlsFiles, named_context, read_authorities

CA = DevelopmentCA.create("models.example")
OTHER = DevelopmentCA.create("models.example")
NAME = "serving.example"
ENCRYPTED = b"-----BEGIN %b-----\nAAAA\n-----END %b-----\n" % ((b"ENCRYPTED " + b"PRIVATE KEY",) * 2)
LEAF = CA.issue(dns=[NAME])


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(CA.bundle_pem)
    return path


def server_context(folder: Path, issued: IssuedCertificate, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*issued.write(folder, "server"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=OTHER.bundle_pem.decode())
    return context


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str = NAME) -> ssl.SSLObject:
    """The client's end of a complete handshake. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    ends = [ours, server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return ours


@pytest.mark.parametrize("protocols", [("h2",), ("http/1.1",)])
def test_chain_and_name_are_verified(tmp_path: Path, ca_file: Path, protocols: tuple[str, ...]) -> None:
    context = named_context(NamedTlsFiles(ca_file), protocols)
    ended = handshake(context, server_context(tmp_path, LEAF))
    assert ended.selected_alpn_protocol() == protocols[0]
    assert ended.getpeercert(binary_form=True) == LEAF.der
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context, server_context(tmp_path, LEAF), "other.example")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unable to get local issuer|self.signed certificate"):
        handshake(context, server_context(tmp_path, OTHER.intermediate().issue(dns=[NAME])))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(named_context(NamedTlsFiles(), protocols), server_context(tmp_path, LEAF))


def test_addresses_and_wildcards(tmp_path: Path, ca_file: Path) -> None:
    context = named_context(NamedTlsFiles(ca_file), ("h2",))
    names = x509.SubjectAlternativeName(
        [
            *(x509.IPAddress(ipaddress.ip_address(each)) for each in ("10.0.0.1", "fd00::1")),
            *(x509.DNSName(each) for each in ("*.pool.example", "tf_serving")),
        ]
    )
    server = server_context(tmp_path, CA.issue(extensions=[(names, False)]))
    for name in ("10.0.0.1", "fd00::1", "a.pool.example", "tf_serving"):
        handshake(context, server, name)
    for name in ("10.0.0.2", "pool.example", "a.b.pool.example"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(context, server, name)


def test_a_common_name_is_no_name(tmp_path: Path, ca_file: Path) -> None:
    """RFC 9525 section 4.1; the subject of these certificates is `meshproxy development workload`."""
    context = named_context(NamedTlsFiles(ca_file), ("h2",))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context, server_context(tmp_path, CA.issue()), "meshproxy development workload".replace(" ", "-"))
    assert context.hostname_checks_common_name is False


def test_the_certificate_of_the_server_itself_may_be_trusted(tmp_path: Path) -> None:
    """As a self-signed one is. Its name still counts."""
    pinned = tmp_path / "server-itself.pem"
    pinned.write_text(ssl.DER_cert_to_PEM_cert(LEAF.der))
    context = named_context(NamedTlsFiles(pinned), ("h2",))
    handshake(context, server_context(tmp_path, LEAF))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server_context(tmp_path, LEAF), "other.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(context, server_context(tmp_path, CA.issue(dns=[NAME])))


def test_our_certificate_is_shown_to_those_who_ask(tmp_path: Path, ca_file: Path) -> None:
    ours = OTHER.issue(dns=["sidecar"]).write(tmp_path, "ours")
    handshake(named_context(NamedTlsFiles(ca_file, *ours), ("h2",)), server_context(tmp_path, LEAF, asks=True))
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        handshake(named_context(NamedTlsFiles(ca_file), ("h2",)), server_context(tmp_path, LEAF, asks=True))


@pytest.mark.parametrize(
    ("which", "content", "words"),
    [
        ("ca", None, "caFile .* cannot be read: No such file"),
        ("ca", b"", "caFile .* cannot be used: it holds no certificate"),
        ("certificate", None, "certificate .* cannot be read: No such file"),
        ("certificate", b"text", "the certificate file contains no complete certificate"),
        ("key", None, "key .* cannot be read: No such file"),
        ("key", CA.issue().key_pem, "the key does not match the certificate"),
        ("key", ENCRYPTED, "certificate .*, key"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, ca_file: Path, which: str, content: bytes | None, words: str
) -> None:
    certificate, key = OTHER.issue().write(tmp_path, "ours")
    broken = {"ca": ca_file, "certificate": certificate, "key": key}[which]
    if content is None:
        broken.unlink()
    else:
        broken.write_bytes(content)
    with pytest.raises(CertificateError, match=words) as error:
        named_context(NamedTlsFiles(ca_file, certificate, key), ("h2",))
    assert str(broken) in error.value.message
    assert "PRIVATE" not in error.value.message


def test_authorities_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"\xef\xbb\xbf" + CA.bundle_pem.replace(b"\n", b"\r\n") + b"# the other\n" + OTHER.bundle_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=read_authorities(path))
    assert context.cert_store_stats()["x509_ca"] == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"", "cannot be used: it holds no certificate; it must hold certificates in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA", "cannot be used: a block has no end"),
        (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "cannot be used: it holds something else"),
    ],
    ids=["none", "empty", "cut off", "something else"],
)
def test_authorities_that_cannot_be_used(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CertificateError, match=f"authority .*ca.pem {words}"):
        read_authorities(path, "authority")


def test_the_files() -> None:
    assert NamedTlsFiles().all == ()
    assert NamedTlsFiles(Path("a"), Path("b"), Path("c")).all == (Path("a"), Path("b"), Path("c"))
