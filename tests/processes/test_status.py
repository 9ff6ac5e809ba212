"""`meshproxy status` and a bad reload, with real sidecars: alone and with several workers."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import LocalSidecar, local_mesh, server_of
from tests.processes.calls import PATH
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONTENT = {"instances": [1.0]}
COMMAND = (sys.executable, "-c", "from meshproxy.cli.main import main; main()", "status")


async def run(sidecar: LocalSidecar, *options: str) -> tuple[int | None, str]:
    """Exit status and output of the command."""
    child = await asyncio.create_subprocess_exec(
        *COMMAND, "--admin", sidecar.admin, *options, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    return child.returncode, output.decode()


async def read(sidecar: LocalSidecar) -> dict[str, Any]:
    code, output = await run(sidecar, "-o", "json")
    status: dict[str, Any] = json.loads(output)
    assert code == (3 if status["attention"] else 0)
    return status


async def page(sidecar: LocalSidecar, path: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{sidecar.admin}{path}") as response:
        return await response.text()


def replace(sidecar: LocalSidecar, old: str, new: str) -> None:
    """Edits its documents, at once: it watches the file."""
    text = sidecar.path.read_text()
    assert old in text
    other = sidecar.path.with_suffix(".new")
    other.write_text(text.replace(old, new))
    other.replace(sidecar.path)


@pytest.mark.parametrize("workers", [1, 2])
async def test_one_screen_for_one_sidecar_and_a_reload_that_goes_wrong(tmp_path: Path, workers: int) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica(sidecar={"workers": workers})
        sidecar = replica.sidecar
        assert sidecar is not None
        async with RestClient(sidecar.inbound, sidecar.client) as client:
            assert (await client.call("POST", PATH, CONTENT)).status == "200"
        async with RestClient(sidecar.inbound, mesh.certificate("pricing", "quoter")) as stranger:
            assert (await stranger.call("POST", PATH, CONTENT)).status == "403"

        status = await read(sidecar)
        assert status["attention"] == []
        assert status["state"] == "ready"
        assert status["identity"]["spiffeId"] == "spiffe://local.example/ns/tests/sa/server"
        assert status["documents"]["counts"] == {"roles": 1, "bindings": 1, "servers": 1, "routes": 0}
        inbound = status["directions"]["inbound"]
        assert inbound["connectionsTotal"] == {"mtls": 2, "tls": 0, "plaintext": 0}
        assert inbound["served"] == 2
        (endpoint,) = status["servers"]["local"]["endpoints"]
        assert endpoint["endpoint"] == f"{replica.rest},{replica.grpc}"
        assert endpoint["latencySeconds"] > 0
        assert status["refusals"]["total"] == {"permission-denied": 1}
        (refusal,) = status["refusals"]["last"]
        assert (refusal["call"], refusal["policy"]) == ("predict half_plus_two", "default-deny")
        assert refusal["caller"] == "spiffe://local.example/ns/pricing/sa/quoter"
        assert len(status["workers"]) == (workers if workers > 1 else 0)
        code, text = await run(sidecar)
        assert code == 0
        assert max(map(len, text.splitlines())) <= 80
        assert "pricing/quoter" in text

        # Its load, of the model that was called; access control is no load.
        load = json.loads(await page(sidecar, "/scaling"))["models"]["half_plus_two"]
        assert load["requestRate"] > 0
        assert load["concurrency"] > 0
        assert load["inFlight"] == 0

        # A reload that goes wrong.
        replace(sidecar, "trustDomain:", "trustDomian:")
        reason = f'{sidecar.path}:7: MeshConfig/local: spec.trustDomian: no such field (did you mean "trustDomain"?)'

        async def is_noted() -> bool:
            return "trustDomian" in await page(sidecar, "/readyz?verbose")

        await until(is_noted)
        ready = await page(sidecar, "/readyz?verbose")
        assert f"[!] configuration rejected, the previous one is in use: {reason}\n" in ready
        assert ready.endswith("ready\n")
        assert json.dumps(reason)[1:-1] in await page(sidecar, "/config")
        await until(lambda: _all_have_rejected(sidecar, workers))
        status = await read(sidecar)
        assert reason in status["documents"]["lastReload"]["problems"]
        assert status["documents"]["lastReload"]["result"] == "rejected"
        assert status["attention"][0].startswith("the last documents were rejected, the previous ones are in use: ")
        code, text = await run(sidecar)
        assert code == 3
        assert "last reload rejected " in text

        # And is made good.
        replace(sidecar, "trustDomian:", "trustDomain:")

        async def is_good() -> bool:
            return "[!]" not in await page(sidecar, "/readyz?verbose")

        await until(is_good)
        status = await read(sidecar)
        assert status["attention"] == []
        assert status["documents"]["lastReload"]["result"] == "applied"


async def _all_have_rejected(sidecar: LocalSidecar, workers: int) -> bool:
    config = json.loads(await page(sidecar, "/config"))
    if workers == 1:
        return bool(config["lastReload"]["result"] == "rejected")
    return all(worker["notes"] for worker in config["workers"])


async def test_an_application_s_sidecar_shows_its_servers(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica, plain = await mesh.replica(), await mesh.bare()
        application = await mesh.application([server_of([replica]), server_of([plain], "plain")])
        async with RestClient(application.outbound, None) as client:
            assert (await client.call("POST", PATH, CONTENT, {"host": "models"})).status == "200"
            assert (await client.call("POST", PATH, CONTENT, {"host": "nobody"})).status == "404"
        status = await read(application)
        servers = {name: server["endpoints"][0] for name, server in status["servers"].items()}
        secured = {name: set(endpoint["security"].values()) for name, endpoint in servers.items()}
        assert secured == {"models": {"mtls"}, "plain": {"plaintext"}}
        assert servers["models"]["connections"] == 1
        assert status["directions"]["outbound"]["connectionsTotal"]["plaintext"] == 1
        assert status["refusals"]["last"][0]["reason"] == "no-route"


async def test_nobody_else_is_told(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        application = await mesh.application([server_of([await mesh.bare()])])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{application.admin}/status", headers={"host": "attacker.example"}) as response,
        ):
            assert response.status == 403
