"""People log in to the page of the mesh at a real Keycloak and a real oidc-provider, with the forms of those."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pytest
import pytest_asyncio

from meshproxy.devtools.issuer import SigningKey
from meshproxy.web.login_file import LoginSettings
from meshproxy.web.pending import Pending
from meshproxy.web.permissions import EVERYTHING, Role
from meshproxy.web.provider import CALLBACK, LoginFailed, Provider
from meshproxy.web.routes import Page
from meshproxy.web.sessions import LIFE
from tests.conformance.chromium import DRAWN, Tab
from tests.conformance.form_browser import FormBrowser, Shown
from tests.conformance.page_server import serve, source
from tests.conformance.real_issuers import Keycloak, OidcProvider
from tests.conformance.test_keycloak import user
from tests.web.logins import ROLES
from tests.web.meshes import application

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(800)]

SECRET = "s3cret:% +/&"
VIEWER = ROLES[0]
PKCE = {"pkce.code.challenge.method": "S256"}


def mapper(kind: str, **config: str) -> dict[str, object]:
    """A claim in ID tokens."""
    config = {name.replace("_", "."): value for name, value in config.items()}
    config |= {"id.token.claim": "true", "jsonType.label": "String"}
    return {"name": kind, "protocol": "openid-connect", "protocolMapper": kind, "config": config}


def realm(page: str) -> dict[str, object]:
    """People and clients of the page, which Keycloak asks for consent to."""
    common = {
        "redirectUris": [page + CALLBACK],
        "consentRequired": True,
        "fullScopeAllowed": True,  # not what Keycloak takes for granted of such a client
        "attributes": PKCE,
        "protocolMappers": [
            mapper("oidc-group-membership-mapper", claim_name="groups", full_path="false"),
            mapper("oidc-usermodel-realm-role-mapper", claim_name="realm_access.roles", multivalued="true"),
        ],
    }
    return {
        "realm": "mesh",
        "enabled": True,
        "roles": {"realm": [{"name": "mesh-security"}]},
        "groups": [{"name": "ml"}],
        "clients": [
            {"clientId": "page", "secret": SECRET, **common},
            {"clientId": "public page", "publicClient": True, **common},
        ],
        "users": [
            user("vera", groups=["/ml"]),
            user("saul", realmRoles=["mesh-security"]),
            user("sara", realmRoles=["mesh-security"]),
            user("bob"),
            user("wanda", groups=["/ml"]),
        ],
    }


@dataclass(frozen=True)
class Issuer:
    """One of them, as the page and a person see it."""

    settings: LoginSettings
    """Of a client with a secret."""
    public: LoginSettings
    """Of one without."""
    fill: Callable[[FormBrowser, Shown, str, str], Awaitable[Shown]]
    """The form of the login, for a person, until an address that begins with the last argument or the issuer asks for
    consent."""
    consent: dict[str, str]
    """What the button sends that agrees."""
    cancel: Callable[[FormBrowser, Shown], Awaitable[Shown]]
    """Do not agree."""
    rotate: Callable[[], Awaitable[object]]
    """Sign with a new key, and publish no other one."""

    def browser(self) -> FormBrowser:
        return FormBrowser(self.settings.issuer)

    async def log_in(self, browser: FormBrowser, url: str, person: str, stop: str = "") -> Shown:
        """From a page to where the login leads: to a page, or before an address that begins with `stop`."""
        shown = await self.fill(browser, await browser.open(url), person, stop)
        if shown.url.startswith(self.settings.issuer.partition("/realms")[0]):
            shown = await browser.submit(shown, stop, **self.consent)
        return shown


async def fill_keycloak(browser: FormBrowser, shown: Shown, person: str, stop: str) -> Shown:
    return await browser.submit(shown, stop, username=person, password=f"password-of-{person}")


async def fill_provider(browser: FormBrowser, shown: Shown, person: str, stop: str) -> Shown:
    return await browser.submit(shown, stop, login=person, password="any")


async def cancel_keycloak(browser: FormBrowser, shown: Shown) -> Shown:
    return await browser.submit(shown, cancel="No")


async def cancel_provider(browser: FormBrowser, shown: Shown) -> Shown:
    return await browser.open(shown.link("[ Cancel ]"))


def keycloak_issuer(keycloak: Keycloak, address: str) -> Issuer:
    security = Role("security", EVERYTHING, {"realm_access.roles": "mesh-security"})
    settings = LoginSettings(
        address,
        f"{keycloak.url}/realms/mesh",
        "page",
        SECRET,
        algorithms=frozenset({"RS256", "ES256"}),
        roles=(VIEWER, security),
    )
    added = 1_000

    async def rotate() -> None:
        nonlocal added
        added += 1
        await keycloak.add_key("mesh", "rsa", added, keySize="2048", algorithm="RS256")
        await keycloak.drop_other_keys("mesh", [f"rsa-{added}"])

    public = msgspec.structs.replace(settings, client_id="public page", client_secret="")
    return Issuer(settings, public, fill_keycloak, {"accept": "Yes"}, cancel_keycloak, rotate)


def provider_issuer(provider: OidcProvider, address: str) -> Issuer:
    settings = LoginSettings(
        address,
        provider.url,
        "page",
        SECRET,
        algorithms=frozenset({"RS256", "ES256"}),
        scopes=("openid", "groups"),
        roles=ROLES,
    )

    async def rotate() -> None:
        new = SigningKey.generate(f"rs-{time.monotonic_ns()}", "RS256")
        await provider.set_keys([new, *provider.keys[1:]])

    public = msgspec.structs.replace(settings, client_id="public page", client_secret="")
    return Issuer(settings, public, fill_provider, {}, cancel_provider, rotate)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def keycloak_realm(keycloak: Keycloak, page_address: str) -> Keycloak:
    await keycloak.admin("POST", "/realms", realm(page_address))
    return keycloak


@pytest.fixture(params=["keycloak", "oidc-provider"])
def issuer(request: pytest.FixtureRequest, page_address: str) -> Issuer:
    if request.param == "keycloak":
        return keycloak_issuer(request.getfixturevalue("keycloak_realm"), page_address)
    return provider_issuer(request.getfixturevalue("provider"), page_address)


@asynccontextmanager
async def page_of(settings: LoginSettings) -> AsyncIterator[tuple[str, Page]]:
    made, page = application(source(5), settings)
    async with serve(made, urlsplit(settings.address).port or 0) as url:
        assert url == settings.address
        yield url, page


async def test_roles_see_what_is_theirs(issuer: Issuer) -> None:
    async with page_of(issuer.settings) as (url, page):
        async with issuer.browser() as browser:
            shown = await issuer.log_in(browser, f"{url}/model?name=model-0", "vera")
            assert (shown.url, shown.status) == (f"{url}/model?name=model-0", 200)
            assert "spiffe://" not in (await browser.open(url)).text
            for path, status in (("/configuration", 200), ("/denials", 403), ("/certificates", 403)):
                assert (await browser.open(url + path)).status == status, path
                assert (await browser.open(f"{url}/api{path}")).status == status, path
            said = msgspec.json.decode((await browser.open(f"{url}/api/session")).text)
            assert (said["roles"], said["sees"]) == (["viewer"], ["configuration", "graph"])
        async with issuer.browser() as browser:
            shown = await issuer.log_in(browser, f"{url}/denials", "saul")
            assert (shown.url, shown.status) == (f"{url}/denials", 200)
            assert "spiffe://" in shown.text
        async with issuer.browser() as browser:
            shown = await issuer.log_in(browser, url, "bob")
            assert shown.status == 403
            assert "no role of this page is yours" in shown.text
            assert len(page.sessions) == 2


async def test_a_public_client(issuer: Issuer) -> None:
    async with page_of(issuer.public) as (url, _), issuer.browser() as browser:
        assert (await issuer.log_in(browser, f"{url}/configuration", "vera")).status == 200


async def test_an_answer_belongs_to_one_browser_and_login(issuer: Issuer) -> None:
    async with page_of(issuer.settings) as (url, page), issuer.browser() as browser:
        back = (await issuer.log_in(browser, url, "vera", url + CALLBACK)).url
        query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
        changed = f"{url}{CALLBACK}?{urlencode({**query, 'state': 'of-another'})}"
        assert "has begun no such login" in (await browser.open(changed)).text
        assert len(page.sessions) == 0

        async with issuer.browser() as other:
            assert "has begun no such login" in (await other.open(back)).text


async def test_the_issuer_binds_a_code_to_a_login(issuer: Issuer) -> None:
    """Verifier, nonce, and the one time that it can be used."""
    provider = Provider(issuer.settings)
    redirect = issuer.settings.address + CALLBACK
    async with issuer.browser() as browser:

        async def begun() -> tuple[Pending, str, str | None]:
            pending = Pending.new("/", time.time())
            url = await provider.authorization_url(pending)
            shown = await browser.open(url, redirect)
            if shown.status:  # the first time: then the issuer knows the browser
                shown = await issuer.log_in(browser, url, "vera", redirect)
            came = {name: values[0] for name, values in parse_qs(urlsplit(shown.url).query).items()}
            assert came["state"] == pending.state
            return pending, came["code"], came.get("iss")

        for change, why in (
            ({"verifier": Pending.new("/", 0.0).verifier}, r"answers 400.*used already"),
            ({"nonce": "of another"}, r"\(nonce\)"),
        ):
            pending, code, iss = await begun()
            with pytest.raises(LoginFailed, match=why):
                await provider.redeem(code, iss, msgspec.structs.replace(pending, **change))
        pending, code, iss = await begun()
        with pytest.raises(LoginFailed, match="not of the issuer"):
            await provider.redeem(code, "https://other.example", pending)
        await provider.redeem(code, iss, pending)
        with pytest.raises(LoginFailed, match=r"answers 400.*used already"):
            await provider.redeem(code, iss, pending)


async def test_a_session_that_is_over_begins_again_without_a_question(issuer: Issuer) -> None:
    async with page_of(issuer.settings) as (url, page), issuer.browser() as browser:
        await issuer.log_in(browser, url, "vera")
        [session] = page.sessions._held.values()
        session.began -= LIFE
        assert (await browser.open(f"{url}/api/graph")).status == 401
        shown = await browser.open(f"{url}/configuration")
        assert (shown.url, shown.status) == (f"{url}/configuration", 200)
        assert any(asked.startswith(issuer.settings.issuer) for asked in shown.asked)


async def test_logging_out_here_and_there(issuer: Issuer) -> None:
    async with page_of(issuer.settings) as (url, page), issuer.browser() as browser:
        shown = await browser.submit(await issuer.log_in(browser, url, "vera"))
        assert (shown.url, shown.status) == (f"{url}/logout", 200)
        assert len(page.sessions) == 0
        there = await browser.open(shown.link("Log out at the issuer, too"))
        assert (await browser.submit(there, logout="yes")).status == 200
        again = await browser.open(url)
        assert not again.url.startswith(url)  # somebody has to log in
        assert again.forms


async def test_keys_that_are_replaced(issuer: Issuer) -> None:
    async with page_of(issuer.settings) as (url, _):
        for _ in range(3):
            async with issuer.browser() as browser:
                assert (await issuer.log_in(browser, f"{url}/configuration", "vera")).status == 200
            await issuer.rotate()
        async with issuer.browser() as browser:
            assert (await issuer.log_in(browser, f"{url}/configuration", "vera")).status == 200


async def test_a_person_who_does_not_agree(issuer: Issuer) -> None:
    async with page_of(issuer.settings) as (url, page), issuer.browser() as browser:
        shown = await issuer.fill(browser, await browser.open(url), "wanda", "")
        shown = await issuer.cancel(browser, shown)
        assert (shown.url.partition("?")[0], shown.status) == (url + CALLBACK, 400)
        assert "it was cancelled" in shown.text
        assert len(page.sessions) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"client_secret": "another"}, "knows no such client with this secret"),
        ({"scopes": ("openid", "models:predict")}, "may not ask for these scopes"),
    ],
)
async def test_a_file_that_does_not_fit(issuer: Issuer, change: dict[str, object], why: str) -> None:
    async with page_of(msgspec.structs.replace(issuer.settings, **change)) as (url, _), issuer.browser() as browser:
        shown = await browser.open(url)
        if shown.status != 400:
            shown = await issuer.log_in(browser, url, "vera")
        assert shown.status == 400
        assert why in shown.text


async def test_a_person_who_loses_a_role(keycloak_realm: Keycloak, page_address: str) -> None:
    """Sees on until the session ends, and does not come in again."""
    issuer = keycloak_issuer(keycloak_realm, page_address)
    async with page_of(issuer.settings) as (url, page), issuer.browser() as browser:
        await issuer.log_in(browser, url, "wanda")
        [person] = await keycloak_realm.admin("GET", "/realms/mesh/users?username=wanda")
        [group] = await keycloak_realm.admin("GET", f"/realms/mesh/users/{person['id']}/groups")
        await keycloak_realm.admin("DELETE", f"/realms/mesh/users/{person['id']}/groups/{group['id']}")
        assert (await browser.open(url)).status == 200
        [session] = page.sessions._held.values()
        session.began -= LIFE
        assert (await browser.open(url)).status == 403


async def test_in_chromium(tab: Tab, pictures: Path, keycloak_realm: Keycloak, page_address: str) -> None:
    """With the scripts and cookies of both: Keycloak is another site for the page."""
    issuer = keycloak_issuer(keycloak_realm, page_address)
    tab.problems.clear()
    async with page_of(issuer.settings) as (url, _):
        await tab.look(1280, 900)
        await tab.open(f"{url}/model?name=model-0")
        await tab.until("document.getElementById('kc-login') !== null")
        fill = (
            "username.value = 'sara', password.value = 'password-of-sara', document.getElementById('kc-login').click()"
        )
        await tab.run(f"[username, password] = ['username', 'password'].map((i) => document.getElementById(i)), {fill}")
        await tab.until("document.getElementsByName('accept').length > 0")
        await tab.picture(pictures / "keycloak-consent.png")
        await tab.run("document.getElementsByName('accept')[0].click()")
        await tab.until(f"location.href === '{url}/model?name=model-0'")
        await tab.open(f"{url}/denials")
        assert "spiffe://" in await tab.run("document.body.textContent")
        await tab.open(url)
        await tab.until(DRAWN)
        assert await tab.run("document.cookie") == ""
        await tab.picture(pictures / "keycloak-mesh.png")
        await tab.run("document.querySelector('header form button').click()")
        await tab.until("document.body.textContent.includes('Your session has ended')")
        await tab.picture(pictures / "keycloak-logged-out.png")
        await tab.run("[...document.links].find((link) => link.textContent.includes('at the issuer')).click()")
        await tab.until("document.getElementById('kc-logout') !== null")
        await tab.run("document.getElementById('kc-logout').click()")
        await tab.until("document.body.textContent.includes('You are logged out')")
        await tab.open(url)
        await tab.until("document.getElementById('kc-login') !== null")
    assert [problem for problem in tab.problems if url in problem] == []
