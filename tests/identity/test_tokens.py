"""Tokens that must be refused, beside their valid neighbours; how long a verified one is believed."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import json
import tracemalloc
from time import time
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshproxy.config.fields import ClaimPattern, TextMatch
from meshproxy.devtools.issuer import DevelopmentIssuer, SigningKey
from meshproxy.identity.caller import Token
from meshproxy.identity.jwk import ALGORITHMS
from meshproxy.identity.key_budget import IN_VAIN
from meshproxy.identity.keys import IssuerKeys
from meshproxy.identity.tokens import (
    REMEMBERED_BYTES,
    REMEMBERED_TOKENS,
    TOKEN_BYTES,
    Issuer,
    KeysWanted,
    TokenVerifier,
)
from meshproxy.refusal import Reason, Refusal
from tests.thorough import tries

NOW = float(int(time()))


def new_issuer(url: str = "https://login.dev.example", algorithm: str = "RS256") -> DevelopmentIssuer:
    """One for which it is always NOW: tests may run long after they were collected."""
    return DevelopmentIssuer(url, algorithm=algorithm, clock=lambda: NOW)


CORP = new_issuer()
OTHER = new_issuer("https://login.dev.example.evil.example")
RS_AND_ES = frozenset({"RS256", "ES256"})


def keys_of(
    issuer: DevelopmentIssuer, algorithms: frozenset[str] = RS_AND_ES, refresh: float | None = None
) -> IssuerKeys:
    keys = IssuerKeys("corp", algorithms, refresh=refresh)
    keys.take(json.dumps(issuer.jwks()).encode(), NOW, 0.5)
    return keys


def verifier_of(issuer: DevelopmentIssuer = CORP, url: str | None = None, **options: Any) -> TokenVerifier:
    return TokenVerifier(
        [Issuer("corp", url or issuer.issuer, frozenset({"models", "others"}), keys_of(issuer), **options)]
    )


def bearer(token: str | bytes) -> bytes:
    return b"Bearer " + (token if isinstance(token, bytes) else token.encode())


def refusal(token: str | bytes, verifier: TokenVerifier | None = None, now: float = NOW) -> Refusal:
    with pytest.raises(Refusal) as caught:
        (verifier or verifier_of()).verify(bearer(token), now)
    return caught.value


def refused(token: str | bytes, word: str) -> None:
    """For the reason it should be, with a challenge that a client can read (RFC 6750 section 3)."""
    found = refusal(token)
    assert found.reason is Reason.UNAUTHENTICATED
    assert word in found.message
    assert found.challenge == f'Bearer error="invalid_token", error_description="{found.message}"'
    assert found.message.isascii()
    assert found.message.isprintable()
    assert not set('"\\') & set(found.message)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changed: Any) -> dict[str, Any]:
    return CORP.claims("quoter", **changed)


# Valid ones first: without them the rest proves nothing.


def test_a_token() -> None:
    given = CORP.token("quoter", groups=["finance"])
    token = verifier_of().verify(bearer(given), NOW)
    payload = jwt.decode(given, options={"verify_signature": False})
    assert token.claims == payload
    assert (token.issuer, token.subject, token.expires) == ("corp", "quoter", payload["exp"])
    assert token.iam_role is None
    assert isinstance(token.claims, MappingProxyType)


@pytest.mark.parametrize(
    ("header", "changed"),
    [
        pytest.param({"typ": None}, {}, id="no-type"),
        pytest.param({"typ": "JWT"}, {}, id="jwt"),
        pytest.param({"typ": "JOSE"}, {}, id="jwt-svid"),
        pytest.param({"typ": "jwt"}, {}, id="jwt-lower"),
        pytest.param({"typ": "AT+JWT"}, {}, id="at-jwt-upper"),
        pytest.param({"typ": "application/at+jwt"}, {}, id="media-type"),
        pytest.param({"kid": None}, {}, id="no-kid"),
        pytest.param({"x5t": "abc", "nonce": "x", "unknown": [1]}, {}, id="unknown-members"),
        # Issuers send these; the key is the one of `kid`, and nothing is fetched.
        pytest.param({"jku": "https://login.dev.example/keys"}, {}, id="jku"),
        pytest.param({"x5u": "https://login.dev.example/c"}, {}, id="x5u"),
        pytest.param({"jwk": OTHER.keys[0].public_jwk()}, {}, id="jwk"),
        pytest.param({"x5c": ["MII"], "x5t#S256": "abc"}, {}, id="x5c"),
        pytest.param({}, {"aud": ["a", "models"]}, id="list-of-audiences"),
        pytest.param({}, {"aud": "others"}, id="another-audience-of-ours"),
        pytest.param({}, {"nbf": int(NOW)}, id="starts-now"),
        pytest.param({}, {"nbf": int(NOW) + 59}, id="starts-within-leeway"),
        pytest.param({}, {"iat": int(NOW) + 59}, id="issued-within-leeway"),
        pytest.param({}, {"exp": int(NOW) - 59, "iat": int(NOW) - 500}, id="expired-within-leeway"),
        pytest.param({}, {"iat": NOW - 0.5, "exp": NOW + 0.25}, id="fractions"),
        pytest.param({}, {"iat": int(NOW), "exp": int(NOW) + 86_400}, id="a-day"),
        pytest.param({}, {"sub": "system:serviceaccount:pricing:quoter"}, id="kubernetes-subject"),
        pytest.param({}, {"sub": "Zoë Müller"}, id="subject-beyond-ascii"),
        pytest.param({}, {"a": {"b": {"c": [{"d": ["e"]}]}}}, id="nested"),
        pytest.param({}, {"\u00e9": "\U0001f600"}, id="escaped-pair"),
    ],
)
def test_valid_neighbours(header: dict[str, Any], changed: dict[str, Any]) -> None:
    token = verifier_of().verify(bearer(CORP.sign(header, claims(**changed))), NOW)
    assert token.subject == changed.get("sub", "quoter")


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"Bearer  ", b"bearer     "])
def test_the_scheme_has_no_case_and_a_space_or_more_behind_it(scheme: bytes) -> None:
    assert verifier_of().verify(scheme + CORP.token().encode(), NOW).subject == "quoter"


def test_es256() -> None:
    issuer = new_issuer(algorithm="ES256")
    assert verifier_of(issuer).verify(bearer(issuer.token()), NOW).subject == "quoter"


# Attacks. Where the signature is good, only the check in question can refuse.


@pytest.mark.parametrize(
    ("authorization", "word"),
    [
        (b"", "no bearer"),
        (b"Bearer", "no bearer"),
        (b"Bearer ", "three parts"),
        (b"Basic dTpw", "no bearer"),
        (b"Bearer\t" + CORP.token().encode(), "no bearer"),
        (b"Bearer  ", "three parts"),
        (b"Bearer \t" + CORP.token().encode(), "cannot be read"),
        (b" Bearer " + CORP.token().encode(), "no bearer"),
        (CORP.token().encode(), "no bearer"),
        (b"Bearer " + CORP.token().encode() + b" ", "not base64url"),
        (b"Bearer " + CORP.token().encode() + b", Bearer x", "not base64url"),
        (b"Token " + CORP.token().encode(), "no bearer"),
    ],
)
def test_not_a_bearer_token(authorization: bytes, word: str) -> None:
    with pytest.raises(Refusal, match=word):
        verifier_of().verify(authorization, NOW)


HEADER, PAYLOAD, SIGNATURE = CORP.token().split(".")


@pytest.mark.parametrize(
    ("token", "word"),
    [
        pytest.param(f"{HEADER}.{PAYLOAD}", "three parts", id="two-parts"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE}.x", "three parts", id="four-parts"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE}.x.y.z", "three parts", id="six-parts"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE}.x.y", "encrypted (JWE)", id="encrypted"),
        pytest.param(f"{HEADER}..{SIGNATURE}.x.y", "encrypted (JWE)", id="encrypted-directly"),
        pytest.param(f"{HEADER}..{SIGNATURE}", "three parts", id="detached-payload"),
        pytest.param(f"{HEADER}.{PAYLOAD}.", "three parts", id="no-signature"),
        pytest.param(f".{PAYLOAD}.{SIGNATURE}", "three parts", id="no-header"),
        pytest.param(f"{HEADER}=.{PAYLOAD}.{SIGNATURE}", "not base64url", id="padded-header"),
        pytest.param(f"{HEADER}.{PAYLOAD}==.{SIGNATURE}", "not base64url", id="padded-payload"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE}==", "not base64url", id="padded-signature"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE}\n", "not base64url", id="newline"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}B", "not base64url", id="bits-beyond-the-end"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-2]}!!", "not base64url", id="outside-the-alphabet"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-2]}+/", "not base64url", id="standard-alphabet"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}", "not base64url", id="impossible-length"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-4]}", "signature", id="short-signature"),
        pytest.param(f"{HEADER}.{PAYLOAD}.{b64(bytes(256))}", "signature", id="zero-signature"),
        pytest.param(
            f"{HEADER}.{b64(json.dumps(claims(sub='admin')).encode())}.{SIGNATURE}", "signature", id="changed"
        ),
        pytest.param(f"{HEADER}.{PAYLOAD}." + "A" * TOKEN_BYTES, "larger", id="too-large"),
        pytest.param(CORP.sign({}, claims(pad="x" * TOKEN_BYTES)), "larger", id="too-large-and-signed"),
    ],
)
def test_broken_forms(token: str, word: str) -> None:
    refused(token, word)


def header(text: str) -> str:
    return CORP.sign(text.encode(), claims())


@pytest.mark.parametrize(
    ("token", "word"),
    [
        pytest.param(header("[]"), "JSON object", id="array"),
        pytest.param(header('"x"'), "JSON object", id="text"),
        pytest.param(header("null"), "JSON object", id="null"),
        pytest.param(header(""), "three parts", id="empty"),
        pytest.param(header("{"), "not JSON", id="cut"),
        pytest.param(header('{"alg":"RS256"} x'), "not JSON", id="trailing"),
        pytest.param(header('{"alg":"RS256",}'), "not JSON", id="trailing-comma"),
        pytest.param(header('{"alg":"none","alg":"RS256"}'), "duplicate member", id="alg-twice"),
        pytest.param(header('{"alg":"RS256","kid":"x","kid":"key-1"}'), "duplicate member", id="kid-twice"),
        pytest.param(header('{"alg":"RS256","\\u0061lg":"RS256"}'), "duplicate member", id="twice-by-escape"),
        pytest.param(header('\ufeff{"alg":"RS256"}'), "not JSON", id="byte-order-mark"),
        pytest.param(CORP.sign('{"alg":"RS256"}'.encode("utf-16-le"), claims()), "not JSON", id="utf-16"),
        pytest.param(CORP.sign('{"alg":"RS256"}'.encode("utf-16"), claims()), "not UTF-8", id="utf-16-with-mark"),
        pytest.param(CORP.sign(b'{"alg":"RS256","x":"\xff"}', claims()), "not UTF-8", id="latin-1"),
        pytest.param(header("{}"), "no algorithm", id="no-alg"),
        pytest.param(CORP.sign({"alg": 5}, claims()), "no algorithm", id="alg-number"),
        pytest.param(CORP.sign({"alg": ["RS256"]}, claims()), "no algorithm", id="alg-list"),
        pytest.param(CORP.sign({"alg": "none"}, claims()), "not accepted for its issuer", id="none"),
        pytest.param(CORP.sign({"alg": "None"}, claims()), "not accepted for its issuer", id="none-title"),
        pytest.param(CORP.sign({"alg": "nOnE"}, claims()), "not accepted for its issuer", id="none-mixed"),
        pytest.param(CORP.sign({"alg": ""}, claims()), "not accepted for its issuer", id="alg-empty"),
        pytest.param(CORP.sign({"alg": "rs256"}, claims()), "not accepted for its issuer", id="alg-lower"),
        pytest.param(CORP.sign({"alg": "RS256 "}, claims()), "not accepted for its issuer", id="alg-space"),
        pytest.param(CORP.sign({"alg": "HS256"}, claims()), "not accepted for its issuer", id="symmetric"),
        pytest.param(CORP.sign({"alg": "RS512"}, claims()), "not accepted for its issuer", id="not-allowed-here"),
        pytest.param(CORP.sign({"alg": "PS256"}, claims()), "not accepted for its issuer", id="pss-not-allowed-here"),
        pytest.param(CORP.sign({"alg": "ES256"}, claims()), "does not match its key", id="other-type-of-key"),
        pytest.param(CORP.sign({"crit": ["exp"], "exp": 1}, claims()), "an extension (crit)", id="crit"),
        pytest.param(CORP.sign({"crit": []}, claims()), "an extension (crit)", id="crit-empty"),
        pytest.param(CORP.sign({"b64": False, "crit": ["b64"]}, claims()), "an extension (b64, crit)", id="b64"),
        pytest.param(CORP.sign({"b64": True}, claims()), "an extension", id="b64-true"),
        pytest.param(CORP.sign({"zip": "DEF"}, claims()), "an extension (zip)", id="zip"),
        pytest.param(CORP.sign({"enc": "A128GCM"}, claims()), "an extension", id="enc"),
        pytest.param(CORP.sign({"cty": "JWT"}, claims()), "an extension (cty)", id="nested-token"),
        pytest.param(CORP.sign({"typ": "dpop+jwt"}, claims()), "token type", id="dpop-proof"),
        pytest.param(CORP.sign({"typ": "logout+jwt"}, claims()), "token type", id="logout-token"),
        pytest.param(CORP.sign({"typ": "secevent+jwt"}, claims()), "token type", id="security-event"),
        pytest.param(CORP.sign({"typ": "JWE"}, claims()), "token type", id="jwe"),
        pytest.param(CORP.sign({"typ": ""}, claims()), "token type", id="typ-empty"),
        pytest.param(CORP.sign({"typ": ["JWT"]}, claims()), "token type", id="typ-list"),
        pytest.param(CORP.sign({"kid": 1}, claims()), "kid", id="kid-number"),
        pytest.param(CORP.sign({"kid": ""}, claims()), "kid", id="kid-empty"),
        pytest.param(CORP.sign({"kid": ["key-1"]}, claims()), "kid", id="kid-list"),
        pytest.param(CORP.sign({"kid": "key-1\0"}, claims()), "kid", id="kid-nul"),
        pytest.param(CORP.sign({"kid": "key-1\r\nx: y"}, claims()), "kid", id="kid-newline"),
        pytest.param(CORP.sign({"kid": "k" * 257}, claims()), "kid", id="kid-long"),
        pytest.param(CORP.sign({"kid": "../../../../dev/null"}, claims()), "does not publish", id="kid-path"),
        pytest.param(CORP.sign({"kid": "key-1' OR '1'='1"}, claims()), "does not publish", id="kid-sql"),
        pytest.param(CORP.sign({"kid": "$(id)"}, claims()), "does not publish", id="kid-shell"),
        pytest.param(CORP.sign({"kid": "https://evil.example/k"}, claims()), "does not publish", id="kid-url"),
        pytest.param(CORP.sign({"kid": "KEY-1"}, claims()), "does not publish", id="kid-case"),
        pytest.param(CORP.sign({"kid": "__class__"}, claims()), "does not publish", id="kid-attribute"),
    ],
)
def test_hostile_headers(token: str, word: str) -> None:
    refused(token, word)


def test_key_confusion() -> None:
    """A symmetric signature with the published key as the secret, in every spelling of that key."""
    public = CORP.keys[0].private.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        json.dumps(CORP.keys[0].public_jwk()).encode(),
        b"",
        b"\0",
    ]
    for algorithm in ("HS256", "RS256"):
        for secret in secrets:
            message = f"{b64(json.dumps({'alg': algorithm, 'kid': 'key-1'}).encode())}.{PAYLOAD}"
            signature = b64(hmac.digest(secret, message.encode(), hashlib.sha256))
            refused(f"{message}.{signature}", "not accepted for its issuer" if algorithm == "HS256" else "signature")


def test_signed_by_somebody_else() -> None:
    """With the right issuer, the right kid, and another key; also one that the token itself brings."""
    stranger = SigningKey("key-1", "RS256", rsa.generate_private_key(65537, 2048))
    refused(CORP.sign({}, claims(), stranger), "signature is invalid")
    refused(CORP.sign({"kid": None}, claims(), stranger), "signature is invalid")
    for brought in ({"jwk": stranger.public_jwk()}, {"jku": "https://evil.example/keys"}, {"x5c": ["MII"]}):
        refused(CORP.sign(brought, claims(), stranger), "signature is invalid")
        refused(CORP.sign({**brought, "kid": "key-2"}, claims(), stranger), "does not publish")
    refused(OTHER.sign({}, claims()), "signature is invalid")


def test_es256_forgeries() -> None:
    issuer = new_issuer(algorithm="ES256")
    verifier = verifier_of(issuer)
    message, _, signature = issuer.token().rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    r, s = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    forged = [
        bytes(64),  # CVE-2022-21449: r = s = 0
        bytes(32) + raw[32:],
        order.to_bytes(32, "big") * 2,
        raw[:32] + order.to_bytes(32, "big"),
        encode_dss_signature(r, s),  # DER, as other parts of the world write it
        raw + b"\0",
        b"\0" + raw,
        raw[:32] + b"\0" + raw[32:],
        raw[:63],
        raw[32:] + raw[:32],
    ]
    for bad in forged:
        assert "signature" in refusal(f"{message}.{b64(bad)}", verifier).message


def payload(text: str | bytes) -> str:
    return CORP.sign({}, text if isinstance(text, bytes) else text.encode())


def replaced(old: str, new: str) -> str:
    """A signed payload whose text is changed, for what `json.dumps` does not write."""
    text = json.dumps(claims())
    assert old in text
    return payload(text.replace(old, new))


EXP = f'"exp": {int(claims()["exp"])}'


@pytest.mark.parametrize(
    ("token", "word"),
    [
        pytest.param(payload("[]"), "JSON object", id="array"),
        pytest.param(payload('"x"'), "JSON object", id="text"),
        pytest.param(payload(CORP.token()), "not JSON", id="token-in-token"),
        pytest.param(payload(json.dumps(CORP.token())), "JSON object", id="token-in-text"),
        pytest.param(payload(json.dumps(claims()).encode("utf-16")), "not UTF-8", id="utf-16"),
        pytest.param(payload(json.dumps(claims()).encode("utf-32-le")), "not JSON", id="utf-32"),
        pytest.param(payload(json.dumps(claims()) + "\0"), "not JSON", id="trailing-nul"),
        pytest.param(replaced('"sub"', '"sub": "admin", "sub"'), "duplicate member", id="sub-twice"),
        pytest.param(replaced('"iss"', '"groups": {"a": 1, "a": 1}, "iss"'), "duplicate member", id="nested-twice"),
        pytest.param(replaced('"sub": "quoter"', '"sub": "\\ud800"'), "an unpaired surrogate", id="half-a-character"),
        pytest.param(replaced('"sub"', '"\\udc00": 1, "sub"'), "an unpaired surrogate", id="half-a-name"),
        pytest.param(replaced(EXP, '"exp": NaN'), "not valid JSON", id="exp-nan"),
        pytest.param(replaced(EXP, '"exp": Infinity'), "not valid JSON", id="exp-infinity"),
        pytest.param(replaced(EXP, '"exp": 1e999'), "out of range", id="exp-overflow"),
        pytest.param(replaced(EXP, f'"exp": {"9" * 5000}'), "not JSON", id="exp-5000-digits"),
        pytest.param(payload('{"a":' * 500 + "1" + "}" * 500), "deep", id="very-deep"),
        pytest.param(payload('{"a":' * 17 + "1" + "}" * 17), "deep", id="deep"),
        pytest.param(payload('{"a":' + "[" * 5000 + "]" * 5000 + "}"), "too many", id="deep-arrays"),
        pytest.param(CORP.sign({}, claims(iss=None)), "issuer", id="no-iss"),
        pytest.param(CORP.sign({}, claims(iss=[CORP.issuer])), "issuer", id="iss-list"),
        pytest.param(CORP.sign({}, claims(iss=CORP.issuer + "/")), "issuer", id="iss-slash"),
        pytest.param(CORP.sign({}, claims(iss=CORP.issuer + ".evil.example")), "issuer", id="iss-prefix"),
        pytest.param(CORP.sign({}, claims(iss=CORP.issuer[:-1])), "issuer", id="iss-cut"),
        pytest.param(CORP.sign({}, claims(iss=CORP.issuer.upper())), "issuer", id="iss-case"),
        pytest.param(CORP.sign({}, claims(iss=CORP.issuer + "\0")), "issuer", id="iss-nul"),
        pytest.param(CORP.sign({}, claims(iss="")), "issuer", id="iss-empty"),
        pytest.param(CORP.sign({}, claims(iss="corp")), "issuer", id="iss-our-name-of-it"),
        pytest.param(CORP.sign({}, claims(aud=None)), "no audience", id="no-aud"),
        pytest.param(CORP.sign({}, claims(aud=[])), "The token audience (aud) is empty", id="aud-empty"),
        pytest.param(CORP.sign({}, claims(aud="")), "The token audience", id="aud-empty-text"),
        pytest.param(CORP.sign({}, claims(aud="model")), "The token audience", id="aud-prefix"),
        pytest.param(CORP.sign({}, claims(aud="Models")), "The token audience", id="aud-case"),
        pytest.param(CORP.sign({}, claims(aud=["a", "b"])), "The token audience", id="aud-others"),
        pytest.param(CORP.sign({}, claims(aud=["models", 1])), "no audience", id="aud-mixed"),
        pytest.param(CORP.sign({}, claims(aud={"models": 1})), "no audience", id="aud-object"),
        pytest.param(CORP.sign({}, claims(aud=True)), "no audience", id="aud-true"),
        pytest.param(CORP.sign({}, claims(exp=None)), "no exp", id="no-exp"),
        pytest.param(CORP.sign({}, claims(exp=str(int(NOW) + 100))), "no exp", id="exp-text"),
        pytest.param(CORP.sign({}, claims(exp="\u0661\u0662")), "no exp", id="exp-arabic"),
        pytest.param(CORP.sign({}, claims(exp=True)), "no exp", id="exp-true"),
        pytest.param(CORP.sign({}, claims(exp=[NOW + 100])), "no exp", id="exp-list"),
        pytest.param(CORP.sign({}, claims(exp=-1)), "no exp", id="exp-negative"),
        pytest.param(CORP.sign({}, claims(exp=10**40)), "no exp", id="exp-beyond-calendars"),
        pytest.param(CORP.sign({}, claims(expires_in=-60)), "expired", id="expired"),
        pytest.param(CORP.sign({}, claims(exp=0, iat=0)), "expired", id="epoch"),
        pytest.param(CORP.sign({}, claims(iat=None)), "no iat", id="no-iat"),
        pytest.param(CORP.sign({}, claims(iat=str(int(NOW)))), "no iat", id="iat-text"),
        pytest.param(CORP.sign({}, claims(iat=False)), "no iat", id="iat-false"),
        pytest.param(CORP.sign({}, claims(iat=int(NOW) + 61, exp=int(NOW) + 100)), "not valid yet", id="iat-later"),
        pytest.param(CORP.sign({}, claims(nbf=int(NOW) + 61)), "not valid yet", id="nbf-later"),
        pytest.param(CORP.sign({}, claims(nbf=str(int(NOW)))), "no nbf", id="nbf-text"),
        pytest.param(replaced('"sub"', '"nbf": null, "sub"'), "no nbf", id="nbf-null"),
        pytest.param(CORP.sign({}, claims(exp=int(NOW) + 10 * 365 * 86_400)), "token lifetime", id="ten-years"),
        pytest.param(CORP.sign({}, claims(iat=int(NOW), exp=int(NOW) + 86_401)), "token lifetime", id="over-a-day"),
        pytest.param(
            CORP.sign({}, claims(iat=int(NOW) + 20, exp=int(NOW) + 10)), "token lifetime", id="exp-before-iat"
        ),
        pytest.param(CORP.sign({}, claims(sub=None)), "subject", id="no-sub"),
        pytest.param(CORP.sign({}, claims(sub="")), "subject", id="sub-empty"),
        pytest.param(CORP.sign({}, claims(sub=7)), "subject", id="sub-number"),
        pytest.param(CORP.sign({}, claims(sub=["quoter"])), "subject", id="sub-list"),
        pytest.param(CORP.sign({}, claims(sub="a\r\nx-user: admin")), "subject", id="sub-newline"),
        pytest.param(CORP.sign({}, claims(sub="a\0")), "subject", id="sub-nul"),
        pytest.param(CORP.sign({}, claims(sub="a\x1b[2J")), "subject", id="sub-escape"),
        pytest.param(CORP.sign({}, claims(sub="a\u202eb")), "subject", id="sub-right-to-left"),
        pytest.param(CORP.sign({}, claims(sub="a" * 1025)), "subject", id="sub-long"),
        pytest.param(CORP.sign({}, claims(cnf={"jkt": "x"})), "bound to a key", id="bound-by-dpop"),
        pytest.param(CORP.sign({}, claims(cnf={"x5t#S256": "x"})), "bound to a key", id="bound-by-mtls"),
    ],
)
def test_hostile_claims(token: str, word: str) -> None:
    refused(token, word)


def test_nothing_of_a_refused_token_gets_out() -> None:
    secret = "do-not-tell"
    for token in (
        CORP.sign({"kid": secret}, claims()),
        CORP.sign({"alg": secret}, claims()),
        CORP.sign({}, claims(iss=secret)),
        CORP.sign({}, claims(sub=secret + "\n")),
        CORP.sign({}, f'{{"{secret}"'.encode()),
    ):
        assert secret not in repr((refusal(token).message, refusal(token).challenge))


# Several issuers, and their keys.


def test_an_issuer_speaks_for_itself_only() -> None:
    verifier = TokenVerifier(
        [
            Issuer("corp", CORP.issuer, frozenset({"models"}), keys_of(CORP)),
            Issuer("other", OTHER.issuer, frozenset({"others"}), keys_of(OTHER)),
        ]
    )
    assert verifier.verify(bearer(CORP.token()), NOW).issuer == "corp"
    assert verifier.verify(bearer(OTHER.token(aud="others")), NOW).issuer == "other"
    assert "signature" in refusal(OTHER.token(iss=CORP.issuer), verifier).message
    assert "audience" in refusal(OTHER.token(aud="models"), verifier).message


def test_no_issuer_at_all() -> None:
    assert "issuer" in refusal(CORP.token(), TokenVerifier([])).message


def test_without_keys_nobody_is_believed() -> None:
    """CVE-2026-31837: keys that cannot be fetched must not become keys that everybody knows."""
    keys = IssuerKeys("corp", RS_AND_ES)
    verifier = TokenVerifier([Issuer("corp", CORP.issuer, frozenset({"models"}), keys)])
    with pytest.raises(KeysWanted) as wanted:
        verifier.verify(bearer(CORP.token()), NOW)
    assert wanted.value.issuer == "corp"
    keys.begin()
    keys.fail("down", NOW, 1.0)
    found = refusal(CORP.token(), verifier)
    assert found.reason is Reason.KEYS_UNAVAILABLE
    assert found.retry_after == 1
    keys.take(json.dumps(CORP.jwks()).encode(), NOW, 0.5)
    assert verifier.verify(bearer(CORP.token()), NOW).subject == "quoter"


def test_rotation() -> None:
    issuer = new_issuer(algorithm="ES256")
    keys = keys_of(issuer, refresh=300.0)
    verifier = TokenVerifier([Issuer("corp", issuer.issuer, frozenset({"models"}), keys)])
    old = bearer(issuer.token())
    verified = verifier.verify(old, NOW)
    issuer.rotate()
    new = bearer(issuer.token())
    with pytest.raises(KeysWanted):
        verifier.verify(new, NOW)
    keys.begin()
    keys.take(json.dumps(issuer.jwks()).encode(), NOW, 0.5)
    assert verifier.verify(new, NOW).subject == "quoter"
    assert verifier.verify(old, NOW) is verified
    # Asked again at once for a key that nobody has: refused without a fetch, until the cool-down is over.
    unknown = issuer.sign({"kid": "key-9"}, issuer.claims("quoter"))
    with pytest.raises(KeysWanted):
        verifier.verify(bearer(unknown), NOW)
    keys.begin()
    keys.take(json.dumps(issuer.jwks()).encode(), NOW, 0.5)
    assert refusal(unknown, verifier).reason is Reason.UNAUTHENTICATED
    assert refusal(unknown, verifier, NOW + IN_VAIN[0] - 0.1).reason is Reason.UNAUTHENTICATED
    with pytest.raises(KeysWanted):
        verifier.verify(bearer(unknown), NOW + IN_VAIN[0])


def test_a_key_that_its_issuer_publishes_and_that_is_not_used() -> None:
    issuer = new_issuer()
    keys = IssuerKeys("corp", RS_AND_ES, refresh=None)
    weak = {**issuer.keys[0].public_jwk(), "kid": "key-9", "n": "AQAB"}
    keys.take(json.dumps({"keys": [issuer.keys[0].public_jwk(), weak]}).encode(), NOW, 0.5)
    verifier = TokenVerifier([Issuer("corp", issuer.issuer, frozenset({"models"}), keys)])
    for kid, word in (("key-9", "not used here"), ("key-8", "does not publish it")):
        found = refusal(issuer.sign({"kid": kid}, issuer.claims("quoter")), verifier)
        assert (found.reason, word in found.message) == (Reason.UNAUTHENTICATED, True)


def test_a_key_that_is_replaced_under_its_kid() -> None:
    """One fetch for a signature that is not of the key; a stranger's costs no more, and is refused at once after it."""
    issuer = new_issuer(algorithm="ES256")
    keys = keys_of(issuer, refresh=300.0)
    verifier = TokenVerifier([Issuer("corp", issuer.issuer, frozenset({"models"}), keys)])
    old = bearer(issuer.token())
    verifier.verify(old, NOW)
    issuer.keys = [SigningKey.generate("key-1", "ES256")]
    new = bearer(issuer.token())
    with pytest.raises(KeysWanted) as wanted:
        verifier.verify(new, NOW)
    assert wanted.value.issuer == "corp"
    keys.begin()
    with pytest.raises(KeysWanted):  # a second one waits for the same fetch
        verifier.verify(new, NOW)
    keys.take(json.dumps(issuer.jwks()).encode(), NOW, 0.5)
    assert verifier.verify(new, NOW).subject == "quoter"
    for bad in (old, bearer(issuer.sign({}, issuer.claims("quoter"), SigningKey.generate("key-1", "ES256")))):
        found = refusal(bad[7:], verifier)
        assert (found.reason, found.message) == (
            Reason.UNAUTHENTICATED,
            "The token signature is invalid.",
        )


