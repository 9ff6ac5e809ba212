"""The workload's own identity: from PEM credentials to TLS contexts that a self-test handshake has proven.

A context in use is never changed: loading a bad pair into one breaks every later handshake on it (measured with OpenSSL
3.0: new certificate with old key, as a half-finished rotation leaves them). So every change of key or trust makes new
contexts, and those must complete a handshake in memory before they are used. New contexts also end session resumption,
which would carry an old decision about a peer beyond the change that revoked it.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from errno import ENOENT
from pathlib import Path
from typing import Literal, NoReturn

import msgspec

from meshproxy.config.files import open_regular
from meshproxy.config.unreadable import not_followed, tell_not_followed, why
from meshproxy.identity.caller import Workload
from meshproxy.identity.mesh_context import MeshContext
from meshproxy.identity.peer import PeerRefused, PeerRole, read_peer, read_start
from meshproxy.identity.pem import find_private_key, read_certificates
from meshproxy.identity.trust import Bundle, Trust, contains_authority

FILE_BYTES = 1_048_576
"""The most that is read of one file: a trust bundle with hundreds of authorities fits."""
SERVER_PROTOCOLS = ("h2", "http/1.1")
CLIENT_PROTOCOLS = ("h2", "http/1.1")
H1_PROTOCOLS = ("http/1.1",)
"""ALPN, ours first (RFC 7301)."""

# For TLS 1.2, if it is allowed at all: forward secrecy and AEAD only (RFC 7525 section 4.2). Level 2 refuses RSA below
# 2048 bits and SHA-1, whatever the distribution's default is.
TLS_1_2_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"


class CertificateError(Exception):
    """The workload's own identity cannot be used. The contexts in use stay in use.

    Attributes:
        reason: `unreadable`, `mismatch`, `expired`, `not-an-svid`, `untrusted` or `handshake`.
        message: what is wrong, why, and what to do next. Never contains key material.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Credentials:
    """One consistent set of certificate, key and trust bundle, as an identity source delivers it. PEM."""

    certificate_pem: bytes
    """The leaf first, then the intermediate authorities."""
    key_pem: bytes = field(repr=False)
    bundle_pem: bytes
    """The authorities of our own trust domain; several while they rotate."""
    warnings: tuple[str, ...] = ()
    other_bundles: Mapping[str, Bundle] = field(default_factory=dict)
    """The authorities of other trust domains, each known to be usable and distinct."""
    problems: tuple[str, ...] = ()
    """Why bundles of other trust domains are not in use as they are now. Our own identity does not depend on them."""
    not_followed: str = ""
    """Which of its files will not change any more, though there may be newer ones; empty if all will."""

    def only(self, domains: Collection[str]) -> Credentials:
        """The same with the bundles of these other trust domains only."""
        kept = {domain: bundle for domain, bundle in self.other_bundles.items() if domain in domains}
        return replace(self, other_bundles=kept)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256; differs when certificate, key or a bundle do. Tells a rotation from a file that was only touched."""
        digest = hashlib.sha256()
        parts = [self.certificate_pem, self.key_pem, self.bundle_pem]
        for domain, bundle in sorted(self.other_bundles.items()):
            parts += [domain.encode(), *bundle]
        for part in parts:
            digest.update(hashlib.sha256(part).digest())
        return digest.digest()


class IdentityFiles(msgspec.Struct, frozen=True):
    """Paths of an identity. Certificate and key may be the same file (as in Kubernetes' credential bundles)."""

    certificate: Path
    key: Path
    trust_bundle: Path

    def read(self) -> Credentials:
        """Read the files once. Raises CertificateError if one cannot be read, or if the key is world-writable."""
        key_pem, mode = read_file(self.key, "key")
        if mode & stat.S_IWOTH:
            raise CertificateError(
                "unreadable",
                f"key {self.key} is world-writable (mode {mode:04o}): set mode 0600 and issue a new key",
            )
        warnings: tuple[str, ...] = ()
        # Not an error: Kubernetes mounts secrets with mode 0644 by default, in a volume that only the pod sees.
        if mode & stat.S_IROTH:
            warnings = (f"key {self.key} is world-readable (mode {mode:04o}): set mode 0600",)
        replaced = {path: not_followed(path) for path in (self.certificate, self.key, self.trust_bundle)}
        stale = [path for path, problem in replaced.items() if problem]
        return Credentials(
            certificate_pem=read_file(self.certificate, "certificate")[0],
            key_pem=key_pem,
            bundle_pem=read_file(self.trust_bundle, "trust bundle")[0],
            warnings=warnings,
            not_followed=f"{', '.join(map(str, stale))}: {replaced[stale[0]]}" if stale else "",
        )


class OwnIdentity(msgspec.Struct, frozen=True):
    """A proven identity, ready for use. Replaced as a whole, never changed."""

    workload: Workload
    """The SPIFFE id, and in `not_after` when the certificate expires."""
    not_before: float
    """From when on the certificate is valid, in seconds since the epoch."""
    serial: str
    """The certificate's serial number, hexadecimal."""
    server: ssl.SSLContext | None
    """For the inbound listener; None where there is none."""
    client: ssl.SSLContext | None
    """For connections to other sidecars; None where there are none."""
    client_h1: ssl.SSLContext | None
    """The same, for those that are to speak HTTP/1.1: it differs in ALPN only, so one self-test proves both."""
    warnings: tuple[str, ...]


def own_identity(
    credentials: Credentials,
    trust_domain: str,
    now: float,
    *,
    serves: bool = True,
    calls: bool = True,
    mtls: Literal["strict", "permissive"] = "strict",
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    server_protocols: Sequence[str] = SERVER_PROTOCOLS,
    client_protocols: Sequence[str] = CLIENT_PROTOCOLS,
) -> OwnIdentity:
    """Contexts for the directions that are used, proven by a handshake; about 5 ms of CPU.

    A sidecar that only serves needs serverAuth, one that only calls clientAuth. X509-SVID section 4.4 demands both of
    an SVID, but many authorities issue certificates with one of them, which is enough here.

    Args:
        credentials: what the identity source delivered.
        trust_domain: the mesh's; the certificate must belong to it.
        now: seconds since the epoch.
        serves: whether there is an inbound listener with TLS.
        calls: whether connections to other sidecars are made. One of both must be.
        mtls: see `server_context`.
        minimum_version: of TLS, for both.
        server_protocols: ALPN of the server context.
        client_protocols: ALPN of the client context.

    Raises:
        CertificateError: the identity cannot be used.
    """
    leaf = _chain(credentials.certificate_pem)[0]
    trust = Trust({trust_domain: read_bundle(credentials.bundle_pem), **credentials.other_bundles})
    roles = ((serves, PeerRole.SERVER, "inbound (serverAuth)"), (calls, PeerRole.CLIENT, "outbound (clientAuth)"))
    workloads = [_read_own(leaf, trust_domain, now, role, use) for is_needed, role, use in roles if is_needed]
    server = client = client_h1 = None
    if serves:
        server = server_context(credentials, mtls=mtls, minimum_version=minimum_version, protocols=server_protocols)
        server.trust, server.not_after = trust, workloads[0].not_after
    if calls:
        client = client_context(credentials, minimum_version=minimum_version, protocols=client_protocols)
        client_h1 = client_context(credentials, minimum_version=minimum_version, protocols=H1_PROTOCOLS)
        for each in (client, client_h1):
            each.trust, each.not_after = trust, workloads[0].not_after
    if server is not None and client is not None:
        tested = self_test(server, client)
    elif server is not None:
        with _unverifying(server):
            tested = self_test(server, client_context(credentials, shows_certificate=False))
    else:
        assert client is not None
        with _unverifying(client):
            tested = self_test(server_context(credentials), client)
    if tested.leaf != leaf:
        raise CertificateError(
            "handshake", "the certificate that TLS presents is not the first in the certificate file"
        )
    if len(trust.bundles) > 1 and not contains_authority(tested.chain, trust.bundles[trust_domain]):
        raise _untrusted()
    start = read_start(leaf)
    return OwnIdentity(workloads[0], start, tested.serial, server, client, client_h1, credentials.warnings)


def _read_own(leaf: bytes, trust_domain: str, now: float, role: PeerRole, use: str) -> Workload:
    try:
        return read_peer(leaf, trust_domain, now, role)
    except PeerRefused as refused:
        reason = "expired" if refused.reason in ("expired", "not-yet-valid") else "not-an-svid"
        hint = "; the leaf must be the first certificate in its file" if refused.reason == "authority" else ""
        raise CertificateError(reason, f"our own certificate, for {use}: {refused.message}{hint}") from None


def server_context(
    credentials: Credentials,
    *,
    mtls: Literal["strict", "permissive"] = "strict",
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    protocols: Sequence[str] = SERVER_PROTOCOLS,
) -> MeshContext:
    """A context for a listener. Not proven: see `self_test`.

    In `strict` mode a client must present a certificate that the trust bundle verifies. In `permissive` mode it may
    present none (it is anonymous then, and the policy decides), but a certificate that it presents must verify: a bad
    one is refused, not treated as none. The two modes need a listener each: a certificate cannot be requested later,
    from the SNI callback (CPython accepts a client without one then).
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
) -> MeshContext:
    """A context for connections into the mesh. Not proven: see `self_test`.

    Host names are not checked: the server's identity is its SPIFFE id, which the connector reads (`PeerRole.SERVER`).
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, credentials, minimum_version, protocols, shows_certificate)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class SelfTest(msgspec.Struct, frozen=True):
    """What a self-test handshake has shown."""

    leaf: bytes
    """The certificate that was presented, DER."""
    serial: str
    """Its serial number, hexadecimal."""
    chain: Sequence[bytes]
    """It, and the authorities by which it was verified, DER."""


