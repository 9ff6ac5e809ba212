"""A control plane and two sidecars that it issues identities to; certificates that rotate under load are a drill."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshproxy.devtools.child import CONTROL, Child, free_port
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import (
    CLIENT,
    SERVER,
    TRUST_DOMAIN,
    Document,
    LocalMesh,
    LocalSidecar,
    document,
    environment,
    local_mesh,
    permissive_documents,
    read_series,
    replace_documents,
)
from tests.processes.calls import PATH
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(240)]


def spiffe_id(account: tuple[str, str]) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/{account[0]}/sa/{account[1]}"


class Mesh:
    """A control plane, a replica's sidecar, and the sidecar of an application that calls it."""

    source: Sequence[str] = ("--documents", "documents")
    """Where the control plane has the documents from."""

    def __init__(self, local: LocalMesh, control: Child, lifetime: str = "1h") -> None:
        self.local = local
        self.control = control
        self.lifetime = lifetime
        self.documents: list[Document] = []
        self.address = ""
        """Where sidecars connect, if not at the control plane itself."""
        self.replica: LocalSidecar
        self.application: LocalSidecar

    @classmethod
    async def start(cls, local: LocalMesh, lifetime: str = "1h") -> Mesh:
        """`lifetime`: of certificates."""
        command = control_command(local, "127.0.0.1:0", "127.0.0.1:0", lifetime)
        return cls(local, await local.start("the control plane", *command), lifetime)

    @classmethod
    async def start_with_documents(cls, local: LocalMesh, workers: int = 1, mesh: Document | None = None) -> Mesh:
        """All documents but those of the sidecars come from the control plane. `workers`: of the replica's; `mesh`:
        more for the MeshConfig."""
        model_server = await local.model_server()
        (local.directory / "documents").mkdir()
        it = cls(local, model_server)
        own = environment(str(model_server.listening["rest"]), str(model_server.listening["grpc"]), mesh=mesh)
        it.documents = own[:2]
        it.write_documents(permits=True)
        command = control_command(local, "127.0.0.1:0", "127.0.0.1:0")
        it.control = await local.start("the control plane", *command, *it.source)
        # A fixed port: the sidecar is started again, and the documents name it.
        port = free_port()
        inbound = {"listen": f"127.0.0.1:{port}", "server": "local"}
        spec = {**own[2]["spec"], "inbound": inbound, "controlPlane": it.settings("replica", SERVER, documents=True)}
        spec["workers"] = workers
        del spec["identity"]
        workload = {"namespace": SERVER[0], "serviceAccount": SERVER[1]}
        models = {"endpoints": [{"sidecar": f"127.0.0.1:{port}"}], "workload": workload}
        it.documents.append(document("ModelServer", models, "models"))
        it.write_documents(permits=True)
        it.replica = await local.sidecar("the replica's sidecar", [document("Sidecar", spec, "replica")])
        application = {
            "controlPlane": it.settings("application", CLIENT, documents=True),
            "outbound": {"listen": "127.0.0.1:0", "server": "models"},
            "admin": {"listen": "127.0.0.1:0"},
            "accessLog": "off",
        }
        it.application = await local.sidecar("the application's sidecar", [document("Sidecar", application, "app")])
        return it

    def write_documents(self, *, permits: bool) -> None:
        role, binding = permissive_documents()
        documents = [*self.documents, role, *([binding] if permits else [])]
        replace_documents(self.local.directory / "documents/mesh.yaml", documents)

    async def count(self, name: str, expected: float) -> bool:
        """Whether a metric of the control plane has this value."""
        page = await read_series(str(self.control.listening["web"]), "/metrics")
        return page[f"meshproxy_control_{name}"] == expected

    async def restart_control(self) -> None:
        """Start it where it was before."""
        before = self.control.listening
        command = control_command(self.local, before["control"], before["web"], self.lifetime)
        self.control = await self.local.start("the control plane again", *command)

    def settings(self, name: str, account: tuple[str, str], **more: object) -> Document:
        """`controlPlane` of a sidecar that has been given a join token."""
        folder = str(self.local.directory / "control")
        command = [*CONTROL, "join-token", "--folder", folder, "--identity", spiffe_id(account)]
        token = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        (self.local.directory / f"{name}.token").write_text(token)
        return {
            "address": self.address or self.control.listening["control"],
            "spiffeId": f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control",
            "trustBundle": "control/authority.pem",
            "folder": name,
            "joinToken": f"{name}.token",
            **more,
        }

    async def start_sidecars(self, grpc: str | None = None, prefix: Sequence[str] = (), **spec: object) -> None:
        """`grpc`: of another model server than that of the REST API. `prefix`: a command that runs the replica's."""
        model_server = await self.local.model_server()
        own = environment(
            str(model_server.listening["rest"]),
            grpc or str(model_server.listening["grpc"]),
            sidecar={"controlPlane": self.settings("replica", SERVER), **spec},
        )
        del own[2]["spec"]["identity"]
        self.replica = await self.local.sidecar("the replica's sidecar", [*own, *permissive_documents()], prefix)
        workload = {"namespace": SERVER[0], "serviceAccount": SERVER[1]}
        server = {"endpoints": [{"sidecar": self.replica.inbound}], "workload": workload}
        application = {
            "controlPlane": self.settings("application", CLIENT),
            "outbound": {"listen": "127.0.0.1:0", "server": "models"},
            "admin": {"listen": "127.0.0.1:0"},
            "accessLog": "off",
        }
        documents = [own[0], document("Sidecar", application), document("ModelServer", server, "models")]
        self.application = await self.local.sidecar("the application's sidecar", documents)

    def rotations(self) -> int:
        """Of the sidecar that had fewest."""
        return min(len(each.said("certificate rotated")) for each in (self.replica, self.application))