def test_a_bad_signature_while_keys_fail() -> None:
    keys = keys_of(CORP, refresh=300.0)
    verifier = TokenVerifier([Issuer("corp", CORP.issuer, frozenset({"models"}), keys)])
    keys.begin()
    keys.fail("down", NOW, 0.5)
    assert refusal(OTHER.token(iss=CORP.issuer), verifier).reason is Reason.UNAUTHENTICATED


def test_an_unknown_key_while_a_fetch_is_due() -> None:
    """The key may be a good one: the caller is told when to come again, and is neither refused nor kept waiting."""
    keys = keys_of(CORP, refresh=300.0)
    verifier = TokenVerifier([Issuer("corp", CORP.issuer, frozenset({"models"}), keys)])
    keys.begin()
    keys.fail("down", NOW, 1.0)
    keys.begin()
    found = refusal(CORP.sign({"kid": "new"}, claims()), verifier, NOW + 1)
    assert (found.reason, found.retry_after) == (Reason.KEYS_UNAVAILABLE, 1)
    assert verifier.verify(bearer(CORP.token()), NOW).subject == "quoter"


def ed25519_issuer(name: str | None, alg: str) -> tuple[dict[str, object], str]:
    """A JWK whose `alg` is `name`, and a token whose `alg` is `alg`."""
    private = ed25519.Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), "kid": "e", "alg": name}
    message = f"{b64(json.dumps({'alg': alg, 'kid': 'e'}).encode())}.{b64(json.dumps(claims()).encode())}"
    return {k: v for k, v in jwk.items() if v is not None}, f"{message}.{b64(private.sign(message.encode()))}"


