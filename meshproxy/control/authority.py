"""The certificate authority of a trust domain: it makes itself, and signs the certificates of workloads.

What it signs is an X509-SVID (SPIFFE X509-SVID sections 2 to 4): one SPIFFE id, P-256, both extended key usages. Of a
signing request only the public key is taken; everything else in the certificate is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshproxy.control_api import leaf_name
from meshproxy.identity.certificates import CertificateError, read_bundle
from meshproxy.identity.peer import PeerRefused, read_spiffe_id
from meshproxy.identity.pem import to_pem

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKDATED = timedelta(minutes=10)
"""Certificates are valid from this long before they are issued, because the clocks of peers differ."""
AUTHORITY_LIFETIME = timedelta(days=3650)
REQUEST_BYTES = 8_192
"""The largest signing request that is read; one with a P-256 key and one name is below 500 bytes."""


class RequestRefused(Exception):
    """A certificate is not issued.

    Attributes:
        reason: one of `REASONS`: a metric label.
        message: what is wrong and what to do about it.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class AuthorityError(Exception):
    """The authority's own certificate or key cannot be used."""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A PKCS #10 request (RFC 2986) that has proven possession of its key."""

    public_key: ec.EllipticCurvePublicKey
    spiffe_ids: tuple[str, ...]
    """The URI names that it asks for; none is usual."""

    @property
    def key(self) -> bytes:
        """The public key as certificates have it (RFC 5280 SubjectPublicKeyInfo, DER)."""
        return self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def read(cls, der: bytes) -> SigningRequest:
        """Raises RequestRefused (`malformed`, `signature`, `key`)."""
        if len(der) > REQUEST_BYTES:
            raise RequestRefused("malformed", f"the signing request is larger than {REQUEST_BYTES} bytes")
        try:
            request = x509.load_der_x509_csr(der)
            public_key = request.public_key()
            # Before the signature: a verification takes as long as the key likes, with a long exponent of RSA 15 ms.
            if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
                raise RequestRefused("key", "the key of the signing request is not on the curve P-256")
            is_signed = request.is_signature_valid
            names = _uris(request)
        except RequestRefused:
            raise
        except Exception as error:  # ValueError, UnsupportedAlgorithm, DuplicateExtension and what later releases add
            raise RequestRefused("malformed", "the signing request is not DER of PKCS #10 (RFC 2986)") from error
        if not is_signed:
            raise RequestRefused("signature", "the signing request is not signed with the key that it holds")
        return cls(public_key, names)


