"""Certificates that a document holds."""

from __future__ import annotations

import pytest

from meshproxy.config.certificates import CHARACTERS, read_certificates
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import read_bundle

CA = DevelopmentCA.create("m.example")
PEM = CA.bundle_pem.decode()


@pytest.mark.parametrize("text", [PEM, PEM.replace("\n", "\r\n"), f"# ours\n{PEM}# and theirs\n{PEM}", PEM.rstrip()])
def test_what_they_are_is_found_by_whoever_uses_them(text: str) -> None:
    assert set(read_bundle(read_certificates(text).encode())) == set(read_bundle(CA.bundle_pem))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (1, "expected certificates in PEM, got 1"),
        ("", "expected certificates"),
        ("/etc/mesh/ca.pem", "expected certificates"),
        (PEM.replace("END", "ENG"), "expected certificates"),
        (PEM.replace("CERTIFICATE", "PUBLIC KEY"), "expected certificates"),
        (PEM + PEM.replace("CERTIFICATE", "X509 CRL"), "expected certificates"),
        (PEM + PEM.replace("M", "!"), "certificate 2 is not valid PEM"),
        (PEM + PEM.replace("CERTIFICATE", "EC PRIVATE KEY"), "holds a private key"),
        ("\n" * (CHARACTERS + 1), "longer than"),
    ],
)
def test_what_is_refused(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        read_certificates(value)
    assert len(str(caught.value)) < 200
