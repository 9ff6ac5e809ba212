"""Tokens that must be refused although an issuer's own key has signed most of them: the classes of attack on JWTs, each
beside a neighbour that is fine. `tests/identity/test_tokens.py` has more, with the reason for each refusal."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshproxy.devtools.issuer import DevelopmentIssuer, SigningKey


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def good_tokens(issuer: DevelopmentIssuer, claims: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What must pass, or the rest proves nothing."""
    yield "plain", issuer.sign({}, claims)
    yield "typ JWT", issuer.sign({"typ": "JWT"}, claims)
    yield "no typ", issuer.sign({"typ": None}, claims)
    yield "unknown header members", issuer.sign({"x5t": "abc", "jku": "https://elsewhere.example/k"}, claims)
    yield "several audiences", issuer.sign({}, {**claims, "aud": ["a", claims["aud"]]})
    yield "unknown claims", issuer.sign({}, {**claims, "x": {"y": [1, None]}})


def bad_tokens(issuer: DevelopmentIssuer, claims: dict[str, Any], evil: str) -> Iterator[tuple[str, str]]:
    """What must be refused.

    Args:
        issuer: with the real issuer's key and `iss`.
        claims: of a token that is fine.
        evil: the URL of a server that must never be asked.
    """
    good = issuer.sign({}, claims)
    yield from _forms(good)
    yield from _signatures(issuer, claims, evil)
    yield from _headers(issuer, claims)
    yield from _claims(issuer, claims)
    yield from _texts(issuer, claims)


def _forms(good: str) -> Iterator[tuple[str, str]]:
    header, payload, signature = good.split(".")
    yield "two parts", f"{header}.{payload}"
    yield "no signature", f"{header}.{payload}."
    yield "four parts", f"{good}.x"
    yield "encrypted form", f"{good}.x.y"
    yield "detached payload", f"{header}..{signature}"
    yield "padded", f"{header}.{payload}.{signature}=="
    yield "other bits beyond the end", f"{header}.{payload}.{signature[:-1]}{'B' if signature[-1] != 'B' else 'C'}"
    yield "standard alphabet", f"{header}.{payload}.{signature[:-2]}+/"
    yield "cut", good[:-4]
    yield "zeros", f"{header}.{payload}.{b64(bytes(256))}"
    yield "huge", good + "A" * 17_000


def _signatures(issuer: DevelopmentIssuer, claims: dict[str, Any], evil: str) -> Iterator[tuple[str, str]]:
    key = issuer.keys[-1]
    _, payload, signature = issuer.sign({}, claims).split(".")
    for spelling in ("none", "None", "NONE", "nOnE", ""):
        header = b64(json.dumps({"alg": spelling, "kid": key.kid}).encode())
        yield f"alg {spelling!r} without signature", f"{header}.{payload}."
        yield f"alg {spelling!r}", f"{header}.{payload}.{signature}"
    public = key.private.public_key()
    secrets = [public.public_bytes(form, PublicFormat.SubjectPublicKeyInfo) for form in (Encoding.PEM, Encoding.DER)]
    for secret in (*secrets, b"", json.dumps(key.public_jwk()).encode()):
        for algorithm in ("HS256", "RS256"):
            message = f"{b64(json.dumps({'alg': algorithm, 'kid': key.kid}).encode())}.{payload}"
            yield (
                f"{algorithm}, the public key as a secret",
                f"{message}.{b64(hmac.digest(secret, message.encode(), hashlib.sha256))}",
            )
    stranger = SigningKey(key.kid, "RS256", rsa.generate_private_key(65537, 2048))
    yield "another key under the kid", issuer.sign({}, claims, stranger)
    for brought in (
        {"jwk": stranger.public_jwk()},
        {"jku": f"{evil}/keys"},
        {"x5u": f"{evil}/certificate"},
        {"x5c": ["MII"]},
    ):
        for kid in (key.kid, "stranger", None):
            yield f"a key of its own, {next(iter(brought))}", issuer.sign({**brought, "kid": kid}, claims, stranger)
    weak = SigningKey(key.kid, "RS256", rsa.generate_private_key(65537, 1024))
    yield "a weak key", issuer.sign({"jwk": weak.public_jwk()}, claims, weak)