@pytest.mark.parametrize("allowed", ["EdDSA", "Ed25519"])
@pytest.mark.parametrize("name", ["EdDSA", "Ed25519", None])
@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_ed25519_has_two_names(allowed: str, name: str | None, alg: str) -> None:
    """RFC 9864 section 2.2: tokens, keys and documents may each have either."""
    jwk, token = ed25519_issuer(name, alg)
    keys = IssuerKeys("corp", frozenset({allowed}), refresh=None)
    keys.take(json.dumps({"keys": [jwk]}).encode(), NOW, 0.5)
    verifier = TokenVerifier([Issuer("corp", CORP.issuer, frozenset({"models"}), keys)])
    assert verifier.verify(bearer(token), NOW).subject == "quoter"


def test_ed25519_is_no_other_algorithm() -> None:
    jwk, token = ed25519_issuer(None, "ES256")
    keys = IssuerKeys("corp", frozenset({"Ed25519", "ES256"}), refresh=None)
    keys.take(json.dumps({"keys": [jwk]}).encode(), NOW, 0.5)
    verifier = TokenVerifier([Issuer("corp", CORP.issuer, frozenset({"models"}), keys)])
    assert "does not match its key" in refusal(token, verifier).message
    _, token = ed25519_issuer(None, "Ed448")
    assert "not accepted for its issuer" in refusal(token, verifier).message