# What OpenSSL says where two ends of the same settings find no signature for the key, on either side.
_NO_SIGNATURE = frozenset({"UNSUPPORTED_PROTOCOL", "NO_SHARED_CIPHER", "PEER_DID_NOT_RETURN_A_CERTIFICATE"})
_UNFIT_KEY = "; TLS may have no signature for this type of key: issue it for P-256, P-384, P-521, Ed25519 or RSA"


def self_test(server: MeshContext, client: MeshContext) -> SelfTest:
    """Complete a handshake in memory between two contexts of the same identity; each verifies the other's leaf.

    Raises:
        CertificateError: the handshake failed.
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
        hint = _UNFIT_KEY if error.reason in _NO_SIGNATURE else ""
        raise CertificateError("handshake", f"the self-test handshake failed: {_why(error)}{hint}") from None
    leaf = client_end.getpeercert(binary_form=True)
    if pending or leaf is None or (server_end.getpeercert(binary_form=True) or leaf) != leaf:
        raise CertificateError("handshake", "the self-test handshake did not complete with our own certificate")
    verifier, end = (server, server_end) if client.verify_mode is ssl.CERT_NONE else (client, client_end)
    decoded = end.getpeercert() or {}
    return SelfTest(leaf, str(decoded.get("serialNumber", "")).lower(), verifier.verified_chain(end, leaf))


@contextmanager
def _unverifying(context: ssl.SSLContext) -> Iterator[None]:
    """Let a context that nothing uses yet skip verification during its self-test.

    The certificate may lack the usage that the peer of this context needs (extended key usage), so it cannot play both
    ends. Nothing but `verify_mode` differs meanwhile: key, chain and protocols are proven as they will be used, and the
    bundle by the other end, which verifies our leaf with it.
    """
    demanded = context.verify_mode
    context.verify_mode = ssl.CERT_NONE
    try:
        yield
    finally:
        context.verify_mode = demanded


def _context(
    protocol: int,
    credentials: Credentials,
    minimum_version: ssl.TLSVersion,
    protocols: Sequence[str],
    shows_certificate: bool = True,
) -> MeshContext:
    """What server and client contexts have in common."""
    context = MeshContext(protocol)
    context.minimum_version = minimum_version
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(TLS_1_2_CIPHERS)
    context.set_alpn_protocols(list(protocols))
    # Every certificate in the bundle is a trust anchor, self-signed or not (RFC 5280 section 6.1.1 d), so authorities
    # can be cross-signed and rotated one by one. VERIFY_X509_STRICT stays off: it mostly demands what many private
    # authorities lack (key identifiers), and what SPIFFE demands of a leaf is checked by `read_peer`.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Our own first: of two authorities that look the same, OpenSSL takes the one that was loaded first.
    for bundle in (read_bundle(credentials.bundle_pem), *credentials.other_bundles.values()):
        context.load_verify_locations(cadata=b"".join(bundle))
    if shows_certificate:
        load_pair(context, credentials)
    return context


def read_bundle(bundle_pem: bytes) -> Bundle:
    """The authorities of a trust bundle, one at least, which OpenSSL takes. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        bundle = tuple(read_certificates(bundle_pem))
        context.load_verify_locations(cadata=b"".join(bundle))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(
            "unreadable",
            f"the trust bundle cannot be read: {_why(error)}; it must contain CA certificates in PEM",
        ) from None
    stored = context.cert_store_stats()
    if stored["x509"] != stored["x509_ca"]:
        raise CertificateError(
            "unreadable",
            "the trust bundle contains a certificate that is not a CA's: keep only the mesh's authorities in it",
        )
    return bundle


