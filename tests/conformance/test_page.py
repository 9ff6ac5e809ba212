"""The page of the mesh in Chromium, with 5, 50 and 500 nodes.

PAGE_PICTURES=FOLDER keeps the pictures. It prints what docs/page.md says of large meshes.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from meshproxy.devtools.child import free_port
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.issuer import Client as IssuerClient
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import CLIENT, local_mesh
from meshproxy.view.graph import Graph, NodeKind
from meshproxy.web import events, text
from tests.conformance.chromium import DRAWN, Tab
from tests.conformance.page_server import serving, source
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh, spiffe_id
from tests.web.logins import LOGIN, PEOPLE

pytestmark = pytest.mark.asyncio(loop_scope="session")

SIZES = (5, 50, 500)
UPDATES = 12
CALLS = 20
MARKER = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "INTERVAL", 0.2)


def busier(graph: Graph, factor: float) -> Graph:
    """The same graph with other figures at every node and edge."""

    def more(each: Any) -> Any:
        traffic = msgspec.structs.replace(each.traffic, rate=each.traffic.rate * factor + 0.1)
        return msgspec.structs.replace(each, traffic=traffic)

    return msgspec.structs.replace(graph, nodes=list(map(more, graph.nodes)), edges=list(map(more, graph.edges)))


async def rows(tab: Tab) -> list[list[str]]:
    """What the tables say."""
    script = (
        "[...document.querySelectorAll('tr[data-edge]')].map((r) => [...r.children].map((c) => c.textContent.trim()))"
    )
    found: list[list[str]] = await tab.run(script)
    return found


@pytest.mark.parametrize("nodes", SIZES)
async def test_the_graph_and_its_tables(tab: Tab, pictures: Path, nodes: int) -> None:
    tab.problems.clear()
    found = source(nodes)
    async with serving(found) as url:
        await tab.look(1280, 900)
        before = await tab.cpu()
        await tab.open(url)
        await tab.until(DRAWN)
        drawn = await tab.cpu() - before
        graph = found.graph(60)
        assert await tab.run("document.querySelectorAll('tr[data-edge]').length") == len(graph.edges)
        assert await tab.run("document.querySelectorAll('#graph canvas').length") > 0
        by_server = await rows(tab)
        paint = await tab.run("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        [first] = await tab.run("performance.getEntriesByName('mesh-update').map((e) => [e.startTime, e.duration])")
        before = await tab.cpu()
        for number in range(UPDATES):
            found.change(busier(graph, 1.0 + number / 10))
            await tab.until(f"performance.getEntriesByName('mesh-update').length > {number + 1}")
        updates = await tab.run("performance.getEntriesByName('mesh-update').slice(1).map((e) => e.duration)")
        each = (await tab.cpu() - before) / UPDATES
        middle = sorted(updates)[len(updates) // 2]
        print(
            f"{len(graph.nodes)} nodes, {len(graph.edges)} edges: first paint {paint:.0f} ms, "
            f"graph drawn {sum(first):.0f} ms ({1e3 * drawn:.0f} ms of CPU); "
            f"an update of all figures {middle:.0f} ms ({1e3 * each:.0f} ms of CPU, "
            f"painting too)"
        )
        assert paint < 5_000
        assert middle < 1_000
        # Figures are written by the browser as the server writes them.
        found.change(graph)
        await tab.until(f"performance.getEntriesByName('mesh-update').length > {UPDATES + 1}")
        assert await rows(tab) == by_server
        await tab.picture(pictures / f"mesh-{nodes}.png")
        await tab.look(1280, 900, is_dark=True)
        await tab.picture(pictures / f"mesh-{nodes}-dark.png")
        await tab.look(390, 800)
        await tab.open(url)
        await tab.until(DRAWN)
        assert await tab.run("document.documentElement.scrollWidth") <= 390
        await tab.picture(pictures / f"mesh-{nodes}-phone.png")
    assert [problem for problem in tab.problems if "ERR_" not in problem] == []


async def test_calls_of_real_sidecars(tab: Tab, pictures: Path, tmp_path: Path) -> None:
    async with local_mesh(tmp_path) as local:
        running = await Mesh.start_with_documents(local)
        async with RestClient(running.application.outbound, None) as client:
            for _ in range(CALLS):
                assert (await client.call("POST", PATH, {"instances": [1.0]})).status == "200"
        await tab.look(1280, 900)
        await tab.open(f"http://{running.control.listening['web']}/?seconds=300")
        # They are reported within seconds, and come over the stream.
        await tab.until("document.querySelectorAll('tr[data-edge]').length >= 2", 60.0)
        [caller, version] = await rows(tab)
        assert caller[:4] == ["well", spiffe_id(CLIENT), PATH.split("/")[3].partition(":")[0], "mTLS"]
        assert (version[3], version[5]) == ("100 %", "100 %")
        graph = await tab.run("fetch('/api/graph?seconds=300').then((answer) => answer.json())")
        assert [row["traffic"]["calls"] for row in graph["rows"]] == [CALLS]
        await tab.picture(pictures / "real.png")


async def test_pages_without_scripts(tab: Tab, pictures: Path) -> None:
    tab.problems.clear()
    found = source(50)
    async with serving(found) as url:
        for name in ("", "model?name=model-0", "denials", "certificates", "configuration"):
            await tab.look(1280, 1400)
            await tab.open(f"{url}/{name}")
            await tab.picture(pictures / f"page-{name.partition('?')[0] or 'mesh'}.png")
        await tab.look(1280, 900, scripts=False)
        await tab.open(url)
        await tab.picture(pictures / "page-without-scripts.png")
        await tab.look(1280, 900)
        assert len(await rows(tab)) == len(found.graph(60).edges)
        assert await tab.run("document.getElementById('picture').hidden")
    assert [problem for problem in tab.problems if "ERR_" not in problem] == []


async def test_a_change_adds_and_removes(tab: Tab) -> None:
    found = source(5)
    whole = found.graph(60)
    found.made[60] = msgspec.structs.replace(whole, edges=whole.edges[1:])
    async with serving(found) as url:
        await tab.open(url)
        await tab.until(DRAWN)
        found.change(whole)
        await tab.until(f"document.querySelectorAll('tr[data-edge]').length === {len(whole.edges)}")
        found.change(msgspec.structs.replace(whole, edges=whole.edges[2:]))
        await tab.until(f"document.querySelectorAll('tr[data-edge]').length === {len(whole.edges) - 2}")


async def test_calls_that_end_and_begin(tab: Tab) -> None:
    """What stands where there are none comes and goes without loading the page again."""
    found = source(5)
    calls = found.graph(60)
    model = next(node.name for node in calls.nodes if node.kind is NodeKind.MODEL and node.traffic.calls)
    ended = [
        msgspec.structs.replace(node, traffic=msgspec.structs.replace(node.traffic, calls=0)) for node in calls.nodes
    ]
    none = "[...document.querySelectorAll('.none')].map((row) => row.hidden)"
    idle = f"[...document.querySelectorAll('#idle a')].filter((each) => each.textContent === '{model}').length"
    async with serving(found) as url:
        await tab.open(url)
        await tab.until(DRAWN)
        assert (await tab.run(none), await tab.run(idle)) == ([True, True], 0)
        found.change(msgspec.structs.replace(calls, nodes=ended, edges=[]))
        await tab.until(f"{idle} === 1")
        assert await tab.run(none) == [False, False]
        assert not await tab.run("document.getElementById('idle').hidden")
        found.change(calls)
        await tab.until(f"{idle} === 0")
        assert await tab.run(none) == [True, True]


async def test_one_long_name_pushes_no_figures_out_of_sight(tab: Tab) -> None:
    found = source(5)
    name = "w" * 255
    long = json.loads(msgspec.json.encode(found.graph(60)).decode().replace("model-0", name))
    async with serving(found) as url:
        await tab.look(1280, 900)
        await tab.open(url)
        await tab.until(DRAWN)
        found.change(msgspec.convert(long, Graph))
        await tab.until(f"document.getElementById('calls').textContent.includes('{name}')")
        wider = "[...document.querySelectorAll('.table')].filter((each) => each.scrollWidth > each.clientWidth).length"
        assert await tab.run(wider) == 0


async def test_names_of_others_run_nothing(tab: Tab) -> None:
    """Through the stream, where the scripts write them; `tests/web/test_pages.py` has the pages as they come."""
    tab.problems.clear()
    found = source(5)
    renamed = json.loads(msgspec.json.encode(found.graph(60)).decode().replace("model-0", MARKER))
    async with serving(found) as url:
        await tab.open(url)
        await tab.until(DRAWN)
        found.change(msgspec.convert(renamed, Graph))
        await tab.until("document.getElementById('calls').textContent.includes('onerror')")
        assert await tab.run("document.images.length") == 0
        assert await tab.run("document.title") == "Mesh · meshproxy"
    assert [problem for problem in tab.problems if "ERR_" not in problem] == []


async def test_the_keyboard_and_names_for_screen_readers(tab: Tab) -> None:
    async with serving(source(5)) as url:
        await tab.look(1280, 900)
        await tab.open(url)
        await tab.until(DRAWN)
        seen = []
        for _ in range(14):
            for kind in ("keyDown", "keyUp"):
                await tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            seen.append(await tab.run("document.activeElement.id || document.activeElement.textContent"))
        assert seen[0] == "Skip to the content"
        assert {"Mesh", "find", "closer", "farther", "fit", "graph"} <= set(seen)
        answer = await tab.call("Accessibility.getFullAXTree")
        nameless = [
            node["role"]["value"]
            for node in answer["nodes"]
            if not node["ignored"]
            and node["role"]["value"] in ("button", "link", "searchbox", "image", "navigation")
            and not node.get("name", {}).get("value")
        ]
        assert nameless == []


async def test_a_person_logs_in_and_out(tab: Tab, pictures: Path) -> None:
    clients = {"page": IssuerClient("")}
    port = free_port()
    async with DevelopmentIssuer.serve(algorithm="ES256", clients=clients, people=PEOPLE) as issuer:
        login = msgspec.structs.replace(LOGIN, issuer=issuer.issuer, address=f"http://localhost:{port}")
        async with serving(source(5), login, port) as url:
            await tab.look(1280, 900)
            await tab.open(f"{url}/model?name=model-0")
            await tab.until(f"location.href.startsWith('{issuer.issuer}')")
            await tab.until("document.links.length > 2")
            await tab.run("[...document.links].find((link) => link.textContent === 'vera').click()")
            await tab.until(f"location.href === '{url}/model?name=model-0'")
            await tab.open(url)
            await tab.until(DRAWN)
            await tab.picture(pictures / "viewer.png")
            assert "spiffe://" not in await tab.run("document.body.textContent")
            assert await tab.run("document.cookie") == ""
            await tab.run("document.querySelector('header form button').click()")
            await tab.until("document.body.textContent.includes('Your session has ended')")
            await tab.open(url)
            await tab.until(f"location.href.startsWith('{issuer.issuer}')")


async def test_no_other_site_may_frame_the_page(tab: Tab) -> None:
    async def frame(request: web.Request) -> web.Response:
        return web.Response(text=f'<iframe src="{url}"></iframe>', content_type="text/html")

    async with serving(source(5)) as url:
        other = web.Application()
        other.router.add_get("/", frame)
        runner = web.AppRunner(other)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        tab.problems.clear()
        await tab.open(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        async with asyncio.timeout(60):
            while not any("frame-ancestors" in problem for problem in tab.problems):
                await asyncio.sleep(0.05)
        await runner.cleanup()


async def test_figures_are_written_alike(tab: Tab) -> None:
    values = [0.0, 0.001, 0.0999, 0.1, 1.25, 12.345, 99.94, 100.4, 1234.6, 1234567.0]
    shares = [None, 0.0, 0.1, 0.12345, 0.99999, 1.0]
    async with serving(source(5)) as url:
        await tab.open(url)
        await tab.until(DRAWN)
        for name, given in (("rate", values), ("seconds", [None, *values]), ("percent", shares)):
            here = [getattr(text, name)(value) for value in given]
            assert await tab.run(f"{json.dumps(given)}.map(text.{name})") == here, name
