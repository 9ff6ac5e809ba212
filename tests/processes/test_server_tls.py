"""TLS to model servers with ordinary certificates, as TensorFlow Serving with `--ssl_config_file`: gRPC is grpcio, with
the TLS library of TensorFlow Serving, and REST is aiohttp."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.devtools.child import ChildFailed
from meshproxy.devtools.clients import Answer, GrpcClient, RestClient
from meshproxy.devtools.local_mesh import (
    Document,
    LocalMesh,
    LocalSidecar,
    document,
    environment,
    local_mesh,
    permissive_documents,
)
from meshproxy.devtools.model_server import ModelServer, Ports, ServerTls, parse_models
from meshproxy.devtools.model_service import Service
from meshproxy.devtools.models import Catalogue
from tests.processes.calls import PATH, PREDICT, REQUEST
from tests.processes.test_discovery import name_server
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONTENT = {"instances": [1.0]}

CA = DevelopmentCA.create("models.example")
OTHER = DevelopmentCA.create("models.example")
NAME = "serving.models.example"
NOW = datetime.now(UTC)
ADDRESS = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
TRUSTED = {"caFile": "models-ca.pem"}
NAMED = {**TRUSTED, "serverName": NAME}


@asynccontextmanager
async def serving(
    folder: Path, issued: IssuedCertificate, *, client_ca: DevelopmentCA | None = None, **ports: Any
) -> AsyncIterator[ModelServer]:
    """A model server with this certificate; with `client_ca` it wants one of that authority from clients."""
    asked = folder / "asked.pem"
    if client_ca is not None:
        asked.write_bytes(client_ca.bundle_pem)
    tls = ServerTls(*issued.write(folder, "model-server"), asked if client_ca is not None else None)
    server = await ModelServer.start(Service(Catalogue(parse_models(["half_plus_two=1"]))), Ports(tls=tls, **ports))
    try:
        yield server
    finally:
        await server.stop(0)


def documents(server: ModelServer, tls: Document, **more: Any) -> list[Document]:
    own = environment(server.rest, server.grpc)
    own[1]["spec"].update({"tls": tls, **more})
    return [*own, *permissive_documents()]


@asynccontextmanager
async def mesh_in(folder: Path) -> AsyncIterator[LocalMesh]:
    """A mesh whose folder has the authority of the model servers, too: it is another one than the mesh's."""
    async with local_mesh(folder / "m") as mesh:
        (mesh.directory / "models-ca.pem").write_bytes(CA.bundle_pem)
        yield mesh


async def over_grpc(running: LocalSidecar) -> Answer:
    async with GrpcClient(running.inbound, running.client) as client:
        return await client.call(PREDICT, REQUEST)


async def over_rest(running: LocalSidecar) -> Answer:
    async with RestClient(running.inbound, running.client) as client:
        return await client.call("POST", PATH, CONTENT)


async def test_grpc_over_tls_and_rest_without(tmp_path: Path) -> None:
    """What TensorFlow Serving can do, with `client_verify: true`."""
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, CA.issue(dns=[NAME]), client_ca=OTHER) as server:
        OTHER.issue(dns=["sidecar"]).write(mesh.directory, "ours")
        own = {"certificate": "ours.pem", "key": "ours-key.pem"}
        running = await mesh.sidecar("the sidecar", documents(server, {"grpc": {**NAMED, **own}}))
        assert (await over_grpc(running)).status == "OK"
        assert (await over_rest(running)).status == "200"
        assert running.said("connection to ModelServer local failed") == []


@pytest.mark.parametrize("check", ["answer", "model-status"])
async def test_rest_over_tls_by_its_address(tmp_path: Path, check: str) -> None:
    """Without a name, the certificate must have the address of the endpoint; health checks are made over TLS, too."""
    issued = CA.issue(extensions=[(ADDRESS, False)])
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, issued, rest_has_tls=True) as server:
        health = {"check": check, "interval": "100ms", "models": ["half_plus_two"]}
        tls = {"rest": TRUSTED, "grpc": TRUSTED}
        running = await mesh.sidecar("the sidecar", documents(server, tls, health=health))

        async def is_ready() -> bool:
            async with RestClient(running.admin, None) as admin:
                return (await admin.call("GET", "/readyz")).status == "200"

        await until(is_ready)
        assert (await over_rest(running)).status == "200"
        assert (await over_grpc(running)).status == "OK"


