"""What a control plane knows of calls, from real sidecars; the larger mesh is tests/drills/test_mesh_view.py."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import CLIENT, SERVER, local_mesh
from meshproxy.view.page import MeshPage, read_mesh
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh, spiffe_id
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

MAIN = "from meshproxy.cli.main import main; main()"


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """The replica's sidecar has two workers."""
    async with local_mesh(tmp_path) as local:
        yield await Mesh.start_with_documents(local, workers=2)


async def page(mesh: Mesh) -> MeshPage:
    where = f"http://{mesh.control.listening['web']}/mesh?seconds=120"
    async with aiohttp.ClientSession() as session, session.get(where) as response:
        assert response.status == 200
        return read_mesh(await response.read())


def meshproxy(*words: str) -> str:
    done = subprocess.run([sys.executable, "-c", MAIN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_calls_are_reported_and_none_is_counted_twice(mesh: Mesh) -> None:
    async with RestClient(mesh.application.outbound, None) as client:
        for _ in range(20):
            assert (await client.call("POST", PATH, {"instances": [1.0]})).status == "200"

    async def arrived() -> bool:
        taken = [each.calls for each in (await page(mesh)).calls if each.calls.direction == "inbound"]
        return sum(sum(calls.codes.values()) for calls in taken) >= 20

    await until(arrived)
    found = await page(mesh)
    (row,) = [each for each in found.calls if each.calls.direction == "inbound"]
    assert (row.calls.caller.workload, row.reporter) == (spiffe_id(CLIENT), spiffe_id(SERVER))
    assert (row.calls.codes, row.calls.security, sum(row.calls.total.values())) == ({"200": 20}, "mtls", 20)
    assert found.reports.processes["fresh"] == 3
    assert found.reports.lost == 0
    web = str(mesh.control.listening["web"])
    (edge,) = json.loads(await asyncio.to_thread(meshproxy, "edges", "--control", web, "-o", "json"))["edges"]
    assert (edge["clientId"], edge["secured"], edge["calls"]) == (spiffe_id(CLIENT), True, 20)
    bundle = mesh.local.directory / "bundle.tar.gz"
    await asyncio.to_thread(meshproxy, "diagnostics", "dump", "--control", web, "-f", str(bundle))
    assert_no_secrets(bundle, mesh.local.directory)


def assert_no_secrets(bundle: Path, folder: Path) -> None:
    """Neither the keys nor the tokens that lie in a folder are in a bundle, as text or in another form."""
    with tarfile.open(bundle) as archive:
        content = b"".join(file.read() for each in archive if (file := archive.extractfile(each)) is not None)
    assert spiffe_id(CLIENT).encode() in content
    assert b"PRIVATE KEY" not in content
    secrets = [path.read_bytes().strip() for path in folder.glob("*.token")]
    for path in folder.rglob("*.pem"):
        for block in re.findall(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----(.*?)-----END", path.read_bytes(), re.DOTALL):
            secrets += [line for line in block.split() if len(line) > 32]
    assert len(secrets) > 4
    assert [secret for secret in secrets if secret in content] == []
