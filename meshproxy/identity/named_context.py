"""TLS contexts for connections to servers that are known by name, with certificates outside of the mesh."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import msgspec

from meshproxy.identity.certificates import TLS_1_2_CIPHERS, CertificateError, Credentials, load_pair, read_file
from meshproxy.identity.pem import read_certificates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class NamedTlsFiles(msgspec.Struct, frozen=True):
    """What a server's certificate is verified with, and ours for servers that ask for one."""

    ca: Path | None = None
    """None: the system's authorities."""
    certificate: Path | None = None
    key: Path | None = None
    """Given if `certificate` is."""

    @property
    def all(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.certificate, self.key) if path is not None)


def named_context(files: NamedTlsFiles, protocols: Sequence[str]) -> ssl.SSLContext:
    """A context that verifies chain and name (RFC 9525: subjectAltName only), made from what the files hold now.

    Args:
        files: authorities, and our certificate.
        protocols: ALPN.

    Raises:
        CertificateError: a file cannot be used. The message says which.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
    context.hostname_checks_common_name = False
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.set_alpn_protocols(list(protocols))
    if files.ca is None:
        context.load_default_certs()
    else:
        # A self-signed certificate that is no authority's may be named itself.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=read_authorities(files.ca))
    if files.certificate is not None and files.key is not None:
        load_own(context, files.certificate, files.key)
    return context


def read_authorities(path: Path, what: str = "caFile") -> bytes:
    """All certificates of the file, DER, one after the other: `cadata` of ssl's contexts.

    Args:
        what: the name of the setting.

    Raises:
        CertificateError: it cannot be read, or holds something else. The message says which file and why.
    """
    content, _ = read_file(path, what)
    try:
        found = read_certificates(content)
        if not found:
            raise ValueError("it holds no certificate")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=b"".join(found))
    except (ssl.SSLError, ValueError) as error:
        why = "it holds something else" if isinstance(error, ssl.SSLError) else str(error)
        raise CertificateError(
            "unreadable", f"{what} {path} cannot be used: {why}; it must hold certificates in PEM"
        ) from None
    return b"".join(found)


def load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Show our certificate to servers that ask for one, on connections that are made from now on. Raises
    CertificateError, which says which files."""
    own = Credentials(read_file(certificate, "certificate")[0], read_file(key, "key")[0], b"")
    try:
        load_pair(context, own)
    except CertificateError as error:
        raise CertificateError(error.reason, f"certificate {certificate}, key {key}: {error.message}") from None
