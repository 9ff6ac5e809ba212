"""Every form in which tools write certificates and keys, each loaded as the sidecar loads it."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import CertificateError, Credentials, own_identity
from meshproxy.identity.pem import find_private_key, read_certificates, split_der, to_pem

DOMAIN = "dev.example"
ID = f"spiffe://{DOMAIN}/ns/tests/sa/server"
CA, OTHER = DevelopmentCA.create(DOMAIN), DevelopmentCA.create(DOMAIN)
LEAF = CA.issue(ID)
CERTIFICATE, KEY, BUNDLE = LEAF.certificate_pem, LEAF.key_pem, CA.bundle_pem
SEC1 = load_pem_private_key(KEY, None).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
TEXT = "Bag Attributes\n    friendlyName: Müller\nsubject=CN = x\n".encode()
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"


MENTION = b"# between -----BEGIN CERTIFICATE----- and -----END CERTIFICATE-----\n"


def indented(pem: bytes) -> bytes:
    return b"".join(b"  " + line for line in pem.splitlines(keepends=True))


def in_crlf(pem: bytes) -> bytes:
    return pem.replace(b"\n", b"\r\n")


def labelled(pem: bytes, label: bytes) -> bytes:
    return pem.replace(b" CERTIFICATE-----", b" " + label + b" CERTIFICATE-----")


@pytest.mark.parametrize(
    ("certificate", "key", "bundle"),
    [
        pytest.param(CERTIFICATE, SEC1, BUNDLE, id="SEC1"),
        pytest.param(CERTIFICATE, PARAMETERS + SEC1, BUNDLE, id="SEC1 behind its parameters"),
        pytest.param(in_crlf(CERTIFICATE), in_crlf(SEC1), in_crlf(BUNDLE), id="CR LF"),
        pytest.param(TEXT + CERTIFICATE, TEXT + KEY, TEXT + BUNDLE, id="text before, not ASCII"),
        pytest.param(b"\xef\xbb\xbf" + CERTIFICATE, b"\xef\xbb\xbf" + KEY, b"\xef\xbb\xbf" + BUNDLE, id="BOM"),
        pytest.param(CERTIFICATE.strip(), KEY.strip(), BUNDLE.strip(), id="no line feed at the end"),
        pytest.param(CERTIFICATE, KEY, b"# old\n" + OTHER.bundle_pem + b"\n# new\n" + BUNDLE, id="several roots"),
        pytest.param(CERTIFICATE, KEY, BUNDLE + BUNDLE, id="a root twice"),
        pytest.param(KEY + CERTIFICATE, KEY + CERTIFICATE, BUNDLE, id="one file, key first"),
        pytest.param(CERTIFICATE + BUNDLE + KEY, CERTIFICATE + BUNDLE + KEY, BUNDLE, id="one file, key last"),
        pytest.param(labelled(CERTIFICATE, b"X509"), KEY, labelled(BUNDLE, b"X509"), id="label of older OpenSSL"),
        pytest.param(labelled(CERTIFICATE, b"TRUSTED"), KEY, labelled(BUNDLE, b"TRUSTED"), id="label TRUSTED"),
        pytest.param(
            MENTION + CERTIFICATE, MENTION + KEY, MENTION + BUNDLE, id="a comment that mentions the first line"
        ),
        pytest.param(CERTIFICATE, KEY, OTHER.bundle_pem.strip() + BUNDLE, id="no line feed between two blocks"),
        pytest.param(indented(CERTIFICATE), indented(KEY), indented(BUNDLE), id="indented"),
        pytest.param(*(each.replace(b"\n", b" \t\n") for each in (CERTIFICATE, KEY, BUNDLE)), id="space behind lines"),
    ],
)
def test_what_openssl_envoy_and_go_read(certificate: bytes, key: bytes, bundle: bytes) -> None:
    identity = own_identity(Credentials(certificate, key, bundle), DOMAIN, time.time())
    assert identity.workload.spiffe_id == ID


def test_a_chain_may_name_its_intermediates_in_any_order() -> None:
    outer = CA.intermediate()
    leaf = outer.issue(ID)
    first, rest = ssl.DER_cert_to_PEM_cert(read_certificates(leaf.certificate_pem)[0]).encode(), outer.bundle_pem
    for chain in (first + rest + BUNDLE, first + BUNDLE + rest):
        assert own_identity(Credentials(chain, leaf.key_pem, BUNDLE), DOMAIN, time.time()).workload.spiffe_id == ID


def test_a_chain_that_begins_with_its_root_says_what_to_do() -> None:
    with pytest.raises(CertificateError, match="the leaf must be the first certificate"):
        own_identity(Credentials(BUNDLE + CERTIFICATE, KEY, BUNDLE), DOMAIN, time.time())


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65_537, 2_048),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["RSA", "P-384", "Ed25519"],
)
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL], ids=["PKCS8", "traditional"])
def test_keys_of_every_kind_are_found(make: Callable[[], Any], form: PrivateFormat) -> None:
    key = make()
    if isinstance(key, ed25519.Ed25519PrivateKey) and form is not PrivateFormat.PKCS8:
        form = PrivateFormat.PKCS8  # it has no other form
    pem = key.private_bytes(Encoding.PEM, form, NoEncryption())
    found = find_private_key(TEXT + in_crlf(pem) + CERTIFICATE)
    assert found is not None
    loaded: Any = load_pem_private_key(found, None)
    assert loaded.public_key() == key.public_key()
    headers = pem.replace(b"KEY-----\n", b"KEY-----\nComment: of a tool\n\n", 1)
    for written in (pem.replace(b"\n", b"\n\n"), headers, indented(pem), pem.replace(b"\n", b"\r")):
        assert find_private_key(written) == found


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(CERTIFICATE[:-30], id="no end"),
        pytest.param(CERTIFICATE.replace(b"MII", b"M*I"), id="not base64"),
        pytest.param(CERTIFICATE + b"-----BEGIN ", id="half a block behind it"),
    ],
)
def test_what_is_not_complete_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError):
        read_certificates(damaged)


# RFC 8410 section 10.3: one key in both versions of PKCS#8, the second with an attribute and its public key.
EXAMPLE = base64.b64decode("MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC")
EXAMPLE_2 = base64.b64decode(
    "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhCoB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEA"
    "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
)


def test_a_key_with_its_public_key_or_a_label_of_its_own() -> None:
    assert find_private_key(to_pem("PRIVATE KEY", EXAMPLE_2)) == to_pem("PRIVATE KEY", EXAMPLE)
    assert find_private_key(to_pem("Ed25519 PRIVATE KEY", EXAMPLE)) == to_pem("PRIVATE KEY", EXAMPLE)
    large = rsa.generate_private_key(65_537, 2_048)
    der = large.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    public = b"\x81\x03\x00ab"
    size = len(der) - 4 + len(public)
    newer = b"\x30\x82" + size.to_bytes(2, "big") + der[4:].replace(b"\x02\x01\x00", b"\x02\x01\x01", 1) + public
    assert find_private_key(to_pem("PRIVATE KEY", newer)) == to_pem("PRIVATE KEY", der)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(EXAMPLE_2[:-1], id="cut"),
        pytest.param(b"\x30\x03\x02\x01\x01", id="no algorithm"),
        pytest.param(b"\x30\x0a\x02\x01\x01" + EXAMPLE_2[5:12], id="no key"),
        pytest.param(EXAMPLE_2.replace(b"\x04\x22\x04", b"\x03\x22\x04"), id="another type"),
    ],
)
def test_a_damaged_key_of_version_2_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="not valid PEM"):
        find_private_key(to_pem("PRIVATE KEY", damaged))


def test_a_damaged_key_is_refused() -> None:
    with pytest.raises(ValueError, match="not valid PEM"):
        find_private_key(KEY.replace(b"MIG", b"M*G"))


@given(
    st.lists(st.sampled_from([CERTIFICATE, KEY, TEXT, CERTIFICATE[:40], b"-----END ", b"-----", b"\xff"]), max_size=6)
)
def test_whatever_comes_only_value_errors_leave(parts: list[bytes]) -> None:
    content = b"".join(parts)
    for read in (read_certificates, find_private_key):
        try:
            read(content)
        except ValueError:
            pass


# DER


def test_concatenated_der_is_split_and_written_as_pem() -> None:
    elements = [b"\x30\x03abc", b"\x30\x81\x80" + bytes(128), b"\x30\x00"]
    assert split_der(b"".join(elements)) == elements
    assert split_der(b"") == []
    pem = to_pem("CERTIFICATE", elements[1])
    assert max(map(len, pem.splitlines())) == 64
    assert read_certificates(pem + to_pem("PRIVATE KEY", b"\x30\x00")) == [elements[1]]


@pytest.mark.parametrize("content", [b"\x30", b"\x31\x00", b"\x30\x03ab", b"\x30\x00x"])
def test_der_that_is_cut_short(content: bytes) -> None:
    with pytest.raises(ValueError):
        split_der(content)
