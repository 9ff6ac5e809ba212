"""Who we are: from the files of an identity to proven TLS contexts.

A context in use is never changed: loading a bad pair into one breaks every later handshake on it (measured with OpenSSL
3.0: new certificate with old key, as a half-finished rotation leaves them). So every change of key or trust makes new
contexts, and those must complete a handshake with each other, in memory, before anything serves with them. New contexts
also end session resumption, which would carry an old decision about a peer beyond the change that revoked it.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from meshproxy.identity.caller import Workload
from meshproxy.identity.peer import PeerRefused, PeerRole, read_peer

FILE_BYTES = 1_048_576
"""The most that is read of one file: a trust bundle with hundreds of authorities fits."""
SERVER_PROTOCOLS = ("h2", "http/1.1")
CLIENT_PROTOCOLS = ("h2", "http/1.1")
"""ALPN, ours first (RFC 7301)."""

# For TLS 1.2, if it is allowed at all: forward secrecy and AEAD only (RFC 7525 section 4.2). Level 2 refuses RSA below
# 2048 bits and SHA-1, whatever the distribution's default is.
_TLS_1_2_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


class CertificateError(Exception):
    """Our own identity cannot be used. What served before keeps serving.

    Attributes:
        reason: `unreadable`, `mismatch`, `expired`, `not-an-svid`, `untrusted` or `handshake`: a metric label.
        message: what is wrong, why, and what to do next. Never holds anything of the key.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Credentials:
    """One reading of an identity: everything built from it fits together. PEM."""

    certificate_pem: bytes
    """The leaf first, then the intermediate authorities."""
    key_pem: bytes = field(repr=False)
    bundle_pem: bytes
    """The authorities that are trusted, several while they rotate."""
    warnings: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> bytes:
        """Differs when anything of the identity does: what a watcher compares."""
        digest = hashlib.sha256()
        for part in (self.certificate_pem, self.key_pem, self.bundle_pem):
            digest.update(hashlib.sha256(part).digest())
        return digest.digest()


@dataclass(frozen=True, slots=True)
class IdentityFiles:
    """Where an identity lies. Certificate and key may be one file (Kubernetes' credential bundles are)."""

    certificate: Path
    key: Path
    trust_bundle: Path

    def read(self) -> Credentials:
        """Read the files, once. Raises CertificateError if one cannot be read or anybody may change the key."""
        key_pem, mode = _read(self.key, "key")
        if mode & stat.S_IWOTH:
            raise CertificateError(
                "unreadable",
                f"key {self.key}: anybody may write it (mode {mode:04o}): make it 0600 and issue a new one",
            )
        warnings: tuple[str, ...] = ()
        # Not an error: Kubernetes mounts secrets with mode 0644 unless told otherwise, in a volume of the pod alone.
        if mode & stat.S_IROTH:
            warnings = (f"key {self.key}: anybody on this host may read it (mode {mode:04o}): make it 0600",)
        return Credentials(
            certificate_pem=_read(self.certificate, "certificate")[0],
            key_pem=key_pem,
            bundle_pem=_read(self.trust_bundle, "trust bundle")[0],
            warnings=warnings,
        )


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """A proven identity, ready to serve with. Replaced whole, never changed."""

    workload: Workload
    """Who we are; its `not_after` is when we stop being it."""
    server: ssl.SSLContext
    client: ssl.SSLContext | None
    """None where it was not asked for."""
    warnings: tuple[str, ...]


