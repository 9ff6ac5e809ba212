"""The identity of the peer: the SPIFFE id of its certificate, read once per connection, after TLS has verified the
chain.

TLS libraries verify far less of a leaf than SPIFFE demands: OpenSSL lets a CA certificate, a leaf with two URIs or one
with a NUL in its URI act as a client. So the whole of X509-SVID sections 2, 4 and 5.2 is applied here, to the bytes
that were signed, by a strict walk over just the DER it needs (docs/decisions/0003-own-der-walk.md says why our own).
What is not canonical DER, or is anything but exactly one well-formed SPIFFE id of a trusted domain, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache

from meshproxy.identity.caller import Workload

CERTIFICATE_BYTES = 65_536
"""The largest leaf that is read. SPIRE's and Istio's are below 2 KiB; OpenSSL itself takes chains up to 100 KiB."""
KEPT = 1_024
KEPT_BYTES = 4_096
"""So many certificates up to that size are remembered by their bytes, 4 MB at most: a caller that connects again shows
the same one. Their times are compared each time."""
SPIFFE_ID_BYTES = 2_048
"""SPIFFE-ID section 2.3."""


class PeerRole(Enum):
    """What the peer is to us; the value is the OID that its extended key usage must hold (RFC 5280, 4.2.1.12)."""

    CLIENT = bytes.fromhex("2b06010505070302")
    SERVER = bytes.fromhex("2b06010505070301")


class PeerRefused(Exception):
    """A certificate does not identify a workload of this mesh.

    Attributes:
        reason: one of `REASONS`: a metric label.
        message: what is wrong and what to do about it; never holds raw bytes of the certificate.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


REASONS = frozenset(
    {
        "malformed",
        "not-yet-valid",
        "expired",
        "authority",
        "key-usage",
        "extended-key-usage",
        "no-spiffe-id",
        "several-uris",
        "bad-spiffe-id",
        "trust-domain",
        "wrong-authority",
    }
)

# Tags of X.690; 0x80 is context-specific, 0x20 constructed.
_BOOLEAN, _INTEGER, _BIT_STRING, _OCTET_STRING, _OID = 0x01, 0x02, 0x03, 0x04, 0x06
_UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _EXTENSIONS = 0x17, 0x18, 0x30, 0xA3
_VERSION_3 = bytes.fromhex("a003020102")
# GeneralName (RFC 5280 section 4.2.1.6). The URI is type 6 and primitive: a "constructed" URI (0xa6), which BER allows
# and some parsers take, is not among them.
_GENERAL_NAMES = frozenset({0xA0, 0x81, 0x82, 0xA3, 0xA4, 0xA5, 0x86, 0x87, 0x88})
_URI = 0x86
_DNS = 0x82

_KEY_USAGE, _SUBJECT_ALT_NAME = bytes.fromhex("551d0f"), bytes.fromhex("551d11")
_BASIC_CONSTRAINTS, _EXTENDED_KEY_USAGE = bytes.fromhex("551d13"), bytes.fromhex("551d25")
_SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")
_DIGITAL_SIGNATURE, _KEY_CERT_SIGN, _CRL_SIGN = 0x80, 0x04, 0x02

# SPIFFE-ID sections 2.1 and 2.2. fullmatch on bytes: `$` would let a newline pass, `\w` on text other alphabets.
_SPIFFE_ID = re.compile(rb"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")
_TIME = re.compile(rb"[0-9]{12,14}Z")


def read_peer(der: bytes, trust_domain: str, now: float, role: PeerRole = PeerRole.CLIENT) -> Workload:
    """The workload of this trust domain that a certificate identifies (SPIFFE X509-SVID section 5.2).

    Args:
        der: the leaf as `getpeercert(binary_form=True)` gives it. Its signature has been verified by TLS, not here.
        trust_domain: the only one whose ids are taken, lower case.
        now: seconds since the epoch. TLS has looked at its clock too, but only during the handshake.
        role: what the peer is to us.

    Raises:
        PeerRefused: for every certificate that is not exactly that, and never anything else.
    """
    workload = read_svid(der, now, role)
    if workload.trust_domain != trust_domain:
        raise other_trust_domain(workload.trust_domain, (trust_domain,))
    return workload


