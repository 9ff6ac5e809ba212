"""Sidecars and control planes that are one minor version apart: the older side speaks what is kept in `wire_0_1`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy import __version__
from meshproxy.cli import _control_planes
from meshproxy.codec.limits import Limits
from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import Address
from meshproxy.control.attestation import make_token, redeem_token
from meshproxy.control.authority import SigningRequest, private_pem
from meshproxy.control.check import check
from meshproxy.control.store import FolderStore
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, document, local_mesh
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import Credentials, own_identity
from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.sidecar.new_key import make_key
from meshproxy.transport.connection import ConnectionContext, Times
from meshproxy.transport.grpc_client import call_unary
from meshproxy.transport.grpc_server import GrpcServer, ServerCall
from meshproxy.transport.grpc_stream import Call, open_call
from meshproxy.transport.listener import Listener, Security
from meshproxy.transport.mesh_client import identify_client
from meshproxy.transport.outbox import Outbox
from meshproxy.transport.reaper import Reaper
from tests import wire_0_1
from tests.processes.mesh import control_command
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONTROL = f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control"
SIDECAR = f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client"
WORKLOAD = {"namespace": "tests", "serviceAccount": "client"}
"""An older sidecar takes all documents, which are for model servers."""


def documents(rest: str) -> str:
    return yaml.safe_dump_all(
        [
            document("MeshConfig", {"trustDomain": TRUST_DOMAIN}),
            document("ModelServer", {"endpoints": [{"rest": rest}], "workload": WORKLOAD}, "models"),
        ]
    )


class OlderControlPlane:
    """What `meshproxy control run` of version 0.1 answers, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.store = FolderStore(folder)
        self.authority = self.store.authority(TRUST_DOMAIN, time.time())
        self.reports: list[wire_0_1.SidecarReport] = []
        self.watching: ServerCall | None = None
        loop = asyncio.get_running_loop()
        self.reaper = Reaper(loop)
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self.authority.issue(SigningRequest(key.public_key(), ()), CONTROL, time.time(), 3_600.0)
        credentials = Credentials(issued.certificate_pem, private_pem(key), self.authority.bundle_pem)
        self.server = GrpcServer({wire_0_1.ISSUE: self.issue, wire_0_1.WATCH: self.watch})
        self.listener = Listener(
            direction="control",
            shared=ConnectionContext(
                loop=loop,
                outbox=Outbox(loop),
                reaper=self.reaper,
                limits=Limits(),
                times=Times(),
                on_limit=self.limit,
            ),
            serve=self.server.serve,
            reject=self.server.reject,
            events=self,
            security=Security.TLS,
            context=own_identity(credentials, TRUST_DOMAIN, time.time(), calls=False, mtls="permissive").server,
            identify=identify_client,
            max_connections=10,
        )

    @classmethod
    @asynccontextmanager
    async def run(cls, folder: Path) -> AsyncIterator[OlderControlPlane]:
        it = cls(folder)
        it.listener.listen("127.0.0.1", 0)
        it.reaper.start()
        try:
            yield it
        finally:
            it.listener.stop_accepting()
            await it.server.close()
            await it.listener.close()
            it.reaper.stop()

    async def issue(self, call: ServerCall) -> None:
        request = msgspec.json.decode(await call.only_message(), type=wire_0_1.IssueRequest)
        peer, now = call.info.peer, time.time()
        identity = peer.spiffe_id if isinstance(peer, Workload) else redeem_token(self.store, request.join_token, now)
        issued = self.authority.issue(SigningRequest.read(request.csr), identity, now, 3_600.0)
        response = wire_0_1.IssueResponse(issued.certificate_pem.decode(), self.authority.bundle_pem.decode())
        await call.send(msgspec.json.encode(response))

    async def watch(self, call: ServerCall) -> None:
        self.watching = call
        async for message in call:
            self.reports.append(msgspec.json.decode(message, type=wire_0_1.SidecarReport))

    async def give(self, version: str, text: str) -> None:
        assert self.watching is not None
        await self.watching.send(msgspec.json.encode(wire_0_1.DocumentSet(version, text)))

    # listener.ListenerEvents

    def handshake(self, result: str, reason: str) -> None: ...
    def connected(self, info: object) -> None: ...
    def disconnected(self, info: object) -> None: ...
    def limit(self, name: str) -> None: ...


