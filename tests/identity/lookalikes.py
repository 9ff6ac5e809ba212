"""Authorities that OpenSSL takes for others."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.devtools.ca import DevelopmentCA


def lookalike(authority: DevelopmentCA, identifier: bytes | None) -> x509.Certificate:
    """A self-signed authority of the same name and another key, with this subject key identifier."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
    )
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    return builder.sign(key, hashes.SHA256())