def own_identity(
    credentials: Credentials,
    trust_domain: str,
    now: float,
    *,
    needs_client: bool = True,
    mtls: Literal["strict", "permissive"] = "strict",
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    server_protocols: Sequence[str] = SERVER_PROTOCOLS,
    client_protocols: Sequence[str] = CLIENT_PROTOCOLS,
) -> OwnIdentity:
    """Contexts for both directions, proven against each other; about 5 ms of CPU.

    Where nothing connects into the mesh, a certificate for servers alone is enough: X509-SVID section 4.4 demands both
    usages of an SVID, but many authorities issue servers with serverAuth only, and it harms nobody here.

    Args:
        credentials: what was read.
        trust_domain: the mesh's; our certificate must be of it.
        now: seconds since the epoch.
        needs_client: also for connections into the mesh.
        mtls: see `server_context`.
        minimum_version: of TLS, for both.
        server_protocols: ALPN of the server context.
        client_protocols: ALPN of the client context.

    Raises:
        CertificateError: the identity cannot be used.
    """
    leaf = _leaf(credentials.certificate_pem)
    try:
        workload = read_peer(leaf, trust_domain, now, PeerRole.SERVER)
        if needs_client:
            read_peer(leaf, trust_domain, now, PeerRole.CLIENT)
    except PeerRefused as refused:
        reason = "expired" if refused.reason in ("expired", "not-yet-valid") else "not-an-svid"
        raise CertificateError(reason, f"our own certificate: {refused.message}") from None
    server = server_context(credentials, mtls=mtls, minimum_version=minimum_version, protocols=server_protocols)
    client = None
    if needs_client:
        client = client_context(credentials, minimum_version=minimum_version, protocols=client_protocols)
    if (prove(server, client) if client is not None else _prove_alone(server, credentials)) != leaf:
        raise CertificateError("handshake", "the certificate that TLS serves is not the first of the certificate file")
    return OwnIdentity(workload, server, client, credentials.warnings)


def server_context(
    credentials: Credentials,
    *,
    mtls: Literal["strict", "permissive"] = "strict",
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    protocols: Sequence[str] = SERVER_PROTOCOLS,
) -> ssl.SSLContext:
    """A context for a listener. Not proven: see `prove`.

    In `strict` mode a client must show a certificate of the trust bundle. In `permissive` mode it may show none (and is
    then nobody, which only the policy can permit), but one that it shows must verify: a broken identity is refused, not
    taken for none. The two modes need a listener each: a certificate cannot be asked for later, from the SNI callback
    (CPython accepts a client without one then).
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, credentials, minimum_version, protocols)
    context.verify_mode = ssl.CERT_REQUIRED if mtls == "strict" else ssl.CERT_OPTIONAL
    # No resumption: a resumed session skips the verification of the client, and so outlives its certificate. TLS 1.3
    # resumes with tickets only; the session ids of TLS 1.2 cannot be turned off from Python, there `read_peer` on every
    # connection catches an expired peer.
    context.num_tickets = 0
    return context


def client_context(
    credentials: Credentials,
    *,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    protocols: Sequence[str] = CLIENT_PROTOCOLS,
    shows_certificate: bool = True,
) -> ssl.SSLContext:
    """A context for connections into the mesh. Not proven: see `prove`.

    Names are not checked: who the server is, is its SPIFFE id, which the connector reads with `PeerRole.SERVER`.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials, minimum_version, protocols, shows_certificate)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def prove(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """Let two contexts of ours complete a handshake in memory, each verifying the other's leaf.

    Returns:
        the leaf that the server showed, DER.

    Raises:
        CertificateError: they could not.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_end = client.wrap_bio(to_client, to_server, server_side=False)
    server_end = server.wrap_bio(to_server, to_client, server_side=True)
    pending = [client_end, server_end]
    try:
        # A full handshake takes two rounds, with a HelloRetryRequest three.
        for _ in range(8):
            for end in tuple(pending):
                try:
                    end.do_handshake()
                    pending.remove(end)
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError as error:
        raise _unverified(error) from None
    except ssl.SSLError as error:
        raise CertificateError("handshake", f"our own contexts cannot speak to each other: {_why(error)}") from None
    leaf = client_end.getpeercert(binary_form=True)
    if pending or leaf is None or (server_end.getpeercert(binary_form=True) or leaf) != leaf:
        raise CertificateError("handshake", "our own contexts do not complete a handshake with each other")
    return leaf


def _prove_alone(server: ssl.SSLContext, credentials: Credentials) -> bytes:
    """What `prove` does, for a leaf that may not be a client's: the client shows none and is asked for none.

    Only for a context that serves nobody yet. Nothing of it but `verify_mode` differs meanwhile, so key, chain and
    protocols are proven as they will serve, and the bundle by the client, which verifies the leaf with it.
    """
    demanded = server.verify_mode
    server.verify_mode = ssl.CERT_NONE
    try:
        return prove(server, client_context(credentials, shows_certificate=False))
    finally:
        server.verify_mode = demanded


def _context(
    protocol: int,
    credentials: Credentials,
    minimum_version: ssl.TLSVersion,
    protocols: Sequence[str],
    shows_certificate: bool = True,
) -> ssl.SSLContext:
    """What both directions share."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = minimum_version
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_TLS_1_2_CIPHERS)
    context.set_alpn_protocols(list(protocols))
    # Whatever stands in the bundle is an anchor, self-signed or not (RFC 5280 section 6.1.1 d): so authorities can be
    # cross-signed and rotated one by one. VERIFY_X509_STRICT stays off: it mostly asks of authorities what many private
    # ones lack (key identifiers), and what SPIFFE asks of a leaf is checked by `read_peer`.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _load_trust(context, credentials.bundle_pem)
    if shows_certificate:
        _load_pair(context, credentials)
    return context


