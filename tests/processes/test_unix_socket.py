"""A model server on UNIX sockets, as TensorFlow Serving with `--grpc_socket_path`: grpcio and aiohttp listen there."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

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
from tests.processes.calls import PATH, PREDICT, REQUEST
from tests.processes.waiting import json_lines, until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONTENT = {"instances": [1.0]}
SOCKETS = ("--rest-socket-path", "rest.sock", "--grpc-socket-path", "grpc.sock")


def documents(mesh: LocalMesh, **server: Any) -> list[Document]:
    """A sidecar before the sockets: one named relative to the document, the other as gRPC's URI."""
    own = environment("unix:rest.sock", f"unix://{mesh.directory}/grpc.sock", sidecar={"accessLog": "./access.log"})
    own[1]["spec"].update(server)
    return [*own, *permissive_documents()]


async def call_both(running: LocalSidecar) -> tuple[Answer, Answer]:
    """A call over REST, and one over gRPC."""
    async with RestClient(running.inbound, running.client) as rest, GrpcClient(running.inbound, running.client) as grpc:
        return await rest.call("POST", PATH, CONTENT), await grpc.call(PREDICT, REQUEST)


async def are_served(running: LocalSidecar) -> bool:
    return [answer.status for answer in await call_both(running)] == ["200", "OK"]


async def test_a_server_that_comes_late_crashes_and_comes_back(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "m") as mesh:
        running = await mesh.sidecar("the sidecar", documents(mesh))
        rest, grpc = await call_both(running)
        assert (rest.status, rest.refusal) == ("503", "connect-failed")
        assert (grpc.status, grpc.refusal) == ("UNAVAILABLE", "connect-failed")
        missing = f"unix:{mesh.directory}/grpc.sock cannot be reached: No such file or directory: check that the server"
        assert missing in grpc.body

        server = await mesh.model_server(*SOCKETS)
        await until(lambda: are_served(running))

        await server.kill()  # its sockets stay, and nobody serves them
        rest, grpc = await call_both(running)
        assert rest.refusal == grpc.refusal == "connect-failed"
        ended = "Connection refused: the process that made the socket has ended"
        assert ended in json.dumps(rest.body)
        assert ended in grpc.body

        await mesh.model_server(*SOCKETS)
        await until(lambda: are_served(running))

        endpoint = f"unix:{mesh.directory}/rest.sock,unix:{mesh.directory}/grpc.sock"
        async with RestClient(running.admin, None) as admin:
            shown = (await admin.call("GET", "/config", headers={"host": "localhost"})).body
        assert endpoint in json.dumps(shown)
        assert any(f'endpoint="{endpoint}"' in series for series in await running.metrics())

        def logged() -> set[str]:
            """Of the calls that were served; lines are written some time after the calls."""
            lines = json_lines(mesh.directory / "access.log")
            return {line["upstream_host"] for line in lines if line["refusal"] is None}

        await until(lambda: logged() == {f"unix:{mesh.directory}/{name}.sock" for name in ("rest", "grpc")})


@pytest.mark.parametrize("check", ["answer", "tcp", "grpc", "model-status"])
async def test_health_checks(tmp_path: Path, check: str) -> None:
    health = {"check": check, "interval": "100ms", "unhealthyAfter": 1, "models": ["half_plus_two"]}
    async with local_mesh(tmp_path / "m") as mesh:
        running = await mesh.sidecar("the sidecar", documents(mesh, health=health))

        async def is_ready() -> bool:
            async with RestClient(running.admin, None) as admin:
                return (await admin.call("GET", "/readyz")).status == "200"

        (problem,) = await said_problems(running)
        assert "No such file or directory" in problem
        assert not await is_ready()
        await mesh.model_server(*SOCKETS)
        await until(is_ready)


async def said_problems(running: LocalSidecar) -> list[str]:
    """What the first line about its health says."""
    await until(lambda: running.said("endpoint health changed"))
    problems: list[str] = running.said("endpoint health changed")[0]["problems"]
    return problems


async def test_an_application_calls_a_server_of_its_own_host(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "m") as mesh:
        await mesh.model_server(*SOCKETS)
        server = document("ModelServer", {"endpoints": [{"rest": "unix:rest.sock", "grpc": "unix:grpc.sock"}]})
        running = await mesh.application([server], outbound={"server": "local"})
        async with RestClient(running.outbound, None) as rest, GrpcClient(running.outbound, None) as grpc:
            assert (await rest.call("POST", PATH, CONTENT)).status == "200"
            assert (await grpc.call(PREDICT, REQUEST)).status == "OK"


async def test_the_host_of_the_client_is_passed_on(tmp_path: Path) -> None:
    """A socket has no authority of its own."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async with local_mesh(tmp_path / "m") as mesh:
        running = await mesh.sidecar("the sidecar", documents(mesh))
        server = await asyncio.start_unix_server(answer, mesh.directory / "rest.sock")
        async with RestClient(running.inbound, running.client) as rest:
            answered = await rest.call("GET", "/v1/models/half_plus_two", headers={"host": "models.example"})
        assert answered.status == "200"
        assert b"\r\nhost: models.example\r\n" in heads[0]
        server.close()


async def test_a_socket_without_write_permission(tmp_path: Path) -> None:
    """gRPC makes its socket with mode 0755: who is not its owner cannot connect."""
    bound = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")  # root may write everywhere otherwise
    async with local_mesh(tmp_path / "m") as mesh:
        await mesh.model_server(*SOCKETS)
        (mesh.directory / "grpc.sock").chmod(0o400)
        running = await mesh.sidecar("the sidecar", documents(mesh), bound if os.geteuid() == 0 else ())
        async with GrpcClient(running.inbound, running.client) as grpc:
            answer = await grpc.call(PREDICT, REQUEST)
        assert answer.refusal == "connect-failed"
        assert "Permission denied: this takes write permission for the socket" in answer.body
