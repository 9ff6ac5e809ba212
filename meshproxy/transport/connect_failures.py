"""Why a connection to a server could not be opened: the `reason` of `meshproxy_connect_failures_total`, and what to
check."""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from enum import Enum
from pathlib import Path

import msgspec
from msgspec.structs import replace

from meshproxy.transport.handshake_failures import HAS_EXPIRED, NO_TLS, NOT_YET_VALID, UNKNOWN_AUTHORITY

UNIX = "unix:"
"""What the address of a UNIX socket begins with; its absolute path follows."""
WRONG_NAME = frozenset({62, 64})
"""Codes of X509_STORE_CTX_get_error(3): the name, or the IP address, is none of the certificate's."""
_NOT_TLS = NO_TLS | {"RECORD_LAYER_FAILURE"}


class ConnectFailure(Enum):
    """The reasons. The value is the label."""

    REFUSED = "refused"
    NO_SOCKET = "no_socket"
    """There is no UNIX socket of that path."""
    PERMISSION_DENIED = "permission_denied"
    UNREACHABLE = "unreachable"
    """The name has no address, or there is no way to it."""
    TIMEOUT = "timeout"
    CLOSED = "closed"
    """The server closed the connection before it could be used."""
    EXPIRED = "expired"
    """The server's certificate has expired or is not valid yet."""
    UNKNOWN_AUTHORITY = "unknown_authority"
    WRONG_NAME = "wrong_name"
    OTHER_WORKLOAD = "other_workload"
    """The server's certificate is not that of the expected workload."""
    BAD_CERTIFICATE = "bad_certificate"
    """The server's certificate does not verify for another reason."""
    NOT_TLS = "not_tls"
    NOT_HTTP2 = "not_http2"
    REFUSED_US = "refused_us"
    """The server refused our certificate or parameters."""
    OWN_FILES = "own_files"
    """Our certificate, key or trusted authorities cannot be used."""
    NO_STREAMS = "no_streams"
    """The server allows no requests at present."""
    OTHER = "other"


class ConnectError(Exception):
    """A server could not be reached, and nothing of a request was sent: any request may be tried elsewhere. The message
    says which server, why, and what to check."""

    def __init__(self, message: str, failure: ConnectFailure = ConnectFailure.OTHER) -> None:
        super().__init__(message)
        self.failure = failure


class NoCredentials(OSError):
    """Our own files for a TLS connection cannot be used. The message says which, and why."""


class Hints(msgspec.Struct, frozen=True):
    """What to check, by the kind of server."""

    port: str
    """It speaks another protocol."""
    authority: str
    """No trusted authority has issued its certificate."""
    closed: str = "its log has the reason"
    """It closed the connection during the handshake, and said nothing."""
    name: str = "issue it with this name as a subjectAltName"
    """Its certificate has other names."""


SIDECAR = Hints(
    "check whether the port is a sidecar's",
    "while an authority rotates, the trust bundle must hold the old one and the new one",
)
NAMED = Hints(
    "check whether it has TLS on this port",
    "add its authority to caFile, and have the server send its intermediates",
)
COLLECTOR = replace(
    NAMED,
    authority="let OTEL_EXPORTER_OTLP_CERTIFICATE name a file with its authority, and have it send its intermediates",
)
MODEL_SERVER = replace(
    NAMED,
    port="check whether it has TLS on this port, or leave it out of tls",
    closed="its log has the reason; check whether it asks for our certificate, and trusts it",
    name="issue it with this name as a subjectAltName, or set tls.*.serverName to one that it has",
)