def read_start(der: bytes) -> float:
    """When a certificate that has been read before became valid (notBefore), in seconds since the epoch."""
    return _read_certificate(der)[0]


def other_trust_domain(named: str, trusted: Iterable[str]) -> PeerRefused:
    """The refusal of a certificate whose trust domain is not among those that are trusted."""
    return PeerRefused(
        "trust-domain",
        f"the certificate belongs to trust domain {named}, this mesh trusts {', '.join(trusted)}: "
        "give the workload a certificate of this mesh's authority, or add its trust domain to trustDomains",
    )


def read_svid(der: bytes, now: float, role: PeerRole) -> Workload:
    """The workload that a certificate identifies, whatever its trust domain: arguments and errors as of `read_peer`.
    Whether its authority may speak for that domain is up to the caller (`trust.Trust`)."""
    read = _remember_workload if len(der) <= KEPT_BYTES else _read_workload
    workload, not_before = read(der, role)
    # RFC 5280 section 4.1.2.5: from notBefore through notAfter, both inclusive.
    if now < not_before:
        raise PeerRefused(
            "not-yet-valid", "the certificate is not valid yet: compare the clocks of this host and of the authority"
        )
    if now > workload.not_after:
        raise PeerRefused("expired", "the certificate has expired: check why the workload did not renew it")
    return workload


def _read_workload(der: bytes, role: PeerRole) -> tuple[Workload, float]:
    """What does not depend on the time, and notBefore."""
    not_before, not_after, extensions = _read_certificate(der)
    _check_leaf(der, extensions, role)
    spiffe_id = _read_uri(der, extensions)
    domain, path = read_spiffe_id(spiffe_id)
    segments = path.split("/")
    is_kubernetes = len(segments) == 5 and segments[1] == "ns" and segments[3] == "sa"
    workload = Workload(
        spiffe_id=spiffe_id.decode("ascii"),
        trust_domain=domain,
        namespace=segments[2] if is_kubernetes else None,
        service_account=segments[4] if is_kubernetes else None,
        not_after=not_after,
    )
    return workload, not_before


# What is refused is not remembered.
_remember_workload = lru_cache(maxsize=KEPT)(_read_workload)


def read_spiffe_id(spiffe_id: bytes) -> tuple[str, str]:
    """Trust domain and path of the id of a workload (SPIFFE-ID section 2; X509-SVID section 3.1 demands a path).

    Raises:
        PeerRefused: reason `bad-spiffe-id`.
    """
    match = _SPIFFE_ID.fullmatch(spiffe_id) if len(spiffe_id) <= SPIFFE_ID_BYTES else None
    if match is None:
        raise PeerRefused(
            "bad-spiffe-id",
            "the URI is not the SPIFFE id of a workload: it must be spiffe://TRUST-DOMAIN/PATH of at most "
            f"{SPIFFE_ID_BYTES} bytes, the trust domain in lower case, each segment of the path of letters, digits, "
            "'.', '_' and '-'",
        )
    domain, path = match[1].decode("ascii"), match[2].decode("ascii")
    if any(segment in (".", "..") for segment in path.split("/")):
        raise PeerRefused("bad-spiffe-id", "the path of the SPIFFE id has a segment '.' or '..'")
    return domain, path


def read_key_identifier(der: bytes) -> bytes | None:
    """The subject key identifier of an authority's certificate (RFC 5280 section 4.2.1.2), None without one. Raises
    PeerRefused (`malformed`)."""
    _, _, extensions = _read_certificate(der)
    if _SUBJECT_KEY_IDENTIFIER not in extensions:
        return None
    start, stop = _only(der, *extensions[_SUBJECT_KEY_IDENTIFIER], _OCTET_STRING)
    return der[start:stop]