# The last one where the key is of another type than the certificate's, such as after a change from RSA to ECDSA.
_MISMATCHES = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


def load_pair(context: ssl.SSLContext, credentials: Credentials) -> None:
    """Load certificate and key into a new context. Raises CertificateError."""
    try:
        key = find_private_key(credentials.key_pem)
    except ValueError as error:
        raise CertificateError("unreadable", f"the key file cannot be read: {error}") from None
    if key is None:
        raise CertificateError("unreadable", "the key file contains no private key: it must be PEM, not encrypted")
    chain = "".join([ssl.DER_cert_to_PEM_cert(der) for der in _chain(credentials.certificate_pem)])
    try:
        with _as_file(chain.encode() + key) as path:
            context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise CertificateError(
                "mismatch", "the key does not match the certificate: write certificate and key of the same issuance"
            ) from None
        raise CertificateError(
            "unreadable", f"certificate and key cannot be loaded: {_why(error)}; both must be complete PEM"
        ) from None
    except OSError as error:
        next_step = ": mount /proc, through which OpenSSL reads them" if error.errno == ENOENT else ""
        raise CertificateError(
            "unreadable", f"certificate and key cannot be loaded: {error.strerror}{next_step}"
        ) from None


def _no_password() -> NoReturn:
    # Without this OpenSSL prompts on the terminal and blocks the event loop.
    raise CertificateError("unreadable", "the key is encrypted: write it unencrypted, with mode 0600")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path for `load_cert_chain`, which takes files only. In memory, so that the key is never written to a disk."""
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


def _chain(certificate_pem: bytes) -> list[bytes]:
    """The certificates of the certificate file, DER, the leaf first."""
    try:
        chain = read_certificates(certificate_pem)
    except ValueError as error:
        raise CertificateError("unreadable", f"the certificate file cannot be read: {error}") from None
    if not chain:
        raise CertificateError(
            "unreadable", "the certificate file contains no complete certificate: it must be PEM, the leaf first"
        )
    return chain


def read_file(path: Path, what: str) -> tuple[bytes, int]:
    """Content and permission bits of a file. One that will not change any more is told. Raises CertificateError."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            content = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise CertificateError("unreadable", f"{what} {path} cannot be read: {why(path, error)}") from None
    if status.st_nlink == 0:
        tell_not_followed(path)
    if len(content) > FILE_BYTES:
        raise CertificateError("unreadable", f"{what} {path} is larger than {FILE_BYTES} bytes")
    return content, stat.S_IMODE(status.st_mode)


def _unverified(error: ssl.SSLCertVerificationError) -> CertificateError:
    """What the codes of X509_STORE_CTX_get_error(3) mean for our own certificate."""
    if error.verify_code in (9, 10):
        return CertificateError(
            "expired", f"a CA certificate in our chain is outside its validity ({error.verify_message}): renew it"
        )
    if error.verify_code == 18:
        return CertificateError(
            "untrusted",
            "our own certificate is self-signed, or looks so, as its subject is the name of its authority and it has "
            "no authority key identifier: an authority of the trust bundle must issue it, for another subject",
        )
    if error.verify_code in (2, 19, 20, 21):
        return _untrusted()
    return CertificateError("untrusted", f"our own certificate does not verify: {error.verify_message}")


def _untrusted() -> CertificateError:
    return CertificateError(
        "untrusted",
        "our own certificate is not signed by an authority of the trust bundle: when an authority rotates, the "
        "bundle must contain the new one before its certificates are used; intermediates follow the leaf, and of one "
        "that two authorities have signed, the certificate by an authority of the bundle comes first",
    )


def _why(error: Exception) -> str:
    """OpenSSL's reason without source file and line."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no PEM").lower().replace("_", " ")
    return str(error) or "no PEM"
