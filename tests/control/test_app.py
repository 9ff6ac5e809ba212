"""The control plane as a whole, in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import ssl
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from lightkube.models.meta_v1 import ObjectMeta

from meshproxy.config.schema import MeshConfig
from meshproxy.config.values import Address
from meshproxy.control.app import ControlPlane
from meshproxy.control.attestation import make_token
from meshproxy.control.authority import RequestRefused, SigningRequest, private_pem
from meshproxy.control.clients import allow_descriptors, most_connections
from meshproxy.control.cluster import connect, connect_blocking
from meshproxy.control.objects import resource
from meshproxy.control.plane import SIGNS_ON
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.root_rotation import in_force
from meshproxy.control.rotator import Rotator
from meshproxy.control.secret_place import SecretPlace
from meshproxy.control.settings import Settings
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.shared_objects import SharedObjects
from meshproxy.control.shared_tokens import SharedTokens
from meshproxy.control.status import read_status
from meshproxy.control.store import CERTIFICATE, StoreError
from meshproxy.control.webhook import Injector
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.peer import PeerRole, read_peer
from meshproxy.web.login_file import read_login_file
from tests.control.fake_api_server import FakeApiServer
from tests.injection.pods import SETTINGS
from tests.processes.waiting import until

CONTROL = "spiffe://m.example/ns/meshproxy/sa/control"


def settings(folder: Path, lifetime: float = 3_600.0) -> Settings:
    free = Address("127.0.0.1", 0)
    return Settings(folder, "m.example", CONTROL, listen=free, web=free, lifetime=lifetime)


async def shown_certificate(control: ControlPlane) -> bytes:
    """What a client without a certificate is shown."""
    context = ssl.create_default_context(cafile=str(control.store.folder / CERTIFICATE))
    context.check_hostname = False
    host, _, port = control.listener.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert isinstance(der, bytes)
    return der


async def test_it_runs_until_it_is_stopped(tmp_path: Path) -> None:
    control = ControlPlane(settings(tmp_path))
    running = asyncio.create_task(control.run())
    await until(lambda: control.listener.address)
    assert control.listener.max_connections == most_connections(allow_descriptors())
    peer = read_peer(await shown_certificate(control), "m.example", time.time(), PeerRole.SERVER)
    assert peer.spiffe_id == CONTROL
    async with aiohttp.ClientSession(f"http://{control.web_address}") as web:
        for path in ("/livez", "/readyz"):
            async with web.get(path) as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
        async with web.get("/status") as answer:
            status = read_status(await answer.read())
        assert (status.spiffe_id, status.documents, status.sidecars, status.store_problem) == (CONTROL, None, (), "")
        assert status.authority_expires > status.certificate_expires > status.now >= status.certificate_issued
        async with web.get("/status", headers={"host": "attacker.example"}) as answer:
            assert (answer.status, await answer.text()) == (
                403,
                "forbidden: use a loopback connection and the host name localhost\n",
            )
        async with web.get("/metrics") as answer:
            page = await answer.text()
    assert 'meshproxy_tls_handshakes_total{direction="control",result="ok",reason=""} 1' in page
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await running


async def test_with_a_login_commands_have_a_port_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "login.yaml").write_text(LOGIN)
    login = read_login_file(tmp_path / "login.yaml")
    control = ControlPlane(replace(settings(tmp_path / "kept"), login=login, commands=Address("127.0.0.1", 0)))
    running = asyncio.create_task(control.run())
    await until(lambda: control.listener.address)
    assert control.web_address != control.commands_address
    async with aiohttp.ClientSession() as session:
        for address, status in ((control.web_address, 403), (control.commands_address, 200)):
            async with session.get(f"http://{address}/status") as answer:
                assert answer.status == status
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await running


async def test_its_ports_are_those_of_ipv6_and_ipv4(tmp_path: Path) -> None:
    """As in a pod, whose cluster may have one of them or both."""
    free = Address("::", 0)
    injector = Injector(free, ("localhost",), lambda bundle: replace(SETTINGS, trust_bundle=bundle))
    control = ControlPlane(replace(settings(tmp_path), listen=free, web=free, injector=injector))
    running = asyncio.create_task(control.run())
    await until(lambda: control.webhook is not None and control.webhook.address)
    assert control.webhook is not None
    for address in (control.listener.address, control.web_address, control.webhook.address):
        unspecified, _, port = address.rpartition(":")
        assert unspecified == "[::]"
        for host in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()
    # Who comes over IPv4 is on this host, too.
    port = control.web_address.rpartition(":")[2]
    async with aiohttp.ClientSession() as web, web.get(f"http://127.0.0.1:{port}/status") as answer:
        assert answer.status == 200
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await running


LOGIN = """
address: http://localhost:18512
issuer: http://127.0.0.1:18520
clientId: page
roles: [{name: viewer, sees: [graph], claims: {groups: ml}}]
"""
MESH = """
{apiVersion: meshproxy.dev/v1alpha1, kind: MeshConfig, metadata: {name: m}, spec: {trustDomain: m.example}}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelServer
metadata: {name: s}
spec: {service: {namespace: models, name: resnet, grpc: grpc}}
"""


async def test_services_that_documents_name(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH)
    control = await ControlPlane.build(replace(settings(tmp_path / "kept"), documents=(str(tmp_path / "mesh.yaml"),)))
    running = asyncio.create_task(control.run())
    await until(lambda: control.web_address)
    async with aiohttp.ClientSession(f"http://{control.web_address}") as web:
        async with web.get("/endpoints") as answer:
            shown = (await answer.json())["models/resnet"]
        assert (shown["problem"], shown["sidecars"]) == (
            "Service models/resnet: its control plane has no --services",
            0,
        )
        async with web.get("/endpoints", headers={"host": "attacker.example"}) as answer:
            assert answer.status == 403
    control._stopping.set()
    await running


async def test_its_own_certificate_is_renewed(tmp_path: Path) -> None:
    control = ControlPlane(settings(tmp_path, lifetime=3.0))
    running = asyncio.create_task(control.run())
    await until(lambda: control.listener.address)
    first = await shown_certificate(control)
    context = control.listener.context
    await until(lambda: control.listener.context is not context)
    assert await shown_certificate(control) != first
    control._stopping.set()
    await running


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_a_trail_that_was_rotated_is_opened_again(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "audit.jsonl"
    control = ControlPlane(replace(settings(tmp_path / "kept"), audit_log=str(log)))
    running = asyncio.create_task(control.run())
    await until(lambda: log.exists() and log.stat().st_size)
    log.rename(tmp_path / "rotated.jsonl")
    signal.raise_signal(number)
    await until(log.exists)
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await running
    assert "stops" in log.read_text()


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    control = ControlPlane(settings(tmp_path))
    control.listener.listen("127.0.0.1", 0)
    port = int(control.listener.address.rpartition(":")[2])
    other = ControlPlane(
        Settings(tmp_path, "m.example", CONTROL, Address("127.0.0.1", port), Address("127.0.0.1", 0), 60.0)
    )
    with pytest.raises(OSError, match="in use"):
        await other.run()
    # Whoever started it is told of signals again.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        assert not asyncio.get_running_loop().remove_signal_handler(number)
    await control.listener.close()


async def test_a_folder_of_another_mesh(tmp_path: Path) -> None:
    ControlPlane(settings(tmp_path))
    with pytest.raises(StoreError, match="use another folder"):
        ControlPlane(Settings(tmp_path, "n.example", CONTROL, Address("127.0.0.1", 0), Address("127.0.0.1", 0)))


async def test_a_workload_of_another_mesh_is_refused(tmp_path: Path) -> None:
    """TLS trusts its authority only, so the handshake fails before anybody asks who it is."""
    control = ControlPlane(settings(tmp_path))
    control.listener.listen("127.0.0.1", 0)
    stranger = DevelopmentCA.create("n.example").issue("spiffe://n.example/ns/a/sa/b")
    pair = stranger.write(tmp_path, "stranger")
    context = ssl.create_default_context(cafile=str(tmp_path / CERTIFICATE))
    context.check_hostname = False
    context.load_cert_chain(*pair)
    host, _, port = control.listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    failed = control.metrics.tls_handshakes.labels("control", "failed", "unknown_authority")
    await until(lambda: failed.value == 1)
    await control.listener.close()


async def test_whoever_connects_again_and_again_is_turned_away(tmp_path: Path) -> None:
    """Before a handshake; others are not affected."""
    control = ControlPlane(dataclasses.replace(settings(tmp_path), connection_rate=0.5))
    control.listener.listen("127.0.0.1", 0)
    host, _, port = control.listener.address.rpartition(":")
    for _ in range(5):
        await shown_certificate(control)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await shown_certificate(control)
    assert control.metrics.limits_exceeded.labels("control", "connection_rate").value == 1
    _, writer = await asyncio.open_connection(host, int(port), local_addr=("127.0.0.2", 0))
    await until(lambda: control.listener.size == 1)
    writer.close()
    await control.listener.close()


async def test_whoever_shows_no_certificate_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshproxy.control.app.STRANGER_SECONDS", 0.05)
    control = ControlPlane(settings(tmp_path))
    running = asyncio.create_task(control.run())
    await until(lambda: control.listener.address)
    context = ssl.create_default_context(cafile=str(control.store.folder / CERTIFICATE))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    host, _, port = control.listener.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    await until(lambda: control.metrics.limits_exceeded.labels("control", "stranger_time").value == 1)
    await until(lambda: control.listener.size == 0)
    writer.close()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    control._stopping.set()
    await running


async def test_one_identity_does_not_have_all_connections(tmp_path: Path) -> None:
    control = ControlPlane(settings(tmp_path))
    control.listener.max_connections = control._clients.most = 4
    control.listener.listen("127.0.0.1", 0)
    host, _, port = control.listener.address.rpartition(":")

    async def connect(name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        key = ec.generate_private_key(ec.SECP256R1())
        request = SigningRequest(key.public_key(), ())
        issued = control.authority().issue(request, f"spiffe://m.example/ns/a/sa/{name}", time.time(), 600.0)
        (tmp_path / name).write_bytes(issued.certificate_pem + private_pem(key))
        context = ssl.create_default_context(cafile=str(tmp_path / CERTIFICATE))
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(tmp_path / name)
        return await asyncio.open_connection(host, int(port), ssl=context)

    held = [await connect("greedy") for _ in range(3)]
    await until(lambda: len(control.listener.connections) == 3)
    refused, writer = await connect("greedy")
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await refused.readexactly(1)
    assert control.metrics.limits_exceeded.labels("control", "identity_connections").value == 1
    held += [(refused, writer), await connect("another")]
    await until(lambda: len(control.listener.connections) == 4)
    for _, each in held:
        each.close()
    await until(lambda: not control.listener.connections)
    held.append(await connect("greedy"))
    await until(lambda: len(control.listener.connections) == 1)
    held[-1][1].close()
    await asyncio.gather(*(each.wait_closed() for _, each in held), return_exceptions=True)
    await control.listener.close()


async def test_a_trust_domain_whose_bundle_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its workloads are refused until the file has their authority: new connections follow it."""
    theirs, bundle = DevelopmentCA.create("n.example"), tmp_path / "theirs.pem"
    bundle.write_bytes(b"nothing yet")
    trusting = dataclasses.replace(settings(tmp_path / "control"), trusted={"n.example": bundle})
    control = ControlPlane(trusting)
    assert "trust domain n.example: " in caplog.records[-1].__dict__["fields"]["problem"]
    running = asyncio.create_task(control.run())
    await until(lambda: control.listener.address)
    context = ssl.create_default_context(cafile=str(control.store.folder / CERTIFICATE))
    context.check_hostname = False
    context.load_cert_chain(*theirs.issue("spiffe://n.example/ns/a/sa/b").write(tmp_path, "workload"))
    handshakes = control.metrics.tls_handshakes

    async def connect() -> None:
        host, _, port = control.listener.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    await connect()
    await until(lambda: handshakes.labels("control", "failed", "unknown_authority").value == 1)
    before = control.listener.context
    bundle.write_bytes(theirs.bundle_pem)
    await until(lambda: control.listener.context is not before)
    await connect()
    await until(lambda: handshakes.labels("control", "ok", "").value == 1)
    control._stopping.set()
    await running


