"""A mesh of processes whose identities are issued by a control plane, which may give their documents, too."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from meshproxy.devtools.child import CONTROL, Child, free_port
from meshproxy.devtools.local_mesh import (
    CLIENT,
    CONNECT_TIMEOUT,
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
        command = control_command(local, reserved(), reserved(), lifetime)
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
        command = control_command(local, reserved(), reserved())
        it.control = await local.start("the control plane", *command, *it.source)
        inbound = {"listen": reserved(), "server": "local"}  # the documents name it
        spec = {**own[2]["spec"], "inbound": inbound, "controlPlane": it.settings("replica", SERVER, documents=True)}
        spec["workers"] = workers
        del spec["identity"]
        workload = {"namespace": SERVER[0], "serviceAccount": SERVER[1]}
        models = {
            "endpoints": [{"sidecar": inbound["listen"]}],
            "workload": workload,
            "connectTimeout": CONNECT_TIMEOUT,
        }
        it.documents.append(document("ModelServer", models, "models"))
        it.write_documents(permits=True)
        it.replica = await local.sidecar("the replica's sidecar", [document("Sidecar", spec, "replica")])
        it.application = await it.start_application()
        return it

    async def start_application(self, **more: object) -> LocalSidecar:
        """The sidecar of an application that calls `models`; all documents but its own come from the control plane.
        `more`: for its Sidecar."""
        application = document("Sidecar", self._application(documents=True) | more, "app")
        return await self.local.sidecar("the application's sidecar", [application])

    def _application(self, **control_plane: object) -> Document:
        """The spec of its Sidecar. `control_plane`: more for `controlPlane`."""
        return {
            "controlPlane": self.settings("application", CLIENT, **control_plane),
            "outbound": {"listen": "127.0.0.1:0", "server": "models"},
            "admin": {"listen": "127.0.0.1:0"},
            "accessLog": "off",
        }

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
        server = {
            "endpoints": [{"sidecar": self.replica.inbound}],
            "workload": workload,
            "connectTimeout": CONNECT_TIMEOUT,
        }
        documents = [own[0], document("Sidecar", self._application()), document("ModelServer", server, "models")]
        self.application = await self.local.sidecar("the application's sidecar", documents)

    def rotations(self) -> int:
        """Of the sidecar that had fewest."""
        return min(len(each.said("certificate rotated")) for each in (self.replica, self.application))


def reserved() -> str:
    """An address for what is started again at the same one: nobody else is given its port meanwhile."""
    return f"127.0.0.1:{free_port()}"


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
