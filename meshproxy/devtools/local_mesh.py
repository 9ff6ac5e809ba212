"""A whole mesh on this machine: development CA, token issuer, model server and sidecar, as processes on loopback.

Everything lies in one folder: `certificates/`, `documents/` (the policy of `deploy/demo`, with addresses filled in) and
`access.log`. Ports are whichever are free.
"""

from __future__ import annotations

import string
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import ISSUER, MODEL_SERVER, SIDECAR, Child
from meshproxy.devtools.clients import SERVER_NAME, Certificate

TRUST_DOMAIN = "demo.example"
_SECRET = "for-development-only"
SERVER_ID = f"spiffe://{TRUST_DOMAIN}/ns/serving/sa/tensorflow-serving"


def documents_directory() -> Path:
    """Where the documents of the demo are: beside this file in a wheel, in `deploy/demo` in a checkout."""
    packaged = Path(__file__).with_name("documents")
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "deploy" / "demo"


@dataclass(frozen=True)
class LocalMesh:
    """The running mesh."""

    directory: Path
    ca: DevelopmentCA
    issuer: Child
    model_server: Child
    sidecar: Child

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
        return str(self.model_server.listening["rest"])

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
        issued = self.ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}")
        directory = self.directory / "certificates"
        certificate, key = issued.write(directory, f"{namespace}-{account}")
        return Certificate(directory / "ca.pem", certificate, key)


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
    async with AsyncExitStack() as stack:
        known = [f"--client={client}:{_SECRET}:{','.join(groups)}" for client, groups in clients.items()]
        issuer = await Child.start("the token issuer", *ISSUER, *known, directory=directory)
        stack.push_async_callback(issuer.stop)
        served = [f"--model={model}" for model in models]
        model_server = await Child.start("the model server", *MODEL_SERVER, *served, directory=directory)
        stack.push_async_callback(model_server.stop)
        documents = write_documents(
            directory / "documents",
            ISSUER=str(issuer.listening["issuer"]),
            KEYS=str(issuer.listening["keys"]),
            REST=str(model_server.listening["rest"]),
            GRPC=str(model_server.listening["grpc"]),
            CERTIFICATES=str(certificates),
        )
        sidecar = await Child.start("the sidecar", *SIDECAR, str(documents), directory=directory)
        stack.push_async_callback(sidecar.stop)
        yield LocalMesh(directory, ca, issuer, model_server, sidecar)


def write_documents(directory: Path, **values: str) -> Path:
    """Copies the documents of the demo into a new folder, with the values in place of their names."""
    directory.mkdir()
    for source in sorted(documents_directory().glob("*.yaml")):
        text = string.Template(source.read_text()).substitute(values)
        (directory / source.name).write_text(text)
    return directory