async def test_a_newer_sidecar_with_an_older_control_plane(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as local, OlderControlPlane.run(local.directory / "control") as older:
        (local.directory / "token").write_text(make_token(older.store, SIDECAR, time.time(), 600.0))
        control = {
            "address": older.listener.address,
            "spiffeId": CONTROL,
            "trustBundle": "control/authority.pem",
            "folder": "kept",
            "joinToken": "token",
            "documents": True,
        }
        free = {"listen": "127.0.0.1:0"}
        spec = {"controlPlane": control, "outbound": {**free, "server": "models"}, "admin": free, "accessLog": "off"}
        starting = asyncio.create_task(local.sidecar("the sidecar", [document("Sidecar", spec, "app")]))
        await until(lambda: older.reports)
        assert (older.reports[0].sidecar, older.reports[0].software) == ("app", __version__)
        await older.give("v1", documents("127.0.0.1:1"))
        sidecar = await starting
        await until(lambda: older.reports[-1].version == "v1")
        await older.give("v2", documents("127.0.0.1:2"))
        await until(lambda: older.reports[-1].version == "v2")
        await older.give("v3", "kind: Nothing\n")
        await until(lambda: older.reports[-1].refused == "v3")
        assert (older.reports[-1].version, bool(older.reports[-1].problems)) == ("v2", True)
        # One stream, whatever else a newer sidecar asks that an older control plane does not know.
        assert older.watching is not None
        assert not older.watching.has_ended
        assert sidecar.said("no documents from the control plane; trying again") == []


async def test_an_older_sidecar_with_a_newer_control_plane(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        (local.directory / "documents.yaml").write_text(documents("127.0.0.1:1"))
        command = [*control_command(local, "127.0.0.1:0", "127.0.0.1:0"), "--documents", "documents.yaml"]
        control = await local.start("the control plane", *command)
        web = str(control.listening["web"])
        host, _, port = str(control.listening["control"]).rpartition(":")
        folder = local.directory / "control"
        settings = ControlPlane(
            Address(host, int(port)), CONTROL, str(folder / "authority.pem"), str(local.directory / "kept")
        )
        channel = ControlChannel(settings)
        key = make_key()
        token = make_token(FolderStore(folder), SIDECAR, time.time(), 600.0)
        async with channel.open() as connection:
            request = msgspec.json.encode(wire_0_1.IssueRequest(key.csr, token))
            answer = await call_unary(connection, wire_0_1.ISSUE, request, timeout=30.0)
        issued = msgspec.json.decode(answer, type=wire_0_1.IssueResponse)
        kept = channel.files
        kept.certificate.parent.mkdir()
        kept.trust_bundle.write_text(issued.roots)
        kept.certificate.write_bytes(issued.certificate.encode() + key.key_pem)
        kept.certificate.chmod(0o600)

        async with channel.open() as connection, await open_call(connection, wire_0_1.WATCH) as call:
            await say(call)
            first = await given(call)
            assert first.version != ""
            assert [each["kind"] for each in yaml.safe_load_all(first.text)] == ["MeshConfig", "ModelServer"]
            assert await states(web) == ["behind"]
            await say(call, version=first.version)
            await until(lambda: _are(web, ["in-sync"]))
            (local.directory / "documents.yaml").write_text(documents("127.0.0.1:2"))
            second = await given(call)
            assert "127.0.0.1:2" in second.text
            await say(call, version=first.version, refused=second.version, problems=("no such thing",))
            await until(lambda: _are(web, ["refused"]))
            (answer_of_control,) = await asyncio.to_thread(_control_planes.ask, [web], 10.0)
            wrong = [each for each in check([answer_of_control], __version__) if each.level]
            assert [each.check for each in wrong] == ["documents are accepted"]
            assert "no such thing" in wrong[0].problem
        channel.stop()


async def say(call: Call, **report: Any) -> None:
    await call.send(msgspec.json.encode(wire_0_1.SidecarReport("resnet", "0.1.0", **report)))


async def given(call: Call) -> wire_0_1.DocumentSet:
    async with asyncio.timeout(60):
        return msgspec.json.decode(await anext(call), type=wire_0_1.DocumentSet)


async def states(web: str) -> list[str]:
    (found,) = await asyncio.to_thread(_control_planes.ask, [web], 10.0)
    return [each.state.value for each in found.status.sidecars] if found.status is not None else []


async def _are(web: str, expected: list[str]) -> bool:
    return await states(web) == expected
