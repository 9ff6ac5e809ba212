"""A mesh on this machine: one trust domain in one folder, and sidecars, model servers and their documents as processes.

The demo, the tests and the drills all start their processes here. Ports are chosen by the kernel unless they are given.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import aiohttp
import yaml

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import ISSUER, MODEL_SERVER, SIDECAR, Child, ChildFailed
from meshproxy.devtools.clients import SERVER_NAME, Certificate
from meshproxy.devtools.model_rest import METRICS_PATH

TRUST_DOMAIN = "local.example"
SERVER = ("tests", "server")
"""Namespace and service account of the sidecars beside model servers, unless a mesh is given another."""
CLIENT = ("tests", "client")
"""Namespace and service account of their caller."""
EVERY_VERB = (
    *("predict", "classify", "regress", "multi-inference", "metadata", "status"),
    *("reload", "metrics", "profile", "reflect", "unlisted"),
)
COUNTED = ":tensorflow:serving:request_count{"
RELOAD_SECONDS = 60.0
"""How long a sidecar may take to accept or refuse new documents, on a machine of which it has a twentieth."""

CONNECT_TIMEOUT = "10s"
"""Of a sidecar to another one, TLS handshake and all: a busy machine may let one of them wait for longer than the
default of a second, and a call that is tried again for that is another call than a test has in mind."""

Document = dict[str, Any]


def document(kind: str, spec: Document, name: str = "local") -> Document:
    """A meshproxy document around a spec."""
    return {"apiVersion": "meshproxy.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def replace_documents(path: Path, documents: Iterable[Document]) -> None:
    """Write a file of documents, at once: who watches it must not read half of them."""
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump_all(documents))
    new.replace(path)


def environment(
    rest: str | None = None,
    grpc: str | None = None,
    *,
    mtls: Literal["strict", "permissive", "disabled"] = "strict",
    mesh: Document | None = None,
    sidecar: Document | None = None,
) -> list[Document]:
    """MeshConfig, ModelServer and Sidecar for a model server at these addresses; `mesh` and `sidecar` add to theirs."""
    endpoint = {"rest": rest, "grpc": grpc}
    own: Document = {
        "inbound": {"listen": "127.0.0.1:0", "server": "local"},
        "admin": {"listen": "127.0.0.1:0"},
        "accessLog": "off",
    }
    if mtls != "disabled":
        own["identity"] = identity_of("server")
    return [
        document("MeshConfig", {"trustDomain": TRUST_DOMAIN, "mtls": mtls, **(mesh or {})}),
        document("ModelServer", {"endpoints": [{key: value for key, value in endpoint.items() if value}]}),
        document("Sidecar", {**own, **(sidecar or {})}),
    ]


def identity_of(name: str) -> Document:
    """The `identity` of a Sidecar whose certificate is the file `NAME.pem` of the mesh."""
    return {"files": {"certificate": f"{name}.pem", "key": f"{name}-key.pem", "trustBundle": "ca.pem"}}


def permissive_documents() -> list[Document]:
    """A role over every model and verb, and a binding that gives it to the workload `CLIENT`."""
    return [
        document("ModelRole", {"rules": [{"models": ["*"], "verbs": list(EVERY_VERB)}]}, "everything"),
        document("ModelRoleBinding", {"role": "everything", "subjects": [{"workload": _workload(CLIENT)}]}, "client"),
    ]


def _workload(account: tuple[str, str]) -> Document:
    return {"namespace": account[0], "serviceAccount": account[1]}


@dataclass(frozen=True)
class LocalSidecar:
    """A sidecar of a mesh, as a process.

    Attributes:
        path: the file, or folder, of its documents.
        client: the certificate of the workload that may call it.
    """

    mesh: LocalMesh
    child: Child
    path: Path

    @property
    def documents(self) -> list[Document]:
        """What its file holds now."""
        return list(yaml.safe_load_all(self.path.read_text()))

    @property
    def client(self) -> Certificate:
        return self.mesh.client

    @property
    def inbound(self) -> str:
        """Where remote callers connect, HOST:PORT."""
        return str(self.child.listening["inbound"])

    @property
    def port(self) -> int:
        """The port of `inbound`."""
        return int(self.inbound.rpartition(":")[2])

    @property
    def outbound(self) -> str:
        """Where its application connects, HOST:PORT."""
        return str(self.child.listening["outbound"])

    @property
    def admin(self) -> str:
        """Where health and metrics are, HOST:PORT."""
        return str(self.child.listening["admin"])

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        lines = [json.loads(line) for line in self.child.output if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    async def metrics(self) -> dict[str, float]:
        """Every series of its metrics page."""
        return await read_series(self.admin, "/metrics")

    async def total(self, name: str, *labels: str) -> float:
        """The sum of the series of a metric that have these labels, each as `name="value"`."""
        page = await self.metrics()
        return sum(
            value
            for series, value in page.items()
            if series.partition("{")[0] == name and all(label in series for label in labels)
        )

    async def reload(self, documents: Sequence[Document]) -> None:
        """Replaces its documents, except `Sidecar` and `MeshConfig`, and returns when the new ones are in force.

        Raises:
            ChildFailed: it refuses them.
            TimeoutError: it does neither within `RELOAD_SECONDS`.
        """
        before = await self.reloads("ok"), await self.reloads("failed")
        own = [each for each in self.documents if each["kind"] in ("MeshConfig", "Sidecar")]
        replace_documents(self.path, [*own, *documents])
        self.child.signal(signal.SIGHUP)
        async with asyncio.timeout(RELOAD_SECONDS):
            while await self.reloads("ok") <= before[0]:
                if await self.reloads("failed") > before[1]:
                    raise ChildFailed("\n".join(["the sidecar refused the documents:", *self.child.last_output]))
                await asyncio.sleep(0.01)

    async def reloads(self, result: str) -> float:
        """How many reloads came to this: `ok` or `failed`."""
        return await self.total("meshproxy_config_reloads_total", f'result="{result}"')


@dataclass(frozen=True)
class Replica:
    """A model server, and the sidecar before it if it has one."""

    model_server: Child
    sidecar: LocalSidecar | None

    @property
    def rest(self) -> str:
        """The REST port of the model server itself, HOST:PORT."""
        return str(self.model_server.listening["rest"])

    @property
    def grpc(self) -> str:
        """The gRPC port of the model server itself, HOST:PORT."""
        return str(self.model_server.listening["grpc"])

    @property
    def endpoint(self) -> Document:
        """How a ModelServer names it."""
        if self.sidecar is not None:
            return {"sidecar": self.sidecar.inbound}
        return {"rest": self.rest, "grpc": self.grpc}

    @property
    def children(self) -> list[Child]:
        return [self.model_server] if self.sidecar is None else [self.sidecar.child, self.model_server]

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to both processes."""
        for child in self.children:
            child.signal(number)

    async def kill(self) -> None:
        """Ends both processes with SIGKILL, as a crash of their machine would."""
        await asyncio.gather(*(child.kill() for child in self.children))

    async def request_count(self, status: str | None = None, model: str | None = None) -> int:
        """How many calls its model server has answered: all, or those with this gRPC status or for this model."""
        wanted = [f'{name}="{value}"' for name, value in (("status", status), ("model_name", model)) if value]
        page = await read_series(self.rest, METRICS_PATH)
        return int(
            sum(
                value
                for series, value in page.items()
                if series.startswith(COUNTED) and all(label in series for label in wanted)
            )
        )