# Tokens without aud or sub.


def without_audience(required: tuple[tuple[str, Any], ...], **options: Any) -> TokenVerifier:
    keys = keys_of(CORP)
    return TokenVerifier([Issuer("corp", CORP.issuer, frozenset(), keys, required_claims=required, **options)])


def test_a_token_without_audience() -> None:
    """As Amazon Cognito issues access tokens: a claim that is demanded says what they are for."""
    verifier = without_audience((("token_use", "access"), ("scope", "models/predict")))
    good: dict[str, Any] = {"aud": None, "token_use": "access", "scope": "openid models/predict"}
    others: list[dict[str, Any]] = [
        {"token_use": "id"},
        {"token_use": None},
        {"scope": "openid"},
        {"token_use": {"access": True}},
    ]
    audiences: list[Any] = ["models", "", {}]
    assert verifier.verify(bearer(CORP.token(**good)), NOW).subject == "quoter"
    for changed in others:
        assert "lacks a claim" in refusal(CORP.token(**{**good, **changed}), verifier).message
    for aud in audiences:
        assert "for an audience" in refusal(CORP.token(**{**good, "aud": aud}), verifier).message
    assert "(aud) is empty" in refusal(CORP.token(**{**good, "aud": []}), verifier).message
    null = json.dumps({**claims(), **good}).encode()
    assert b'"aud": null' in null
    assert "for an audience" in refusal(CORP.sign({}, null), verifier).message


