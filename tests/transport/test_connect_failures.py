"""Why a connection could not be opened: for each error the reason, and what to check."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from pathlib import Path

import pytest

from meshproxy.transport.connect_failures import (
    NAMED,
    SIDECAR,
    ConnectFailure,
    Hints,
    NoCredentials,
    explain,
    reason_of,
)

SOCKET = "unix:/run/serving/grpc.sock"
PORT = "10.0.0.1:8500"


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def unverified(code: int, message: str = "why") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, message)
    error.verify_code, error.verify_message = code, message
    return error


@pytest.mark.parametrize(
    ("number", "failure", "hint"),
    [
        (errno.ENOENT, ConnectFailure.NO_SOCKET, "has started with this path, and that both see the same folder"),
        (errno.ECONNREFUSED, ConnectFailure.REFUSED, "the process that made the socket has ended"),
        (errno.EACCES, ConnectFailure.PERMISSION_DENIED, "write permission for the socket"),
        (errno.EPROTOTYPE, ConnectFailure.REFUSED, "it is no stream socket"),
        (errno.ENOTDIR, ConnectFailure.UNREACHABLE, os.strerror(errno.ENOTDIR)),
    ],
)
def test_a_unix_socket(number: int, failure: ConnectFailure, hint: str) -> None:
    error = explain(SOCKET, os_error(number))
    assert error.failure is failure
    assert str(error).startswith(f"{SOCKET} cannot be reached: {os.strerror(number)}")
    assert hint in str(error)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EPROTOTYPE])
def test_what_is_no_unix_socket(number: int, tmp_path: Path) -> None:
    """As a bind mount of a socket that did not exist yet: the kernel says that the connection is refused."""
    error = explain(f"unix:{tmp_path}", os_error(number))
    assert error.failure is ConnectFailure.NO_SOCKET
    assert str(error).startswith(f"unix:{tmp_path} cannot be reached: {os.strerror(number)}: it is no socket")


def test_a_port() -> None:
    refused = explain(PORT, os_error(errno.ECONNREFUSED))
    assert (str(refused), refused.failure) == (
        f"{PORT} cannot be reached: Connection refused",
        ConnectFailure.REFUSED,
    )
    unknown = explain("models:8500", socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert (str(unknown), unknown.failure) == (
        "models:8500 cannot be reached: Name or service not known",
        ConnectFailure.UNREACHABLE,
    )


@pytest.mark.parametrize(
    ("code", "failure", "words"),
    [
        (10, ConnectFailure.EXPIRED, "has expired"),
        (9, ConnectFailure.EXPIRED, "is not valid yet"),
        (18, ConnectFailure.UNKNOWN_AUTHORITY, "is not issued by a trusted authority: add its authority to caFile"),
        (20, ConnectFailure.UNKNOWN_AUTHORITY, "is not issued by a trusted authority: add its authority to caFile"),
        (62, ConnectFailure.WRONG_NAME, r"is for another name \(why\): issue it"),
        (64, ConnectFailure.WRONG_NAME, r"is for another name \(why\): issue it"),
        (26, ConnectFailure.BAD_CERTIFICATE, "does not verify: why"),
    ],
)
def test_a_certificate(code: int, failure: ConnectFailure, words: str) -> None:
    error = explain(PORT, unverified(code), NAMED)
    assert error.failure is failure
    with pytest.raises(type(error), match=f"^the certificate of {PORT} {words}"):
        raise error


@pytest.mark.parametrize("hints", [SIDECAR, NAMED])
@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        ("WRONG_VERSION_NUMBER", ConnectFailure.NOT_TLS),
        ("RECORD_LAYER_FAILURE", ConnectFailure.NOT_TLS),
        ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", ConnectFailure.NOT_HTTP2),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", ConnectFailure.REFUSED_US),
        ("TLSV1_ALERT_UNKNOWN_CA", ConnectFailure.REFUSED_US),
        ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", ConnectFailure.OTHER),
        ("", ConnectFailure.OTHER),
    ],
)
def test_a_handshake(reason: str, failure: ConnectFailure, hints: Hints) -> None:
    error = explain(PORT, tls_error(reason), hints)
    assert error.failure is failure
    assert (hints.port in str(error)) == (failure in (ConnectFailure.NOT_TLS, ConnectFailure.NOT_HTTP2))


def test_an_alert_that_python_has_no_name_for() -> None:
    """As CPython 3.11 to 3.13 tell of it: nginx and servers in Go without `h2` send it."""
    nameless = ssl.SSLError(1, "[SSL] tlsv1 alert no application protocol (_ssl.c:1006)")
    nameless.reason = None  # type: ignore[assignment]
    error = explain(PORT, nameless, NAMED)
    assert error.failure is ConnectFailure.NOT_HTTP2
    assert f"(tlsv1 alert no application protocol): {NAMED.port}" in str(error)


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", "it has to have TLS 1.2 or 1.3"),
        ("TLSV1_UNRECOGNIZED_NAME", "it has no certificate for the name"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "check that it has TLS 1.3, or 1.2 with ECDHE"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "check that our certificate is valid"),
    ],
)
def test_what_to_check_follows_from_the_alert(reason: str, hint: str) -> None:
    error = explain(PORT, tls_error(reason), NAMED)
    assert error.failure is ConnectFailure.REFUSED_US
    assert f": {hint}" in str(error)


@pytest.mark.parametrize("error", [None, ConnectionResetError(), BrokenPipeError(), ConnectionAbortedError()])
def test_a_server_that_closes(error: Exception | None) -> None:
    assert str(explain(PORT, error)) == f"{PORT} closed the connection immediately: check whether it expects TLS"
    assert str(explain(PORT, error, SIDECAR)).startswith(f"{PORT} closed the connection during the handshake")
    assert explain(PORT, error).failure is explain(PORT, error, NAMED).failure is ConnectFailure.CLOSED


def test_our_own_files() -> None:
    error = explain(PORT, NoCredentials("the key cannot be read"), NAMED)
    assert str(error) == f"{PORT} cannot be called over TLS: the key cannot be read"
    assert error.failure is ConnectFailure.OWN_FILES


def test_a_reason_has_no_address() -> None:
    assert reason_of(OSError(111, "Connect call failed ('10.0.0.1', 1)")) == "Connection refused"
    assert reason_of(OSError("no certificate")) == "no certificate"
