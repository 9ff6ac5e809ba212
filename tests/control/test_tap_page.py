"""The page `/tap` of the web port: who may, what it says, and that it ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from meshproxy.audit.lines import Kind, read_line
from meshproxy.control import tap_page as module
from meshproxy.control.audit import ControlAudit
from meshproxy.control.tap_page import tap_page
from meshproxy.control.taps import MOST_TAPS
from meshproxy.control_api import TapLines
from tests.audit.trails import line_of
from tests.control.test_distribution import FakeCall, workload
from tests.control.test_taps import World
from tests.control.test_web_port import serving as serving_web
from tests.processes.waiting import until


@asynccontextmanager
async def serving(world: World, audit: ControlAudit | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    async def page(request: web.Request) -> web.StreamResponse:
        return await tap_page(request, world.service, audit)

    application = web.Application()
    application.add_routes([web.get("/tap", page)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
        yield session
    await runner.cleanup()


def taps(world: World) -> int:
    return len(world.service._taps)


async def test_calls_as_they_end_until_the_client_leaves() -> None:
    world = World(time.monotonic)
    world.connect("b")
    written: list[bytes] = []
    audit = ControlAudit(written.append, lambda: 1.0)
    async with serving(world, audit) as session:
        async with session.get("/tap?sidecar=a/*&model=m&rate=9", headers={"x-meshproxy-user": "eve@pc"}) as answer:
            assert (answer.status, answer.content_type) == (200, "application/jsonl")
            assert json.loads(await answer.content.readline())["tap"]["sidecars"]["asked"] == 1
            (tap,) = world.service._taps.values()
            call = FakeCall(workload())
            assert tap.join(call, workload().spiffe_id)  # type: ignore[arg-type]
            tap.add(call, workload().spiffe_id, TapLines(tap.id, lines=({"model": "m"},)), 0.0)  # type: ignore[arg-type]
            line = json.loads(await answer.content.readline())
            assert (line["model"], line["sidecar"]) == ("m", "spiffe://m.example/ns/a/sa/b")
        await until(lambda: taps(world) == 0)
    assert tap.is_closed
    line_ = read_line(line_of(written[0]))
    assert line_.kind is Kind.TAP_OPENED
    assert line_.message == "by 1 sidecars of spiffe://m.example/ns/a/sa/b; asked for: sidecar=a/*&model=m&rate=9"
    assert b"eve@pc" in written[0]


async def test_it_ends_in_time() -> None:
    world = World(time.monotonic)
    async with serving(world) as session, session.get("/tap?seconds=1") as answer:
        lines = (await answer.read()).splitlines()
    assert [json.loads(line)["tap"]["sidecars"]["matched"] for line in lines] == [0]
    assert taps(world) == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("rate=x", "expected numbers"),
        ("seconds=601", "600 seconds"),
        ("identities=shown", "expected hidden"),
        ("modle=m", "modle"),
    ],
)
async def test_what_cannot_be_read(query: str, message: str) -> None:
    async with serving(World(time.monotonic)) as session, session.get(f"/tap?{query}") as answer:
        assert answer.status == 400
        assert message in await answer.text()


async def test_one_too_many() -> None:
    world = World(time.monotonic)
    for _ in range(MOST_TAPS):
        world.service.open([], [])
    async with serving(world) as session, session.get("/tap") as answer:
        assert answer.status == 429


async def test_it_ends_when_the_control_plane_stops() -> None:
    world = World(time.monotonic)
    async with serving(world) as session, session.get("/tap") as answer:
        await answer.content.readline()
        world.service.stop()
        await asyncio.wait_for(answer.read(), 60)
    assert taps(world) == 0


async def test_a_client_that_reads_nothing_is_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is cut: to end the answer in order would wait for it, too."""

    async def stalls(*arguments: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(module, "_show", stalls)
    world = World(time.monotonic)
    async with serving(world) as session:
        async with session.get("/tap") as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        await until(lambda: taps(world) == 0)


async def test_without_a_trail_that_can_be_written_there_is_none() -> None:
    world = World(time.monotonic)
    audit = ControlAudit(lambda body: None, lambda: 1.0, lambda: "the disk is full")
    async with serving(world, audit) as session, session.get("/tap") as answer:
        assert answer.status == 503
        assert "the disk is full" in await answer.text()
    assert taps(world) == 0


async def test_only_commands_on_this_host_may() -> None:
    world = World(time.monotonic)
    async with serving_web(world.metrics) as session:
        async with session.get("/tap") as answer:
            assert answer.status == 403
        for more in ({"host": "attacker.example"}, {"x-forwarded-for": "10.0.0.1"}):
            async with session.get("/tap", headers={"x-meshproxy-command": "1", **more}) as answer:
                assert answer.status == 403
        async with session.get("/tap?seconds=1", headers={"x-meshproxy-command": "1"}) as answer:
            assert answer.status == 200
