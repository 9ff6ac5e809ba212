"""Logins at the development issuer, by a client that does what a browser does with cookies and redirects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec
from yarl import URL

from meshproxy.devtools.issuer import Client as IssuerClient
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.web.login import LoginEvent
from meshproxy.web.login_file import LoginSettings
from meshproxy.web.permissions import EVERYTHING, Permission, Role
from meshproxy.web.routes import Page
from tests.web.meshes import Client, FixedSource, client

ROLES = (
    Role("viewer", frozenset({Permission.GRAPH, Permission.CONFIGURATION}), {"groups": "ml"}),
    Role("security", EVERYTHING, {"groups": "security"}),
)
LOGIN = LoginSettings(
    address="https://mesh.example",
    issuer="https://login.example",
    client_id="page",
    algorithms=frozenset({"ES256"}),
    roles=ROLES,
)
PEOPLE = {
    "vera": {"groups": ["ml"]},
    "saul": {"groups": ["security"]},
    "bob": {"groups": ["sales"]},
}


@asynccontextmanager
async def page_with_login(
    source: FixedSource,
    *,
    address: str = "http://localhost:1",
    secret: str = "",
    tell: Callable[[LoginEvent], None] = lambda event: None,
) -> AsyncIterator[tuple[Client, Page, DevelopmentIssuer]]:
    """A client of the page, which follows no redirects by itself."""
    clients = {"page": IssuerClient(secret)}
    async with DevelopmentIssuer.serve(algorithm="ES256", clients=clients, people=PEOPLE) as issuer:
        settings = msgspec.structs.replace(LOGIN, issuer=issuer.issuer, address=address, client_secret=secret)
        async with client(source, settings, tell=tell) as (page, made):
            yield page, made, issuer


async def begin(page: Client, path: str = "/login") -> str:
    """The address at the issuer that a login leads to."""
    async with page.get(path, allow_redirects=False) as answer:
        assert answer.status == 302, await answer.text()
        return answer.headers["location"]


async def choose(page: Client, url: str, person: str) -> str:
    """What the issuer sends the browser back to, without the host: the page is on another port in tests."""
    async with page.session.get(URL(f"{url}&person={person}", encoded=True), allow_redirects=False) as answer:
        assert answer.status == 302, await answer.text()
        back = urlsplit(answer.headers["location"])
        return f"{back.path}?{back.query}"


async def log_in(page: Client, person: str) -> None:
    """A session, whose cookie the client keeps."""
    back = await choose(page, await begin(page), person)
    async with page.get(URL(back, encoded=True), allow_redirects=False) as answer:
        assert answer.status == 303, await answer.text()
