"""A certificate authority for development and tests, in memory or in a folder.

By default it issues X509-SVIDs (SPIFFE). It can also issue certificates that no authority should (two URIs, CA:TRUE,
expired, ...), so that tests can show them to a proxy. Use it for development only: its key is stored beside its
certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshproxy.control.authority import (
    AUTHORITY_LIFETIME,
    BACKDATED,
    authority_certificate,
    common_name,
    key_usages,
    private_pem,
)
from meshproxy.identity.private_files import replace_file

LEAF_LIFETIME = timedelta(hours=24)
BOTH_USAGES: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A leaf with its chain, and its key. PEM; the key is PKCS #8 without a password."""

    certificate_pem: bytes
    """The leaf first, then the intermediate authorities; never the root."""
    key_pem: bytes

    @property
    def der(self) -> bytes:
        """The leaf alone, as a TLS peer sees it."""
        return x509.load_pem_x509_certificate(self.certificate_pem).public_bytes(serialization.Encoding.DER)

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `NAME.pem` and `NAME-key.pem` (mode 0600); returns their paths."""
        certificate, key = directory / f"{name}.pem", directory / f"{name}-key.pem"
        replace_file(key, self.key_pem, 0o600)
        replace_file(certificate, self.certificate_pem, 0o644)
        return certificate, key


class DevelopmentCA:
    """One authority: the root of a trust domain, or an intermediate below it."""

    def __init__(
        self, trust_domain: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, chain_pem: bytes = b""
    ) -> None:
        self.trust_domain = trust_domain
        self.certificate = certificate
        self._key = key
        self._chain_pem = chain_pem
        """The intermediate certificates that a leaf needs to be verified with the root; empty for a root."""

    @classmethod
    def create(cls, trust_domain: str, *, lifetime: timedelta = AUTHORITY_LIFETIME) -> DevelopmentCA:
        """A new root. Two roots of one trust domain do not trust each other, as when an authority is rotated."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = common_name(f"meshproxy development authority of {trust_domain}")
        # Path length 1: one intermediate below the root, as in Linkerd and SPIRE.
        builder = authority_certificate(
            name, key.public_key(), trust_domain, _now(), lifetime, path_length=1
        ).issuer_name(name)
        return cls(trust_domain, builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, directory: Path) -> DevelopmentCA:
        """The authority that `write` stored in a folder. Raises OSError or ValueError if it is incomplete."""
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca-key.pem").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError(f"{directory}: ca-key.pem is not the key of ca.pem")
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            raise ValueError(f"{directory}: ca.pem names no trust domain") from None
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        return cls(uri.removeprefix("spiffe://"), certificate, key)

    @property
    def bundle_pem(self) -> bytes:
        """The trust bundle: the certificate of this authority, as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def intermediate(self, *, lifetime: timedelta = AUTHORITY_LIFETIME) -> DevelopmentCA:
        """An authority below this one; what it issues carries its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = authority_certificate(
            common_name(f"meshproxy development intermediate of {self.trust_domain}"),
            key.public_key(),
            self.trust_domain,
            _now(),
            lifetime,
            path_length=0,
        )
        certificate = self._sign(builder)
        return DevelopmentCA(
            self.trust_domain, certificate, key, certificate.public_bytes(serialization.Encoding.PEM) + self._chain_pem
        )

    def issue(
        self,
        *uris: str,
        dns: Sequence[str] = (),
        lifetime: timedelta = LEAF_LIFETIME,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        is_authority: bool | None = False,
        key_usage: Sequence[str] | None = ("digital_signature",),
        extended_key_usage: Sequence[x509.ObjectIdentifier] | None = BOTH_USAGES,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> IssuedCertificate:
        """A certificate and its new P-256 key. With one SPIFFE id and nothing else given: an X509-SVID.

        Args:
            uris: the URI names; none leaves the alternative names out, if there are no `dns` either.
            dns: DNS names beside them.
            lifetime: from now on; the certificate is backdated by `BACKDATED`.
            not_before: instead of that.
            not_after: instead of `lifetime`.
            is_authority: basic constraints; None leaves them out.
            key_usage: the bits that are set, by the names of `cryptography.x509.KeyUsage`; None leaves it out.
            extended_key_usage: OIDs; None leaves it out.
            extensions: further ones, each with whether it is critical.
        """
        now = datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(common_name("meshproxy development workload"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - BACKDATED)
            .not_valid_after(not_after or now + lifetime)
        )
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        wanted: list[tuple[x509.ExtensionType, bool]] = []
        if names:
            wanted.append((x509.SubjectAlternativeName(names), False))
        if is_authority is not None:
            wanted.append((x509.BasicConstraints(is_authority, None), True))
        if key_usage is not None:
            wanted.append((key_usages(*key_usage), True))
        if extended_key_usage is not None:
            wanted.append((x509.ExtendedKeyUsage(extended_key_usage), False))
        for extension, is_critical in (*wanted, *extensions):
            builder = builder.add_extension(extension, critical=is_critical)
        certificate = self._sign(builder)
        return IssuedCertificate(
            certificate.public_bytes(serialization.Encoding.PEM) + self._chain_pem, private_pem(key)
        )

    def write(self, directory: Path) -> Path:
        """Write `ca.pem` and `ca-key.pem` (mode 0600); returns the path of `ca.pem`."""
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / "ca-key.pem", private_pem(self._key), 0o600)
        replace_file(directory / "ca.pem", self.bundle_pem, 0o644)
        return directory / "ca.pem"

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            builder.issuer_name(self.certificate.subject)
            .add_extension(authority_key, critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _now() -> float:
    return datetime.now(UTC).timestamp()
