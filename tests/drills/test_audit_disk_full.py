"""The disk of the audit trail is full: traffic is served, admin verbs are refused, and the trail is still a chain."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from meshproxy.audit.lines import Kind, read_line
from meshproxy.audit.verify import Verifier
from meshproxy.devtools import messages
from meshproxy.devtools.clients import GrpcClient, RestClient
from meshproxy.devtools.local_mesh import LocalSidecar, document, environment, local_mesh
from meshproxy.devtools.network_namespaces import run
from tests.drills.small_disk import small_disk
from tests.processes.calls import PATH
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
NOTHING = messages.ReloadConfigRequest(config={"model_config_list": {}}).SerializeToString()
CALLS = 8_000
"""More lines than the queue holds."""


async def reload(sidecar: LocalSidecar) -> str | None:
    """Why a reload of the model server was refused; None if it was not."""
    async with GrpcClient(sidecar.inbound, sidecar.client, None) as client:
        return (await client.call(RELOAD, NOTHING, {})).refusal


async def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        async with local_mesh(tmp_path / "mesh") as mesh:
            server = await mesh.model_server()
            documents = environment(
                server.listening["rest"],
                server.listening["grpc"],
                mesh={"telemetry": {"audit": {"allowed": 1}}},
                sidecar={
                    "inbound": {"listen": "127.0.0.1:0", "server": "local"},
                    "auditLog": str(disk.folder / "audit.jsonl"),
                },
            )
            role = document("ModelRole", {"rules": [{"models": ["*"], "verbs": ["predict", "reload"]}]}, "all")
            subjects = [{"workload": {"namespace": "*"}}]
            binding = document("ModelRoleBinding", {"role": "all", "subjects": subjects}, "everybody")
            sidecar = await mesh.sidecar("the sidecar", [*documents, role, binding])
            disk.fill()
            statuses: Counter[str] = Counter()
            async with RestClient(sidecar.inbound, sidecar.client) as client:
                for _ in range(CALLS):
                    statuses[(await client.call("POST", PATH, {"instances": [2.0]}, {})).status] += 1
            assert statuses == {"200": CALLS}
            assert await sidecar.total("meshproxy_audit_failing") == 1
            assert await reload(sidecar) == "audit-unavailable"
            dropped = await sidecar.total("meshproxy_audit_dropped_total")
            assert 0 < dropped < CALLS
            disk.free()
            run("mount", "-o", "remount,size=64m", str(disk.folder))  # what has waited does not fit otherwise
            await until(lambda: sidecar.said("audit log is written again"))
            refused = 1
            async with asyncio.timeout(60):
                while (why := await reload(sidecar)) is not None:  # until what has waited is written
                    assert why == "audit-unavailable"
                    refused += 1
        content = (disk.folder / "audit.jsonl").read_bytes().splitlines(keepends=True)
        verifier = Verifier()
        verifier.read("audit.jsonl", content)
        verifier.finish()
        (chain,) = verifier.chains.values()
        print(f"{CALLS} calls, 0 failed; {dropped:.0f} events without a line; {len(content)} lines verified")
        assert verifier.is_whole
        assert chain.dropped == dropped
        kinds = Counter(read_line(line).kind for line in content)
        assert kinds[Kind.ALLOWED] + kinds[Kind.DENIED] + dropped == CALLS + refused
        assert (kinds[Kind.ADMIN], kinds[Kind.DROPPED]) == (1, 1)