def control_command(local: LocalMesh, listen: str, web: str, lifetime: str = "1h") -> list[str]:
    folder = str(local.directory / "control")
    options = ["--folder", folder, "--trust-domain", TRUST_DOMAIN, "--listen", listen, "--web", web]
    return [*CONTROL, "run", *options, "--lifetime", lifetime]


@asynccontextmanager
async def mesh(tmp_path: Path, lifetime: str = "1h", *, grpc: str | None = None, **spec: object) -> AsyncIterator[Mesh]:
    """A mesh whose certificates live for `lifetime`; `spec` is more for the Sidecar of the replica."""
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start(local, lifetime)
        await it.start_sidecars(grpc, (), **spec)
        yield it


async def test_documents_reach_the_sidecars(tmp_path: Path) -> None:
    """A role is taken away by editing one file, and given back; the control plane is killed, and nothing happens.

    The replica has two workers, the application one process.
    """
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start_with_documents(local, workers=2)
        async with RestClient(it.application.outbound, None) as client:

            async def status() -> str:
                return (await client.call("POST", PATH, {"instances": [2.0]})).status

            assert await status() == "200"
            it.write_documents(permits=False)
            await until(lambda: _is(status, "403"), 60)
            it.write_documents(permits=True)
            await until(lambda: _is(status, "200"), 60)
            # What no sidecar could use reaches none.
            path = local.directory / "documents/mesh.yaml"
            path.write_text(path.read_text() + "---\nkind: Nothing\n")
            await until(lambda: it.count("documents_in_sync", 0.0), 60)
            assert await status() == "200"
            await until(lambda: it.count('sidecars{state="in-sync"}', 2.0), 60)
            async with RestClient(str(it.control.listening["web"]), None) as web:
                page = (await web.call("GET", "/status")).body
            assert {each["sidecar"] for each in page["sidecars"]} == {"replica", "app"}
            await it.control.kill()
            assert await status() == "200"
            await it.replica.child.stop()
            await it.local.sidecar("the replica's sidecar again", it.replica.path)
            await until(lambda: _is(status, "200"), 60)


async def _is(status: Callable[[], Awaitable[str]], expected: str) -> bool:
    return await status() == expected


async def test_a_restart_without_control_plane(tmp_path: Path) -> None:
    async with mesh(tmp_path) as it:
        await it.control.kill()
        await it.replica.child.stop()
        again = await it.local.sidecar("the replica's sidecar again", it.replica.path)
        assert again.said("asking the control plane for a certificate") == []
        assert (await read_series(again.admin, "/metrics"))["meshproxy_identity_in_sync"] == 1
