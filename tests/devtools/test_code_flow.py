"""People who log in at the development issuer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import jwt
import pytest
from yarl import URL

from meshproxy.devtools.issuer import Client, DevelopmentIssuer, parse_people
from meshproxy.web.pending import Pending

BACK = "http://localhost:18512/login/callback"
PENDING = Pending.new("/", 0.0)
QUERY = {
    "client_id": "page",
    "redirect_uri": BACK,
    "response_type": "code",
    "code_challenge": PENDING.challenge,
    "code_challenge_method": "S256",
    "state": "s",
    "nonce": "n",
}


@pytest.fixture
async def issuer() -> AsyncIterator[DevelopmentIssuer]:
    people = {"ann": {"groups": ["ml"]}, "<b>": {}}
    async with DevelopmentIssuer.serve(algorithm="ES256", clients={"page": Client("s")}, people=people) as found:
        yield found


async def code(session: aiohttp.ClientSession, issuer: DevelopmentIssuer) -> str:
    url = URL(f"{issuer.issuer}/authorize").with_query({**QUERY, "person": "ann"})
    async with session.get(url, allow_redirects=False) as answer:
        back = URL(answer.headers["location"])
    assert (str(back.with_query({})), back.query["state"], back.query["iss"]) == (BACK, "s", issuer.issuer)
    return back.query["code"]


async def test_a_code_gives_an_id_token_once(issuer: DevelopmentIssuer) -> None:
    async with aiohttp.ClientSession() as session:
        form = {
            "grant_type": "authorization_code",
            "code": await code(session, issuer),
            "code_verifier": PENDING.verifier,
            "redirect_uri": BACK,
            "client_id": "page",
            "client_secret": "s",
        }
        async with session.post(f"{issuer.issuer}/token", data=form) as answer:
            token = (await answer.json())["id_token"]
        async with session.post(f"{issuer.issuer}/token", data=form) as answer:
            assert (answer.status, await answer.json()) == (400, {"error": "invalid_grant"})
    key = jwt.PyJWKSet.from_dict(issuer.jwks()).keys[0]
    claims = jwt.decode(token, key, audience="page", issuer=issuer.issuer)
    assert (claims["sub"], claims["nonce"], claims["groups"]) == ("ann", "n", ["ml"])


@pytest.mark.parametrize("change", [{"code_verifier": "x"}, {"redirect_uri": BACK + "/"}, {"code": "x"}])
async def test_a_code_is_for_one_login(issuer: DevelopmentIssuer, change: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session:
        form = {"code": await code(session, issuer), "code_verifier": PENDING.verifier, "redirect_uri": BACK, **change}
        form |= {"grant_type": "authorization_code", "client_id": "page", "client_secret": "s"}
        async with session.post(f"{issuer.issuer}/token", data=form) as answer:
            assert answer.status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "x"},
        {"redirect_uri": "https://attacker.example/"},
        {"response_type": "token"},
        {"code_challenge_method": "plain"},
    ],
)
async def test_what_is_asked_for_otherwise_is_refused(issuer: DevelopmentIssuer, change: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as session:
        url = URL(f"{issuer.issuer}/authorize").with_query({**QUERY, **change})
        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status == 400


async def test_a_person_is_chosen(issuer: DevelopmentIssuer) -> None:
    url = URL(f"{issuer.issuer}/authorize").with_query(QUERY)
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    assert "&amp;person=ann" in text
    assert "<b>" not in text


def test_people_on_the_command_line() -> None:
    assert parse_people(["ann", "bob:ml,x"]) == {"ann": {}, "bob": {"groups": ["ml", "x"]}}
    for text in (":ml", "ann:a:b", ""):
        with pytest.raises(ValueError):
            parse_people([text])
