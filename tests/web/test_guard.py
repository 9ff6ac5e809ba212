"""What every answer says to a browser, and where a login may lead."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urljoin, urlsplit

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshproxy.control.status import is_local
from meshproxy.web.guard import is_here, own_path
from tests.thorough import tries
from tests.view.meshes import mesh
from tests.web.logins import LOGIN
from tests.web.meshes import Client, FixedSource, client

MESH = mesh(5, 1_000_000.0)
PATHS = ["/", "/api/graph", "/model?name=x", "/static/page.css", "/static/no-such", "/no-such"]


@pytest.fixture
async def page() -> AsyncIterator[Client]:
    async with client(FixedSource(MESH, 1_000_000.0)) as (found, _):
        yield found


async def test_no_answer_may_be_framed_sniffed_or_run_inline(page: Client) -> None:
    for path in PATHS:
        async with page.get(path) as answer:
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["server"] == "meshproxy"
            is_file = path == "/static/page.css"
            assert answer.headers["cache-control"] == ("no-cache" if is_file else "no-store")
            assert "strict-transport-security" not in answer.headers


async def test_pages_have_no_inline_scripts_and_styles(page: Client) -> None:
    for path in ("/", "/model?name=model-0", "/denials", "/certificates", "/configuration"):
        async with page.get(path) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert "<style" not in text
            assert "style=" not in text
            assert " on" + "click" not in text
            assert text.count("<script") == text.count("<script src=")


async def test_over_tls_browsers_are_told_to_stay_there() -> None:
    async with client(FixedSource(MESH, 1_000_000.0), LOGIN) as (page, _), page.get("/static/page.css") as answer:
        assert "max-age=" in answer.headers["strict-transport-security"]


@pytest.mark.parametrize(
    ("peer_is_local", "host", "status"),
    [(True, "localhost", 200), (True, "attacker.example", 403), (False, "localhost", 403)],
)
async def test_without_a_login_the_page_is_for_this_host(peer_is_local: bool, host: str, status: int) -> None:
    def is_local(peer: str, name: str) -> bool:
        return peer_is_local and name == "localhost"

    async with client(FixedSource(MESH, 1_000_000.0), local=is_local) as (page, made):
        for route in made.routes:
            path = route.path.replace("{name:.+}", "page.css")
            if path != "/events":
                async with page.get(path, headers={"host": host}) as answer:
                    assert answer.status in ({200, 404} if status == 200 else {403}), path


def test_without_a_host_no_other_name_counts() -> None:
    """aiohttp would say that of this host, after asking DNS for it."""
    assert is_here(make_mocked_request("GET", "/"), lambda peer, host: host == "")
    assert not is_here(make_mocked_request("GET", "/"), is_local)


@settings(max_examples=tries(100), deadline=None)
@given(st.text("/\\:@.a%?#\t\n htps", max_size=12))
@example("//attacker.example")
@example("/\\attacker.example")
@example("https://attacker.example")
@example("/\t/attacker.example")
@example("/a\r\nset-cookie: x")
@example("@attacker.example")
def test_a_login_leads_to_this_host_only(text: str) -> None:
    path = own_path(text)
    assert path.startswith("/")
    joined = urlsplit(urljoin("https://mesh.example/login", path))
    assert (joined.scheme, joined.netloc) == ("https", "mesh.example")
    assert path.isprintable()
    assert "\\" not in path


@pytest.mark.parametrize("path", ["/", "/model?name=a%2Fb&seconds=300", "/denials"])
def test_own_pages_are_kept(path: str) -> None:
    assert own_path(path) == path
    assert own_path("/" + "a" * 600) == "/"
