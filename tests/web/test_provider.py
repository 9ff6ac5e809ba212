"""The issuer as a client sees it: what it says is bounded, and not believed where it should not be."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.web import provider as module
from meshproxy.web.pending import Pending
from meshproxy.web.provider import CANNOT_ASK, LoginFailed, Provider
from tests.web.logins import LOGIN

PENDING = Pending.new("/", 0.0)


@asynccontextmanager
async def issuer(answer: Callable[[str], web.Response]) -> AsyncIterator[Provider]:
    """A provider whose issuer answers with this, whose argument is its own URL."""

    async def handle(request: web.Request) -> web.Response:
        return answer(f"http://127.0.0.1:{server.port}")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(application)
    async with server:
        yield Provider(msgspec.structs.replace(LOGIN, issuer=f"http://127.0.0.1:{server.port}"))


def discovery(url: str, **changes: object) -> dict[str, object]:
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    return {"issuer": url, **{name: f"{url}/{name}" for name in names}, **changes}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"issuer": "https://other.example"}, "of another issuer"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "without TLS, or no URL"),
        ({"token_endpoint": "http://login.example/token"}, "without TLS, or no URL"),
        ({"jwks_uri": "file:///etc/passwd"}, "without TLS, or no URL"),
        ({"userinfo_endpoint": "http://login.example/userinfo"}, "without TLS, or no URL"),
        ({"end_session_endpoint": "javascript:alert(1)"}, "without TLS, or no URL"),
        ({"jwks_uri": None}, "cannot be read"),
        ({"token_endpoint_auth_methods_supported": "all"}, "cannot be read"),
    ],
)
async def test_a_discovery_document_that_is_not_to_be_believed(changes: dict[str, object], why: str) -> None:
    async with issuer(lambda url: web.json_response(discovery(url, **changes))) as provider:
        with pytest.raises(LoginFailed, match=why):
            await provider.authorization_url(PENDING)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"text": "["}, "cannot be read"),
        ({"text": '{"issuer": 1, "issuer": 2}'}, "cannot be read"),
        ({"body": b"\xff"}, "cannot be read"),
        ({"body": b" " * (module.ANSWER_BYTES + 1)}, "larger than"),
        ({"status": 302, "headers": {"Location": "http://169.254.169.254/"}}, "answers 302"),
        ({"status": 500}, "answers 500"),
        ({"status": 500, "text": "[" * 5_000}, "answers 500"),
        ({"status": 400, "text": '{"error": "<b>"}'}, r"openid-configuration$"),
        ({"status": 400, "text": '{"error": "invalid_scope"}'}, "may not ask for these scopes"),
        ({"status": 401, "text": '{"error": "unauthorized_client"}'}, "no such client with this secret"),
    ],
)
async def test_an_answer_that_is_none(answer: dict[str, Any], why: str) -> None:
    async with issuer(lambda url: web.Response(**answer)) as provider:
        with pytest.raises(LoginFailed, match=why):
            await provider.authorization_url(PENDING)


async def test_what_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)

    async def handle(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    application = web.Application()
    application.router.add_get("/{path:.*}", handle)
    async with TestServer(application) as server:
        provider = Provider(msgspec.structs.replace(LOGIN, issuer=f"http://127.0.0.1:{server.port}"))
        with pytest.raises(LoginFailed, match="cannot be asked") as failed:
            await provider.authorization_url(PENDING)
        assert failed.value.detail == "no answer within 0.05 s"


async def test_why_it_cannot_be_asked(tmp_path: Path) -> None:
    def provider(url: str, ca_file: Path | None) -> Provider:
        return Provider(msgspec.structs.replace(LOGIN, issuer=url, ca_file=ca_file))

    authority = DevelopmentCA.create("login.example")
    ca_file = authority.write(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue(dns=["localhost"]).write(tmp_path, "issuer"))
    async with DevelopmentIssuer.serve(tls=tls, name="localhost", algorithm="ES256") as running:
        url = running.issuer
        assert (await provider(url, ca_file).authorization_url(PENDING)).startswith(url)
        for issuer, file, why in (
            (url, tmp_path / "none.pem", r"caFile .*none\.pem cannot be read: No such file"),
            (url, tmp_path / "issuer-key.pem", "caFile .* cannot be used: it holds no certificate"),
            (url, None, "its certificate is of another name or authority"),
            (url.replace("localhost", "127.0.0.1"), ca_file, "its certificate is of another name or authority"),
        ):
            with pytest.raises(LoginFailed, match=f"^{CANNOT_ASK}$") as failed:
                await provider(issuer, file).authorization_url(PENDING)
            assert re.match(why, failed.value.detail)
    with pytest.raises(LoginFailed, match=CANNOT_ASK) as failed:
        await provider(url, ca_file).authorization_url(PENDING)
    assert failed.value.detail.startswith("Connect call failed")


async def test_an_endpoint_with_a_query_keeps_it() -> None:
    def answer(url: str) -> web.Response:
        return web.json_response(discovery(url, authorization_endpoint=f"{url}/a?tenant=1"))

    async with issuer(answer) as provider:
        url = await provider.authorization_url(PENDING)
    assert "/a?tenant=1&response_type=code&" in url
    assert f"code_challenge={PENDING.challenge}&code_challenge_method=S256" in url


@pytest.mark.parametrize("said", [{}, {"id_token": 7}, {"id_token": "\xe9"}, {"id_token": "a.b.c"}])
async def test_an_answer_without_an_id_token(said: dict[str, object]) -> None:
    def answer(url: str) -> web.Response:
        return web.json_response(discovery(url, keys=[], **said))

    async with issuer(answer) as provider:
        with pytest.raises(LoginFailed, match="ID token"):
            await provider.redeem("code", None, PENDING)


async def test_a_client_whose_issuer_takes_no_basic_sends_its_secret_in_the_form() -> None:
    async def handle(request: web.Request) -> web.Response:
        forms.append((dict(await request.post()), request.headers.get("authorization")))
        url = f"http://127.0.0.1:{server.port}"
        return web.json_response(discovery(url, token_endpoint_auth_methods_supported=["client_secret_post"]))

    forms: list[tuple[dict[str, object], str | None]] = []
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(application) as server:
        settings = msgspec.structs.replace(LOGIN, issuer=f"http://127.0.0.1:{server.port}", client_secret="s3")
        with pytest.raises(LoginFailed, match="no ID token"):
            await Provider(settings).redeem("code", None, PENDING)
    form, authorization = forms[-1]
    assert (form["client_id"], form["client_secret"], authorization) == ("page", "s3", None)
    assert form["code_verifier"] == PENDING.verifier


SIGNER = DevelopmentIssuer("https://login.example", algorithm="ES256")
WHO = {"sub": "vera", "groups": ["ml"]}


@asynccontextmanager
async def telling(
    user_info: web.Response, claims: Mapping[str, Any], **tokens: object
) -> AsyncIterator[tuple[Provider, list[str | None]]]:
    """A provider whose issuer has UserInfo, and the values of `authorization` that it was asked for that with."""
    asked: list[str | None] = []

    async def handle(request: web.Request) -> web.Response:
        url = f"http://127.0.0.1:{server.port}"
        if request.path == "/user":
            asked.append(request.headers.get("authorization"))
            return user_info
        said = SIGNER.claims("vera", iss=url, aud="page", nonce=PENDING.nonce, **claims)
        answers: dict[str, object] = {
            "/token_endpoint": {"access_token": "a.b-c", "id_token": SIGNER.sign({}, said), **tokens},
            "/jwks_uri": SIGNER.jwks(),
        }
        return web.json_response(answers.get(request.path, discovery(url, userinfo_endpoint=f"{url}/user")))

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(application) as server:
        yield Provider(msgspec.structs.replace(LOGIN, issuer=f"http://127.0.0.1:{server.port}")), asked


async def test_claims_that_are_not_in_the_id_token_are_asked_for() -> None:
    more = {**WHO, "iss": "of somebody else"}
    async with telling(web.json_response(more), {}) as (provider, asked):
        person = await provider.redeem("code", None, PENDING)
    assert (person.subject, person.claims["groups"]) == ("vera", ["ml"])
    assert person.claims["iss"] != "of somebody else"  # what is signed counts
    assert asked == ["Bearer a.b-c"]


async def test_nobody_is_asked_for_claims_that_are_there() -> None:
    async with telling(web.Response(status=500), {"groups": []}) as (provider, asked):
        assert (await provider.redeem("code", None, PENDING)).claims["groups"] == []
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "tokens", "why"),
    [
        ({"text": json.dumps({**WHO, "sub": "saul"})}, {}, "of somebody else"),
        ({"text": "{}"}, {}, "of somebody else"),
        ({"text": "eyJhbGciOiJub25lIn0.e30."}, {}, "to be signed"),
        ({"text": '{"sub": "vera", "sub": "saul"}'}, {}, "to be signed"),
        ({"status": 403}, {}, "answers 403 at /user"),
        ({"text": json.dumps(WHO)}, {"access_token": ""}, "no access token"),
        ({"text": json.dumps(WHO)}, {"access_token": "a\r\nx: b"}, "no access token"),
    ],
)
async def test_user_info_that_is_not_to_be_believed(
    answer: dict[str, Any], tokens: dict[str, object], why: str
) -> None:
    async with telling(web.Response(**answer), {}, **tokens) as (provider, _):
        with pytest.raises(LoginFailed, match=why):
            await provider.redeem("code", None, PENDING)


async def test_where_a_session_with_the_issuer_ends() -> None:
    async with issuer(lambda url: web.json_response(discovery(url))) as provider:
        assert await provider.logout_url() is None
    async with issuer(lambda url: web.json_response(discovery(url, end_session_endpoint=f"{url}/end?a=b"))) as provider:
        assert str(await provider.logout_url()).endswith("/end?a=b&client_id=page")