async def test_endpoints_of_a_name_have_its_certificate(tmp_path: Path) -> None:
    """They are addresses; the name is what DNS was asked for."""
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, CA.issue(dns=[NAME])) as server, name_server() as (at, _):
        for name, reason in ((NAME, None), ("other.example", "wrong_name")):
            dns = {"name": f"{name}.", "grpc": int(server.grpc.rpartition(":")[2]), "nameServer": at}
            found = document("ModelServer", {"dns": dns, "tls": {"grpc": TRUSTED}})
            running = await mesh.application([found], outbound={"server": "local"})
            async with GrpcClient(running.outbound, None) as client:
                answer = await client.call(PREDICT, REQUEST)
            assert answer.status == ("OK" if reason is None else "UNAVAILABLE")
            wrong = await running.total("meshproxy_connect_failures_total", f'reason="{reason}"')
            assert (wrong > 0) == (reason is not None)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    """TensorFlow Serving has the same certificate on its socket."""
    async with mesh_in(tmp_path) as mesh:
        path = mesh.directory / "s"
        async with serving(tmp_path, CA.issue(dns=[NAME]), grpc_socket=str(path)):
            own = environment(None, "unix:s")
            own[1]["spec"]["tls"] = {"grpc": NAMED}
            running = await mesh.sidecar("the sidecar", [*own, *permissive_documents()])
            assert (await over_grpc(running)).status == "OK"


def common_name_only() -> IssuedCertificate:
    """As `openssl req -subj /CN=...` makes them: without a subjectAltName."""
    return CA.issue()


BAD: dict[str, tuple[IssuedCertificate, DevelopmentCA | None, Document, str, str]] = {
    "expired": (
        CA.issue(dns=[NAME], not_before=NOW - timedelta(days=2), not_after=NOW - timedelta(days=1)),
        None,
        NAMED,
        "expired",
        "has expired: check why the server did not renew it",
    ),
    "not valid yet": (
        CA.issue(dns=[NAME], not_before=NOW + timedelta(days=1), not_after=NOW + timedelta(days=2)),
        None,
        NAMED,
        "expired",
        "is not valid yet: compare the clocks",
    ),
    "another name": (CA.issue(dns=["other.example"]), None, NAMED, "wrong_name", "is for another name (Hostname"),
    "another address": (CA.issue(dns=[NAME]), None, TRUSTED, "wrong_name", "is for another name (IP address"),
    "no subjectAltName": (common_name_only(), None, NAMED, "wrong_name", "issue it with this name as a subjectAltName"),
    "another authority": (
        OTHER.issue(dns=[NAME]),
        None,
        NAMED,
        "unknown_authority",
        "is not issued by a trusted authority: add its authority to caFile",
    ),
    "the system's authorities": (
        CA.issue(dns=[NAME]),
        None,
        {"serverName": NAME},
        "unknown_authority",
        "is not issued by a trusted authority",
    ),
    "it asks for ours": (CA.issue(dns=[NAME]), OTHER, NAMED, "closed", "check whether it asks for our certificate"),
}


@pytest.mark.parametrize("which", BAD)
async def test_what_is_wrong_is_said_counted_and_logged(tmp_path: Path, which: str) -> None:
    issued, client_ca, tls, reason, words = BAD[which]
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, issued, client_ca=client_ca) as server:
        running = await mesh.sidecar("the sidecar", documents(server, {"grpc": tls}))
        answer = await over_grpc(running)
        assert (answer.status, answer.refusal) == ("UNAVAILABLE", "connect-failed")
        assert words in answer.body
        await counted_and_logged(running, reason, words)
        assert (await over_rest(running)).status == "200"