def _check_leaf(der: bytes, extensions: dict[bytes, tuple[int, int]], role: PeerRole) -> None:
    """It is a leaf, and may be used for what it is used for (X509-SVID sections 4.1, 4.3, 4.4)."""
    if _BASIC_CONSTRAINTS in extensions and _is_authority(der, *extensions[_BASIC_CONSTRAINTS]):
        raise PeerRefused("authority", "the certificate is an authority's (CA:TRUE): it does not identify a workload")
    if _KEY_USAGE in extensions:
        usage = _read_key_usage(der, *extensions[_KEY_USAGE])
        if usage & (_KEY_CERT_SIGN | _CRL_SIGN):
            raise PeerRefused(
                "authority", "the certificate may sign certificates or revocation lists: it is not a leaf"
            )
        if not usage & _DIGITAL_SIGNATURE:
            raise PeerRefused("key-usage", "the certificate's key usage lacks digitalSignature: TLS 1.3 requires it")
    if _EXTENDED_KEY_USAGE in extensions and role.value not in _read_oids(der, *extensions[_EXTENDED_KEY_USAGE]):
        wanted = "clientAuth" if role is PeerRole.CLIENT else "serverAuth"
        raise PeerRefused(
            "extended-key-usage",
            f"the certificate's extended key usage lacks {wanted}: an X509-SVID holds both serverAuth and clientAuth",
        )


def _read_uri(der: bytes, extensions: dict[bytes, tuple[int, int]]) -> bytes:
    """The one URI of the subject alternative names. Names of other types are ignored: they do not identify a
    workload."""
    uris: list[bytes] = []
    has_dns = False
    if _SUBJECT_ALT_NAME in extensions:
        at, end = _only(der, *extensions[_SUBJECT_ALT_NAME], _SEQUENCE)
        while at < end:
            tag, start, at = _element(der, at, end)
            if tag not in _GENERAL_NAMES:
                raise _malformed("an alternative name of an unknown type")
            if tag == _URI:
                uris.append(der[start:at])
            has_dns = has_dns or tag == _DNS
    if not uris:
        hint = ": its DNS names name a server, and never a workload" if has_dns else ": it is not an X509-SVID"
        raise PeerRefused("no-spiffe-id", f"the certificate has no URI among its alternative names{hint}")
    if len(uris) > 1:
        raise PeerRefused("several-uris", "the certificate has several URIs: an X509-SVID has exactly one")
    return uris[0]


# The walk. Every function takes the bounds of what it may read and returns the bounds of what it has found.


def _malformed(what: str) -> PeerRefused:
    return PeerRefused("malformed", f"the certificate cannot be read: {what}")


