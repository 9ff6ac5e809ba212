"""The mesh of the demo: a token issuer, three replicas of a model server, and the sidecar of an application.

Everything is in one folder: the certificates, `documents/` (those of `deploy/demo` with addresses filled in) and
`access.log` of the first replica, the same with a number for the others, and `documents-application/`.
"""

from __future__ import annotations

import asyncio
import string
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp

from meshproxy.devtools.child import Child
from meshproxy.devtools.local_mesh import LocalMesh, LocalSidecar, Replica, local_mesh

TRUST_DOMAIN = "demo.example"
SERVER = ("serving", "tensorflow-serving")
"""Namespace and service account of the replicas."""
APPLICATION = ("shop", "checkout")
"""Namespace and service account of the application whose calls are balanced over the replicas."""
REPLICAS = 3
_SECRET = "for-development-only"
_T = TypeVar("_T")


def documents_directory() -> Path:
    """Where the documents of the demo are: beside this file in a wheel, in `deploy/demo` in a checkout."""
    packaged = Path(__file__).with_name("documents")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "deploy" / "demo"


@dataclass(frozen=True)
class DemoMesh:
    """The running processes. `sidecar`, `rest`, `grpc` and `access_log` are those of the first replica."""

    local: LocalMesh
    issuer: Child
    replicas: tuple[Replica, ...]
    sidecar: LocalSidecar
    application: LocalSidecar

    @property
    def rest(self) -> str:
        """The REST port of the model server itself, HOST:PORT."""
        return self.replicas[0].rest

    @property
    def grpc(self) -> str:
        """The gRPC port of the model server itself, HOST:PORT."""
        return self.replicas[0].grpc

    @property
    def access_log(self) -> Path:
        return self.local.directory / "access.log"

    async def token(self, client: str, audience: str | None = None) -> str:
        """A new token for one of the issuer's clients (client credentials, RFC 6749 section 4.4)."""
        form = {"grant_type": "client_credentials", "client_id": client, "client_secret": _SECRET}
        if audience is not None:
            form["audience"] = audience
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.issuer.listening['issuer']}/token", data=form) as response,
        ):
            response.raise_for_status()
            return str((await response.json())["access_token"])


@asynccontextmanager
async def demo_mesh(
    directory: Path, models: Sequence[str], clients: Mapping[str, Sequence[str]]
) -> AsyncIterator[DemoMesh]:
    """Starts everything in a folder and stops it at the end. Raises ChildFailed if a process does not start.

    Args:
        models: `NAME=VERSIONS`, as the model server takes them.
        clients: the clients of the token issuer, and the groups in their tokens.
    """
    async with local_mesh(directory, TRUST_DOMAIN, server=SERVER, client=APPLICATION) as mesh:
        known = [f"--client={client}:{_SECRET}:{','.join(groups)}" for client, groups in clients.items()]
        served = [f"--model={model}" for model in models]
        issuer, *model_servers = await all_started(
            mesh.issuer(*known), *(mesh.model_server(*served) for _ in range(REPLICAS))
        )
        folders = [
            _replica_documents(directory, number, issuer, model_server)
            for number, model_server in enumerate(model_servers, 1)
        ]
        sidecars = await all_started(*(mesh.sidecar("a replica's sidecar", folder) for folder in folders))
        folder = write_documents(
            directory / "documents-application",
            documents_directory() / "application",
            CERTIFICATES=str(directory),
            **{f"REPLICA_{number}": each.inbound for number, each in enumerate(sidecars, 1)},
        )
        application = await mesh.sidecar("the application's sidecar", folder)
        replicas = tuple(map(Replica, model_servers, sidecars))
        yield DemoMesh(mesh, issuer, replicas, sidecars[0], application)


def _replica_documents(directory: Path, number: int, issuer: Child, model_server: Child) -> Path:
    suffix = "" if number == 1 else f"-{number}"
    return write_documents(
        directory / f"documents{suffix}",
        ISSUER=str(issuer.listening["issuer"]),
        KEYS=str(issuer.listening["keys"]),
        REST=str(model_server.listening["rest"]),
        GRPC=str(model_server.listening["grpc"]),
        CERTIFICATES=str(directory),
        ACCESS_LOG=str(directory / f"access{suffix}.log"),
    )


async def all_started(*starting: Awaitable[_T]) -> list[_T]:
    """Waits until each has started or failed, so that all that started are stopped later; raises the first failure."""
    ended = await asyncio.gather(*starting, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if not isinstance(each, BaseException)]


def write_documents(directory: Path, source: Path | None = None, **values: str) -> Path:
    """Copies the documents of the demo, or of another folder, into a new one, and replaces each ${NAME} in them."""
    directory.mkdir()
    for path in sorted((source or documents_directory()).glob("*.yaml")):
        text = string.Template(path.read_text()).substitute(values)
        (directory / path.name).write_text(text)
    return directory
