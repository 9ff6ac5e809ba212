from __future__ import annotations

import ssl

import pytest

from meshproxy.identity.peer import REASONS
from meshproxy.transport.handshake_failures import OF_IDENTITY, HandshakeFailure, classify, detail


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] words (_ssl.c:1000)")
    error.reason = reason
    return error


def untrusted(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason, error.verify_code, error.verify_message = "CERTIFICATE_VERIFY_FAILED", code, "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (tls_error("PEER_DID_NOT_RETURN_A_CERTIFICATE"), "no_certificate"),
        (tls_error("UNSUPPORTED_PROTOCOL"), "protocol_version"),
        (tls_error("TLSV1_ALERT_PROTOCOL_VERSION"), "protocol_version"),
        (tls_error("NO_SHARED_CIPHER"), "no_shared_cipher"),
        (tls_error("HTTP_REQUEST"), "not_tls"),
        (tls_error("TLSV1_ALERT_UNKNOWN_CA"), "refused_by_client"),
        (tls_error("SSLV3_ALERT_BAD_CERTIFICATE"), "refused_by_client"),
        (tls_error("UNEXPECTED_EOF_WHILE_READING"), "closed"),
        (tls_error("SOMETHING_NEW"), "other"),
        (ssl.SSLError(), "other"),
        (untrusted(9), "expired"),
        (untrusted(10), "expired"),
        (untrusted(18), "unknown_authority"),
        (untrusted(20), "unknown_authority"),
        (untrusted(26), "wrong_usage"),
        (untrusted(7), "bad_certificate"),
        (ConnectionResetError(), "closed"),
        (BrokenPipeError(), "closed"),
        (ConnectionAbortedError("SSL handshake is taking longer than 5 seconds"), "timeout"),
        (TimeoutError(), "timeout"),
        (OSError(5, "I/O error"), "other"),
    ],
)
def test_the_reason_of_each_error(error: Exception, label: str) -> None:
    failure = classify(error)
    assert failure.label == label
    assert failure.cure


def test_the_detail_has_no_source_line() -> None:
    assert detail(tls_error("NO_SHARED_CIPHER")) == "no shared cipher"
    assert detail(untrusted(10)) == "certificate has expired"
    assert detail(ConnectionResetError()) == ""


def test_labels_are_unique_and_reasons_of_identities_exist() -> None:
    labels = [failure.label for failure in HandshakeFailure]
    assert len(set(labels)) == len(labels)
    assert OF_IDENTITY.keys() <= REASONS