def _element(der: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Tag, start and end of the value at `at`; the next element begins where the value ends (X.690, 8.1 and 10.1)."""
    if end - at < 2:
        raise _malformed("it ends within an element")
    tag, length, start = der[at], der[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise _malformed("a tag of several bytes")
    if length >= 0x80:
        octets = length & 0x7F
        # 0 octets is the indefinite form of BER; three are more than CERTIFICATE_BYTES can need.
        if not 1 <= octets <= 3 or start + octets > end:
            raise _malformed("a length that is not DER")
        length = int.from_bytes(der[start : start + octets], "big")
        if length < 0x80 or length >> 8 * (octets - 1) == 0:
            raise _malformed("a length that is not the shortest")
        start += octets
    if start + length > end:
        raise _malformed("an element is longer than the one that contains it")
    return tag, start, start + length


def _expect(der: bytes, at: int, end: int, wanted: int) -> tuple[int, int]:
    """Bounds of the value at `at`, which must have this tag."""
    tag, start, stop = _element(der, at, end)
    if tag != wanted:
        raise _malformed("an element of an unexpected type")
    return start, stop


def _only(der: bytes, at: int, end: int, wanted: int) -> tuple[int, int]:
    """As `_expect`, and nothing follows the element."""
    start, stop = _expect(der, at, end, wanted)
    if stop != end:
        raise _malformed("bytes after the end of an element")
    return start, stop


def _read_certificate(der: bytes) -> tuple[float, float, dict[bytes, tuple[int, int]]]:
    """notBefore, notAfter, and the bounds of each extension's value by OID (RFC 5280 section 4.1)."""
    if len(der) > CERTIFICATE_BYTES:
        raise _malformed(f"it is larger than {CERTIFICATE_BYTES} bytes")
    at, end = _only(der, 0, len(der), _SEQUENCE)
    to_be_signed, stop = _expect(der, at, end, _SEQUENCE)
    _, after_algorithm = _expect(der, stop, end, _SEQUENCE)
    _only(der, after_algorithm, end, _BIT_STRING)

    if der[to_be_signed : to_be_signed + len(_VERSION_3)] != _VERSION_3:
        raise _malformed("it is not of version 3")
    _, at = _expect(der, to_be_signed + len(_VERSION_3), stop, _INTEGER)  # serial number
    _, at = _expect(der, at, stop, _SEQUENCE)  # signature algorithm
    _, at = _expect(der, at, stop, _SEQUENCE)  # issuer
    validity, at = _expect(der, at, stop, _SEQUENCE)
    not_before, not_after = _read_validity(der, validity, at)
    _, at = _expect(der, at, stop, _SEQUENCE)  # subject
    _, at = _expect(der, at, stop, _SEQUENCE)  # public key
    if at == stop:
        return not_before, not_after, {}
    # Unique identifiers ([1], [2]) may not be generated since RFC 5280 and have no meaning here: refused.
    at, stop = _only(der, at, stop, _EXTENSIONS)
    at, stop = _only(der, at, stop, _SEQUENCE)
    extensions: dict[bytes, tuple[int, int]] = {}
    while at < stop:
        inner, at = _expect(der, at, stop, _SEQUENCE)
        start, after_oid = _expect(der, inner, at, _OID)
        oid = der[start:after_oid]
        if oid in extensions:
            raise _malformed("a duplicate extension")
        if der[after_oid : after_oid + 1] == bytes((_BOOLEAN,)):
            after_oid = _read_true(der, after_oid, at)
        extensions[oid] = _only(der, after_oid, at, _OCTET_STRING)
    return not_before, not_after, extensions


def _read_true(der: bytes, at: int, end: int) -> int:
    """The end of a BOOLEAN that is TRUE: FALSE is the default everywhere in X.509, and DER does not write defaults."""
    start, stop = _expect(der, at, end, _BOOLEAN)
    if der[start:stop] != b"\xff":
        raise _malformed("a BOOLEAN that is not DER")
    return stop


def _read_validity(der: bytes, at: int, end: int) -> tuple[float, float]:
    not_before, at = _read_time(der, at, end)
    not_after, at = _read_time(der, at, end)
    if at != end:
        raise _malformed("bytes after its validity")
    return not_before, not_after


def _read_time(der: bytes, at: int, end: int) -> tuple[float, int]:
    """Seconds since the epoch, and where the time ends (RFC 5280 sections 4.1.2.5.1 and 4.1.2.5.2)."""
    tag, start, stop = _element(der, at, end)
    text = der[start:stop]
    if not _TIME.fullmatch(text):
        raise _malformed("a time that is not in the form of RFC 5280")
    if tag == _UTC_TIME and len(text) == 13:
        year, at = int(text[:2]), 2
        year += 2000 if year < 50 else 1900
    elif tag == _GENERALIZED_TIME and len(text) == 15 and int(text[:4]) >= 2050:
        year, at = int(text[:4]), 4
    else:
        raise _malformed("a time that is not in the form of RFC 5280")
    month, day, hour, minute, second = (int(text[i : i + 2]) for i in range(at, at + 10, 2))
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp(), stop
    except ValueError:
        raise _malformed("an impossible date") from None


def _is_authority(der: bytes, at: int, end: int) -> bool:
    """Whether basic constraints say CA:TRUE (RFC 5280 section 4.2.1.9)."""
    start, stop = _only(der, at, end, _SEQUENCE)
    if start == stop:
        return False
    _read_true(der, start, stop)  # a path length may follow CA:TRUE, and nothing else may stand here
    return True


def _read_key_usage(der: bytes, at: int, end: int) -> int:
    """The first eight bits of the key usage; decipherOnly, the ninth, does not matter (RFC 5280 section 4.2.1.3)."""
    start, stop = _only(der, at, end, _BIT_STRING)
    bits = der[start:stop]
    if not 1 <= len(bits) <= 3 or bits[0] > 7 or (len(bits) == 1 and bits[0]):
        raise _malformed("a key usage that is not DER")
    if len(bits) == 1:
        return 0
    if bits[-1] & ((1 << bits[0]) - 1):
        raise _malformed("a key usage with bits beyond its end")
    return bits[1]


def _read_oids(der: bytes, at: int, end: int) -> set[bytes]:
    at, end = _only(der, at, end, _SEQUENCE)
    oids: set[bytes] = set()
    while at < end:
        start, at = _expect(der, at, end, _OID)
        oids.add(der[start:at])
    return oids