async def test_limits_are_counted(tmp_path: Path) -> None:
    control = ControlPlane(settings(tmp_path))
    control._clients.limit("connections")
    assert control.metrics.limits_exceeded.labels("control", "connections").value == 1


async def test_documents_of_a_cluster(tmp_path: Path) -> None:
    """The control plane starts while the API server is away, and has the documents once it is there."""
    server = FakeApiServer()
    await server.start()
    kubeconfig = server.write_kubeconfig(tmp_path, "models")
    await server.stop()
    given = Settings(
        tmp_path / "control", "m.example", CONTROL, listen=Address("127.0.0.1", 0), web=Address("127.0.0.1", 0),
        cluster_documents=True, kubeconfig=kubeconfig,
    )  # fmt: skip
    control = await ControlPlane.build(given)
    running = asyncio.create_task(control.run())
    await until(lambda: control.web_address)
    documents = control.documents
    assert documents is not None
    async with aiohttp.ClientSession(f"http://{control.web_address}") as web:
        async with web.get("/metrics") as answer:
            assert "meshproxy_control_documents_in_sync 0" in await answer.text()
        await server.start()
        client = connect(kubeconfig)
        spec = {"trustDomain": "m.example"}
        await client.create(resource(MeshConfig)(metadata=ObjectMeta(name="m"), spec=spec))  # type: ignore[call-arg]
        await until(lambda: documents.held)
        async with web.get("/metrics") as answer:
            assert "meshproxy_control_documents_in_sync 1" in await answer.text()
    await client.close()
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await running
    await server.stop()


