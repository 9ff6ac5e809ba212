"""What the suites of other people run against: a real sidecar process before a development model server, over TLS and
in plain text, with everything permitted; what is looked at here is the protocols, not the policy."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
import uvloop

from meshproxy.devtools.child import MODEL_SERVER, Child, free_port
from meshproxy.devtools.local_mesh import LocalSidecar, environment, local_sidecar, permissive_documents
from tests.conformance import real_issuers
from tests.conformance.chromium import Tab, chromium
from tests.conformance.real_issuers import KEYCLOAK, KEYS, OIDC_PROVIDER, Keycloak, OidcProvider


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """One loop is enough: what is under test runs in a process of its own. All tests share it (`pytestmark`)."""
    return {"uvloop": uvloop.new_event_loop}


@asynccontextmanager
async def _running(
    model_server: Child, directory: Path, mtls: Literal["strict", "permissive", "disabled"], lane: bool = True
) -> AsyncIterator[LocalSidecar]:
    said = model_server.listening
    sidecar = {"drainTimeout": "1s", "expressLane": lane}
    documents = environment(said["rest"], said["grpc"], mtls=mtls, sidecar=sidecar)
    if mtls == "strict":
        documents += permissive_documents()
    async with local_sidecar(directory, documents) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def model_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Child]:
    child = await Child.start("the model server", *MODEL_SERVER, directory=tmp_path_factory.mktemp("models"))
    yield child
    await child.stop()


LANES = pytest.mark.parametrize("lane", [True, False], ids=["express lane", "stations"], indirect=True, scope="session")
"""For suites that run with the express lane open, and with every request on the ordinary way."""


@pytest.fixture(scope="session")
def lane(request: pytest.FixtureRequest) -> bool:
    """Whether the sidecars have the express lane."""
    return bool(getattr(request, "param", True))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plain(
    model_server: Child, tmp_path_factory: pytest.TempPathFactory, lane: bool
) -> AsyncIterator[LocalSidecar]:
    """A sidecar without TLS."""
    async with _running(model_server, tmp_path_factory.mktemp("plain"), "disabled", lane) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def permissive(
    model_server: Child, tmp_path_factory: pytest.TempPathFactory, lane: bool
) -> AsyncIterator[LocalSidecar]:
    """A sidecar that takes TLS without a client certificate, for tools that cannot show one."""
    async with _running(model_server, tmp_path_factory.mktemp("permissive"), "permissive", lane) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def strict(model_server: Child, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
    """A sidecar that asks every client for a certificate."""
    async with _running(model_server, tmp_path_factory.mktemp("strict"), "strict") as running:
        yield running


@pytest.fixture(scope="session")
def page_address() -> str:
    """Where tests serve the page of the mesh that is a client of the issuers; they are told before."""
    return f"http://localhost:{free_port()}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def keycloak() -> AsyncIterator[Keycloak]:
    """Without a realm of ours."""
    if KEYCLOAK is None:
        pytest.skip("Keycloak is started from KEYCLOAK_HOME, which `make conformance` fills")
    async with real_issuers.keycloak() as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def provider(page_address: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    if OIDC_PROVIDER is None:
        pytest.skip("oidc-provider is started from OIDC_PROVIDER_HOME, which `make conformance` fills")
    async with real_issuers.oidc_provider(tmp_path_factory.mktemp("provider"), KEYS, page_address) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tab]:
    if shutil.which("chromium") is None:
        pytest.skip("there is no Chromium: on Debian and Ubuntu, apt-get install chromium")
    async with chromium(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """PAGE_PICTURES=FOLDER keeps them."""
    folder = Path(os.environ.get("PAGE_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
