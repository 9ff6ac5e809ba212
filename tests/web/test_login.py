"""Logging in and out, and what goes wrong on purpose."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from yarl import URL

from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.web import login as module
from meshproxy.web.login import EXCHANGES_OF_ONE, LoginEvent
from meshproxy.web.pending import Pending
from meshproxy.web.provider import LoginFailed, Provider
from meshproxy.web.routes import Page
from tests.processes.waiting import until
from tests.view.meshes import mesh
from tests.web.logins import begin, choose, log_in, page_with_login
from tests.web.meshes import Client, FixedSource

MESH = mesh(5, 1_000_000.0)
Pages = tuple[Client, Page, DevelopmentIssuer]


@pytest.fixture
async def pages() -> AsyncIterator[Pages]:
    async with page_with_login(FixedSource(MESH, 1_000_000.0)) as found:
        yield found


async def told(page: Client, path: str, status: int) -> str:
    async with page.get(URL(path, encoded=True), allow_redirects=False) as answer:
        assert answer.status == status, await answer.text()
        return await answer.text()


def cookies(answer: Any) -> dict[str, Any]:
    found: SimpleCookie = SimpleCookie()
    for line in answer.headers.getall("set-cookie"):
        found.load(line)
    return dict(found)


async def test_a_login_begins_with_pkce_state_and_nonce(pages: Pages) -> None:
    page, _, issuer = pages
    url = await begin(page)
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    assert url.startswith(f"{issuer.issuer}/authorize?")
    assert query["response_type"] == "code"
    assert query["code_challenge_method"] == "S256"
    assert query["redirect_uri"] == "http://localhost:1/login/callback"
    assert len({query["state"], query["nonce"], query["code_challenge"]}) == 3
    assert (await begin(page)) != url


async def test_it_leads_back_to_the_page_that_was_asked_for(pages: Pages) -> None:
    page, _, _ = pages
    async with page.get("/model?name=model-0&seconds=300", allow_redirects=False) as answer:
        assert answer.status == 303
        where = answer.headers["location"]
    back = await choose(page, await begin(page, where), "vera")
    async with page.get(URL(back, encoded=True), allow_redirects=False) as answer:
        assert answer.headers["location"] == "/model?name=model-0&seconds=300"
    await told(page, "/model?name=model-0", 200)
    async with page.get("/api/session") as answer:
        said = await answer.json()
    assert (said["subject"], said["roles"], said["sees"]) == ("vera", ["viewer"], ["configuration", "graph"])


async def test_whoever_holds_up_logins_holds_up_few(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    page, _, _ = pages
    asked, answers = [], asyncio.Event()

    async def slow(provider: Provider, pending: Pending) -> str:
        asked.append(pending)
        await answers.wait()
        return "https://issuer.example/authorize"

    monkeypatch.setattr(Provider, "authorization_url", slow)
    waiting = [asyncio.create_task(told(page, "/login", 302)) for _ in range(EXCHANGES_OF_ONE)]
    await until(lambda: len(asked) == EXCHANGES_OF_ONE)
    assert "too many people are logging in" in await told(page, "/login", 400)
    answers.set()
    await asyncio.gather(*waiting)
    await told(page, "/login", 302)
    answers.clear()
    monkeypatch.setattr(module, "EXCHANGE_SECONDS", 0.01)
    assert "has not answered within" in await told(page, "/login", 400)


async def test_all_addresses_together_hold_up_no_more(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    page, _, _ = pages
    monkeypatch.setattr(module, "EXCHANGES", 0)
    assert "too many people are logging in" in await told(page, "/login", 400)


@pytest.mark.parametrize("where", ["//attacker.example/", "https://attacker.example/", "/\\attacker.example"])
async def test_no_login_leads_elsewhere(pages: Pages, where: str) -> None:
    page, _, _ = pages
    url = await begin(page, str(URL("/login").with_query(next=where)))
    async with page.get(URL(await choose(page, url, "vera"), encoded=True), allow_redirects=False) as answer:
        assert (answer.status, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(("address", "prefix"), [("https://localhost", "__Host-"), ("http://localhost:1", "")])
async def test_cookies(address: str, prefix: str) -> None:
    async with page_with_login(FixedSource(MESH, 1_000_000.0), address=address) as (page, _, _):
        async with page.get("/login", allow_redirects=False) as answer:
            url, held = answer.headers["location"], cookies(answer)
        pending = f"{prefix}meshproxy-login"
        back = await choose(page, url, "saul")
        own = {pending: held[pending].value, f"{prefix}meshproxy-session": "planted-by-somebody-else"}
        text = "; ".join(f"{name}={value}" for name, value in own.items())
        async with page.get(URL(back, encoded=True), allow_redirects=False, headers={"cookie": text}) as answer:
            assert answer.status == 303
            given = cookies(answer)
        session = given[f"{prefix}meshproxy-session"]
        assert given[pending]["max-age"] == "0"
        assert session.value not in ("", "planted-by-somebody-else")  # session fixation
        for morsel in (held[pending], session):
            assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Lax", "/")
            assert bool(morsel["secure"]) == bool(prefix)
            assert not morsel["domain"]


async def test_a_name_that_somebody_has_planted_opens_nothing(pages: Pages) -> None:
    page, made, _ = pages
    await log_in(page, "vera")
    [before] = made.sessions._held
    await log_in(page, "vera")  # the browser shows its old session
    [after] = made.sessions._held
    assert before != after


async def test_the_answer_of_another_browser_or_login_is_refused(pages: Pages) -> None:
    page, made, _ = pages
    back = await choose(page, await begin(page), "vera")
    await begin(page)  # another login of this browser: another state
    assert "has begun no such login" in await told(page, back, 400)
    page.session.cookie_jar.clear()
    assert "has begun no such login" in await told(page, back, 400)
    assert len(made.sessions) == 0


async def test_a_code_works_once(pages: Pages) -> None:
    page, _, _ = pages
    back = await choose(page, await begin(page), "vera")
    jar = {each.key: each.value for each in page.session.cookie_jar}
    await told(page, back, 303)
    page.session.cookie_jar.clear()
    page.session.cookie_jar.update_cookies(jar)
    assert "answers 400" in await told(page, back, 400)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "x"}, "has begun no such login"),
        ({"code": ""}, "has sent no code"),
        ({"code": "x" * 5000}, "has sent no code"),
        ({"code": "guessed"}, "answers 400"),
        ({"iss": "https://other.example"}, "not of the issuer"),
        ({"iss": None}, "not of the issuer"),
        ({"error": "<script>alert(1)</script>"}, "has refused it"),
        ({"error": "access_denied", "error_description": "<script>alert(1)</script>"}, "it was cancelled"),
    ],
)
async def test_an_answer_that_was_changed_is_refused(pages: Pages, change: dict[str, str | None], why: str) -> None:
    page, made, _ = pages
    back = urlsplit(await choose(page, await begin(page), "vera"))
    query = {name: values[0] for name, values in parse_qs(back.query).items()} | change
    url = URL(back.path).with_query({name: value for name, value in query.items() if value is not None})
    async with page.get(url, allow_redirects=False) as answer:
        text = await answer.text()
        assert answer.status == 400
    assert why in text
    assert "<script>alert" not in text
    assert len(made.sessions) == 0


def forged(**claims: object) -> Callable[[dict[str, object]], dict[str, object]]:
    return lambda said: {name: value for name, value in {**said, **claims}.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"nonce": "other"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"aud": "another-client"}, "audience"),
        ({"aud": ["page", "another-client"], "azp": "another-client"}, "azp"),
        ({"iss": "https://other.example"}, "issuer"),
        ({"exp": 1, "iat": 0}, "expired"),
        ({"sub": None}, "subject"),
    ],
)
async def test_an_id_token_that_is_not_for_this_login_is_refused(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], why: str
) -> None:
    page, made, issuer = pages
    claims = issuer.claims

    def changed(subject: str, **more: Any) -> Mapping[str, object]:
        return forged(**change)(claims(subject, **more))

    monkeypatch.setattr(issuer, "claims", changed)
    assert why in await told(page, await choose(page, await begin(page), "vera"), 400)
    assert len(made.sessions) == 0


async def test_a_token_of_a_key_that_is_not_the_issuers_is_refused(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, _, issuer = pages
    other = DevelopmentIssuer(issuer.issuer, algorithm="ES256")
    monkeypatch.setattr(issuer, "sign", other.sign)
    assert "signature is invalid" in await told(page, await choose(page, await begin(page), "vera"), 400)


async def test_keys_that_were_rotated_in_are_fetched(pages: Pages) -> None:
    page, _, issuer = pages
    await log_in(page, "vera")
    issuer.rotate(keep=0)
    await log_in(page, "vera")


async def test_a_client_with_a_secret() -> None:
    async with page_with_login(FixedSource(MESH, 1_000_000.0), secret="s3cret:% +") as (page, _, _):
        await log_in(page, "vera")


async def test_without_a_role_there_is_no_session(pages: Pages) -> None:
    page, made, _ = pages
    assert "no role" in await told(page, await choose(page, await begin(page), "bob"), 403)
    assert len(made.sessions) == 0


async def test_an_issuer_that_is_down_is_said(pages: Pages) -> None:
    page, _, issuer = pages
    issuer.is_down = True
    assert "answers 503" in await told(page, "/login", 400)


async def test_addresses_and_files_are_for_the_log(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(provider: Provider, pending: Pending) -> str:
        raise LoginFailed("it cannot be asked", "caFile /etc/ca.pem cannot be read")

    monkeypatch.setattr(Provider, "authorization_url", fails)
    answer = await told(pages[0], "/login", 400)
    assert "The login has failed: it cannot be asked." in answer
    assert "/etc/ca.pem" not in answer
    assert [record.fields["detail"] for record in caplog.records] == ["caFile /etc/ca.pem cannot be read"]  # type: ignore[attr-defined]


async def test_a_logout_needs_a_form_of_this_session(pages: Pages) -> None:
    page, made, _ = pages
    await log_in(page, "vera")
    text = await told(page, "/", 200)
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found is not None
    good = {"token": found[1]}
    for form, headers in (
        ({}, {}),
        ({"token": "guessed"}, {}),
        ({"token": "\xe9"}, {}),
        (good, {"origin": "https://attacker.example"}),
        (good, {"sec-fetch-site": "cross-site"}),
    ):
        async with page.post("/logout", data=form, headers=headers) as answer:
            assert answer.status == 403
    assert len(made.sessions) == 1
    headers = {"origin": "http://localhost:1", "sec-fetch-site": "same-origin"}
    async with page.post("/logout", data=good, headers=headers) as answer:
        assert answer.status == 200
        assert "Your session has ended" in await answer.text()
        assert cookies(answer)["meshproxy-session"]["max-age"] == "0"
    assert len(made.sessions) == 0
    await told(page, "/", 303)


async def test_a_logout_leads_to_that_of_the_issuer(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    async def log_out() -> str:
        await log_in(page, "vera")
        form = re.search('name="token" value="([^"]+)"', await told(page, "/", 200))
        assert form is not None
        async with page.post("/logout", data={"token": form[1]}) as answer:
            assert answer.status == 200
            return await answer.text()

    page, made, issuer = pages
    assert "at the issuer" not in await log_out()  # it has no such page

    async def known(self: Provider) -> str:
        return f"{issuer.issuer}/end?x=1&client_id=page"

    async def fails(self: Provider) -> str:
        raise LoginFailed("it is down")

    monkeypatch.setattr(Provider, "logout_url", known)
    assert f'<a href="{issuer.issuer}/end?x=1&amp;client_id=page">Log out at the issuer, too</a>' in await log_out()
    monkeypatch.setattr(Provider, "logout_url", fails)
    assert "at the issuer" not in await log_out()
    assert len(made.sessions) == 0


async def test_pages_that_ask_again_by_themselves_keep_no_session_alive(pages: Pages) -> None:
    page, made, _ = pages
    await log_in(page, "vera")
    [session] = made.sessions._held.values()
    session.used -= 100.0
    before = session.used
    async with page.get("/configuration", headers={"x-meshproxy-refresh": "1"}) as answer:
        assert answer.status == 200
    assert session.used == before
    await told(page, "/configuration", 200)
    assert session.used > before


async def test_each_login_and_logout_is_told_of() -> None:
    events: list[LoginEvent] = []
    async with page_with_login(FixedSource(MESH, 1_000_000.0), tell=events.append) as (page, _, issuer):
        await log_in(page, "vera")
        async with page.get("/") as answer:
            form = re.search('name="token" value="([^"]+)"', await answer.text())
        assert form is not None
        async with page.post("/logout", data={"token": form[1]}) as answer:
            assert answer.status == 200
        await told(page, await choose(page, await begin(page), "bob"), 403)
        await told(page, "/login/callback?code=guessed&state=x", 400)
    assert [(event.result, event.issuer, event.subject) for event in events] == [
        ("ok", issuer.issuer, "vera"),
        ("logout", issuer.issuer, "vera"),
        ("no-role", issuer.issuer, "bob"),
        ("failed", None, None),
    ]
    assert all(event.peer.startswith("127.0.0.1:") for event in events)
    assert events[0].message == "as viewer"
