"""An API server that is made up, for the tests of whatever calls one; tests/e2e has a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lightkube import AsyncClient

from meshproxy.control.cluster import connect
from tests.control.fake_api_server import FakeApiServer


@pytest.fixture
async def fake() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as fake:
        yield fake


class FakeServer:
    """`following.Server`."""

    namespace = "models"

    def __init__(self, fake: FakeApiServer, folder: Path) -> None:
        self.fake = fake
        self.folder = folder
        self.client = connect(fake.write_kubeconfig(folder, self.namespace))

    async def stop(self) -> None:
        await self.fake.stop()

    async def start(self) -> None:
        await self.fake.start()

    async def forget_history(self) -> None:
        self.fake.compact()

    async def forbid(self) -> AsyncClient:
        self.fake.status = 403
        return connect(self.fake.write_kubeconfig(self.folder, self.namespace))

    async def allow(self) -> None:
        self.fake.status = 200


@pytest.fixture
async def server(fake: FakeApiServer, tmp_path: Path) -> AsyncIterator[FakeServer]:
    server = FakeServer(fake, tmp_path)
    yield server
    await server.client.close()
