"""The event stream: the whole graph once, then what is different."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.view.graph import Graph
from meshproxy.web import events as module
from meshproxy.web.events import change
from tests.view.meshes import mesh
from tests.web.logins import log_in, page_with_login
from tests.web.meshes import Client, FixedSource, application, client

NOW = 1_000_000.0
MESH = mesh(20, NOW)
WHOLE = MESH.graph(60, NOW)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)


async def read(stream: Any) -> tuple[str, Any]:
    """The next event."""
    name = ""
    async with asyncio.timeout(60):
        while True:
            line = (await stream.content.readline()).decode()
            if line.startswith("event: "):
                name = line[7:-1]
            elif line.startswith("data: "):
                return name, msgspec.json.decode(line[6:])
            assert line, "the stream has ended"


async def open_stream(page: Client) -> Any:
    stream = await page.get("/events")
    assert stream.content_type == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    return stream


async def test_first_the_graph_then_what_has_changed() -> None:
    source = FixedSource(MESH, NOW)
    async with client(source) as (page, _):
        stream = await open_stream(page)
        name, graph = await read(stream)
        assert name == "graph"
        assert len(graph["nodes"]) == len(source.graph(60).nodes)
        assert graph["rows"] == []
        whole = source.graph(60)
        gone, kept = whole.edges[0], whole.edges[1]
        other = msgspec.structs.replace(kept, share=0.123)
        source.change(msgspec.structs.replace(whole, edges=[other, *whole.edges[2:]]))
        name, said = await read(stream)
        assert name == "change"
        assert [edge["id"] for edge in said["edges"]] == [kept.id]
        assert (said["nodes"], said["removed"], said["graph"]["edges"]) == ([], [gone.id], [])
        stream.close()


async def test_it_ends_with_the_session() -> None:
    async with page_with_login(FixedSource(MESH, NOW)) as (page, made, _):
        await log_in(page, "vera")
        stream = await open_stream(page)
        _, graph = await read(stream)
        assert "spiffe" not in str(graph)
        for key in list(made.sessions._held):
            del made.sessions._held[key]
        assert await read(stream) == ("over", {})


async def test_an_open_stream_keeps_no_session_alive() -> None:
    async with page_with_login(FixedSource(MESH, NOW)) as (page, made, _):
        await log_in(page, "vera")
        stream = await open_stream(page)
        await read(stream)
        [session] = made.sessions._held.values()
        session.used -= 10_000.0
        assert (await read(stream))[0] == "over"


async def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READERS", 1)
    async with client(FixedSource(MESH, NOW)) as (page, _):
        stream = await open_stream(page)
        await read(stream)
        async with page.get("/events") as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"]
        stream.close()
        async with asyncio.timeout(60):
            while (again := await page.get("/events")).status == 503:  # until it is seen that the reader is gone
                await asyncio.sleep(0.01)
        again.close()


async def test_one_person_does_not_take_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READERS_OF_ONE", 1)
    async with page_with_login(FixedSource(MESH, NOW)) as (page, _, _):
        await log_in(page, "vera")
        stream = await open_stream(page)
        await read(stream)
        async with page.get("/events") as answer:
            assert answer.status == 503
        await log_in(page, "saul")
        other = await open_stream(page)
        await read(other)
        stream.close()
        other.close()


async def test_an_open_stream_does_not_keep_the_control_plane_from_stopping() -> None:
    made, _ = application(FixedSource(MESH, NOW))
    async with TestClient(TestServer(made)) as page:
        stream = await open_stream(page)
        await read(stream)
        async with asyncio.timeout(60):
            await page.server.close()
            while await stream.content.readline():
                pass


async def test_something_is_said_when_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.0)
    async with client(FixedSource(MESH, NOW)) as (page, _):
        stream = await open_stream(page)
        await read(stream)
        async with asyncio.timeout(60):
            while await stream.content.readline() != b":\n":
                pass
        stream.close()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_whoever_follows_the_changes_has_the_graph(data: st.DataObject) -> None:
    def graph() -> Graph:
        edges = data.draw(st.lists(st.sampled_from(WHOLE.edges[:4]), unique_by=lambda edge: edge.id))
        shares = data.draw(st.lists(st.sampled_from([0.1, 0.2]), min_size=len(edges), max_size=len(edges)))
        nodes = data.draw(st.lists(st.sampled_from(WHOLE.nodes[:4]), unique_by=lambda node: node.id))
        changed = [msgspec.structs.replace(edge, share=share) for edge, share in zip(edges, shares, strict=True)]
        return msgspec.structs.replace(WHOLE, nodes=nodes, edges=changed)

    before, after = graph(), graph()
    said = change(before, after)
    held: dict[str, object] = {each.id: each for each in before.nodes} | {each.id: each for each in before.edges}
    for each in said.removed:
        del held[each]
    held.update({each.id: each for each in said.nodes} | {each.id: each for each in said.edges})
    assert held == {each.id: each for each in after.nodes} | {each.id: each for each in after.edges}
    assert change(after, after) == change(after, after)
    assert not change(after, after).edges