class LocalMesh:
    """A development CA in a folder, and the processes that were started with its certificates. See `local_mesh`.

    Attributes:
        sidecar_defaults: of the Sidecars of all meshes, where they say nothing else.
        client: the certificate of the caller, in `client.pem` and `client-key.pem`. The sidecars of replicas have
            `server.pem` and `server-key.pem`, and the trust bundle is `ca.pem`.
    """

    sidecar_defaults: ClassVar[Document] = {}

    def __init__(
        self,
        directory: Path,
        trust_domain: str = TRUST_DOMAIN,
        *,
        server: tuple[str, str] = SERVER,
        client: tuple[str, str] = CLIENT,
    ) -> None:
        self.directory = directory
        self.ca = DevelopmentCA.create(trust_domain)
        self._children: list[Child] = []
        self._sidecars = 0
        self._bundle = self.ca.write(directory)
        self.certificate(*server, name="server", dns=[SERVER_NAME])
        self.client = self.certificate(*client, name="client")

    def spiffe_id(self, namespace: str, account: str) -> str:
        """The identity of a workload."""
        return f"spiffe://{self.ca.trust_domain}/ns/{namespace}/sa/{account}"

    def certificate(self, namespace: str, account: str, *, name: str = "", dns: Sequence[str] = ()) -> Certificate:
        """Issues a workload's certificate, in files called `name`, or else NAMESPACE-ACCOUNT."""
        issued = self.ca.issue(self.spiffe_id(namespace, account), dns=dns)
        return Certificate(self._bundle, *issued.write(self.directory, name or f"{namespace}-{account}"))

    def no_certificate(self) -> Certificate:
        """For a client that trusts the mesh and shows no certificate."""
        return Certificate(self._bundle)

    async def start(self, name: str, *command: str) -> Child:
        """Starts a process in the folder; it is stopped with the mesh. Raises ChildFailed."""
        child = await Child.start(name, *command, directory=self.directory)
        self._children.append(child)
        return child

    async def stop(self) -> None:
        """Stops all processes at once, because each sidecar drains for half a second or more."""
        await asyncio.gather(*(child.stop() for child in self._children))

    def check_ended_well(self) -> None:
        """Raises ChildFailed if a process ended with anything but 0 and was not ended by `Child.kill`."""
        for child in self._children:
            child.check_ended_well()

    async def issuer(self, *arguments: str) -> Child:
        """Starts a token issuer."""
        return await self.start("the token issuer", *ISSUER, *arguments)

    async def model_server(self, *arguments: str, prefix: Sequence[str] = ()) -> Child:
        """Starts a model server. `prefix` is a command that runs it, such as one that enters a network namespace."""
        return await self.start("a model server", *prefix, *MODEL_SERVER, *arguments)

    async def sidecar(
        self, name: str, documents: Sequence[Document] | Path, prefix: Sequence[str] = ()
    ) -> LocalSidecar:
        """Starts a sidecar with these documents, or with those in a file or folder. `name` is for messages."""
        if isinstance(documents, Path):
            path = documents
        else:
            self._sidecars += 1
            path = self.directory / f"sidecar-{self._sidecars}.yaml"
            path.write_text(yaml.safe_dump_all(map(self._with_defaults, documents)))
        return LocalSidecar(self, await self.start(name, *prefix, *SIDECAR, str(path)), path)

    def _with_defaults(self, document: Document) -> Document:
        if document["kind"] != "Sidecar":
            return document
        return {**document, "spec": {**self.sidecar_defaults, **document["spec"]}}

    async def replica(
        self,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        server: Document | None = None,
        mesh: Document | None = None,
        sidecar: Document | None = None,
        documents: Sequence[Document] = (),
        prefix: Sequence[str] = (),
    ) -> Replica:
        """Starts a model server and a sidecar before it that permits everything to the workload `CLIENT`.

        Args:
            arguments: of the model server.
            listen: where the sidecar listens.
            server: more for its ModelServer, such as `health`.
            mesh: more for its MeshConfig.
            sidecar: more for its Sidecar.
            documents: more documents for it, such as routes.
            prefix: a command that runs both.
        """
        model_server = await self.model_server(*arguments, prefix=prefix)
        own = environment(
            str(model_server.listening["rest"]),
            str(model_server.listening["grpc"]),
            mesh=mesh,
            sidecar={"inbound": {"listen": listen, "server": "local"}, **(sidecar or {})},
        )
        own[1]["spec"].update(server or {})
        everything = [*own, *permissive_documents(), *documents]
        return Replica(model_server, await self.sidecar("a replica's sidecar", everything, prefix))

    async def bare(self, *arguments: str) -> Replica:
        """Starts a model server without a sidecar, to be called in plain text."""
        return Replica(await self.model_server(*arguments), None)

    async def bare_each(self, *arguments: Sequence[str]) -> list[Replica]:
        """Starts model servers without sidecars, one for each set of arguments."""
        return list(await asyncio.gather(*(self.bare(*each) for each in arguments)))

    async def application(
        self,
        documents: Sequence[Document],
        *,
        outbound: Document | None = None,
        mesh: Document | None = None,
        sidecar: Document | None = None,
    ) -> LocalSidecar:
        """Starts the sidecar of an application that calls model servers.

        Args:
            documents: its servers and routes.
            outbound: more for `outbound` of its Sidecar.
            mesh: more for its MeshConfig.
            sidecar: more for its Sidecar.
        """
        spec: Document = {
            "identity": identity_of("client"),
            "outbound": {"listen": "127.0.0.1:0", **(outbound or {})},
            "admin": {"listen": "127.0.0.1:0"},
            "accessLog": "off",
            **(sidecar or {}),
        }
        own = [document("MeshConfig", {"trustDomain": TRUST_DOMAIN, **(mesh or {})}), document("Sidecar", spec)]
        return await self.sidecar("the application's sidecar", [*own, *documents])


