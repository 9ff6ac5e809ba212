"""Replicas of a model server with their sidecars, and the sidecar of an application before them: one trust domain in
one folder, each part a process of its own on loopback."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.child import MODEL_SERVER, SIDECAR, Child, ChildFailed
from meshproxy.devtools.clients import SERVER_NAME
from meshproxy.devtools.local_sidecar import (
    TRUST_DOMAIN,
    Document,
    document,
    environment,
    everything_for_the_client,
)
from meshproxy.devtools.model_rest import METRICS_PATH

SERVER_WORKLOAD = {"namespace": "tests", "serviceAccount": "server"}
"""Whose certificate the sidecars of replicas show."""
COUNTED = ":tensorflow:serving:request_count{"


@dataclass
class Replica:
    """A model server, and the sidecar before it if it has one."""

    model_server: Child
    sidecar: Child | None

    @property
    def endpoint(self) -> Document:
        """How a ModelServer names it."""
        if self.sidecar is not None:
            return {"sidecar": self.sidecar.listening["inbound"]}
        return {surface: self.model_server.listening[surface] for surface in ("rest", "grpc")}

    @property
    def children(self) -> list[Child]:
        return [self.model_server] if self.sidecar is None else [self.sidecar, self.model_server]

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of it."""
        for child in self.children:
            child.signal(number)

    async def kill(self) -> None:
        """Ends it as a machine does that loses its power."""
        self.signal(signal.SIGKILL)
        for child in self.children:
            await child.wait()

    async def heard(self, status: str | None = None) -> int:
        """How many calls its model server has answered, whatever with, or with this gRPC status."""
        page = await read_series(str(self.model_server.listening["rest"]), METRICS_PATH)
        return int(
            sum(
                value
                for series, value in page.items()
                if series.startswith(COUNTED) and (status is None or f'status="{status}"' in series)
            )
        )


@dataclass
class Outbound:
    """The sidecar of an application, which calls replicas."""

    child: Child
    path: Path
    """Its documents."""

    @property
    def address(self) -> str:
        """Where the application connects, HOST:PORT."""
        return str(self.child.listening["outbound"])

    @property
    def admin(self) -> str:
        """Where its metrics are, HOST:PORT."""
        return str(self.child.listening["admin"])

    async def metrics(self) -> dict[str, float]:
        """Everything on its page, by series."""
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
        """Takes these documents instead, beside the `Sidecar` and `MeshConfig` that it has; returns once they hold.

        Raises:
            ChildFailed: it refuses them.
            TimeoutError: it does neither within 10 s.
        """
        before = await self._reloads("ok"), await self._reloads("failed")
        own = [each for each in yaml.safe_load_all(self.path.read_text()) if each["kind"] in ("MeshConfig", "Sidecar")]
        # In place of the old file: a look at the files in between must not see half of it.
        new = self.path.with_suffix(".new")
        new.write_text(yaml.safe_dump_all([*own, *documents]))
        new.replace(self.path)
        self.child.signal(signal.SIGHUP)
        async with asyncio.timeout(10):
            while await self._reloads("ok") <= before[0]:
                if await self._reloads("failed") > before[1]:
                    raise ChildFailed("\n".join(["the documents are not taken:", *self.child.last_words]))
                await asyncio.sleep(0.01)

    async def _reloads(self, result: str) -> float:
        return await self.total("meshproxy_config_reloads_total", f'result="{result}"')


