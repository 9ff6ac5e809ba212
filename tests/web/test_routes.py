"""Every route, for every role: who is let in, and whom it refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from meshproxy.web.routes import Page
from tests.view.meshes import mesh
from tests.web.logins import log_in, page_with_login
from tests.web.meshes import CALLER, Client, FixedSource

NOBODY, VIEWER, SECURITY = "", "vera", "saul"
# What each gets: nobody is led to the login, or told 401 by what no person reads.
TABLE = {
    ("GET", "/"): (303, 200, 200),
    ("GET", "/model"): (303, 404, 404),
    ("GET", "/denials"): (303, 403, 200),
    ("GET", "/certificates"): (303, 403, 200),
    ("GET", "/configuration"): (303, 200, 200),
    ("GET", "/events"): (401, 200, 200),
    ("GET", "/static/{name:.+}"): (200, 200, 200),
    ("GET", "/api/graph"): (401, 200, 200),
    ("GET", "/api/model"): (401, 404, 404),
    ("GET", "/api/denials"): (401, 403, 200),
    ("GET", "/api/certificates"): (401, 403, 200),
    ("GET", "/api/configuration"): (401, 200, 200),
    ("GET", "/api/session"): (401, 200, 200),
    ("GET", "/api/openapi.json"): (401, 200, 200),
    ("GET", "/login"): (302, 302, 302),
    ("GET", "/login/callback"): (400, 400, 400),
    ("POST", "/logout"): (401, 403, 403),
}


@pytest.fixture
async def pages() -> AsyncIterator[tuple[Client, Page]]:
    async with page_with_login(FixedSource(mesh(5, 1_000_000.0), 1_000_000.0)) as (page, made, _):
        yield page, made


async def test_each_route_has_a_line(pages: tuple[Client, Page]) -> None:
    assert {(route.method, route.path) for route in pages[1].routes} == set(TABLE)


@pytest.mark.parametrize(("place", "person"), [(0, NOBODY), (1, VIEWER), (2, SECURITY)])
async def test_each_route_for_each_role(pages: tuple[Client, Page], place: int, person: str) -> None:
    page, _ = pages
    if person:
        await log_in(page, person)
    for (method, path), expected in TABLE.items():
        where = path.replace("{name:.+}", "page.css")
        async with page.request(method, where, allow_redirects=False) as answer:
            assert answer.status == expected[place], (method, path)
            if answer.status in (401, 403):
                assert CALLER not in await answer.text()


async def test_a_viewer_does_not_read_what_it_may_not(pages: tuple[Client, Page]) -> None:
    page, _ = pages
    await log_in(page, VIEWER)
    for path in ("/", "/model?name=model-0", "/api/graph", "/api/model?name=model-0", "/configuration"):
        async with page.get(path) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert "spiffe://" not in text, path
            assert "Recent denials" not in text
            assert "Rules" not in text


async def test_whoever_may_sees_it(pages: tuple[Client, Page]) -> None:
    page, _ = pages
    await log_in(page, SECURITY)
    for path in ("/", "/model?name=model-0", "/api/graph", "/denials", "/certificates"):
        async with page.get(path) as answer:
            assert "spiffe://" in await answer.text(), path
