"""Two trust domains and real peers: grpcio, curl, and a sidecar of the other mesh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.clients import SERVER_NAME, Certificate, GrpcClient, RestClient
from meshproxy.devtools.local_mesh import (
    TRUST_DOMAIN,
    Document,
    LocalMesh,
    LocalSidecar,
    document,
    environment,
    local_mesh,
)
from meshproxy.devtools.models import predict_request
from tests.processes.calls import PATH, PREDICT
from tests.processes.waiting import json_lines, until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

MESSAGE = predict_request("half_plus_two", [2.0]).SerializeToString()
LEGACY = "legacy.example"
CALLER = f"spiffe://{LEGACY}/ns/batch/sa/nightly"
OURS = f"spiffe://{TRUST_DOMAIN}/ns/batch/sa/nightly"
TRUSTING = {"trustDomains": [{"name": LEGACY, "bundle": {"file": "legacy.pem"}}]}


def binding(name: str, **workload: str) -> Document:
    return document("ModelRoleBinding", {"role": "predictor", "subjects": [{"workload": workload}]}, name)


PREDICTOR = document("ModelRole", {"rules": [{"models": ["*"], "verbs": ["predict"]}]}, "predictor")
NIGHTLY = binding("nightly", namespace="batch", serviceAccount="nightly", trustDomain=LEGACY)


class World:
    """A sidecar that trusts a second trust domain, whose authority is `legacy`."""

    def __init__(
        self, mesh: LocalMesh, legacy: DevelopmentCA, documents: Sequence[Document], running: LocalSidecar
    ) -> None:
        self.mesh = mesh
        self.legacy = legacy
        self.documents = documents
        self.running = running

    def certificate(self, authority: DevelopmentCA, spiffe_id: str, name: str) -> Certificate:
        return Certificate(self.mesh.client.bundle, *authority.issue(spiffe_id).write(self.mesh.directory, name))

    async def status(self, certificate: Certificate) -> str:
        """Of a call with grpcio on a new channel."""
        async with GrpcClient(self.running.inbound, certificate) as client:
            return (await client.call(PREDICT, MESSAGE)).status

    async def curl(self, certificate: Certificate) -> tuple[int, str]:
        """Exit status, and the status of the response."""
        process = await asyncio.create_subprocess_exec(
            *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"),
            *("--cacert", str(certificate.bundle), "--cert", str(certificate.certificate)),
            *("--key", str(certificate.key), "--resolve", f"{SERVER_NAME}:{self.running.port}:127.0.0.1"),
            *("-d", json.dumps({"instances": [2.0]}), f"https://{SERVER_NAME}:{self.running.port}{PATH}"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def handshakes(self, reason: str) -> float:
        return await self.running.total("meshproxy_tls_handshakes_total", f'reason="{reason}"')


@pytest_asyncio.fixture(loop_scope="function")
async def world(tmp_path: Path) -> AsyncIterator[World]:
    legacy = DevelopmentCA.create(LEGACY)
    async with local_mesh(tmp_path / "mesh") as mesh:
        (mesh.directory / "legacy.pem").write_bytes(legacy.bundle_pem)
        model_server = await mesh.model_server()
        documents = environment(
            model_server.listening["rest"],
            model_server.listening["grpc"],
            mesh=TRUSTING,
            sidecar={"accessLog": "./access.log"},
        )
        running = await mesh.sidecar("the sidecar", [*documents, PREDICTOR, NIGHTLY])
        yield World(mesh, legacy, documents, running)


async def test_workloads_of_both_trust_domains_are_told_apart(world: World) -> None:
    nightly = world.certificate(world.legacy, CALLER, "nightly")
    assert await world.status(nightly) == "OK"
    assert await world.curl(nightly) == (0, "200")
    # The same namespace and service account in our own trust domain is somebody else.
    assert await world.status(world.certificate(world.mesh.ca, OURS, "ours")) == "PERMISSION_DENIED"
    other = world.certificate(world.legacy, f"spiffe://{LEGACY}/ns/batch/sa/other", "other")
    assert await world.curl(other) == (0, "403")
    log = world.mesh.directory / "access.log"

    def callers() -> set[Any]:
        return {line["peer_spiffe_id"] for line in json_lines(log)}

    await until(lambda: {CALLER, OURS} <= callers())


async def test_no_authority_speaks_for_the_other_trust_domain(world: World) -> None:
    """Everything that the client shows is genuine, but that the authority of one domain has signed an ID of the other;
    and the policy permits both."""
    own = [each for each in world.documents if each["kind"] == "ModelServer"]
    await world.running.reload([*own, PREDICTOR, NIGHTLY, binding("ours", namespace="batch")])
    forged = [
        world.certificate(world.legacy, OURS, "forged-ours"),
        world.certificate(world.mesh.ca, CALLER, "forged-theirs"),
        world.certificate(world.legacy.intermediate(), OURS, "forged-by-intermediate"),
    ]
    for certificate in forged:
        assert await world.status(certificate) == "UNAVAILABLE"
        assert (await world.curl(certificate))[1] == "000"

    async def counted() -> bool:
        return await world.handshakes("wrong_authority") >= 2 * len(forged)

    await until(counted)
    await until(lambda: said(world.running, "wrong_authority"))
    assert "is not signed by the trust domain that it names" in said(world.running, "wrong_authority")[0]
    assert await world.status(world.certificate(world.mesh.ca, OURS, "ours")) == "OK"
    assert await world.status(world.certificate(world.legacy, CALLER, "theirs")) == "OK"


def said(running: LocalSidecar, reason: str) -> list[str]:
    """The lines of its log about handshakes that failed for this reason."""
    return [line for line in running.child.output if f"({reason})" in line]


async def test_a_bundle_rotates_without_a_restart(world: World) -> None:
    nightly, bundle = world.certificate(world.legacy, CALLER, "nightly"), world.mesh.directory / "legacy.pem"
    successor = DevelopmentCA.create(LEGACY)
    renewed = world.certificate(successor, CALLER, "renewed")
    assert await world.status(nightly) == "OK"
    assert await world.status(renewed) == "UNAVAILABLE"
    # A new authority beside the old one, then alone.
    replace(bundle, world.legacy.bundle_pem + successor.bundle_pem)
    await until(lambda: len(world.running.said("certificate rotated")) == 1)
    assert [await world.status(nightly), await world.status(renewed)] == ["OK", "OK"]
    async with RestClient(world.running.admin, None) as admin:
        assert (await admin.call("GET", "/config")).body["trustDomains"] == {LEGACY: 2}
    replace(bundle, successor.bundle_pem)
    await until(lambda: len(world.running.said("certificate rotated")) == 2)
    assert [await world.status(nightly), await world.status(renewed)] == ["UNAVAILABLE", "OK"]
    # A broken one changes nothing, and our own certificate rotates all the same.
    replace(bundle, b"")
    await until(lambda: world.running.said("trust bundle rejected"))
    assert await world.running.total("meshproxy_identity_in_sync") == 0
    assert await world.status(renewed) == "OK"
    world.mesh.certificate("tests", "server", name="server", dns=[SERVER_NAME])
    await until(lambda: len(world.running.said("certificate rotated")) == 3)
    assert await world.status(renewed) == "OK"
    page = await world.running.metrics()
    assert 'meshproxy_config_reloads_total{result="ok"}' not in page


def replace(path: Path, content: bytes) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


@asynccontextmanager
async def impostor(certificate: Certificate) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server with this certificate: its address, and what it receives."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            received.append(await reader.read(1))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert certificate.certificate is not None
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", received


async def test_a_sidecar_of_the_other_mesh_calls_and_is_sure_whom(world: World, tmp_path: Path) -> None:
    """An application of the legacy mesh calls our model server, sidecar to sidecar."""
    server_id = f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server"
    account = {"namespace": "tests", "serviceAccount": "server"}
    async with local_mesh(tmp_path / "legacy", LEGACY, client=("batch", "nightly")) as theirs:
        replace(world.mesh.directory / "legacy.pem", theirs.ca.bundle_pem)
        await until(lambda: len(world.running.said("certificate rotated")) == 1)
        (theirs.directory / "ours.pem").write_bytes(world.mesh.ca.bundle_pem)
        forged = Certificate(theirs.client.bundle, *theirs.ca.issue(server_id).write(theirs.directory, "forged"))
        async with impostor(forged) as (address, received):
            servers = [
                document("ModelServer", {"endpoints": [{"sidecar": endpoint}], "workload": workload}, name)
                for name, endpoint, workload in (
                    ("far", world.running.inbound, {**account, "trustDomain": TRUST_DOMAIN}),
                    ("by-id", world.running.inbound, {"spiffeId": server_id}),
                    ("of-our-own", world.running.inbound, account),
                    ("impostor", address, {"spiffeId": server_id}),
                )
            ]
            mesh = {"trustDomain": LEGACY, "trustDomains": [{"name": TRUST_DOMAIN, "bundle": {"file": "ours.pem"}}]}
            application = await theirs.application(servers, mesh=mesh)
            answers = {}
            async with RestClient(application.outbound, None) as client:
                for name in ("far", "by-id", "of-our-own", "impostor"):
                    answer = await client.call("POST", PATH, {"instances": [2.0]}, {"host": name})
                    answers[name] = answer.status, str(answer.body)
            assert {name: status for name, (status, _) in answers.items()} == {
                "far": "200",
                "by-id": "200",
                "of-our-own": "503",
                "impostor": "503",
            }
            assert f"the peer is {server_id}, expected spiffe://{LEGACY}/" in answers["of-our-own"][1]
            assert "no authority of that domain's bundle has signed it" in answers["impostor"][1]
            assert set(received) <= {b""}
