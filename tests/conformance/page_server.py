"""The page of a mesh that is made up, in this process, for browsers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from meshproxy.web.login_file import LoginSettings
from tests.view.meshes import mesh
from tests.web.meshes import ROLLOUT, FixedSource, application


@asynccontextmanager
async def serve(application: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Its address, until the end of the block. `port`: 0 takes one that is free."""
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serving(source: FixedSource, login: LoginSettings | None = None, port: int = 0) -> AsyncIterator[str]:
    """The address of the page."""
    async with serve(application(source, login)[0], port) as url:
        yield url


def source(nodes: int) -> FixedSource:
    """A mesh of so many callers and models."""
    now = time.time()
    return FixedSource(mesh(nodes, now), now, ROLLOUT)
