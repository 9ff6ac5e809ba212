"""Resident memory of a sidecar that has its identity and its documents from a control plane."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.processes import status_bytes
from meshproxy.control.authority import SigningRequest, private_pem
from meshproxy.control.store import FolderStore
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import CLIENT, LocalMesh, local_mesh
from tests.processes.calls import PATH
from tests.processes.mesh import Mesh, spiffe_id
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(300)]

CONNECTIONS = 100
TOGETHER = 20
"""Connections that call at the same time, as in `make bench`."""
CALLS = 200
"""On each connection."""
CHANGES = 10
"""Of the documents, while the connections are open."""
MEGABYTES = 52.0
"""The most that may be resident."""


def client_context(local: LocalMesh) -> ssl.SSLContext:
    """Of a caller with a certificate of the control plane's authority."""
    authority = FolderStore(local.directory / "control").find_authority()
    assert authority is not None
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue(SigningRequest(key.public_key(), ()), spiffe_id(CLIENT), time.time(), 3_600.0)
    pair = local.directory / "caller.pem"
    pair.write_bytes(issued.certificate_pem + private_pem(key))
    context = ssl.create_default_context(cadata=authority.bundle_pem.decode())
    context.check_hostname = False
    context.load_cert_chain(pair)
    return context


async def call_often(address: str, context: ssl.SSLContext, token: str | None) -> asyncio.StreamWriter:
    """Many calls, one after another, on one connection, which stays open."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    body = json.dumps({"instances": [1.0]})
    fields = [f"POST {PATH} HTTP/1.1", "host: models", f"content-length: {len(body)}"]
    if token is not None:
        fields.append(f"authorization: Bearer {token}")
    request = "\r\n".join([*fields, "", body]).encode()
    for _ in range(CALLS):
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200")
        await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))
    return writer


async def change_documents(it: Mesh) -> None:
    """Several times; each reaches the sidecars."""
    for number in range(CHANGES):
        applied = len(it.replica.said("configuration applied"))
        it.write_documents(permits=bool(number % 2))
        await until(lambda applied=applied: len(it.replica.said("configuration applied")) > applied, 60)


async def resident(tmp_path: Path, issuer: DevelopmentIssuer | None) -> tuple[float, float, float]:
    """Megabytes of a replica's sidecar: before the first call, with all connections open, and after `CHANGES`."""
    async with local_mesh(tmp_path / "mesh") as local:
        mesh: dict[str, Any] = {}
        if issuer is not None:
            (local.directory / "jwks.json").write_text(json.dumps(issuer.jwks()))
            keys = {"file": str(local.directory / "jwks.json")}
            mesh["issuers"] = [
                {"name": "corp", "issuer": issuer.issuer, "audiences": ["models"], "keys": keys},
            ]
        it = await Mesh.start_with_documents(local, mesh=mesh)
        await until(lambda: it.count('sidecars{state="in-sync"}', 2.0), 60)
        pid = it.replica.child.pid
        before = status_bytes(pid, "VmRSS") / 1e6
        context = client_context(local)
        token = issuer.token() if issuer is not None else None
        writers: list[asyncio.StreamWriter] = []
        while len(writers) < CONNECTIONS:
            calls = (call_often(it.replica.inbound, context, token) for _ in range(TOGETHER))
            writers += await asyncio.gather(*calls)
        page = await it.replica.metrics()
        assert (
            sum(count for name, count in page.items() if name.startswith("meshproxy_open_connections{")) >= CONNECTIONS
        )
        assert await it.count('sidecars{state="in-sync"}', 2.0)
        worked = status_bytes(pid, "VmRSS") / 1e6
        await change_documents(it)
        after = status_bytes(pid, "VmRSS") / 1e6
        for writer in writers:
            writer.transport.abort()
        return before, worked, after


@pytest.mark.parametrize("has_tokens", [False, True], ids=["mTLS", "mTLS and tokens"])
async def test_a_sidecar_with_a_control_plane(tmp_path: Path, has_tokens: bool) -> None:
    before, worked, after = await resident(tmp_path, DevelopmentIssuer(algorithm="ES256") if has_tokens else None)
    calls = CONNECTIONS * CALLS
    print(f"RSS at start {before:.1f} MB; with {CONNECTIONS} connections, after {calls:,} calls {worked:.1f} MB")
    print(f"and after {CHANGES} changes of the documents {after:.1f} MB")
    assert max(worked, after) <= MEGABYTES


async def test_both_sidecars_of_a_call(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start_with_documents(local)
        clients = [RestClient(it.application.outbound, None) for _ in range(CONNECTIONS)]
        answers = await asyncio.gather(*(client.call("POST", PATH, {"instances": [2.0]}) for client in clients))
        assert {answer.status for answer in answers} == {"200"}
        await change_documents(it)
        used = {
            name: status_bytes(sidecar.child.pid, "VmRSS") / 1e6
            for name, sidecar in (("replica", it.replica), ("application", it.application))
        }
        for client in clients:
            await client.__aexit__(None, None, None)
    print(f"RSS with {CONNECTIONS} connections and a control plane: {used}")
    assert max(used.values()) <= MEGABYTES
