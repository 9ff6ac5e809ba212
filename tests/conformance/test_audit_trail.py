"""A real OpenTelemetry Collector gets the audit trail, and the commands read what it has written."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from meshproxy.audit.lines import Kind, read_line
from meshproxy.devtools.child import free_port
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import LocalMesh, LocalSidecar, document, environment, local_mesh
from tests.conformance.otel_collector import otel_collector
from tests.processes.calls import PATH
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_scope="function")]

COMMAND = (sys.executable, "-c", "from meshproxy.cli.main import main; main()", "audit")
OTHER = "/v1/models/other:predict"


async def start(mesh: LocalMesh, url: str, name: str) -> LocalSidecar:
    """A sidecar that permits one model, and has a line for every call."""
    server = await mesh.model_server()
    documents = environment(
        server.listening["rest"],
        server.listening["grpc"],
        mesh={"telemetry": {"audit": {"allowed": 1}}},
        sidecar={"inbound": {"listen": "127.0.0.1:0", "server": "local"}, "auditLog": url},
    )
    role = document("ModelRole", {"rules": [{"models": ["half_plus_two"], "verbs": ["predict"]}]}, "callers")
    subjects = [{"workload": {"namespace": "*"}}]
    binding = document("ModelRoleBinding", {"role": "callers", "subjects": subjects}, "everybody")
    return await mesh.sidecar(name, [*documents, role, binding])


async def call(sidecar: LocalSidecar) -> None:
    """One that is permitted, and one that is not."""
    async with RestClient(sidecar.inbound, sidecar.client) as client:
        for path, status in ((PATH, "200"), (OTHER, "403")):
            assert (await client.call("POST", path, {"instances": [2.0]}, {})).status == status


async def said(*arguments: str) -> tuple[int, str]:
    """What a command of the trail says, and its exit code."""
    process = await asyncio.create_subprocess_exec(*COMMAND, *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_a_trail_that_a_collector_has_written_is_whole(tmp_path: Path) -> None:
    """The collector starts after the first lines, goes away, and comes back; nothing is lost. Two sidecars write."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def lines(logs: Path) -> int:
        return logs.read_text().count('"timeUnixNano"') if logs.exists() else 0

    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with local_mesh(tmp_path / "mesh") as mesh:
        sidecars = [await start(mesh, url, name) for name in ("one", "two")]
        for sidecar in sidecars:
            await call(sidecar)
        async with otel_collector(tmp_path / "one", port) as collector:
            await until(lambda: lines(collector.logs) == 2 * 3)
        for sidecar in sidecars:
            await call(sidecar)
        async with otel_collector(tmp_path / "two", port) as collector:
            await until(lambda: lines(collector.logs) == 2 * 2)
            for sidecar in sidecars:
                await call(sidecar)
            await until(lambda: lines(collector.logs) == 2 * 4)
            await mesh.stop()
            await until(lambda: lines(collector.logs) == 2 * 5)
    trail = tmp_path / "trail.jsonl"
    trail.write_bytes(b"".join((tmp_path / part / "logs.jsonl").read_bytes() for part in ("one", "two")))
    code, verified = await said("verify", str(trail))
    assert code == 0, verified
    code, shown = await said("show", str(trail), "-o", "json")
    assert code == 0
    kinds = [read_line(line.encode()).kind for line in shown.splitlines()]
    assert (kinds.count(Kind.ALLOWED), kinds.count(Kind.DENIED)) == (6, 6)