def test_a_claim_that_is_required_beside_the_audience() -> None:
    verifier = verifier_of(required_claims=(("client_id", "app"),))
    assert verifier.verify(bearer(CORP.token(client_id="app")), NOW).subject == "quoter"
    assert "lacks a claim" in refusal(CORP.token(), verifier).message
    assert "no audience" in refusal(CORP.token(client_id="app", aud=None), verifier).message


def test_patterns_of_claims_that_are_required() -> None:
    pattern = ClaimPattern(any_of=("app", TextMatch(prefix="app-")))
    verifier = verifier_of(required_claims=(("client_id", pattern),))
    for client in ("app", "app-2"):
        assert verifier.verify(bearer(CORP.token(client_id=client)), NOW).subject == "quoter"
    for other in ("other", ["other"], 5, None, {"app": 1}):
        assert "lacks a claim" in refusal(CORP.token(client_id=other), verifier).message


def test_an_issuer_for_everybody_is_none() -> None:
    with pytest.raises(ValueError, match="any audience"):
        without_audience(())


@pytest.mark.parametrize(
    ("changed", "subject"),
    [
        ({"sub": None, "client_id": "app"}, "app"),
        ({"sub": "alice", "client_id": "app"}, "alice"),
        ({"sub": None}, None),
        ({"sub": "", "client_id": "app"}, "app"),  # service tokens of Cloudflare Access
        ({"sub": "", "client_id": ""}, None),
        ({"sub": 5, "client_id": "app"}, None),
        ({"sub": None, "client_id": 5}, None),
        ({"sub": None, "client_id": ["app"]}, None),
        ({"sub": None, "client_id": ""}, None),
        ({"sub": None, "client_id": "a\nb"}, None),
        ({"sub": None, "client_id": "a" * 1025}, None),
    ],
)
def test_a_token_without_subject(changed: dict[str, Any], subject: str | None) -> None:
    verifier = verifier_of(subject_fallback="client_id")
    if subject is not None:
        token = verifier.verify(bearer(CORP.token(**changed)), NOW)
        assert token.subject == subject
        assert token.claims.get("sub") == changed["sub"]  # for bindings it stays absent
    else:
        assert "subject" in refusal(CORP.token(**changed), verifier).message


