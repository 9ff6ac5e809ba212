"""Signatures, beside PyJWT's verdict on the same bytes. They are made by `cryptography` called directly."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from meshproxy.identity.jws import ALGORITHMS, Form, make_public_key, verifier
from tests.thorough import tries

NAMES = sorted(ALGORITHMS)
THEIRS = get_default_algorithms()
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
DIGESTS: dict[str, HashAlgorithm] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}
COORDINATE = {"ES256": 32, "ES384": 48, "ES512": 66}


def numbers_of(name: str) -> tuple[int, ...]:
    public = PRIVATE[name].public_key()
    if name == "EdDSA":
        return (int.from_bytes(public.public_bytes_raw(), "big"),)
    numbers = public.public_numbers()
    return (numbers.x, numbers.y) if name in COORDINATE else (numbers.n, numbers.e)


PUBLIC = {name: make_public_key(ALGORITHMS[name].crv, numbers_of(name)) for name in NAMES}
THEIR_PUBLIC = {
    name: jwt.PyJWK(json.loads(THEIRS[name].to_jwk(PRIVATE[name].public_key())), name).key for name in NAMES
}


def sign(name: str, message: bytes) -> bytes:
    """What `cryptography` makes of it when it is told the scheme of RFC 7518 section 3.1 in its own words."""
    private = PRIVATE[name]
    if name == "EdDSA":
        return bytes(private.sign(message))
    digest = DIGESTS[name[2:]]
    if size := COORDINATE.get(name):
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return bytes(private.sign(message, pss if name.startswith("PS") else padding.PKCS1v15(), digest))


def verify(name: str, message: bytes, signature: bytes, key: Any = None) -> bool:
    """Ours; PyJWT must agree."""
    verdict = verifier(name)(key or PUBLIC[name], message, signature)
    assert verdict == THEIRS[name].verify(message, key or THEIR_PUBLIC[name], signature)
    return verdict


def test_the_table_is_that_of_the_rfcs() -> None:
    """RFC 7518 section 3.1, RFC 8037 section 3.1; neither `none` nor HMAC, and no curve but those."""
    assert {name: (row.kty, row.crv, row.form, row.digest) for name, row in ALGORITHMS.items()} == {
        "RS256": ("RSA", None, Form.PKCS1, "SHA256"),
        "RS384": ("RSA", None, Form.PKCS1, "SHA384"),
        "RS512": ("RSA", None, Form.PKCS1, "SHA512"),
        "PS256": ("RSA", None, Form.PSS, "SHA256"),
        "PS384": ("RSA", None, Form.PSS, "SHA384"),
        "PS512": ("RSA", None, Form.PSS, "SHA512"),
        "ES256": ("EC", "P-256", Form.ECDSA, "SHA256"),
        "ES384": ("EC", "P-384", Form.ECDSA, "SHA384"),
        "ES512": ("EC", "P-521", Form.ECDSA, "SHA512"),
        "EdDSA": ("OKP", "Ed25519", Form.EDDSA, None),
    }
    assert all(map(verifier, ALGORITHMS))


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_pyjwts(name: str) -> None:
    assert PUBLIC[name] == THEIR_PUBLIC[name]


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name: str) -> None:
    signature = sign(name, b"message")
    assert verify(name, b"message", signature)
    assert verify(name, b"message", THEIRS[name].sign(b"message", PRIVATE[name]))
    assert not verify(name, b"massage", signature)
    assert not verify(name, b"message", signature[:-1] + bytes((signature[-1] ^ 1,)))
    for bad in (b"", b"\0", signature[:-1], signature + b"\0", b"\0" + signature, bytes(len(signature)), bytes(10_000)):
        assert not verify(name, b"message", bad)
    for other in NAMES:
        if other != name and ALGORITHMS[other].kty == ALGORITHMS[name].kty == "RSA":
            assert not verify(other, b"message", signature)


@settings(max_examples=tries(300))
@given(
    name=st.sampled_from(NAMES),
    signed=st.sampled_from([b"message", b""]),
    start=st.integers(-3, 260),
    put=st.binary(max_size=3),
    cut=st.integers(0, 3),
)
def test_the_same_verdict_as_pyjwt(name: str, signed: bytes, start: int, put: bytes, cut: int) -> None:
    """For a signature with bytes put in, taken out or changed anywhere; also for one that nothing was done to."""
    whole = sign(name, signed)
    signature = whole[:start] + put + whole[start:][cut:]
    assert verify(name, b"message", signature) == (signed == b"message" and signature == whole)


@settings(max_examples=tries(200))
@given(name=st.sampled_from(NAMES), signature=st.binary(max_size=600))
def test_any_bytes(name: str, signature: bytes) -> None:
    assert not verify(name, b"message", signature)


ORDERS = {  # of the groups: SEC 2 sections 2.4.2, 2.5.1 and 2.6.1
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    "ES512": int("01" + "F" * 65 + "A51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16),
}


@pytest.mark.parametrize("name", sorted(COORDINATE))
def test_numbers_out_of_range_are_no_signature(name: str) -> None:
    """Zero (CVE-2022-21449), the order, and a number beyond it that means the same."""
    size, order = COORDINATE[name], ORDERS[name]
    signature = sign(name, b"m")
    r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    assert 0 < max(r, s) < order
    for pair in [(0, 0), (0, s), (r, 0), (order, s), (r, order), (r + order, s), (r, s + order)]:
        if max(pair) < 1 << (8 * size):
            assert not verify(name, b"m", b"".join(number.to_bytes(size, "big") for number in pair))
    # The DER of the same signature is not what a token carries.
    assert not verify(name, b"m", PRIVATE[name].sign(b"m", ec.ECDSA(DIGESTS[name[2:]])))


@pytest.mark.parametrize("name", ["PS256", "PS384", "PS512"])
def test_the_salt_is_as_long_as_the_digest(name: str) -> None:
    """RFC 7518 section 3.5, whatever a signer would like; and its mask is made with the same digest."""
    digest = DIGESTS[name[2:]]
    size = digest.digest_size
    other = SHA384() if size == 32 else SHA256()
    mask = padding.MGF1(digest)
    schemes = [padding.PSS(mask, 0), padding.PSS(mask, size - 1), padding.PSS(mask, padding.PSS.MAX_LENGTH)]
    assert verify(name, b"m", RSA.sign(b"m", padding.PSS(mask, size), digest))
    for scheme in [*schemes, padding.PSS(padding.MGF1(other), size)]:
        assert not verify(name, b"m", RSA.sign(b"m", scheme, digest))


@pytest.mark.parametrize("bits", [2_048, 2_056, 3_072])
def test_rsa_signatures_are_as_long_as_the_modulus(bits: int) -> None:
    private = rsa.generate_private_key(65537, bits)
    signature = private.sign(b"m", padding.PKCS1v15(), SHA256())
    assert len(signature) == bits // 8
    assert verify("RS256", b"m", signature, private.public_key())
    assert not verify("RS256", b"m", b"\0" + signature, private.public_key())


@pytest.mark.parametrize(
    ("curve", "numbers"),
    [
        ("P-256", (1, 1)),
        ("P-256", (0, 0)),
        ("P-384", (1, 1)),
        ("P-521", (1, 1)),
        ("P-256", (1 << 256, 1)),
        (None, (15, 65_537)),
        (None, (2**2048 + 1, 2)),
    ],
)
def test_numbers_that_are_not_a_key(curve: str | None, numbers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not a valid key"):
        make_public_key(curve, numbers)


def test_what_this_openssl_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without a curve says so only when a key is made."""

    def lack(*args: object) -> None:
        raise UnsupportedAlgorithm("P-256")

    monkeypatch.setattr(ec, "EllipticCurvePublicNumbers", lack)
    with pytest.raises(ValueError, match="build of OpenSSL"):
        make_public_key("P-256", numbers_of("ES256"))


PROGRAM = """
import sys
import meshproxy.identity.jws as jws, meshproxy.identity.tokens
print("cryptography" in sys.modules)
assert jws.verifier("RS256") is jws.verifier("RS256")
print("cryptography" in sys.modules, "jwt" in sys.modules)
"""


def test_cryptography_is_imported_when_it_is_needed_and_pyjwt_never() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