async def counted_and_logged(running: LocalSidecar, reason: str, words: str) -> None:
    failures = await running.total("meshproxy_connect_failures_total")
    assert failures == await running.total("meshproxy_connect_failures_total", f'reason="{reason}"') >= 1

    def said() -> list[str]:
        return [line for line in running.child.output if "connection to ModelServer" in line]

    await until(said)
    (line,) = said()
    assert f"connection to ModelServer local failed ({reason})" in line
    assert words in line


async def test_one_side_without_tls(tmp_path: Path) -> None:
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, CA.issue(dns=[NAME])) as server:
        plain = await mesh.sidecar("the sidecar", documents(server, {"rest": NAMED}))
        assert "check whether it expects TLS" in (await over_grpc(plain)).body
        answer = await over_rest(plain)
        assert answer.refusal == "connect-failed"
        assert "does not speak TLS" in str(answer.body)
        assert await plain.total("meshproxy_connect_failures_total", 'reason="not_tls"') >= 1
        assert await plain.total("meshproxy_connect_failures_total", 'reason="closed"') >= 1


async def test_new_files_are_used_without_a_reload_and_bad_ones_are_not(tmp_path: Path) -> None:
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, OTHER.issue(dns=[NAME]), client_ca=OTHER) as server:
        ca_file = mesh.directory / "models-ca.pem"
        CA.issue(dns=["sidecar"]).write(mesh.directory, "ours")
        tls = {"grpc": {**NAMED, "certificate": "ours.pem", "key": "ours-key.pem"}}
        # Each call makes a connection, so that what is new is used by the next.
        running = await mesh.sidecar("the sidecar", documents(server, tls, idleTimeout="1ms"))
        assert "is not issued by a trusted authority" in (await over_grpc(running)).body

        async def fails_with(words: str) -> bool:
            return words in str((await over_grpc(running)).body)

        ca_file.write_bytes(CA.bundle_pem + OTHER.bundle_pem)
        await until(lambda: fails_with("check whether it asks for our certificate, and trusts it"))
        OTHER.issue(dns=["sidecar"]).write(mesh.directory, "ours")

        async def is_served() -> bool:
            return (await over_grpc(running)).status == "OK"

        await until(is_served)
        ca_file.write_text("no certificate")
        await until(lambda: running.said("TLS files of a model server rejected; keeping the previous ones"))
        assert await is_served()
        (mesh.directory / "ours-key.pem").write_bytes(CA.issue(dns=["sidecar"]).key_pem)
        ca_file.write_bytes(OTHER.bundle_pem)
        await until(lambda: len(running.said("TLS files of a model server rejected; keeping the previous ones")) >= 2)
        assert await is_served()
        assert await running.total("meshproxy_config_reloads_total") == 0


async def test_documents_whose_files_cannot_be_used(tmp_path: Path) -> None:
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, CA.issue(dns=[NAME])) as server:
        late = {"grpc": {**NAMED, "caFile": "late.pem"}}
        with pytest.raises(ChildFailed, match="ended with 3") as failed:
            await mesh.sidecar("the sidecar", documents(server, late))
        assert f"caFile {mesh.directory}/late.pem cannot be read: No such file" in str(failed.value)
    async with mesh_in(tmp_path) as mesh, serving(tmp_path, CA.issue(dns=[NAME])) as server:
        good = documents(server, {"grpc": NAMED})
        running = await mesh.sidecar("the sidecar", good)
        spec = good[1]["spec"]
        with pytest.raises(ChildFailed, match=r"caFile .*late.pem cannot be read: No such file"):
            await running.reload([document("ModelServer", {**spec, "tls": late}), *permissive_documents()])
        assert (await over_grpc(running)).status == "OK"
        (mesh.directory / "late.pem").write_bytes(CA.bundle_pem)  # nobody says so
        await until(lambda: running.said("configuration applied"))
        assert (await over_grpc(running)).status == "OK"
        # What is in use keeps no other documents out, whatever becomes of its files.
        (mesh.directory / "late.pem").write_text("")
        await running.reload([document("ModelServer", {**spec, "tls": late, "idleTimeout": "5s"}), *good[3:]])
        assert (await over_grpc(running)).status == "OK"
