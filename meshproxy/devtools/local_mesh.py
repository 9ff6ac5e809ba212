"""A whole mesh on this machine: development CA, token issuer, three replicas of a model server with their sidecars, and
the sidecar of an application that calls them, as processes on loopback.

Everything lies in one folder: `certificates/`, `documents/` (those of `deploy/demo`, with addresses filled in) and
`access.log` of the first replica, the same with a number for the others, and `documents-application/`. Ports are
whichever are free.
"""

from __future__ import annotations

import asyncio
import signal
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import ISSUER, MODEL_SERVER, SIDECAR, Child
from meshproxy.devtools.clients import SERVER_NAME, Certificate

TRUST_DOMAIN = "demo.example"
_SECRET = "for-development-only"
SERVER_ID = f"spiffe://{TRUST_DOMAIN}/ns/serving/sa/tensorflow-serving"
APPLICATION = ("shop", "checkout")
"""Namespace and service account of the application whose calls are balanced over the replicas."""
REPLICAS = 3


def documents_directory() -> Path:
    """Where the documents of the demo are: beside this file in a wheel, in `deploy/demo` in a checkout."""
    packaged = Path(__file__).with_name("documents")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "deploy" / "demo"


@dataclass(frozen=True)
class Replica:
    """A model server and the sidecar before it."""

    model_server: Child
    sidecar: Child

    @property
    def rest(self) -> str:
        """The model server's own REST port, past the sidecar."""
        return str(self.model_server.listening["rest"])

    async def kill(self) -> None:
        """Ends both as a machine does that loses its power."""
        for child in (self.sidecar, self.model_server):
            child.signal(signal.SIGKILL)
            await child.wait()


@dataclass(frozen=True)
class LocalMesh:
    """The running mesh. What is said of one sidecar and one model server is said of the first replica."""

    directory: Path
    ca: DevelopmentCA
    issuer: Child
    replicas: tuple[Replica, ...]
    application: Child
    """The sidecar of the application."""

    @property
    def model_server(self) -> Child:
        return self.replicas[0].model_server

    @property
    def sidecar(self) -> Child:
        return self.replicas[0].sidecar

    @property
    def outbound(self) -> str:
        """Where the application connects, HOST:PORT."""
        return str(self.application.listening["outbound"])

    @property
    def outbound_admin(self) -> str:
        return str(self.application.listening["admin"])

    @property
    def inbound(self) -> str:
        """Where callers connect, HOST:PORT."""
        return str(self.sidecar.listening["inbound"])

    @property
    def admin(self) -> str:
        return str(self.sidecar.listening["admin"])

    @property
    def rest(self) -> str:
        """The model server's own REST port, past the sidecar."""
        return self.replicas[0].rest

    @property
    def grpc(self) -> str:
        return str(self.model_server.listening["grpc"])

    @property
    def access_log(self) -> Path:
        return self.directory / "access.log"

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

    def stranger(self) -> Certificate:
        """Trusts the mesh and has no certificate."""
        return Certificate(self.directory / "certificates" / "ca.pem")

    def workload(self, namespace: str, account: str) -> Certificate:
        """A workload's certificate, newly issued."""
        return _issue(self.ca, self.directory / "certificates", namespace, account)


def _issue(ca: DevelopmentCA, directory: Path, namespace: str, account: str) -> Certificate:
    issued = ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
    return Certificate(directory / "ca.pem", *issued.write(directory, f"{namespace}-{account}"))


@asynccontextmanager
async def local_mesh(
    directory: Path, models: Sequence[str], clients: Mapping[str, Sequence[str]]
) -> AsyncIterator[LocalMesh]:
    """Starts everything in an empty folder; stops it at the end. Raises ChildFailed if a part does not start.

    Args:
        models: `NAME=VERSIONS`, as the model server is told.
        clients: who may ask the issuer for tokens, and the groups that they name.
    """
    certificates = directory / "certificates"
    certificates.mkdir(mode=0o700)
    ca = DevelopmentCA.create(TRUST_DOMAIN)
    ca.write(certificates)
    ca.issue(SERVER_ID, dns=[SERVER_NAME]).write(certificates, "server")
    _issue(ca, certificates, *APPLICATION)
    async with _children(directory) as start:
        known = [f"--client={client}:{_SECRET}:{','.join(groups)}" for client, groups in clients.items()]
        served = [f"--model={model}" for model in models]
        issuer, *model_servers = await _all(
            start("the token issuer", *ISSUER, *known),
            *(start("a model server", *MODEL_SERVER, *served) for _ in range(REPLICAS)),
        )
        documents = [
            write_documents(
                directory / f"documents{suffix}",
                ISSUER=str(issuer.listening["issuer"]),
                KEYS=str(issuer.listening["keys"]),
                REST=str(model_server.listening["rest"]),
                GRPC=str(model_server.listening["grpc"]),
                CERTIFICATES=str(certificates),
                ACCESS_LOG=str(directory / f"access{suffix}.log"),
            )
            for suffix, model_server in zip(("", "-2", "-3"), model_servers, strict=True)
        ]
        sidecars = await _all(*(start("a replica's sidecar", *SIDECAR, str(path)) for path in documents))
        addresses = {f"REPLICA_{number}": str(each.listening["inbound"]) for number, each in enumerate(sidecars, 1)}
        path = write_documents(
            directory / "documents-application",
            documents_directory() / "application",
            CERTIFICATES=str(certificates),
            **addresses,
        )
        application = await start("the application's sidecar", *SIDECAR, str(path))
        replicas = tuple(map(Replica, model_servers, sidecars))
        yield LocalMesh(directory, ca, issuer, replicas, application)


@asynccontextmanager
async def _children(directory: Path) -> AsyncIterator[Callable[..., Awaitable[Child]]]:
    """How to start children in a folder, which are all stopped at the end."""
    started: list[Child] = []

    async def start(name: str, *arguments: str) -> Child:
        child = await Child.start(name, *arguments, directory=directory)
        started.append(child)
        return child

    try:
        yield start
    finally:
        await asyncio.gather(*(child.stop() for child in started))


async def _all(*starting: Awaitable[Child]) -> list[Child]:
    """Waits for all of them, however one ends, so that none is forgotten; raises what the first of those raised."""
    ended = await asyncio.gather(*starting, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if isinstance(each, Child)]


def write_documents(directory: Path, source: Path | None = None, **values: str) -> Path:
    """Copies the documents of the demo, or of another folder, into a new one, with values in place of their names."""
    directory.mkdir()
    for path in sorted((source or documents_directory()).glob("*.yaml")):
        text = string.Template(path.read_text()).substitute(values)
        (directory / path.name).write_text(text)
    return directory