def test_claims_whose_names_are_given_one_by_one() -> None:
    name = "https://corp.example/app"
    verifier = verifier_of(required_claims=(((name,), "mesh"), (("a", "b.c"), 5)), subject_fallback=(name,))
    good: dict[str, Any] = {"sub": None, name: "mesh", "a": {"b.c": 5}}
    assert verifier.verify(bearer(CORP.token(**good)), NOW).subject == "mesh"
    for changed in ({name: "other"}, {name: None}, {"a": {"b": {"c": 5}}}, {"a": {"b.c": "5"}}):
        assert "lacks a claim" in refusal(CORP.token(**{**good, **changed}), verifier).message


def test_a_null_subject_is_none() -> None:
    token = CORP.sign({}, json.dumps({**claims(), "sub": None, "client_id": "app"}).encode())
    assert verifier_of(subject_fallback="client_id").verify(bearer(token), NOW).subject == "app"
    assert "subject" in refusal(token).message


def test_a_key_that_is_withdrawn_takes_its_tokens_along() -> None:
    issuer = new_issuer(algorithm="ES256")
    keys = keys_of(issuer)
    verifier = TokenVerifier([Issuer("corp", issuer.issuer, frozenset({"models"}), keys)])
    old = issuer.token()
    verifier.verify(bearer(old), NOW)
    issuer.rotate(keep=0)
    keys.take(json.dumps(issuer.jwks()).encode(), NOW, 0.5)
    assert "does not publish" in refusal(old, verifier).message


