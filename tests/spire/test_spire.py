"""Sidecars whose identities come from real SPIRE agents, and workloads of go-spiffe on the other side of their calls,
in our own trust domain and in another one."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.child import Child
from meshproxy.devtools.local_mesh import (
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
from tests.mesh.test_federation import control_plane_of_its_own
from tests.processes.calls import REQUEST, Load
from tests.processes.waiting import until
from tests.spire.spire import BUILT, Spire

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(800)]

THEIRS = "theirs.example"
PEER = BUILT / "peer"
ROTATIONS = 2
"""Of each sidecar at least."""
TRUSTED = {"trustDomain": TRUST_DOMAIN, "trustDomains": [{"name": THEIRS}]}
"""Without its bundle: the agent delivers it."""


@asynccontextmanager
async def spire(domain: str, folder: Path) -> AsyncIterator[Spire]:
    it = await Spire.start(domain, folder)
    try:
        yield it
    finally:
        await it.stop()


class World:
    """Two trust domains that federate, a model server, and its sidecar."""

    def __init__(self, local: LocalMesh, ours: Spire, theirs: Spire) -> None:
        self.local, self.ours, self.theirs = local, ours, theirs
        python = Path(sys.executable)
        ours.federate(theirs)
        theirs.federate(ours)
        # Both sidecars run Python: the agent gives each of them both identities, and their documents say which.
        self.server = ours.register("ns/tests/sa/server", python, [theirs])
        self.client = ours.register("ns/tests/sa/client", python, [theirs])
        pairs = ((ours, theirs), (theirs, ours))
        self.peers = {own.domain: own.register("ns/go/sa/peer", PEER, [other]) for own, other in pairs}
        self.replica: LocalSidecar
        self.model_server: Child
        self.control: Child
        self.documents: list[Document] = []

    def identity(self, spiffe_id: str) -> Document:
        return {"workloadApi": {"socket": self.ours.socket, "spiffeId": spiffe_id}}

    def write_documents(self) -> None:
        replace_documents(self.local.directory / "documents/mesh.yaml", self.documents)

    async def start_replica(self) -> None:
        """Its identity comes from the agent, its documents from a control plane of a trust domain of its own."""
        self.model_server = await self.local.model_server()
        rest, grpc = (str(self.model_server.listening[name]) for name in ("rest", "grpc"))
        mesh, server, sidecar = environment(rest, grpc, mesh=TRUSTED)
        server["spec"]["workload"] = {"spiffeId": self.server}
        subjects = [{"workload": {"spiffeId": each}} for each in self.peers.values()]
        binding = document("ModelRoleBinding", {"role": "everything", "subjects": subjects}, "peers")
        self.documents = [mesh, server, *permissive_documents(), binding]
        (self.local.directory / "documents").mkdir()
        self.write_documents()
        (self.local.directory / "spire.pem").write_text(self.ours.command("bundle", "show"))
        self.control, sidecar["spec"]["controlPlane"] = await control_plane_of_its_own(self.local, "spire.pem")
        sidecar["spec"]["identity"] = self.identity(self.server)
        self.replica = await self.local.sidecar("the replica's sidecar", [sidecar])

    async def application(self, address: str, spiffe_id: str) -> LocalSidecar:
        """A sidecar that calls this address, and is sure whom."""
        spec = {"endpoints": [{"sidecar": address}], "workload": {"spiffeId": spiffe_id}}
        return await self.local.application(
            [document("ModelServer", spec, "models")],
            outbound={"server": "models"},
            mesh=TRUSTED,
            sidecar={"identity": self.identity(self.client)},
        )

    async def peer(self, domain: str, *arguments: str) -> Child:
        """A workload of go-spiffe."""
        agent = {each.domain: each for each in (self.ours, self.theirs)}[domain]
        command = ("env", f"SPIFFE_ENDPOINT_SOCKET=unix://{agent.socket}", str(PEER), *arguments)
        return await self.local.start(f"go-spiffe of {domain}", *command)

    async def serving_peer(self, domain: str) -> str:
        said = self.model_server.listening
        peer = await self.peer(domain, "serve", self.client, str(said["rest"]), str(said["grpc"]))
        return str(peer.listening["inbound"])

    async def calling_peer(self, domain: str) -> Child:
        message = base64.b64encode(REQUEST).decode()
        return await self.peer(domain, "call", self.replica.inbound, self.server, '{"instances": [2.0]}', message)


@asynccontextmanager
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        # Not in tmp_path, which may be too long for a socket.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spire-")))
        ours = await stack.enter_async_context(spire(TRUST_DOMAIN, folder / "ours"))
        theirs = await stack.enter_async_context(spire(THEIRS, folder / "theirs"))
        local = await stack.enter_async_context(local_mesh(tmp_path / "mesh"))
        it = World(local, ours, theirs)
        await it.start_replica()
        yield it


def summary(peer: Child) -> Mapping[str, Any]:
    """What became of the calls of a peer that has ended."""
    found: Mapping[str, Any] = json.loads(peer.last_output[-1])
    return found


def certificates_shown(peer: Child) -> int:
    """How many certificates of ours a calling peer has seen."""
    return sum('"certificate shown"' in line for line in peer.output)


async def test_identities_rotate_under_load_with_go_spiffe_on_the_other_side(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        callers = [await it.calling_peer(domain) for domain in it.peers]
        applications = [await it.application(it.replica.inbound, it.server)]
        for domain, spiffe_id in it.peers.items():
            applications.append(await it.application(await it.serving_peer(domain), spiffe_id))
        loads = [Load(each.outbound, None, rest=[True, False], grpc=[True, False]) for each in applications]
        sidecars = [it.replica, *applications]
        await asyncio.gather(*(load.more(20) for load in loads))
        before = [len(each.said("certificate rotated")) for each in sidecars]

        def rotations() -> list[int]:
            return [len(each.said("certificate rotated")) - had for each, had in zip(sidecars, before, strict=True)]

        def is_enough() -> bool:
            return min(rotations()) >= ROTATIONS and min(map(certificates_shown, callers)) > ROTATIONS

        await until(lambda: is_enough() or any(load.failures for load in loads), 200)
        await asyncio.gather(*(load.more(20) for load in loads))
        assert [load.failures for load in loads] == [[]] * 3
        for load in loads:
            await load.stop()
        for caller in callers:
            await caller.stop()
        found = [summary(caller) for caller in callers]
        print(f"rotations of each sidecar: {rotations()}; failed calls: 0 of {sum(load.answered for load in loads)}")
        for domain, caller, each in zip(it.peers, callers, found, strict=True):
            print(f"go-spiffe of {domain}: {each['answered']} calls, {certificates_shown(caller)} certificates seen")
            assert each["failures"] == []
            assert min(each["answered"].values()) > 20
        for sidecar in sidecars:
            page = await sidecar.metrics()
            assert page["meshproxy_identity_in_sync"] == 1
            assert 'meshproxy_identity_rotations_total{result="failed"}' not in page
        # The stream to the control plane has gone on with each new certificate.
        del it.documents[-1]
        it.write_documents()
        await until(lambda: is_in_sync(it))


async def is_in_sync(it: World) -> bool:
    """Whether the replica uses the documents as they are now."""
    page = await read_series(str(it.control.listening["web"]), "/metrics")
    reloads = await it.replica.total("meshproxy_config_reloads_total", 'result="ok"')
    return reloads == 1 and page['meshproxy_control_sidecars{state="in-sync"}'] == 1