class Fleet:
    """What runs, and how to have more of it. See `local_fleet`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []
        self._sidecars = 0
        ca = DevelopmentCA.create(TRUST_DOMAIN)
        ca.write(directory)
        ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server", dns=[SERVER_NAME]).write(directory, "server")
        ca.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client").write(directory, "client")

    async def stop(self) -> None:
        """Stops what still runs, all at once: a sidecar takes half a second to be sure that nobody comes any more."""
        await asyncio.gather(*(child.stop() for child in self._children))

    def check_ended_well(self) -> None:
        """Raises ChildFailed if a part ended with anything but 0, unless it was killed."""
        for child in self._children:
            if child.returncode != -signal.SIGKILL:
                child.check_ended_well()

    async def model_server(self, *arguments: str) -> Child:
        """A model server, with these arguments beside its ports, which are free ones unless they are given."""
        child = await Child.start("a model server", *MODEL_SERVER, *arguments, directory=self.directory)
        self._children.append(child)
        return child

    async def sidecar(self, name: str, documents: Sequence[Document], *prefix: str) -> tuple[Child, Path]:
        """A sidecar with these documents, and where they are; `prefix` is a command that runs it."""
        self._sidecars += 1
        path = self.directory / f"sidecar-{self._sidecars}.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        child = await Child.start(name, *prefix, *SIDECAR, str(path), directory=self.directory)
        self._children.append(child)
        return child, path

    async def replica(
        self,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        server: Document | None = None,
        documents: Sequence[Document] = (),
    ) -> Replica:
        """A model server with a sidecar before it that lets the outbound side in.

        Args:
            arguments: of the model server.
            listen: where the sidecar listens.
            server: more for its ModelServer, such as `health`.
            documents: more documents for it, such as routes.
        """
        model_server = await self.model_server(*arguments)
        own = environment(
            str(model_server.listening["rest"]),
            str(model_server.listening["grpc"]),
            sidecar={"inbound": {"listen": listen, "server": "local"}},
        )
        own[1]["spec"].update(server or {})
        sidecar, _ = await self.sidecar("a replica's sidecar", [*own, *everything_for_the_client(), *documents])
        return Replica(model_server, sidecar)

    async def bare(self, *arguments: str) -> Replica:
        """A model server without a sidecar, to be called in plain text."""
        return Replica(await self.model_server(*arguments), None)

    async def outbound(
        self,
        documents: Sequence[Document],
        *prefix: str,
        listen: str = "127.0.0.1:0",
        outbound: Document | None = None,
        mesh: Document | None = None,
        sidecar: Document | None = None,
    ) -> Outbound:
        """The sidecar of an application.

        Args:
            documents: its servers and routes.
            prefix: a command that runs it.
            listen: where the application connects.
            outbound, mesh, sidecar: more for these parts of its documents.
        """
        spec: Document = {
            "identity": {"files": {"certificate": "client.pem", "key": "client-key.pem", "trustBundle": "ca.pem"}},
            "outbound": {"listen": listen, **(outbound or {})},
            "admin": {"listen": "127.0.0.1:0"},
            "accessLog": "off",
            **(sidecar or {}),
        }
        own = [document("MeshConfig", {"trustDomain": TRUST_DOMAIN, **(mesh or {})}), document("Sidecar", spec)]
        child, path = await self.sidecar("the application's sidecar", [*own, *documents], *prefix)
        return Outbound(child, path)


def server_of(replicas: Sequence[Replica], name: str = "models", **more: object) -> Document:
    """A ModelServer whose endpoints these are."""
    spec: Document = {"endpoints": [replica.endpoint for replica in replicas], **more}
    if any(replica.sidecar is not None for replica in replicas):
        spec["workload"] = SERVER_WORKLOAD
    return document("ModelServer", spec, name)


@asynccontextmanager
async def local_fleet(directory: Path) -> AsyncIterator[Fleet]:
    """A trust domain in a folder, which is made if need be. What was started in it is stopped at the end. Raises
    ChildFailed if a part that nobody killed did not end with 0."""
    directory.mkdir(mode=0o700, exist_ok=True)
    fleet = Fleet(directory)
    try:
        yield fleet
    finally:
        await fleet.stop()
    fleet.check_ended_well()


async def read_series(address: str, path: str) -> dict[str, float]:
    """A page of metrics in Prometheus' text format, by series."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        response.raise_for_status()
        lines = (await response.text()).splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            found[series] = float(value)
    return found