def test_two_bad_tokens_while_keys_fail() -> None:
    """CVE-2025-64527: the second one crashed Envoy."""
    keys = IssuerKeys("corp", RS_AND_ES)
    keys.begin()
    keys.fail("down", NOW, 0.5)
    verifier = TokenVerifier([Issuer("corp", CORP.issuer, frozenset({"models"}), keys)])
    for token in ("x.y.z", CORP.token(), CORP.token(), "x.y.z"):
        refusal(token, verifier)


def test_a_token_without_kid_among_several_keys() -> None:
    issuer = new_issuer(algorithm="ES256")
    issuer.rotate()
    token = issuer.sign({"kid": None}, issuer.claims("quoter"))
    assert "names no key" in refusal(token, verifier_of(issuer)).message


# What is remembered.


def test_the_same_bytes_are_the_same_token() -> None:
    verifier = verifier_of()
    given = bearer(CORP.token())
    token = verifier.verify(given, NOW)
    assert verifier.verify(bytes(bytearray(given)), NOW + 299) is token
    again = verifier.verify(given, NOW + 301)
    assert again is not token
    assert again.claims == token.claims


def test_however_many_spaces_are_before_it() -> None:
    """A caller with one token must not push those of others out."""
    verifier = verifier_of()
    given = CORP.token().encode()
    token = verifier.verify(b"Bearer " + given, NOW)
    assert all(verifier.verify(b"Bearer" + b" " * spaces + given, NOW) is token for spaces in range(2, 20))
    assert len(verifier._remembered) == 1


@pytest.mark.parametrize("leeway", [0.0, 60.0])
def test_a_remembered_token_expires(leeway: float) -> None:
    verifier = verifier_of(leeway=leeway)
    given = bearer(CORP.token(iat=int(NOW) - 10, exp=int(NOW) + 100))
    token = verifier.verify(given, NOW)
    assert verifier.verify(given, NOW + 99.999 + leeway) is token
    assert "expired" in refusal(given[7:], verifier, NOW + 100 + leeway).message
    assert "expired" in refusal(given[7:], verifier, NOW + 100_000).message