def _headers(issuer: DevelopmentIssuer, claims: dict[str, Any]) -> Iterator[tuple[str, str]]:
    changed: dict[str, Any]
    for changed in (
        {"alg": "RS512"}, {"alg": "PS256"}, {"alg": "ES256"}, {"alg": "rs256"}, {"alg": ["RS256"]}, {"alg": None},
        {"crit": ["exp"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}, {"b64": True}, {"zip": "DEF"},
        {"enc": "A128GCM"}, {"cty": "JWT"}, {"typ": "dpop+jwt"}, {"typ": "logout+jwt"}, {"typ": "secevent+jwt"},
        {"typ": ""}, {"typ": ["JWT"]}, {"kid": 1}, {"kid": ""}, {"kid": ["a"]}, {"kid": "a\0"}, {"kid": "k" * 257},
        {"kid": "../../../../dev/null"}, {"kid": "' OR '1'='1"}, {"kid": "$(id)"}, {"kid": "__class__"},
    ):  # fmt: skip
        yield f"header {changed}", issuer.sign(changed, claims)


def _claims(issuer: DevelopmentIssuer, claims: dict[str, Any]) -> Iterator[tuple[str, str]]:
    changed: dict[str, Any]
    now, iss, aud = claims["iat"], claims["iss"], claims["aud"]
    for changed in (
        {"iss": None}, {"iss": [iss]}, {"iss": f"{iss}/"}, {"iss": f"{iss}.evil.example"}, {"iss": iss[:-1]},
        {"iss": iss.upper()}, {"iss": ""}, {"aud": None}, {"aud": []}, {"aud": ""}, {"aud": aud[:-1]},
        {"aud": aud.upper()}, {"aud": ["a", "b"]}, {"aud": [aud, 1]}, {"aud": {aud: 1}}, {"aud": True},
        {"exp": None}, {"exp": str(now + 100)}, {"exp": True}, {"exp": [now + 100]}, {"exp": -1}, {"exp": 10**40},
        {"exp": now - 3_600, "iat": now - 7_200}, {"exp": 0, "iat": 0}, {"exp": now + 10 * 365 * 86_400},
        {"iat": None}, {"iat": str(now)}, {"iat": False}, {"iat": now + 3_600, "exp": now + 7_200},
        {"iat": now + 20, "exp": now + 10}, {"nbf": now + 3_600}, {"nbf": str(now)}, {"sub": None}, {"sub": ""},
        {"sub": 7}, {"sub": ["a"]}, {"sub": "a\r\nx-user: admin"}, {"sub": "a\0"}, {"sub": "a\x1b[2J"},
        {"sub": "a" * 1_025}, {"cnf": {"jkt": "x"}}, {"cnf": {"x5t#S256": "x"}},
    ):  # fmt: skip
        members = {name: value for name, value in {**claims, **changed}.items() if value is not None}
        yield f"claims {str(changed)[:60]}", issuer.sign({}, members)


def _texts(issuer: DevelopmentIssuer, claims: dict[str, Any]) -> Iterator[tuple[str, str]]:
    text = json.dumps(claims)
    yield "a list", issuer.sign({}, b"[]")
    yield "a token in a token", issuer.sign({}, issuer.sign({}, claims).encode())
    yield "UTF-16", issuer.sign({}, text.encode("utf-16"))
    yield "UTF-32", issuer.sign({}, text.encode("utf-32-le"))
    yield "trailing NUL", issuer.sign({}, (text + "\0").encode())
    yield "sub twice", issuer.sign({}, text.replace('"sub"', '"sub": "admin", "sub"').encode())
    yield "a member twice, deep", issuer.sign({}, text.replace('"sub"', '"x": {"a": 1, "a": 1}, "sub"').encode())
    yield "NaN", issuer.sign({}, text.replace(f'"exp": {claims["exp"]}', '"exp": NaN').encode())
    yield "5,000 digits", issuer.sign({}, text.replace(f'"exp": {claims["exp"]}', f'"exp": {"9" * 5000}').encode())
    yield "nested deeply", issuer.sign({}, ('{"a":' * 500 + "1" + "}" * 500).encode())
    yield "alg twice", issuer.sign(b'{"alg":"none","alg":"RS256","kid":"x"}', claims)
    yield "header in UTF-16", issuer.sign('{"alg":"RS256"}'.encode("utf-16-le"), claims)