def _uris(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    """Raises RequestRefused for names of another type: they would be dropped silently."""
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != len(names):
        raise RequestRefused("identity", "the signing request asks for names that are not SPIFFE ids: leave them out")
    return tuple(uris)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for a workload."""

    certificate_pem: bytes
    """The leaf first, then the intermediate authorities; never the root."""
    not_before: float
    """Seconds since the epoch, as `not_after`."""
    not_after: float
    serial: str
    """Hexadecimal."""
    name: str
    """`control_api.leaf_name`."""


class Authority:
    """Signs for one trust domain.

    Attributes:
        trust_domain: in lower case.
        id: tells it from others: its key identifier, hexadecimal, which its certificates name.
        not_after: when its certificate expires, seconds since the epoch.
        bundle_pem: the roots that peers must trust; several while one is replaced.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        intermediates_pem: bytes = b"",
        bundle_pem: bytes | None = None,
    ) -> None:
        """Args:
            certificate: of the authority: a root, or an intermediate whose root is in the bundle.
            key: of that certificate.
            intermediates_pem: what a leaf needs to be verified with the bundle, besides itself.
            bundle_pem: the trusted roots. None: `certificate` alone.

        Raises:
            AuthorityError: it is not the authority of a trust domain, or the key is another one's.
        """
        if key.public_key() != certificate.public_key():
            raise AuthorityError("the key is not the key of the certificate: write both of the same authority")
        self.trust_domain = _trust_domain(certificate)
        self.bundle_pem = bundle_pem or certificate.public_bytes(serialization.Encoding.PEM)
        self.not_after = certificate.not_valid_after_utc.timestamp()
        self._certificate = certificate
        self._key = key
        self._intermediates_pem = intermediates_pem
        self._key_identifier = _key_identifier(certificate, key.public_key())
        self.id = _hex(self._key_identifier)

    @classmethod
    def create(cls, trust_domain: str, now: float, *, lifetime: timedelta = AUTHORITY_LIFETIME) -> Authority:
        """A new root."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = common_name(f"meshproxy authority of {trust_domain}")
        unsigned = authority_certificate(name, key.public_key(), trust_domain, now, lifetime, path_length=1)
        return cls(unsigned.issuer_name(name).sign(key, hashes.SHA256()), key)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes, bundle_pem: bytes | None = None) -> Authority:
        """Args:
            certificate_pem: the authority's certificate; below a root, the certificates up to it follow.
            key_pem: unencrypted.
            bundle_pem: the roots; of what else is there (comments, keys) nothing is kept. Left out: the certificate is
                a root itself.

        Raises:
            AuthorityError: they cannot be used.
        """
        try:
            key = serialization.load_pem_private_key(key_pem, None)
        except Exception as error:  # ValueError, TypeError, UnsupportedAlgorithm and what later releases add
            raise AuthorityError(f"the key cannot be read ({error}): it must be PEM, and not encrypted") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityError("the key is not an elliptic curve key")
        bundle = _roots(bundle_pem) if bundle_pem is not None else None
        try:
            chain = x509.load_pem_x509_certificates(certificate_pem)
            below_root = [each for each in chain if each.subject != each.issuer]
            if below_root[:1] == chain[:1] and bundle is None:
                raise AuthorityError("the certificate is an intermediate: the roots above it are needed, too")
            intermediates = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in below_root)
            return cls(chain[0], key, intermediates_pem=intermediates, bundle_pem=bundle)
        except AuthorityError:
            raise
        except Exception as error:  # what is in a certificate is read late: extensions, names, the type of the key
            raise AuthorityError(
                f"the certificate cannot be read ({error}): it must be PEM of RFC 5280; issue it anew"
            ) from error

    @property
    def certificate_pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """Its certificate and those up to the root, as `load` takes them."""
        return self._intermediates_pem or self.certificate_pem

    @property
    def key_pem(self) -> bytes:
        """PKCS #8, without a password."""
        return private_pem(self._key)

    def issue(
        self, request: SigningRequest, spiffe_id: str, now: float, lifetime: float, *, dns: Sequence[str] = ()
    ) -> Issued:
        """Sign a certificate.

        Args:
            request: of the workload.
            spiffe_id: what attestation has found the workload to be.
            now: seconds since the epoch.
            lifetime: seconds from now on; shortened if the authority expires before.
            dns: DNS names beside the SPIFFE id.

        Raises:
            RequestRefused: `identity`, `authority-expired`.
        """
        self._check_identity(request, spiffe_id)
        not_after = min(now + lifetime, self.not_after)
        if not_after <= now:
            raise RequestRefused("authority-expired", "the authority's certificate has expired: rotate the authority")
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id)]
        names += [x509.DNSName(name) for name in dns]
        not_before = now - BACKDATED.total_seconds()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(request.public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(not_before, UTC))
            .not_valid_after(datetime.fromtimestamp(not_after, UTC))
            # Critical because there is no subject (RFC 5280 section 4.2.1.6).
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(key_usages("digital_signature"), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(self._key_identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        leaf = certificate.public_bytes(serialization.Encoding.PEM)
        name = leaf_name(certificate.public_bytes(serialization.Encoding.DER), not_after)
        return Issued(leaf + self._intermediates_pem, not_before, not_after, f"{certificate.serial_number:x}", name)

    def _check_identity(self, request: SigningRequest, spiffe_id: str) -> None:
        try:
            domain, _ = read_spiffe_id(spiffe_id.encode("ascii", "replace"))
        except PeerRefused as refused:
            raise RequestRefused("identity", f"{spiffe_id!r} is not a SPIFFE id: {refused.message}") from None
        if domain != self.trust_domain:
            raise RequestRefused("identity", f"{spiffe_id} is not in the trust domain {self.trust_domain}")
        if request.spiffe_ids not in ((), (spiffe_id,)):
            raise RequestRefused(
                "identity", f"the signing request asks for another identity than {spiffe_id}, which was attested"
            )


def authority_of(leaf: bytes) -> str:
    """The `Authority.id` that a certificate, DER, names as its signer; empty if it names none."""
    try:
        extensions = x509.load_der_x509_certificate(leaf).extensions
        return _hex(extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value)
    except (ValueError, x509.ExtensionNotFound):
        return ""


def _roots(bundle_pem: bytes) -> bytes:
    """The certificates alone, as every sidecar gets them. Raises AuthorityError if none could use them."""
    try:
        roots = read_bundle(bundle_pem)
    except CertificateError as error:
        raise AuthorityError(f"its roots cannot be used: {error.message}") from None
    return b"".join(to_pem("CERTIFICATE", root) for root in roots)


def _key_identifier(authority: x509.Certificate, key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    """What its certificates name: its own identifier, however that was made. RFC 5280 section 4.2.1.2 leaves the method
    open (Go has taken SHA-256 since 1.25), and OpenSSL does not take an authority whose identifier is another one."""
    try:
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _hex(identifier: x509.AuthorityKeyIdentifier) -> str:
    return (identifier.key_identifier or b"").hex()


REASONS = frozenset({"malformed", "signature", "key", "identity", "authority-expired"})


def authority_certificate(
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    now: float,
    lifetime: timedelta,
    path_length: int,
) -> x509.CertificateBuilder:
    """The certificate of an authority (X509-SVID sections 3.2, 4.1 and 4.3), without issuer and signature."""
    issued = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(issued - BACKDATED)
        .not_valid_after(issued + lifetime)
        .add_extension(x509.BasicConstraints(True, path_length), critical=True)
        .add_extension(key_usages("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
    )


def common_name(text: str) -> x509.Name:
    """A name of a single common name, cut to the 64 characters that X.520 allows."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def key_usages(*bits: str) -> x509.KeyUsage:
    """The bits that are set, by the names of `cryptography.x509.KeyUsage`."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in bits for name in names})


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, without a password."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _trust_domain(certificate: x509.Certificate) -> str:
    """The trust domain that an authority's certificate names (X509-SVID section 4.2). Raises AuthorityError."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise AuthorityError("the certificate is not an authority's: it names no trust domain (spiffe://...)") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    domain = uris[0].removeprefix("spiffe://") if len(uris) == 1 else ""
    if not constraints.ca or not domain or "/" in domain:
        raise AuthorityError("the certificate is not the authority of exactly one trust domain")
    return domain
