"""What the suites of other people run against: a real sidecar process before a development model server, over TLS and
in plain text, with everything permitted; what is looked at here is the protocols, not the policy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
import uvloop

from meshproxy.devtools.child import MODEL_SERVER, Child
from meshproxy.devtools.local_mesh import LocalSidecar, environment, local_sidecar, permissive_documents


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop is enough: what is under test runs in a process of its own. All tests share it (`pytestmark`)."""
    return {"uvloop": uvloop.new_event_loop}


@asynccontextmanager
async def _running(
    model_server: Child, directory: Path, mtls: Literal["strict", "permissive", "disabled"]
) -> AsyncIterator[LocalSidecar]:
    said = model_server.listening
    documents = environment(said["rest"], said["grpc"], mtls=mtls, sidecar={"drainTimeout": "1s"})
    if mtls == "strict":
        documents += permissive_documents()
    async with local_sidecar(directory, documents) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Child]:
    child = await Child.start("the model server", *MODEL_SERVER, directory=tmp_path_factory.mktemp("models"))
    yield child
    await child.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plain(model_server: Child, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
    """A sidecar without TLS."""
    async with _running(model_server, tmp_path_factory.mktemp("plain"), "disabled") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def permissive(model_server: Child, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
    """A sidecar that takes TLS without a client certificate, for tools that cannot show one."""
    async with _running(model_server, tmp_path_factory.mktemp("permissive"), "permissive") as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def strict(model_server: Child, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
    """A sidecar that asks every client for a certificate."""
    async with _running(model_server, tmp_path_factory.mktemp("strict"), "strict") as running:
        yield running