def explain(address: str, error: Exception | None, hints: Hints | None = None) -> ConnectError:
    """The error for what ended an attempt, with a hint what to check.

    Args:
        address: of the server.
        error: an OSError, of which ssl.SSLError is one; None: the server closed the connection.
        hints: those of its kind; None: without TLS.
    """
    if isinstance(error, NoCredentials):
        return ConnectError(f"{address} cannot be called over TLS: {error}", ConnectFailure.OWN_FILES)
    if isinstance(error, ssl.SSLCertVerificationError):
        failure, words = _distrust(error, hints or NAMED)
        return ConnectError(f"the certificate of {address} {words}", failure)
    if isinstance(error, ssl.SSLError):
        return _tls_failed(address, error, hints or NAMED)
    if error is not None and not isinstance(error, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        why = reason_of(error) if isinstance(error, OSError) else str(error)
        failure, hint = _unreachable(address, error)
        return ConnectError(f"{address} cannot be reached: {why}{hint}", failure)
    if hints is not None:
        message = f"{address} closed the connection during the handshake: {hints.closed}"
    else:
        message = f"{address} closed the connection immediately: check whether it expects TLS"
    return ConnectError(message, ConnectFailure.CLOSED)


def _tls_failed(address: str, error: ssl.SSLError, hints: Hints) -> ConnectError:
    reason = _name(error)
    words = reason.lower().replace("_", " ") or "a TLS error"
    if reason in _NOT_TLS:
        return ConnectError(f"{address} does not speak TLS ({words}): {hints.port}", ConnectFailure.NOT_TLS)
    if "APPLICATION_PROTOCOL" in reason:
        return ConnectError(f"{address} does not agree on HTTP/2 ({words}): {hints.port}", ConnectFailure.NOT_HTTP2)
    for alert, hint in _OF_ALERT.items():
        if alert in reason:
            message = f"{address} rejected the TLS handshake ({words}): {hint}"
            return ConnectError(message, ConnectFailure.REFUSED_US)
    return ConnectError(f"TLS with {address} failed: {words}")


def _name(error: ssl.SSLError) -> str:
    """OpenSSL's name of the error. CPython (3.13, too) has none for some alerts, but what OpenSSL says of them: `[SSL]
    tlsv1 alert no application protocol (_ssl.c:1006)`."""
    if error.reason:
        return error.reason
    said = re.fullmatch(r"\[SSL\] (.+?)(?: \(_ssl\.c:\d+\))?", str(error.args[-1]) if error.args else "")
    return said[1].upper().replace(" ", "_") if said is not None else ""


_OF_ALERT = {
    "PROTOCOL_VERSION": "it has to have TLS 1.2 or 1.3",
    "UNRECOGNIZED_NAME": "it has no certificate for the name that it was asked for (tls.*.serverName, or the host)",
    "HANDSHAKE_FAILURE": "check that it has TLS 1.3, or 1.2 with ECDHE and AES-GCM or ChaCha20, and trusts our "
    "certificate's authority",
    "ALERT": "check that our certificate is valid and of an authority that the server trusts",
}
"""What to check, by a part of the name of the alert that a server sent: the first that fits."""


def _distrust(error: ssl.SSLCertVerificationError, hints: Hints) -> tuple[ConnectFailure, str]:
    code = error.verify_code
    if code == HAS_EXPIRED:
        return ConnectFailure.EXPIRED, "has expired: check why the server did not renew it"
    if code == NOT_YET_VALID:
        return ConnectFailure.EXPIRED, "is not valid yet: compare the clocks of this host and of the authority"
    if code in UNKNOWN_AUTHORITY:
        return ConnectFailure.UNKNOWN_AUTHORITY, f"is not issued by a trusted authority: {hints.authority}"
    if code in WRONG_NAME:
        return ConnectFailure.WRONG_NAME, (f"is for another name ({error.verify_message.rstrip('.')}): {hints.name}")
    return ConnectFailure.BAD_CERTIFICATE, f"does not verify: {error.verify_message}"


def _unreachable(address: str, error: Exception) -> tuple[ConnectFailure, str]:
    """The reason, and what to check of a UNIX socket."""
    number = error.errno if isinstance(error, OSError) else None
    failure, hint = _OF_ERRNO.get(number or 0, (ConnectFailure.UNREACHABLE, ""))
    if failure is ConnectFailure.REFUSED and address.startswith(UNIX) and not _is_socket(address.removeprefix(UNIX)):
        return (
            ConnectFailure.NO_SOCKET,
            ": it is no socket; container runtimes make a folder where a mount finds nothing",
        )
    return failure, f": {hint}" if hint and address.startswith(UNIX) else ""


def _is_socket(path: str) -> bool:
    """Also if that is not known."""
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return True


_OF_ERRNO = {
    errno.ENOENT: (
        ConnectFailure.NO_SOCKET,
        "check that the server has started with this path, and that both see the same folder",
    ),
    errno.ECONNREFUSED: (ConnectFailure.REFUSED, "the process that made the socket has ended"),
    errno.EACCES: (
        ConnectFailure.PERMISSION_DENIED,
        "this takes write permission for the socket and search permission for its folders; run both as one user",
    ),
    errno.EPROTOTYPE: (ConnectFailure.REFUSED, "it is no stream socket"),
}


def reason_of(error: OSError) -> str:
    """Why, without the address, which asyncio puts into `strerror`; resolver errors have negative numbers."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)