def server_of(replicas: Sequence[Replica], name: str = "models", **more: object) -> Document:
    """A ModelServer that has these replicas as its endpoints. `more`: for its spec."""
    endpoints = [replica.endpoint for replica in replicas]
    spec: Document = {"endpoints": endpoints, "connectTimeout": CONNECT_TIMEOUT, **more}
    if any(replica.sidecar is not None for replica in replicas):
        spec["workload"] = _workload(SERVER)
    return document("ModelServer", spec, name)


@asynccontextmanager
async def local_mesh(
    directory: Path,
    trust_domain: str = TRUST_DOMAIN,
    *,
    server: tuple[str, str] = SERVER,
    client: tuple[str, str] = CLIENT,
) -> AsyncIterator[LocalMesh]:
    """A mesh in a folder, which is made if it does not exist. Its processes are stopped at the end.

    Args:
        server: namespace and service account of the sidecars beside model servers.
        client: those of their caller.

    Raises:
        ChildFailed: a process did not start, or ended with anything but 0 and was not killed by `Child.kill`.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    mesh = LocalMesh(directory, trust_domain, server=server, client=client)
    try:
        yield mesh
    finally:
        await mesh.stop()
    mesh.check_ended_well()


@asynccontextmanager
async def local_sidecar(directory: Path, documents: Sequence[Document]) -> AsyncIterator[LocalSidecar]:
    """A mesh of one sidecar. Raises as `local_mesh` does."""
    async with local_mesh(directory) as mesh:
        yield await mesh.sidecar("the sidecar", documents)


@asynccontextmanager
async def local_replica(
    directory: Path, *arguments: str, mesh: Document | None = None, sidecar: Document | None = None
) -> AsyncIterator[LocalSidecar]:
    """The sidecar of a mesh of one replica; see `LocalMesh.replica`. Raises as `local_mesh` does."""
    async with local_mesh(directory) as standing:
        replica = await standing.replica(*arguments, mesh=mesh, sidecar=sidecar)
        assert replica.sidecar is not None
        yield replica.sidecar


async def read_series(address: str, path: str) -> dict[str, float]:
    """A page of metrics in the Prometheus text format, by series."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        response.raise_for_status()
        lines = (await response.text()).splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            found[series] = float(value)
    return found
