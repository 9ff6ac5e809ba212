"""The pages: what they say, and that names of others are nothing but text."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import click
import msgspec
import pytest
from yarl import URL

from meshproxy.cli.main import main
from meshproxy.control_api import ReportedCaller
from meshproxy.view.mesh import Mesh
from tests.view.meshes import EVERY, calls, mesh, report
from tests.web.meshes import ROLLOUT, Client, FixedSource, client

NOW = 1_000_000.0
MARKER = """"'><script>marker</script><img src=x onerror=marker>{{ 7 * 7 }}"""


@pytest.fixture
async def page() -> AsyncIterator[Client]:
    async with client(FixedSource(mesh(20, NOW), NOW, ROLLOUT)) as (found, _):
        yield found


async def text_of(page: Client, path: str, status: int = 200) -> str:
    async with page.get(URL(path, encoded=True)) as answer:
        assert answer.status == status
        assert answer.content_type == "text/html"
        return await answer.text()


async def test_the_tables_say_it_without_scripts(page: Client) -> None:
    text = await text_of(page, "/")
    assert "spiffe://mesh.test/ns/shop/sa/caller-" in text
    assert '<a href="/model?name=model-0">model-0</a>' in text
    assert "mTLS" in text
    assert "Models nobody calls" in text
    assert 'have not reported lately: <span data-cell="silent">1</span>' in text


async def test_each_page_shows_the_command_that_gives_the_same(page: Client) -> None:
    for path, command in {
        "/": "meshproxy edges -t 60s",
        "/?seconds=300": "meshproxy edges -t 300s",
        "/?seconds=12": "meshproxy edges -t 60s",
        "/model?name=model-0": "meshproxy edges -o wide --model model-0 -t 60s",
        "/certificates": "meshproxy check",
        "/configuration": "meshproxy proxy-status",
    }.items():
        assert f"<code>{command}</code>" in await text_of(page, path), path


async def test_commands_that_pages_show_are_ours(page: Client) -> None:
    for path in ("/", "/model?name=model-0", "/certificates", "/configuration"):
        shown = re.search(r"<code>meshproxy ([^<]*)</code>", await text_of(page, path))
        assert shown is not None
        name, *arguments = shown[1].split(" ")
        context = click.Context(main)
        command = main.get_command(context, name)
        assert command is not None
        command.make_context(name, arguments)  # it takes these options


async def test_a_model(page: Client) -> None:
    text = await text_of(page, "/model?name=model-0")
    for said in ("Versions", "candidate", "step 2 of 4", "Network (hop lag)", "Rules", "readers-0", "Recent denials"):
        assert said in text
    assert "Changed since" not in text
    changed = await text_of(page, "/model?name=model-1")
    assert "Changed since" in changed
    assert "version 5, at its servers: slower" in changed
    assert "No such model" in await text_of(page, "/model?name=", 404)


async def test_certificates_configuration_and_denials(page: Client) -> None:
    assert "expired" in await text_of(page, "/certificates")
    text = await text_of(page, "/configuration")
    assert "models.yaml:3: no such role" in text
    assert "refused" in text
    assert "No binding permits" in await text_of(page, "/denials")


async def test_an_empty_mesh() -> None:
    async with client(FixedSource(Mesh(), NOW)) as (page, _):
        assert "No calls." in await text_of(page, "/")
        text = await text_of(page, "/model?name=nobody-calls-it")
        assert "Nobody has called it." in text
        assert "There is none." in text


async def test_names_of_others_are_text() -> None:
    """Model, version, caller, denial, rollout, problem: each may be anything."""
    found = Mesh()
    caller = ReportedCaller(workload="spiffe://mesh.test/x", token=MARKER)
    row = calls(caller, MARKER, MARKER, denied={MARKER: 1}, allowed={MARKER: 1}, verb=MARKER)
    found.take("spiffe://mesh.test/ns/serving/sa/x", report(row), EVERY, NOW)
    source = FixedSource(found, NOW, msgspec.structs.replace(ROLLOUT, name=MARKER, step=MARKER, events=(MARKER,)))
    changes = dict.fromkeys(("caller", "reason", "message", "binding"), MARKER)
    source.denied = tuple(msgspec.structs.replace(each, call=f"predict {MARKER}", **changes) for each in source.denied)
    async with client(source) as (page, _):
        name = str(URL("/model").with_query(name=MARKER))
        for path in ("/", name, "/denials", str(URL("/model").with_query(name=MARKER + "x"))):
            text = await text_of(page, path, 404 if path.endswith("x") else 200)
            assert "&lt;script&gt;marker" in text
            assert "<script>marker" not in text
            assert "<img" not in text
            assert "49" not in re.sub(r"v=[0-9a-f]+", "", text)
            # Inside of an attribute a quote of a name ends nothing.
            assert not re.search(r'="[^"]*"\'>', text)
        # In the shell, the command is one of ours with one argument of theirs.
        assert "--model &#39;&#34;&#39;&#34;&#39;" in text or "meshproxy edges -o" not in text
