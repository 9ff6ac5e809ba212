"""The development issuer, seen by PyJWT and by a client that asks for tokens."""

from __future__ import annotations

import base64
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import jwt
import pytest

from meshproxy.devtools.child import Child
from meshproxy.devtools.issuer import Client, DevelopmentIssuer, parse_clients

CLIENTS = {"quoter": Client("secret", {"groups": ["finance"]})}


def read(issuer: DevelopmentIssuer, token: str, audience: str = "models") -> dict[str, object]:
    kid = jwt.get_unverified_header(token)["kid"]
    key = jwt.PyJWKSet.from_dict(issuer.jwks())[kid]
    claims: dict[str, object] = jwt.decode(token, key, audience=audience, issuer=issuer.issuer)
    return claims


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_tokens(algorithm: str) -> None:
    issuer = DevelopmentIssuer(algorithm=algorithm)
    token = issuer.token("nightly", groups=["a"], expires_in=60)
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "key-1", "typ": "at+jwt"}
    claims = read(issuer, token)
    assert claims["sub"] == "nightly"
    assert claims["groups"] == ["a"]
    assert int(str(claims["exp"])) - int(str(claims["iat"])) == 60
    assert "aud" not in issuer.claims("x", aud=None)


def test_expired_tokens_have_had_a_life() -> None:
    claims = DevelopmentIssuer(algorithm="ES256").claims("x", expires_in=-10)
    assert int(str(claims["exp"])) - int(str(claims["iat"])) == 300


def test_only_public_keys_are_published() -> None:
    for algorithm in ("RS256", "ES256"):
        keys = jwt.PyJWKSet.from_dict(DevelopmentIssuer(algorithm=algorithm).jwks()).keys
        assert [key.key_id for key in keys] == ["key-1"]
        assert not {"d", "p", "q", "k"} & set(keys[0]._jwk_data)


def test_rotation() -> None:
    issuer = DevelopmentIssuer(algorithm="ES256")
    old = issuer.token()
    assert issuer.rotate().kid == "key-2"
    assert read(issuer, old)
    assert read(issuer, issuer.token())
    issuer.rotate(keep=0)
    assert [key.kid for key in issuer.keys] == ["key-3"]
    with pytest.raises(KeyError):
        read(issuer, old)


@pytest.fixture
async def issuer() -> AsyncIterator[DevelopmentIssuer]:
    async with DevelopmentIssuer.serve(algorithm="ES256", clients=CLIENTS) as issuer:
        yield issuer


async def test_discovery_leads_to_the_keys(issuer: DevelopmentIssuer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{issuer.issuer}/.well-known/openid-configuration") as response:
            configuration = await response.json()
        assert configuration["issuer"] == issuer.issuer
        async with session.get(configuration["jwks_uri"]) as response:
            assert await response.json(content_type=None) == issuer.jwks()
    assert issuer.requests == ["/.well-known/openid-configuration", "/keys"]


async def ask(issuer: DevelopmentIssuer, form: dict[str, str], **headers: str) -> tuple[int, dict[str, object]]:
    url = f"{issuer.issuer}/token"
    async with aiohttp.ClientSession() as session, session.post(url, data=form, headers=headers) as response:
        return response.status, await response.json()


FORM = {"grant_type": "client_credentials", "client_id": "quoter", "client_secret": "secret"}


async def test_client_credentials(issuer: DevelopmentIssuer) -> None:
    status, answer = await ask(issuer, {**FORM, "audience": "others"})
    assert status == 200
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 300)
    claims = read(issuer, str(answer["access_token"]), "others")
    assert (claims["sub"], claims["client_id"], claims["groups"]) == ("quoter", "quoter", ["finance"])
    basic = "Basic " + base64.b64encode(b"quoter:secret").decode()
    status, answer = await ask(issuer, {"grant_type": "client_credentials"}, authorization=basic)
    assert read(issuer, str(answer["access_token"]))["sub"] == "quoter"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({**FORM, "grant_type": "password"}, (400, {"error": "unsupported_grant_type"})),
        ({**FORM, "client_secret": "guess"}, (401, {"error": "invalid_client"})),
        ({**FORM, "client_id": "nobody"}, (401, {"error": "invalid_client"})),
    ],
)
async def test_strangers_get_no_token(
    issuer: DevelopmentIssuer, form: dict[str, str], expected: tuple[int, dict[str, object]]
) -> None:
    assert await ask(issuer, form) == expected


async def test_down(issuer: DevelopmentIssuer) -> None:
    issuer.is_down = True
    async with aiohttp.ClientSession() as session, session.get(issuer.keys_url) as response:
        assert response.status == 503


def test_clients_in_words() -> None:
    assert parse_clients(["a:b", "c:d:e,f"]) == {"a": Client("b"), "c": Client("d", {"groups": ["e", "f"]})}
    for bad in ("a", "a:", ":b", "a:b:c:d"):
        with pytest.raises(ValueError):
            parse_clients([bad])


async def test_as_a_process(tmp_path: Path) -> None:
    child = await Child.start(
        "the issuer",
        *(sys.executable, "-m", "meshproxy.cli.issuer", "--port", "0", "--algorithm", "ES256"),
        directory=tmp_path,
    )
    try:
        async with aiohttp.ClientSession() as session, session.get(str(child.listening["keys"])) as response:
            assert response.status == 200
    finally:
        await child.stop()
