"""A control plane and two sidecars that it issues identities to; certificates that rotate under load are a drill."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import local_mesh, read_series
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh, mesh
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


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
            await until(lambda: _is(status, "403"))
            it.write_documents(permits=True)
            await until(lambda: _is(status, "200"))
            # What no sidecar could use reaches none.
            path = local.directory / "documents/mesh.yaml"
            path.write_text(path.read_text() + "---\nkind: Nothing\n")
            await until(lambda: it.count("documents_in_sync", 0.0))
            assert await status() == "200"
            await until(lambda: it.count('sidecars{state="in-sync"}', 2.0))
            async with RestClient(str(it.control.listening["web"]), None) as web:
                page = (await web.call("GET", "/status")).body
            assert {each["sidecar"] for each in page["sidecars"]} == {"replica", "app"}
            await it.control.kill()
            assert await status() == "200"
            await it.replica.child.stop()
            await it.local.sidecar("the replica's sidecar again", it.replica.path)
            await until(lambda: _is(status, "200"))


async def _is(status: Callable[[], Awaitable[str]], expected: str) -> bool:
    return await status() == expected


async def test_a_restart_without_control_plane(tmp_path: Path) -> None:
    async with mesh(tmp_path) as it:
        await it.control.kill()
        await it.replica.child.stop()
        again = await it.local.sidecar("the replica's sidecar again", it.replica.path)
        assert again.said("asking the control plane for a certificate") == []
        assert (await read_series(again.admin, "/metrics"))["meshproxy_identity_in_sync"] == 1
