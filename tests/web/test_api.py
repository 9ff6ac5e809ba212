"""`/api/`: the same as the pages have, and of the same time."""

from __future__ import annotations

import msgspec

from meshproxy.view.graph import Graph
from tests.view.meshes import mesh
from tests.web.meshes import FixedSource, client

NOW = 1_000_000.0


async def test_the_graph_is_the_one_of_the_mesh() -> None:
    source = FixedSource(mesh(20, NOW), NOW)
    async with client(source) as (page, _):
        for seconds in (60, 300):
            async with page.get(f"/api/graph?seconds={seconds}") as answer:
                assert msgspec.json.decode(await answer.read(), type=Graph) == source.graph(seconds)


async def test_the_session_of_this_host() -> None:
    async with client(FixedSource(mesh(5, NOW), NOW)) as (page, _), page.get("/api/session") as answer:
        said = await answer.json()
    assert said["subject"] == ""
    assert said["sees"] == ["callers", "certificates", "configuration", "denials", "graph"]
