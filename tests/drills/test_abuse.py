"""Sidecars that misbehave towards the control plane: refused with a reason, counted, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshproxy.config.sidecars import ControlPlane
from meshproxy.config.values import read_endpoint_address
from meshproxy.control.clients import CONNECTION_BURST
from meshproxy.control.settings import Settings
from meshproxy.control_api import ISSUE, WATCH, IssueRequest, SidecarReport
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.local_mesh import CLIENT, TRUST_DOMAIN, local_mesh, read_series
from meshproxy.sidecar.control_channel import ControlChannel
from meshproxy.transport.channel import Channel
from meshproxy.transport.client import StatusError
from meshproxy.transport.grpc_client import call_unary
from meshproxy.transport.grpc_stream import open_call
from meshproxy.transport.h2_client import H2Client
from tests.processes.calls import PATH, Load
from tests.processes.mesh import Mesh, mesh, spiffe_id
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

LIFETIME = "40s"
FLOOD_SECONDS, FLOOD_RATE = 30.0, 1_000
"""Longer than a certificate is good for before it is renewed."""
AT_ONCE = 200
"""Connections of the flood, so that a machine that cannot take a thousand a second gets as many as it can."""
ELSEWHERE = "127.0.0.9"
OTHER = f"spiffe://{TRUST_DOMAIN}/ns/meshproxy/sa/control"


@asynccontextmanager
async def impostor(it: Mesh, folder: str) -> AsyncIterator[Channel[H2Client]]:
    """A connection to the control plane, with the certificate of the sidecar that has this folder, if there is one."""
    settings = ControlPlane(
        address=read_endpoint_address(it.control.listening["control"]),
        spiffe_id=OTHER,
        trust_bundle=str(it.local.directory / "control/authority.pem"),
        folder=str(it.local.directory / folder),
    )
    channel = ControlChannel(settings)
    try:
        async with channel.open() as opened:
            yield opened
    finally:
        channel.stop()


async def refusal(
    channel: Channel[H2Client], key: ec.EllipticCurvePrivateKey, identity: str = "", token: str = ""
) -> str:
    """Why no certificate is issued; empty if one is."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if identity:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        builder = builder.add_extension(names, critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    message = msgspec.json.encode(IssueRequest(csr, token))
    try:
        await call_unary(channel, ISSUE, message, timeout=60.0, max_message_bytes=1 << 20)
    except StatusError as error:
        return str(error)
    return ""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def counted(it: Mesh, series: str) -> float:
    return (await read_series(str(it.control.listening["web"]), "/metrics")).get(series, 0.0)


async def test_requests_that_must_be_refused(tmp_path: Path) -> None:
    async with mesh(tmp_path, LIFETIME) as it:
        load = Load(it.application.outbound, None, rest=[True], grpc=[True])
        await until(lambda: it.rotations() >= 1)
        pem = (it.local.directory / "application/identity.pem").read_bytes()
        own = serialization.load_pem_private_key(pem[pem.index(b"-----BEGIN PRIVATE KEY") :], None)
        assert isinstance(own, ec.EllipticCurvePrivateKey)
        used, token = new_key(), (it.local.directory / "application.token").read_text()
        async with impostor(it, "application") as channel, impostor(it, "nobody") as stranger:
            assert "asks for another identity" in await refusal(channel, new_key(), OTHER)
            assert "has a certificate already" in await refusal(channel, own)
            assert await refusal(channel, used, spiffe_id(CLIENT)) == ""
            assert "has a certificate already" in await refusal(channel, used)
            assert "was used before" in await refusal(stranger, new_key(), token=token)
            assert "neither a certificate nor" in await refusal(stranger, new_key())
        # Nor is a key forgotten by a control plane that is started again.
        await it.control.kill()
        await it.restart_control()
        async with impostor(it, "application") as channel:
            assert "has a certificate already" in await refusal(channel, used)
        rotations = it.rotations()
        await until(lambda: it.rotations() > rotations)
        await load.more(20)
        await load.stop()
        print(f"{load.answered} calls, 0 failed")
        assert await counted(it, 'meshproxy_control_issuances_total{result="refused",reason="key-reused"}') == 1
        await until(lambda: any('"reason": "key-reused"' in line for line in it.control.output))


async def test_a_thousand_connections_a_second(tmp_path: Path) -> None:
    """From one address; the others are renewed and started meanwhile."""
    async with mesh(tmp_path, LIFETIME) as it:
        host, _, port = str(it.control.listening["control"]).rpartition(":")
        load = Load(it.application.outbound, None, rest=[True], grpc=[True])
        await load.more(20)
        hello = client_hello()
        begun = connected = 0

        async def connect() -> None:
            nonlocal connected
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port), local_addr=(ELSEWHERE, 0))
                connected += 1
                writer.write(hello)
                await reader.read(1)
                writer.transport.abort()

        rotations, began = it.rotations(), time.monotonic()
        attempts: set[asyncio.Task[None]] = set()
        while (elapsed := time.monotonic() - began) < FLOOD_SECONDS:
            for _ in range(min(int(elapsed * FLOOD_RATE) - begun, AT_ONCE - len(attempts))):
                begun += 1
                task = asyncio.ensure_future(connect())
                attempts.add(task)
                task.add_done_callback(attempts.discard)
            await asyncio.sleep(0.005)
        await asyncio.gather(*attempts)
        seconds = time.monotonic() - began
        await until(lambda: it.rotations() > rotations)
        await load.stop()
        refused = await counted(it, 'meshproxy_limits_exceeded_total{direction="control",limit="connection_rate"}')
        cpu = await counted(it, "process_cpu_seconds_total")
        print(
            f"{connected} connections in {seconds:.0f} s, {refused:.0f} turned away, the control plane has used "
            f"{cpu:.1f} s of CPU; certificates were renewed, {load.answered} calls, 0 failed"
        )
        assert 0 < refused >= connected - admitted(seconds)
        await until(lambda: any(f"connections from {ELSEWHERE} are closed" in line for line in it.control.output))
        assert it.replica.said("no certificate from the control plane; trying again") == []


def admitted(seconds: float) -> float:
    """How many connections of one address the control plane takes at most in this time."""
    rate: Any = next(field.default for field in fields(Settings) if field.name == "connection_rate")
    return float(rate * (CONNECTION_BURST + seconds))


def client_hello() -> bytes:
    """The first message of a handshake."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def test_a_stream_that_never_acknowledges(tmp_path: Path) -> None:
    """It is counted as behind; the others have the documents, and what breaks them reaches nobody."""
    async with local_mesh(tmp_path / "mesh") as local:
        it = await Mesh.start_with_documents(local)
        async with (
            impostor(it, "replica") as channel,
            await open_call(channel, WATCH, max_message_bytes=1 << 20) as call,
        ):
            await call.send(msgspec.json.encode(SidecarReport("silent")))
            async with RestClient(it.application.outbound, None) as client:

                async def answers(expected: str) -> bool:
                    return (await client.call("POST", PATH, {"instances": [2.0]})).status == expected

                for permits, expected in ((False, "403"), (True, "200"), (False, "403")):
                    it.write_documents(permits=permits)
                    await until(lambda expected=expected: answers(expected))
                await until(lambda: it.count('sidecars{state="in-sync"}', 2.0))
                assert await counted(it, 'meshproxy_control_sidecars{state="behind"}') == 1
                path = local.directory / "documents/mesh.yaml"
                path.write_text(path.read_text() + "---\nkind: Nothing\n")
                await until(lambda: it.count("documents_in_sync", 0.0))
                assert await answers("403")
