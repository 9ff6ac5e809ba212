"""Keys that may and may not verify."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from meshproxy.identity.jwk import ALGORITHMS, KEY_SET_BYTES, KEYS, KeySetError, read_key, read_key_set
from tests.thorough import tries

THEIRS = get_default_algorithms()
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, Any] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), RSA),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def jwk_of(private: Any, **changed: object) -> dict[str, Any]:
    """The public JWK of a key; None takes a member out."""
    name = next(name for name, key in PRIVATE.items() if type(key) is type(private))
    public = json.loads(THEIRS[name].to_jwk(private.public_key()))
    public.pop("key_ops", None)
    return {member: value for member, value in {**public, "kid": "k", **changed}.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def uint(number: int) -> str:
    return b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


RSA_JWK = jwk_of(RSA)
EC_JWK = jwk_of(PRIVATE["ES256"])


def test_a_curve_has_one_algorithm() -> None:
    for algorithm in ("ES256", "ES384", "ES512"):
        assert read_key(jwk_of(PRIVATE[algorithm]), ALGORITHMS).algorithms == {algorithm}
    assert read_key(jwk_of(PRIVATE["EdDSA"]), ALGORITHMS).algorithms == {"EdDSA"}
    assert len(read_key(RSA_JWK, ALGORITHMS).algorithms) == 6


def test_alg_narrows() -> None:
    key = read_key({**RSA_JWK, "alg": "PS256"}, ALGORITHMS)
    assert key.algorithms == {"PS256"}
    assert key.verify("PS256", b"m", THEIRS["PS256"].sign(b"m", RSA))
    assert not key.verify("RS256", b"m", THEIRS["RS256"].sign(b"m", RSA))


@pytest.mark.parametrize(
    "changed",
    [
        {"use": "sig"},
        {"key_ops": ["verify"]},
        {"key_ops": ["sign", "verify"]},
        {"use": "sig", "key_ops": ["verify"], "alg": "RS256"},
        {"kid": None},
        {"kid": "k" * 256},
        {"x5c": ["MII"], "x5t": "abc", "unknown": 1},
        {"n": b64(b"\0" + RSA.public_key().public_numbers().n.to_bytes(256, "big"))},
        {"e": uint(3)},
    ],
)
def test_usable_neighbours(changed: dict[str, object]) -> None:
    assert read_key({k: v for k, v in {**RSA_JWK, **changed}.items() if v is not None}, ALGORITHMS).algorithms


SMALL = rsa.generate_private_key(65537, 1024)
P256_OF_P384 = jwk_of(PRIVATE["ES384"])
LARGE = (1 << 8192) + 1


@pytest.mark.parametrize(
    ("jwk", "why"),
    [
        pytest.param(None, "not an object", id="null"),
        pytest.param([], "not an object", id="list"),
        pytest.param({}, "type or curve", id="empty"),
        pytest.param({**RSA_JWK, "kty": "rsa"}, "type or curve", id="kty-case"),
        pytest.param({**RSA_JWK, "kty": ["RSA"]}, "type or curve", id="kty-list"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0"}, "symmetric", id="symmetric"),
        pytest.param({**RSA_JWK, "k": "c2VjcmV0"}, "symmetric", id="two-in-one"),
        pytest.param(json.loads(THEIRS["RS256"].to_jwk(RSA)), "private", id="private-rsa"),
        pytest.param(json.loads(THEIRS["ES256"].to_jwk(PRIVATE["ES256"])), "private", id="private-ec"),
        pytest.param({**RSA_JWK, "oth": []}, "private", id="other-primes"),
        pytest.param({**RSA_JWK, "use": "enc"}, "use", id="for-encryption"),
        pytest.param({**RSA_JWK, "use": "SIG"}, "use", id="use-case"),
        pytest.param({**RSA_JWK, "key_ops": []}, "key_ops", id="no-operations"),
        pytest.param({**RSA_JWK, "key_ops": "verify"}, "key_ops", id="operations-text"),
        pytest.param({**RSA_JWK, "key_ops": ["sign"]}, "key_ops", id="to-sign-only"),
        pytest.param({**RSA_JWK, "key_ops": ["encrypt"]}, "key_ops", id="to-encrypt"),
        pytest.param({**RSA_JWK, "key_ops": ["verify", "encrypt"]}, "key_ops", id="to-verify-and-encrypt"),
        pytest.param({**RSA_JWK, "key_ops": ["verify", "verify"]}, "key_ops", id="operation-twice"),
        pytest.param({**RSA_JWK, "use": "sig", "key_ops": ["deriveKey"]}, "key_ops", id="use-against-operations"),
        pytest.param({**RSA_JWK, "alg": "RSA-OAEP"}, "algorithm", id="alg-of-encryption"),
        pytest.param({**RSA_JWK, "alg": "ES256"}, "algorithm", id="alg-of-another-type"),
        pytest.param({**RSA_JWK, "alg": "HS256"}, "algorithm", id="alg-symmetric"),
        pytest.param({**RSA_JWK, "alg": "none"}, "algorithm", id="alg-none"),
        pytest.param({**RSA_JWK, "alg": ["RS256"]}, "algorithm", id="alg-list"),
        pytest.param({**EC_JWK, "alg": "ES384"}, "algorithm", id="alg-of-another-curve"),
        pytest.param({**RSA_JWK, "kid": 1}, "kid", id="kid-number"),
        pytest.param({**RSA_JWK, "kid": ""}, "kid", id="kid-empty"),
        pytest.param({**RSA_JWK, "kid": "a\nb"}, "kid", id="kid-newline"),
        pytest.param({**RSA_JWK, "kid": "k" * 257}, "kid", id="kid-long"),
        pytest.param(jwk_of(SMALL), "1024 bits", id="rsa-1024"),
        pytest.param({**RSA_JWK, "n": uint(LARGE)}, "8193 bits", id="rsa-huge"),
        pytest.param({**RSA_JWK, "n": ""}, "0 bits", id="rsa-empty"),
        pytest.param({**RSA_JWK, "n": uint(1 << 2047)}, "bad exponent or modulus", id="rsa-even"),
        pytest.param({**RSA_JWK, "e": uint(1)}, "bad exponent", id="exponent-1"),
        pytest.param({**RSA_JWK, "e": uint(2)}, "bad exponent", id="exponent-2"),
        pytest.param({**RSA_JWK, "e": uint(65536)}, "bad exponent", id="exponent-even"),
        pytest.param({**RSA_JWK, "e": uint((1 << 32) + 1)}, "bad exponent", id="exponent-large"),
        pytest.param({**RSA_JWK, "e": ""}, "bad exponent", id="exponent-empty"),
        pytest.param({k: v for k, v in RSA_JWK.items() if k != "n"}, "n is missing", id="no-modulus"),
        pytest.param({**RSA_JWK, "e": 65537}, "e is missing", id="exponent-number"),
        pytest.param({**RSA_JWK, "n": RSA_JWK["n"] + "=="}, "n is not base64url", id="padding"),
        pytest.param({**RSA_JWK, "n": "+" + RSA_JWK["n"][1:]}, "n is not base64url", id="standard-base64"),
        pytest.param({**RSA_JWK, "n": "\u00e9" + RSA_JWK["n"][1:]}, "n is not base64url", id="not-ascii"),
        pytest.param({**EC_JWK, "x": EC_JWK["y"]}, "not on its curve", id="not-on-the-curve"),
        pytest.param({**EC_JWK, "x": b64(bytes(32)), "y": b64(bytes(32))}, "not on its curve", id="infinity"),
        pytest.param({**EC_JWK, "x": b64(bytes(31))}, "32 bytes", id="coordinate-short"),
        pytest.param({**EC_JWK, "x": b64(bytes(33))}, "32 bytes", id="coordinate-long"),
        pytest.param({k: v for k, v in EC_JWK.items() if k != "y"}, "y is missing", id="no-coordinate"),
        pytest.param({**EC_JWK, "crv": "P-384"}, "48 bytes", id="curve-of-another-length"),
        pytest.param({**EC_JWK, "crv": "secp256k1"}, "type or curve", id="other-curve"),
        pytest.param({**EC_JWK, "crv": None}, "type or curve", id="no-curve"),
        pytest.param({**jwk_of(PRIVATE["EdDSA"]), "crv": "X25519"}, "type or curve", id="x25519"),
        pytest.param({**jwk_of(PRIVATE["EdDSA"]), "x": b64(bytes(31))}, "32 bytes", id="ed25519-short"),
    ],
)
def test_unusable_keys(jwk: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_key(jwk, ALGORITHMS)


def test_only_the_issuers_algorithms() -> None:
    with pytest.raises(ValueError, match="not accepted for the issuer"):
        read_key(EC_JWK, frozenset({"RS256"}))


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_set_is_read_with_what_it_holds_besides() -> None:
    encryption = {**RSA_JWK, "kid": "enc", "use": "enc"}
    symmetric = {"kty": "oct", "k": "x", "kid": ["k"]}
    keys = read_key_set(document(encryption, RSA_JWK, symmetric, {**EC_JWK, "kid": "e"}), ALGORITHMS)
    assert [key.kid for key in keys.keys] == ["k", "e"]
    assert keys.problems == (
        "key 1: not for signatures (use)",
        "key 3: symmetric: a key that verifies could also sign",
    )
    assert keys.unused_ids == {"enc"}
    assert keys.find("k", "RS256") is keys.keys[0]
    assert keys.find("enc", "RS256") is None
    assert keys.find("", "RS256") is None


def test_a_token_without_kid_means_the_only_key_that_fits() -> None:
    keys = read_key_set(document(RSA_JWK, {**EC_JWK, "kid": None}), ALGORITHMS)
    assert keys.find(None, "ES256") is keys.keys[1]
    assert keys.find(None, "RS256") is keys.keys[0]
    assert keys.find(None, "ES384") is None
    two = read_key_set(document(EC_JWK, jwk_of(ec.generate_private_key(ec.SECP256R1()), kid="l")), ALGORITHMS)
    assert two.find(None, "ES256") is None


def test_two_keys_of_one_kid_are_no_key() -> None:
    other = jwk_of(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(KeySetError, match="same kid"):
        read_key_set(document(EC_JWK, other), ALGORITHMS)
    keys = read_key_set(document(EC_JWK, {**RSA_JWK, "kid": "r"}, other), ALGORITHMS)
    assert [key.kid for key in keys.keys] == ["r"]
    assert keys.problems == tuple(f"key {n}: another one has the same kid, so neither is used" for n in (1, 3))
    assert keys.unused_ids == {"k"}
    assert len(read_key_set(document(EC_JWK, EC_JWK), ALGORITHMS).keys) == 1


def test_keys_of_one_kid_that_the_algorithm_tells_apart() -> None:
    keys = read_key_set(document(RSA_JWK, EC_JWK), ALGORITHMS)
    assert [key.material for key in keys.keys] == [read_key(each, ALGORITHMS).material for each in (RSA_JWK, EC_JWK)]
    assert [keys.find("k", algorithm) for algorithm in ("RS256", "ES256")] == [*keys.keys]
    assert len(read_key_set(document(EC_JWK, {**EC_JWK, "kid": "l"}), ALGORITHMS).keys) == 2
    assert keys.find("k", "ES384") is keys.keys[0]  # which does not verify that
    again = read_key_set(document({**RSA_JWK, "alg": "RS256"}, {**RSA_JWK, "alg": "PS256"}), ALGORITHMS)
    assert [again.find("k", algorithm) for algorithm in ("RS256", "PS256")] == [*again.keys]
    for order in ({**RSA_JWK, "alg": "RS256"}, RSA_JWK), (RSA_JWK, {**RSA_JWK, "alg": "RS256"}):
        found = read_key_set(document(*order), ALGORITHMS).find("k", "PS256")
        assert found is not None
        assert "PS256" in found.algorithms


def test_members_that_are_null_are_absent() -> None:
    nulls = dict.fromkeys(
        ("use", "alg", "key_ops", "k", "d", "p", "q", "dp", "dq", "qi", "oth", "x5c", "x", "y", "crv")
    )
    key = read_key({**RSA_JWK, **nulls}, ALGORITHMS)
    plain = read_key({name: RSA_JWK[name] for name in ("kty", "n", "e", "kid")}, ALGORITHMS)
    assert (key.kid, key.material, key.algorithms) == (plain.kid, plain.material, plain.algorithms)


def test_a_set_may_begin_with_a_byte_order_mark() -> None:
    assert len(read_key_set(b"\xef\xbb\xbf" + document(EC_JWK), ALGORITHMS).keys) == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no list"),
        (b'{"keys": {}}', "no list"),
        (b'{"keys": null}', "no list"),
        (b'{"keys": []}', "no usable key"),
        (b'{"keys": [1, "x", null]}', "no usable key; key 1: not an object"),
        (b'{"keys": [], "keys": []}', "duplicate member"),
        (b'{"keys": [{"kty": "RSA", "kty": "oct"}]}', "duplicate member"),
        (document(*[EC_JWK] * (KEYS + 1)), "more than 64"),
        (b" " * KEY_SET_BYTES + document(EC_JWK), "larger than"),
    ],
)
def test_unusable_sets(given: bytes, why: str) -> None:
    with pytest.raises(KeySetError, match=why):
        read_key_set(given, ALGORITHMS)


VALUES = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=5) | st.lists(st.text(max_size=5), max_size=2)
)
BASES = [RSA_JWK, EC_JWK, jwk_of(PRIVATE["EdDSA"])]
NAMES = ["kty", "crv", "n", "e", "x", "y", "alg", "use", "key_ops", "kid", "d", "k"]


@settings(max_examples=tries(150))
@given(
    base=st.sampled_from(BASES),
    changed=st.dictionaries(st.sampled_from(NAMES), VALUES | st.sampled_from(["RS256", "ES256", "P-521", EC_JWK["x"]])),
)
def test_a_key_or_a_value_error(base: dict[str, Any], changed: dict[str, Any]) -> None:
    try:
        key = read_key({**base, **changed}, ALGORITHMS)
    except ValueError:
        return
    assert key.algorithms
    for algorithm in key.algorithms:
        assert not key.verify(algorithm, b"", b"")
        # Whatever is accepted, PyJWT accepts too, and makes the same key of it.
        given = {name: value for name, value in {**base, **changed}.items() if value is not None}
        assert jwt.PyJWK(given, algorithm).key == key._public
