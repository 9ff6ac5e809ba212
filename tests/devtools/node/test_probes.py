from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from aiohttp import web

from meshproxy.devtools.child import free_port
from meshproxy.devtools.node.probes import hook, probe
from meshproxy.devtools.node.spec import Container, Hook, Port, Probe

HOST = "127.0.0.1"


class Command:
    """What commands in the container come to."""

    def __init__(self, code: int | None = 0) -> None:
        self.code = code
        self.ran: list[tuple[list[str], float | None]] = []

    async def __call__(self, command: Sequence[str], timeout: float | None) -> int | None:
        self.ran.append((list(command), timeout))
        return self.code


@pytest.fixture
async def container() -> AsyncIterator[Container]:
    """It serves `/ready`, `/moved`, `/slow` and 503 for all others."""
    asked = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/slow":
            await asked.wait()
        statuses = {"/ready": 200 if request.headers.get("x-probe") != "no" else 500, "/moved": 302}
        return web.Response(status=statuses.get(request.path, 503), headers={"location": "/"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    yield Container("a", ports=(Port(runner.addresses[0][1], "http"), Port(free_port(), "nothing")))
    asked.set()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"port": "http", "path": "/ready"}, True),
        ({"port": "http", "path": "/ready", "httpHeaders": [{"name": "x-probe", "value": "no"}]}, False),
        ({"port": "http", "path": "/moved"}, True),
        ({"port": "http"}, False),
        ({"port": "http", "path": "/slow"}, False),
        ({"port": "nothing", "path": "/ready"}, False),
    ],
)
async def test_http(container: Container, what: dict[str, object], expected: bool) -> None:
    assert await probe(Probe(http_get=what, timeout_seconds=0.5), container, HOST, Command()) is expected


@pytest.mark.parametrize(("port", "expected"), [("http", True), ("nothing", False)])
async def test_tcp(container: Container, port: str, expected: bool) -> None:
    assert await probe(Probe(tcp_socket={"port": port}), container, HOST, Command()) is expected


@pytest.mark.parametrize(("code", "expected"), [(0, True), (1, False), (None, False)])
async def test_exec(code: int | None, expected: bool) -> None:
    command = Command(code)
    assert await probe(Probe(exec={"command": ["test"]}), Container("a"), HOST, command) is expected
    assert command.ran == [(["test"], 1.0)]


async def test_hooks(container: Container) -> None:
    command = Command(1)
    await hook(Hook(exec={"command": ["drain"]}), container, HOST, command)
    assert command.ran == [(["drain"], None)]
    await hook(Hook(http_get={"port": "nothing"}), container, HOST, command)
    await asyncio.wait_for(hook(Hook(sleep={"seconds": 0}), container, HOST, command), 1)