def _load_trust(context: ssl.SSLContext, bundle_pem: bytes) -> None:
    try:
        context.load_verify_locations(cadata=bundle_pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(
            "unreadable",
            f"the trust bundle cannot be read: {_why(error)}; it must hold PEM certificates of authorities",
        ) from None
    stored = context.cert_store_stats()
    if stored["x509"] != stored["x509_ca"]:
        raise CertificateError(
            "unreadable",
            "the trust bundle holds a certificate that is no authority's: leave only the mesh's authorities",
        )


def _load_pair(context: ssl.SSLContext, credentials: Credentials) -> None:
    if b"PRIVATE KEY-----" not in credentials.key_pem:
        raise CertificateError("unreadable", "the key file holds no private key: it must be PEM, without a password")
    try:
        with _as_file(credentials.certificate_pem + b"\n" + credentials.key_pem) as path:
            context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                "mismatch", "the key is not the certificate's: write both files of one issue, then they are read again"
            ) from None
        raise CertificateError(
            "unreadable", f"certificate and key cannot be loaded: {_why(error)}; both must be PEM and complete"
        ) from None


def _no_password() -> NoReturn:
    # Without this OpenSSL asks on the terminal and the event loop stands still.
    raise CertificateError(
        "unreadable", "the key is encrypted: write it without a password, readable for its owner only"
    )


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path for what `load_cert_chain` takes as a file only. In memory: a key that we were given gets to no disk."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("identity"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        import tempfile  # 1 MB with what it imports, and not needed on Linux

        with tempfile.NamedTemporaryFile() as named:  # mode 0600
            named.write(content)
            named.flush()
            yield named.name


def _leaf(certificate_pem: bytes) -> bytes:
    """The first certificate, DER."""
    start = certificate_pem.find(_BEGIN)
    stop = certificate_pem.find(_END, start)
    if start < 0 or stop < 0:
        raise CertificateError(
            "unreadable", "the certificate file holds no whole certificate: it must be PEM, the leaf first"
        )
    try:
        return ssl.PEM_cert_to_DER_cert(certificate_pem[start : stop + len(_END)].decode("ascii"))
    except ValueError:
        raise CertificateError("unreadable", "the first certificate is not valid PEM") from None


def _read(path: Path, what: str) -> tuple[bytes, int]:
    """Content and permission bits of a file."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError("unreadable", f"{what} {path} cannot be read: {error.strerror}") from None
    if len(content) > FILE_BYTES:
        raise CertificateError("unreadable", f"{what} {path} is larger than {FILE_BYTES} bytes")
    return content, stat.S_IMODE(status.st_mode)


def _unverified(error: ssl.SSLCertVerificationError) -> CertificateError:
    """Codes of X509_STORE_CTX_get_error(3), told in our words."""
    if error.verify_code in (9, 10):
        return CertificateError(
            "expired", f"an authority in our chain is out of its validity ({error.verify_message}): renew it"
        )
    if error.verify_code in (2, 18, 19, 20, 21):
        return CertificateError(
            "untrusted",
            "our own certificate is not signed by an authority of the trust bundle: if the authority is rotating, the "
            "bundle must hold the new one before certificates of it are used; intermediates stand behind the leaf",
        )
    return CertificateError("untrusted", f"our own certificate does not verify: {error.verify_message}")


def _why(error: Exception) -> str:
    """OpenSSL's words without its source lines."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM").lower().replace("_", " ")
    return "bytes that are not ASCII" if isinstance(error, UnicodeError) else str(error)