def test_refused_tokens_are_not_remembered() -> None:
    verifier = verifier_of()
    for _ in range(3):
        refusal(CORP.token(sub=""), verifier)
    assert not verifier._remembered


def test_what_is_remembered_is_bounded() -> None:
    issuer = new_issuer(algorithm="ES256")
    verifier = verifier_of(issuer)
    first = bearer(issuer.token("first"))
    token = verifier.verify(first, NOW)
    key = verifier._remembered[first][2]
    for number in range(REMEMBERED_TOKENS):
        verifier._remember(b"%d" % number, token, NOW + 1, key)
    assert len(verifier._remembered) == REMEMBERED_TOKENS
    assert first not in verifier._remembered
    large = replace(token, size=REMEMBERED_BYTES // 10)
    for number in range(12):
        verifier._remember(b"large %d" % number, large, NOW + 1, key)
    assert len(verifier._remembered) == 10
    assert verifier._remembered_bytes == sum(each.size for each, _, _ in verifier._remembered.values())
    assert verifier._remembered_bytes <= REMEMBERED_BYTES


@pytest.mark.parametrize(
    "claim",
    [
        [0] * 3_000,
        [[]] * 200,
        ["a" * 8] * 900,
        {f"k{number}": number for number in range(800)},
        "x" * 9_000,
        "\U0001f600" + "x" * 5_000,
    ],
    ids=["numbers", "lists", "texts", "members", "text", "wide text"],
)
def test_a_token_takes_what_is_counted(claim: object) -> None:
    issuer = new_issuer(algorithm="ES256")
    verifier = verifier_of(issuer)
    tokens = [bearer(issuer.token(f"s{number}", claim=claim)) for number in range(20)]
    verifier.verify(bearer(issuer.token("first")), NOW)
    before = verifier._remembered_bytes
    tracemalloc.start()
    try:
        for each in tokens:
            verifier.verify(each, NOW)
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken < verifier._remembered_bytes - before
    assert len(verifier._remembered) == 21


# AWS.

STS = "https://abc123-def456.tokens.sts.global.api.aws"
ROLE = "arn:aws:iam::123456789012:role/quoter"


def sts_claims(sub: str = ROLE, **context: object) -> dict[str, object]:
    own = {"https://sts.amazonaws.com/": {"aws_account": "123456789012", **context}}
    return {**CORP.claims(sub, iss=STS), **own}


def test_a_role_of_aws() -> None:
    verifier = verifier_of(url=STS)
    token = verifier.verify(bearer(CORP.sign({"typ": "JWT"}, sts_claims())), NOW)
    assert token.iam_role == ROLE
    session = "arn:aws:sts::123456789012:assumed-role/quoter/any-session"
    assert verifier.verify(bearer(CORP.sign({}, sts_claims(session))), NOW).iam_role == ROLE
    assert "two AWS accounts" in refusal(CORP.sign({}, sts_claims(aws_account="999999999999")), verifier).message


def test_no_role_without_a_subject() -> None:
    verifier = verifier_of(url=STS, subject_fallback="client_id")
    for sub in ({}, {"sub": ""}, {"sub": None}):
        text = json.dumps({**claims(iss=STS, sub=None), **sub, "client_id": ROLE}).encode()
        token = verifier.verify(bearer(CORP.sign({}, text)), NOW)
        assert (token.subject, token.iam_role) == (ROLE, None)


def test_no_other_issuer_names_roles() -> None:
    assert verifier_of().verify(bearer(CORP.token(ROLE)), NOW).iam_role is None


# Anything at all.

PARTS = st.one_of(
    st.binary(max_size=60).map(lambda data: b64(data).encode()),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["alg", "kid", "typ", "iss", "aud", "exp", "iat", "sub", "crit"]), inner)
        ),
        max_leaves=8,
    ).map(lambda value: b64(json.dumps(value).encode()).encode()),
    st.sampled_from([HEADER.encode(), PAYLOAD.encode(), SIGNATURE.encode()]),
)


@settings(max_examples=tries(200))
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(PARTS, max_size=4).map(lambda parts: b"Bearer " + b".".join(parts)),
        st.tuples(st.integers(0, 700), st.binary(min_size=1, max_size=3)).map(
            lambda change: bearer(CORP.token())[: change[0]] + change[1] + bearer(CORP.token())[change[0] + 1 :]
        ),
    )
)
def test_a_token_or_a_refusal(authorization: bytes) -> None:
    try:
        token = verifier_of().verify(authorization, NOW)
    except Refusal:
        return
    assert token.claims["iss"] == CORP.issuer
    assert isinstance(token, Token)


ES = new_issuer(algorithm="ES256")


@settings(max_examples=tries(100))
@given(
    issuer=st.sampled_from([CORP, ES]),
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]),
        st.none() | st.sampled_from(["RS256", "ES256", "none", "key-1", "JWT", ["exp"], False, True]),
        max_size=2,
    ),
    changed=st.dictionaries(
        st.sampled_from(["aud", "exp", "iat", "nbf", "sub", "iss", "x"]),
        st.none() | st.just("models") | st.integers(int(NOW) - 400, int(NOW) + 400) | st.text(max_size=4),
    ),
)
def test_never_laxer_than_pyjwt(issuer: DevelopmentIssuer, header: dict[str, Any], changed: dict[str, Any]) -> None:
    """Whatever we take, PyJWT takes too when it does all of the work by itself, and reads the same."""
    now = int(time())  # PyJWT looks at its own clock
    token = issuer.sign(header, issuer.claims("quoter", **{"iat": now, "exp": now + 300, **changed}))
    try:
        ours = verifier_of(issuer).verify(bearer(token), time())
    except Refusal:
        return
    theirs = jwt.decode(
        token,
        jwt.PyJWK(issuer.keys[-1].public_jwk()),
        algorithms=sorted(ALGORITHMS),
        audience=["models", "others"],
        issuer=issuer.issuer,
        leeway=60,
        options={"require": ["exp", "iat", "iss", "aud", "sub"]},
    )
    assert ours.claims == theirs