async def test_an_authority_that_several_control_planes_share(tmp_path: Path) -> None:
    """Each says by which authority it signs before it listens, and after each step; until it stops."""
    async with FakeApiServer() as server:
        kubeconfig = server.write_kubeconfig(tmp_path, "mesh")
        given = replace(settings(tmp_path / "control"), kubeconfig=kubeconfig, authority_secret="authority")
        control = await ControlPlane.build(given)
        objects = SharedObjects(connect_blocking(kubeconfig), "mesh")
        place, records = SecretPlace(objects, "authority"), PlaneRecords(objects, "authority")
        running = asyncio.create_task(control.run())
        await until(lambda: control.web_address)
        (said,) = (await asyncio.to_thread(records.read)).entries
        assert said.signs_by == in_force(control.authority())
        operator = Rotator(place, SharedLeaves(objects, "authority"))
        await asyncio.to_thread(operator.forward)

        rotation = await asyncio.to_thread(place.rotation)
        assert rotation is not None

        async def noticed() -> bool:
            said = await asyncio.to_thread(records.read)
            return [each.signs_by for each in said.entries] == [in_force(rotation.authority())]

        await until(noticed)
        tokens = SharedTokens(objects, "authority")
        await asyncio.to_thread(make_token, tokens, "spiffe://m.example/ns/a/sa/b", time.time(), 60.0)
        status = await control.status()
        assert (status.rotation_step, status.store_problem) == ("distribute", "")
        assert status.records_used == 0.0
        assert status.issues_until is not None
        assert 0.0 < (status.issues_until - status.now).total_seconds() <= SIGNS_ON
        async with aiohttp.ClientSession(f"http://{control.web_address}") as web, web.get("/metrics") as answer:
            page = await answer.text()
        assert "meshproxy_control_certificate_records_used_ratio 0.0\n" in page
        assert "meshproxy_control_issues_until_timestamp_seconds " in page
        assert [token.identity for token in status.waiting_tokens] == ["spiffe://m.example/ns/a/sa/b"]
        # Cut off for a day, it signs no more: nobody could know of it.
        assert control._records.signer() is control.authority()
        assert control._records._presence is not None
        control._records._presence.may_sign = lambda now: False  # type: ignore[method-assign]
        with pytest.raises(RequestRefused, match="cut off from the API server for a day"):
            control._records.signer()
        control._stopping.set()
        await running
        assert (await asyncio.to_thread(records.read)).entries == []
        objects.close()


