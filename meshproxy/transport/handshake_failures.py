"""Why a client's TLS handshake failed: the `reason` of `meshproxy_tls_handshakes_total`, and what to do about it."""

from __future__ import annotations

import ssl
from enum import Enum

NOT_YET_VALID, HAS_EXPIRED, INVALID_PURPOSE = 9, 10, 26
UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
"""Codes of X509_STORE_CTX_get_error(3)."""
NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"})
VERSION = frozenset({"UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "NO_PROTOCOLS_AVAILABLE"})
CIPHER = frozenset({"NO_SHARED_CIPHER", "NO_SUITABLE_KEY_SHARE", "NO_SUITABLE_SIGNATURE_ALGORITHM", "NO_SHARED_GROUPS"})


class HandshakeFailure(Enum):
    """The reasons: the label, and what to do about it."""

    NO_CERTIFICATE = (
        "no_certificate",
        "it presented no client certificate; configure its certificate and key, or use mtls: permissive",
    )
    EXPIRED = ("expired", "its certificate has expired or is not valid yet; renew it, and compare the clocks")
    UNKNOWN_AUTHORITY = (
        "unknown_authority",
        "its certificate is of no authority in our trust bundle; add the authority, or have it send its intermediates",
    )
    WRONG_USAGE = (
        "wrong_usage",
        "its certificate is not for TLS clients; issue it with clientAuth in the extended key usage",
    )
    BAD_CERTIFICATE = ("bad_certificate", "its certificate does not verify; issue a new one")
    OTHER_TRUST_DOMAIN = (
        "other_trust_domain",
        "its certificate is of another trust domain; issue it for the mesh's trustDomain, or add its to trustDomains",
    )
    WRONG_AUTHORITY = (
        "wrong_authority",
        "its certificate is not signed by the trust domain that it names; issue it there, or complete that bundle",
    )
    NOT_A_WORKLOAD = (
        "not_a_workload",
        "its certificate identifies no workload; issue it with one SPIFFE ID as its only URI",
    )
    PROTOCOL_VERSION = (
        "protocol_version",
        'it offers no TLS version that is accepted here; update it, or set tls.minVersion: "1.2"',
    )
    NO_SHARED_CIPHER = (
        "no_shared_cipher",
        "it shares no cipher, group or signature algorithm with us; update it",
    )
    NOT_TLS = ("not_tls", "it does not speak TLS; have it use https or TLS, or use mtls: permissive")
    REFUSED_BY_CLIENT = (
        "refused_by_client",
        "it refused our certificate or our parameters; give it our trust bundle, and see its log",
    )
    CLOSED = ("closed", "it closed the connection during the handshake; see its log")
    TIMEOUT = ("timeout", "it did not complete the handshake within limits.handshakeTimeout")
    PROBE = ("probe", "it connected and left without a byte, as TCP probes do")
    OTHER = ("other", "see the error")

    def __init__(self, label: str, cure: str) -> None:
        self.label = label
        self.cure = cure


OF_IDENTITY = {
    "expired": HandshakeFailure.EXPIRED,
    "not-yet-valid": HandshakeFailure.EXPIRED,
    "trust-domain": HandshakeFailure.OTHER_TRUST_DOMAIN,
    "wrong-authority": HandshakeFailure.WRONG_AUTHORITY,
    "extended-key-usage": HandshakeFailure.WRONG_USAGE,
    "key-usage": HandshakeFailure.WRONG_USAGE,
}
"""By the reason for which the identity in a verified certificate was rejected; any other: NOT_A_WORKLOAD."""


def classify(error: Exception) -> HandshakeFailure:
    """The reason of an exception that ended a handshake as the server."""
    if isinstance(error, (TimeoutError, ConnectionAbortedError)):
        return HandshakeFailure.TIMEOUT  # asyncio aborts a connection whose handshake takes too long
    if isinstance(error, ssl.SSLCertVerificationError):
        return _classify_certificate(error.verify_code)
    if not isinstance(error, ssl.SSLError):
        return HandshakeFailure.CLOSED if isinstance(error, (ConnectionError, EOFError)) else HandshakeFailure.OTHER
    reason = getattr(error, "reason", None) or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return HandshakeFailure.NO_CERTIFICATE
    if reason in VERSION or reason == "TLSV1_ALERT_PROTOCOL_VERSION":
        return HandshakeFailure.PROTOCOL_VERSION
    if reason in CIPHER:
        return HandshakeFailure.NO_SHARED_CIPHER
    if reason in NO_TLS:
        return HandshakeFailure.NOT_TLS
    if "_ALERT_" in reason:
        return HandshakeFailure.REFUSED_BY_CLIENT
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or reason == "UNEXPECTED_EOF_WHILE_READING":
        return HandshakeFailure.CLOSED
    return HandshakeFailure.OTHER


def _classify_certificate(code: int) -> HandshakeFailure:
    if code in (NOT_YET_VALID, HAS_EXPIRED):
        return HandshakeFailure.EXPIRED
    if code in UNKNOWN_AUTHORITY:
        return HandshakeFailure.UNKNOWN_AUTHORITY
    return HandshakeFailure.WRONG_USAGE if code == INVALID_PURPOSE else HandshakeFailure.BAD_CERTIFICATE


def detail(error: Exception) -> str:
    """What the error says, without OpenSSL's source file and line; empty if it says nothing."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None):
        return error.reason.lower().replace("_", " ")
    return str(error)