async def test_a_step_that_is_taken_while_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knew of it, so the step did not wait: nothing is issued before it has been noticed."""
    async with FakeApiServer() as server:
        kubeconfig = server.write_kubeconfig(tmp_path, "mesh")
        given = replace(settings(tmp_path / "control"), kubeconfig=kubeconfig, authority_secret="authority")
        control = await ControlPlane.build(given)
        objects = SharedObjects(connect_blocking(kubeconfig), "mesh")
        place = SecretPlace(objects, "authority")
        begin = control._records.begin

        async def begin_late() -> None:
            await asyncio.to_thread(Rotator(place, SharedLeaves(objects, "authority")).forward)
            await begin()

        monkeypatch.setattr(control._records, "begin", begin_late)
        running = asyncio.create_task(control.run())
        await until(lambda: control.listener.address)
        rotation = await asyncio.to_thread(place.rotation)
        assert rotation is not None
        assert in_force(control.authority()) == in_force(rotation.authority())
        control._stopping.set()
        await running
        objects.close()


async def test_a_start_that_may_issue_nothing(tmp_path: Path) -> None:
    """It says why, and leaves nothing behind: no entry, no client, no handler of signals."""
    async with FakeApiServer() as server:
        kubeconfig = server.write_kubeconfig(tmp_path, "mesh")
        given = replace(settings(tmp_path / "control"), kubeconfig=kubeconfig, authority_secret="authority")
        control = await ControlPlane.build(given)
        server.status = 403
        with pytest.raises(StoreError, match="authority-control-planes cannot be written"):
            await control.run()
        server.status = 200
        assert control._objects is not None
        with pytest.raises(RuntimeError, match="closed"):
            control._objects.read("secrets", "authority")
        assert not asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
