"""One sidecar in this process, with a model server that is ours: what it is built of, what changes it, how it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yaml
from cryptography.x509 import load_der_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.config import file_watch
from meshproxy.config.file_watch import FileWatch
from meshproxy.config.load import load, load_own
from meshproxy.config.problems import ConfigError
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, document, environment
from meshproxy.identity.caller import Workload
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar import clusters, configuration, document_source, drain, worker
from meshproxy.sidecar.app import PARTING_TURNS, Sidecar, run_sidecar
from meshproxy.sidecar.direction import Direction
from meshproxy.sidecar.document_source import FileDocuments
from meshproxy.sidecar.logs import Logs
from meshproxy.sidecar.rotation import load_identity
from meshproxy.sidecar.supervisor import reserve
from meshproxy.sidecar.tokens import Tokens
from meshproxy.telemetry import log_encoding
from meshproxy.transport import h2_server
from meshproxy.transport.listener import Listener, ListenerState, PeerRejected
from meshproxy.transport.reaper import PERIOD
from tests.collector import collecting
from tests.identity.peers import handshaken

CA = DevelopmentCA.create(TRUST_DOMAIN)
SERVER = CA.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server")
CLIENT = CA.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client")

Documents = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are loaded here: a process for each takes half a second."""

    async def load_here(paths: Sequence[str]) -> Any:
        return load(paths)

    monkeypatch.setattr(document_source, "load_in_child", load_here)
    monkeypatch.setattr(drain, "QUIET", 0.05)
    monkeypatch.setattr(drain, "LOOK_PERIOD", 0.01)


@dataclass
class ModelServer:
    """Answers REST calls; those of the model `slow` when it is told to."""

    address: str = ""
    heads: list[bytes] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                if b"/slow" in head:
                    self.asked.set()
                    await self.release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            self.writers.remove(writer)
            writer.close()


@asynccontextmanager
async def model_server() -> AsyncIterator[ModelServer]:
    model = ModelServer()
    server = await asyncio.start_server(model.serve, "127.0.0.1", 0)
    model.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield model
    finally:
        server.close()
        model.release.set()
        for writer in tuple(model.writers):
            writer.close()
        await until(lambda: not model.writers)


@dataclass
class Running:
    """The sidecar, its documents, and its task."""

    sidecar: Sidecar
    path: Path
    model: ModelServer
    task: asyncio.Task[None]

    @property
    def direction(self) -> Direction:
        """The inbound one."""
        assert self.sidecar.inbound is not None
        return self.sidecar.inbound

    @property
    def inbound(self) -> Listener:
        return self.direction.listener

    def write(self, documents: Documents) -> None:
        self.path.write_text(yaml.safe_dump_all(documents))

    async def ask(self, target: bytes = b"/v1/models/m", **options: Any) -> tuple[bytes, bytes]:
        return await ask(self.inbound.address, target, **options)

    async def operate(self, target: bytes, method: bytes = b"GET") -> tuple[bytes, bytes]:
        return await ask(self.sidecar.admin.address, target, method, host=b"localhost")

    async def metric(self, name: str) -> float:
        _, page = await self.operate(b"/metrics")
        (line,) = [line for line in page.decode().splitlines() if line.startswith(name + " ") or line == name]
        return float(line.rpartition(" ")[2])


async def ask(
    address: str,
    target: bytes,
    method: bytes = b"GET",
    *,
    host: bytes = b"x",
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None,
) -> tuple[bytes, bytes]:
    """One exchange; status and body."""
    reader, writer = connection or await connect(address)
    writer.write(method + b" " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 0\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    if b"content-length" in fields:
        body = await reader.readexactly(int(fields[b"content-length"]))
    else:
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    if connection is None:
        writer.close()
        await writer.wait_closed()
    return head[9:12], body


async def connect(
    address: str, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port), ssl=context, server_hostname="" if context else None)


async def until(condition: Callable[[], object]) -> None:
    """What nothing tells of."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    directory: Path, model: ModelServer, *, ends: bool = True, documents: Documents | None = None, **options: Any
) -> AsyncIterator[Running]:
    """A sidecar from its first moment to its end, which must be a good one."""
    CA.write(directory)
    SERVER.write(directory, "server")
    path = directory / "documents.yaml"
    path.write_text(yaml.safe_dump_all(documents or made(model, **options)))
    sidecar = await build(path)
    task = asyncio.ensure_future(sidecar.run())
    await until(lambda: sidecar.admin.address or task.done())
    try:
        yield Running(sidecar, path, model, task)
    finally:
        sidecar.drain()
        await asyncio.wait((task,))
    if ends:
        task.result()


async def build(path: Path, slot: worker.WorkerSlot | None = None) -> Sidecar:
    documents = load([path])
    return Sidecar(FileDocuments([str(path)]), documents, await load_identity(documents), slot)


def made(
    model: ModelServer,
    *,
    mtls: Any = "disabled",
    mesh: dict[str, Any] | None = None,
    sidecar: dict[str, Any] | None = None,
    more: Documents | None = None,
) -> Documents:
    own = {"drainTimeout": "5s", **(sidecar or {})}
    return [*environment(model.address, mtls=mtls, mesh=mesh, sidecar=own), *(more or [])]


def deny_everyone() -> Documents:
    return [document("ModelRole", {"rules": [{"models": ["nothing"], "verbs": ["predict"]}]})]


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of what was logged in these words."""
    return [record.__dict__.get("fields", {}) for record in caplog.records if record.getMessage() == event]


class TestServing:
    async def test_a_request_is_carried_counted_and_written_down(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model, sidecar={"accessLog": "./access.log"}) as it:
            assert await it.ask() == (b"200", b"{}")
            assert b"GET /v1/models/m HTTP/1.1\r\n" in model.heads[0]
            _, page = await it.operate(b"/metrics")
            assert b'meshproxy_requests_total{direction="inbound"' in page
            assert await it.metric("meshproxy_config_in_sync") == 1
        (line,) = (tmp_path / "access.log").read_text().splitlines()
        assert json.loads(line)["path"] == "/v1/models/m"

    async def test_times_are_those_of_a_wall_clock_that_was_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        later = SimpleNamespace(
            time=lambda: time.time() + 3_600, monotonic=time.monotonic, strftime=time.strftime, gmtime=time.gmtime
        )
        async with model_server() as model, running(tmp_path, model, sidecar={"accessLog": "./access.log"}) as it:
            await it.ask()
            monkeypatch.setattr(log_encoding, "time", later)
            it.sidecar._reaper.sweep(asyncio.get_running_loop().time() + 2 * log_encoding.FOLLOW_SECONDS)
            await it.ask()
        lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
        before, after = [datetime.fromisoformat(line["start_time"]) for line in lines]
        assert 3_600 <= (after - before).total_seconds() < 3_660

    async def test_what_runs_is_told_without_secrets(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="permissive", more=deny_everyone()) as it:
            _, body = await it.operate(b"/config")
            told = json.loads(body)
            assert told["identity"] == f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server"
            assert (told["mtls"], list(told["servers"]), told["roles"]) == ("permissive", ["local"], ["local"])
            (endpoint,) = told["servers"]["local"]["endpoints"]
            assert endpoint["endpoint"] == model.address
            assert (endpoint["healthy"], endpoint["ejected"], endpoint["breaker"]) == (None, False, "closed")
            assert (told["inbound"], told["outbound"], told["routes"]) == (it.inbound.address, None, {})
            assert told["fingerprint"] == load([it.path]).fingerprint
            assert b"PRIVATE" not in body

    async def test_ready_hangs_on_a_valid_certificate(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="strict") as it:
            assert (await it.operate(b"/readyz"))[0] == b"200"
            tomorrow = time.time() + 90_000
            monkeypatch.setattr(time, "time", lambda: tomorrow)
            status, body = await it.operate(b"/readyz")
            assert (status, body.splitlines()[0]) == (b"503", b"[-] certificate is valid")

    async def test_a_model_that_is_not_loaded_yet_keeps_it_from_being_ready(self, tmp_path: Path) -> None:
        """From the first moment on: no check has said anything yet."""
        async with model_server() as model:
            documents = made(model, more=[model_route()])
            documents[1]["spec"]["health"] = {"check": "http", "path": "/slow", "interval": "50ms", "timeout": "10s"}
            async with running(tmp_path, model, documents=documents) as it:
                status, body = await it.operate(b"/readyz?verbose")
                assert status == b"503"
                assert b"[-] model server answers\n" in body
                assert (await it.operate(b"/livez"))[0] == b"200"
                model.release.set()
                async with asyncio.timeout(60):
                    while (await it.operate(b"/readyz"))[0] != b"200":
                        await asyncio.sleep(0.01)
                assert b"[+] model server answers" in (await it.operate(b"/readyz?verbose"))[1]

    async def test_a_shorter_time_limit_makes_the_sweeps_more_frequent(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            reaper = it.sidecar._reaper
            assert reaper.period == PERIOD
            it.write(made(model, mesh={"limits": {"headTimeout": "100ms"}}))
            await it.sidecar.configuration.reload()
            assert reaper.period == 0.1

    async def test_who_watches_health_hears_of_a_reload(self, tmp_path: Path) -> None:
        async with model_server() as model:
            documents = made(model)
            documents[1]["spec"]["health"] = {"check": "model-status", "interval": "60s"}
            async with running(tmp_path, model, documents=documents) as it:
                health = it.sidecar.configuration.health
                assert health is not None
                told: list[str] = []

                class Watching:
                    service = "m"

                    def send_status(self, status: Any) -> None:
                        told.append(status.name)

                    def end(self) -> None:
                        told.append("ended")
                        assert health is not None
                        health.forget(watching)

                watching: Any = Watching()
                health.watch(watching)
                it.write([*documents, model_route()])
                await it.sidecar.configuration.reload()
                assert it.sidecar.configuration.health is health
                assert told[-1] == "NOT_SERVING"  # nobody has looked yet; before, it was not asked for
                it.sidecar.drain()
                await asyncio.wait((it.task,))
                assert told[-2:] == ["NOT_SERVING", "ended"]

    async def test_the_start_does_not_wait_for_a_name_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(clusters, "FIRST_ENDPOINTS_SECONDS", 0.02)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            server = f"127.0.0.1:{silent.getsockname()[1]}"
            far = document("ModelServer", {"dns": {"name": "models.test", "rest": 8501, "nameServer": server}}, "far")
            async with model_server() as model, running(tmp_path, model, more=[far]) as it:
                status, body = await it.operate(b"/readyz")
                assert (status, body.splitlines()[0]) == (b"503", b"[-] endpoints of far are known")
                assert (await it.ask())[0] == b"200"
                assert said(caplog, "endpoints not resolved in time; continuing without them") == [{"servers": ["far"]}]


def model_route() -> dict[str, Any]:
    return document("ModelRoute", {"models": ["m"]})


def trusting() -> ssl.SSLContext:
    """A client without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=CA.bundle_pem.decode())
    return context


async def shown(address: str) -> bytes:
    """The certificate that a new connection sees, DER."""
    _, writer = await connect(address, trusting())
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return bytes(der)


class TestOutbound:
    OUT: Any = {"outbound": {"listen": "127.0.0.1:0"}}  # noqa: RUF012

    async def test_an_application_calls_a_server_by_its_name(self, tmp_path: Path) -> None:
        async with model_server() as model:
            options = {**self.OUT, "accessLog": "./access.log"}
            async with running(tmp_path, model, sidecar=options) as it:
                assert it.sidecar.outbound is not None
                address = it.sidecar.outbound.listener.address
                assert await ask(address, b"/v1/models/m", host=b"local:18501") == (b"200", b"{}")
                assert (await ask(address, b"/v1/models/m", host=b"nobody"))[0] == b"404"
                assert (await it.ask())[0] == b"200"
                told = json.loads((await it.operate(b"/config"))[1])
                assert (told["inbound"], told["outbound"]) == (it.inbound.address, address)
            lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
            assert [(line["direction"], line["upstream_cluster"], line["response_flags"]) for line in lines] == [
                ("outbound", "local", "-"),
                ("outbound", None, "NR"),
                ("inbound", "local", "-"),
            ]

    async def test_a_sidecar_may_have_nothing_but_that(self, tmp_path: Path) -> None:
        async with model_server() as model:
            documents = made(model, sidecar=self.OUT)
            del documents[-1]["spec"]["inbound"]
            async with running(tmp_path, model, documents=documents) as it:
                assert it.sidecar.inbound is None
                assert it.sidecar.outbound is not None
                address = it.sidecar.outbound.listener.address
                assert (await ask(address, b"/v1/models/m", host=b"local"))[0] == b"200"
                assert (await it.operate(b"/readyz"))[0] == b"200"
                await it.sidecar.configuration.reload()
                assert it.sidecar.metrics.config_reloads.labels("ok").value == 1
                assert (await ask(address, b"/v1/models/m", host=b"local"))[0] == b"200"

    async def test_without_inbound_no_issuer_is_needed(self, tmp_path: Path) -> None:
        """One that is away must not keep it from being ready."""
        issuer = {"name": "i", "issuer": "https://127.0.0.1:1", "audiences": ["a"]}
        async with model_server() as model:
            documents = made(model, sidecar=self.OUT, mesh={"issuers": [issuer]})
            del documents[-1]["spec"]["inbound"]
            async with running(tmp_path, model, documents=documents) as it:
                assert (await it.operate(b"/readyz"))[0] == b"200"
                assert it.sidecar.tokens.are_known

    async def test_what_is_decided_here_is_for_callers_from_outside(self, tmp_path: Path) -> None:
        async with (
            model_server() as model,
            running(tmp_path, model, sidecar=self.OUT, more=deny_everyone()) as it,
        ):
            assert it.sidecar.outbound is not None
            assert (await it.ask())[0] == b"403"
            assert (await ask(it.sidecar.outbound.listener.address, b"/v1/models/m", host=b"local"))[0] == b"200"

    @pytest.mark.parametrize("which", ["added", "removed", "moved", "made transparent", "inbound removed"])
    async def test_sides_stay_as_they_are_until_a_restart(
        self, tmp_path: Path, which: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        changed: dict[str, Any] = {
            "added": self.OUT,
            "removed": {},
            "moved": {"outbound": {"listen": "127.0.0.1:1"}},
            "made transparent": {"outbound": {"listen": "127.0.0.1:0", "transparent": True}},
            "inbound removed": self.OUT,
        }
        before = {} if which == "added" else self.OUT
        async with model_server() as model, running(tmp_path, model, sidecar=before) as it:
            documents = made(model, sidecar=changed[which])
            if which == "inbound removed":
                del documents[-1]["spec"]["inbound"]
            it.write(documents)
            await it.sidecar.configuration.reload()
            (fields,) = said(caplog, "configuration rejected; keeping the previous one")
            named = {"made transparent": "spec.outbound.transparent", "inbound removed": "spec.inbound.listen"}
            assert fields["problems"][0].startswith(named.get(which, "spec.outbound.listen"))
            assert (await it.ask())[0] == b"200"

    async def test_a_certificate_that_cannot_call_is_refused_when_that_is_needed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="permissive", sidecar=self.OUT) as it:
            serving_only = CA.issue(
                f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server", extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH]
            )
            serving_only.write(tmp_path, "server")
            await it.sidecar.identity.rotate()
            assert it.sidecar.metrics.identity_rotations.labels("ok").value == 1
            workload = {"namespace": "tests", "serviceAccount": "far"}
            far = document("ModelServer", {"endpoints": [{"sidecar": "127.0.0.1:1"}], "workload": workload}, "far")
            it.write(made(model, mtls="permissive", sidecar=self.OUT, more=[far]))
            await it.sidecar.configuration.reload()
            (fields,) = said(caplog, "configuration rejected; keeping the previous one")
            assert "our own certificate, for outbound (clientAuth)" in fields["problems"][0]
            assert (await it.ask())[0] == b"200"
            SERVER.write(tmp_path, "server")
            await it.sidecar.configuration.reload()
            assert it.sidecar.identity.client_context() is not None
            assert [cluster.name for cluster in it.sidecar.clusters.all()] == ["local", "far"]

    async def test_who_has_no_certificate_hears_of_it_as_of_any_connection_that_fails(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model, sidecar=self.OUT) as it:
            with pytest.raises(OSError, match="no certificate"):
                it.sidecar.identity.client_context()


class TestWorkers:
    """One of several workers, in this process."""

    @pytest.mark.parametrize("has_inbound", [True, False], ids=["both", "outbound only"])
    async def test_a_worker_shares_the_ports_of_its_slot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_inbound: bool
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        monkeypatch.setattr(worker, "CONTROL_SOCKET", theirs.fileno())
        folder = tmp_path / "slot"
        folder.mkdir()
        path = tmp_path / "documents.yaml"
        async with model_server() as model:
            documents = made(model, sidecar=TestOutbound.OUT)
            if not has_inbound:
                del documents[-1]["spec"]["inbound"]
            path.write_text(yaml.safe_dump_all(documents))
            with ours, theirs, reserve("127.0.0.1", 0) as inbound, reserve("127.0.0.1", 0) as outbound:
                ports = [sock.getsockname()[1] for sock in (inbound, outbound)]
                slot = worker.WorkerSlot(0, ports[0] if has_inbound else 0, ports[1], 0, folder)
                sidecar = await build(path, slot)
                task = asyncio.ensure_future(sidecar.run())
                said = await asyncio.get_running_loop().run_in_executor(None, ours.recv, worker.REPORT_BYTES)
                report = msgspec.json.decode(said, type=worker.Report)
                assert report == worker.Report(sidecar.admin.address, load([path]).fingerprint, True)
                assert b"meshproxy_build_info" in (await ask(report.admin, b"/metrics", host=b"localhost"))[1]
                assert (await ask(report.admin, b"/config", host=b"localhost"))[0] == b"200"
                assert (await ask(report.admin, b"/drain", b"POST", host=b"localhost"))[0] == b"404"
                assert (await ask(f"127.0.0.1:{ports[1]}", b"/v1/models/m", host=b"local"))[0] == b"200"
                if has_inbound:
                    assert (await ask(f"127.0.0.1:{ports[0]}", b"/v1/models/m"))[0] == b"200"
                assert (sidecar.inbound is not None) == has_inbound
                ours.close()  # the supervisor has exited
                await asyncio.wait_for(task, 60)


class TestPeers:
    @pytest.fixture
    async def inbound(self, tmp_path: Path) -> Listener:
        CA.write(tmp_path)
        SERVER.write(tmp_path, "server")
        path = tmp_path / "documents.yaml"
        path.write_text(yaml.safe_dump_all(environment("127.0.0.1:1")))
        sidecar = await build(path)
        assert sidecar.inbound is not None
        return sidecar.inbound.listener

    async def test_a_workload_is_read_out_of_its_certificate(self, inbound: Listener) -> None:
        peer = inbound.identify(handshaken(CLIENT.der, TRUST_DOMAIN))
        assert isinstance(peer, Workload)
        assert peer.spiffe_id == f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client"

    async def test_no_certificate_is_nobody(self, inbound: Listener) -> None:
        assert inbound.identify(None) is None

    @pytest.mark.parametrize(
        "uris",
        [("spiffe://other.example/ns/a/sa/b",), (f"spiffe://{TRUST_DOMAIN}/a", f"spiffe://{TRUST_DOMAIN}/b"), ()],
        ids=["another trust domain", "two names", "no name"],
    )
    async def test_any_other_certificate_is_refused(self, inbound: Listener, uris: tuple[str, ...]) -> None:
        with pytest.raises(PeerRejected):
            inbound.identify(handshaken(CA.issue(*uris).der, TRUST_DOMAIN))


class TestReloading:
    async def test_a_good_one_counts_from_the_next_request_on_the_same_connection(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        async with model_server() as model, running(tmp_path, model) as it:
            connection = await connect(it.inbound.address)
            assert (await it.ask(connection=connection))[0] == b"200"
            it.write(made(model, more=deny_everyone(), mesh={"limits": {"connections": 7}}))
            await it.sidecar.configuration.reload()
            assert (await it.ask(connection=connection))[0] == b"403"
            assert it.inbound.max_connections == 7
            assert await it.metric('meshproxy_config_reloads_total{result="ok"}') == 1
            assert said(caplog, "configuration applied") == [{"fingerprint": load([it.path]).fingerprint}]
            connection[1].close()

    async def test_limits_count_for_new_connections(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            long = b"/v1/models/" + b"m" * 250 + b"/versions/1"
            assert (await it.ask(long))[0] == b"200"
            it.write(made(model, mesh={"limits": {"targetBytes": 256}}))
            await it.sidecar.configuration.reload()
            reader, writer = await connect(it.inbound.address)
            writer.write(b"GET " + long + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 414 ")
            writer.close()
            assert await it.metric('meshproxy_limits_exceeded_total{direction="inbound",limit="target_bytes"}') == 1

    async def test_a_request_keeps_what_it_began_with(self, tmp_path: Path) -> None:
        """Its model server is no longer in any document when it comes to be asked."""
        async with model_server() as model, model_server() as other, running(tmp_path, model) as it:
            slow = asyncio.ensure_future(it.ask(b"/v1/models/slow"))
            await model.asked.wait()
            it.write(made(other))
            await it.sidecar.configuration.reload()
            assert (await it.ask())[0] == b"200"
            assert len(other.heads) == 1
            model.release.set()
            assert (await slow)[0] == b"200"

    async def test_its_spans_too_go_where_it_began(self, tmp_path: Path) -> None:
        """The export is off by the time it ends, and so is the sidecar soon after."""
        async with collecting() as collector:
            exports = {"telemetry": {"traces": {"endpoint": collector.url, "ratio": 1.0}}}
            async with model_server() as model, running(tmp_path, model, mesh=exports) as it:
                slow = asyncio.ensure_future(it.ask(b"/v1/models/slow"))
                await model.asked.wait()
                it.write(made(model))
                await it.sidecar.configuration.reload()
                assert it.sidecar.metrics.config_reloads.labels("ok").value == 1
                assert (await it.ask())[0] == b"200"
                assert b"traceparent" not in model.heads[-1]
                model.release.set()
                assert (await slow)[0] == b"200"
            assert len({span.trace_id for span in collector.spans}) == 1
            assert len(collector.spans) == 2

    @pytest.mark.parametrize("what", ["documents", "mistake", "system"])
    async def test_a_bad_one_changes_nothing_and_is_told(
        self, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="permissive") as it:
            snapshot, context = it.direction.pipeline.snapshot, it.inbound.context
            it.write(made(model, mtls="permissive", more=deny_everyone()))
            if what == "documents":
                it.path.write_text(it.path.read_text() + "\n---\nkind: Nothing\n")
            else:
                error: Exception = RuntimeError("ours") if what == "mistake" else OSError(11, "no more processes")

                def fail(*arguments: Any) -> Any:
                    raise error

                monkeypatch.setattr(configuration, "inbound_snapshot", fail)
            await it.sidecar.configuration.reload()
            assert it.direction.pipeline.snapshot is snapshot
            assert it.inbound.context is context
            assert (await it.ask())[0] == b"200"
            assert await it.metric("meshproxy_config_in_sync") == 0
            assert await it.metric('meshproxy_config_reloads_total{result="failed"}') == 1
            assert "configuration rejected; keeping the previous one" in caplog.text

            assert not it.task.done()

    async def test_a_good_one_after_a_bad_one_is_in_step_again(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            it.path.write_text("kind: Nothing\n")
            await it.sidecar.configuration.reload()
            assert await it.metric("meshproxy_config_in_sync") == 0
            it.write(made(model, more=deny_everyone()))
            await it.sidecar.configuration.reload()
            assert await it.metric("meshproxy_config_in_sync") == 1
            assert (await it.ask())[0] == b"403"

    async def test_every_problem_is_in_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            bad = made(model, mesh={"limits": {"streams": 0}, "nonsense": 1})
            it.write(bad)
            await it.sidecar.configuration.reload()
            (fields,) = said(caplog, "configuration rejected; keeping the previous one")
            with pytest.raises(ConfigError) as caught:
                load([it.path])
            assert fields["problems"] == [str(problem) for problem in caught.value.problems]
            assert len(fields["problems"]) == 2

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"sidecar": {"inbound": {"listen": "127.0.0.1:1", "server": "local"}}}, "spec.inbound.listen"),
            ({"sidecar": {"admin": {"listen": "127.0.0.1:1"}}}, "spec.admin.listen"),
            ({"sidecar": {"accessLog": "stdout"}}, "spec.accessLog"),
            ({"mtls": "permissive"}, "spec.mtls"),
        ],
    )
    async def test_what_cannot_change_under_way_is_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, Any], named: str
    ) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            it.write(made(model, **changes))
            await it.sidecar.configuration.reload()
            (fields,) = said(caplog, "configuration rejected; keeping the previous one")
            assert len(fields["problems"]) == 1
            assert fields["problems"][0].startswith(f"{named}: changes from ")
            assert fields["problems"][0].endswith("restart the sidecar to apply it")


class TestWatching:
    @pytest.fixture(autouse=True)
    def hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(file_watch, "PERIOD", 0.01)

    async def test_a_change_of_the_files_is_taken(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            before = it.direction.pipeline.snapshot
            it.write(made(model, more=deny_everyone()))
            await until(lambda: it.direction.pipeline.snapshot is not before)
            assert (await it.ask())[0] == b"403"

    async def test_a_rotated_certificate_is_no_reload(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """New TLS contexts, and nothing else is new: what is remembered of tokens and decisions stays."""
        caplog.set_level(logging.INFO)
        out = TestOutbound.OUT
        (tmp_path / "jwks.json").write_text(json.dumps(DevelopmentIssuer("https://i", algorithm="ES256").jwks()))
        issuers = {"issuers": [{"name": "i", "issuer": "https://i", "audiences": ["a"], "keys": {"file": "jwks.json"}}]}
        async with (
            model_server() as model,
            running(tmp_path, model, mtls="permissive", mesh=issuers, sidecar=out) as it,
        ):
            assert it.sidecar.outbound is not None
            before = [direction.pipeline.snapshot for direction in it.sidecar.directions]
            verifier = before[0].verifier
            assert verifier is not None
            context, reloads = it.inbound.context, it.sidecar.metrics.config_reloads
            connection = await connect(it.inbound.address, trusting())
            new = CA.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server")
            new.write(tmp_path, "server")
            await until(lambda: it.inbound.context is not context)
            assert await shown(it.inbound.address) == new.der
            assert (await it.ask(connection=connection))[0] == b"200"  # as it was before
            connection[1].close()
            after = [direction.pipeline.snapshot for direction in it.sidecar.directions]
            assert [a is b for a, b in zip(after, before, strict=True)] == [True, True]
            assert after[0].verifier is verifier
            assert (reloads.labels("ok").value, reloads.labels("failed").value) == (0, 0)
            assert await it.metric('meshproxy_identity_rotations_total{result="ok"}') == 1
            serial = f"{load_der_x509_certificate(new.der).serial_number:x}"
            (fields,) = said(caplog, "certificate rotated")
            assert fields["serial"].lstrip("0") == serial
            assert fields["spiffe_id"] == f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server"
            assert await it.metric("meshproxy_identity_cert_expiration_timestamp_seconds") == pytest.approx(
                datetime.fromisoformat(fields["not_after"]).timestamp()
            )

    async def test_bad_documents_do_not_keep_a_rotated_certificate_out(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="permissive") as it:
            failed = it.sidecar.metrics.config_reloads.labels("failed")
            it.path.write_text("kind: Nothing\n")
            await until(lambda: failed.value)
            new = CA.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/server")
            new.write(tmp_path, "server")
            await until(lambda: it.sidecar.metrics.identity_rotations.labels("ok").value)
            assert await shown(it.inbound.address) == new.der
            assert await it.metric("meshproxy_config_in_sync") == 0
            assert await it.metric("meshproxy_identity_in_sync") == 1

    async def test_a_bad_certificate_does_not_keep_good_documents_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="permissive") as it:
            CLIENT.write(tmp_path, "other")
            (tmp_path / "other-key.pem").replace(tmp_path / "server-key.pem")
            await until(lambda: said(caplog, "certificate rejected; keeping the previous one"))
            it.write(made(model, mtls="permissive", more=deny_everyone(), mesh={"tls": {"minVersion": "1.2"}}))
            await until(lambda: it.sidecar.metrics.config_reloads.labels("ok").value)
            assert (await it.ask())[0] == b"403"
            # Also if they need other contexts: those are made from the credentials in use.
            assert it.inbound.context is not None
            assert it.inbound.context.minimum_version is ssl.TLSVersion.TLSv1_2
            assert await shown(it.inbound.address) == SERVER.der
            await until(lambda: it.sidecar.metrics.identity_in_sync.labels().value == 0)
            assert await it.metric("meshproxy_config_in_sync") == 1
            fields = said(caplog, "certificate rejected; keeping the previous one")[0]
            assert (fields["reason"], "does not match" in fields["problem"]) == ("mismatch", True)

    async def test_documents_may_name_other_files(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model, mtls="permissive") as it:
            new = CA.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/moved")
            files = {"certificate": "moved.pem", "key": "moved-key.pem", "trustBundle": "ca.pem"}
            it.write(made(model, mtls="permissive", sidecar={"identity": {"files": files}}, more=deny_everyone()))
            rejected = it.sidecar.metrics.config_reloads.labels("failed")
            await until(lambda: rejected.value)  # they are not there yet
            assert (await it.ask())[0] == b"200"
            new.write(tmp_path, "moved")
            await until(lambda: it.sidecar.metrics.config_reloads.labels("ok").value)
            assert await shown(it.inbound.address) == new.der
            assert (await it.ask())[0] == b"403"
            newer = CA.issue(f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/moved")
            newer.write(tmp_path, "moved")
            await until(lambda: it.sidecar.metrics.identity_rotations.labels("ok").value == 2)
            assert await shown(it.inbound.address) == newer.der

    async def test_files_that_are_gone_end_nothing(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            failed = it.sidecar.metrics.config_reloads.labels("failed")
            it.path.unlink()
            await until(lambda: failed.value == 1)
            assert (await it.ask())[0] == b"200"

    async def test_hanging_up_reloads_and_opens_the_log_again(self, tmp_path: Path) -> None:
        log = tmp_path / "access.log"
        async with model_server() as model, running(tmp_path, model, sidecar={"accessLog": "./access.log"}) as it:
            await it.ask()
            log.rename(tmp_path / "access.log.1")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: it.sidecar.metrics.config_reloads.labels("ok").value == 1)
            await it.ask()
        assert len((tmp_path / "access.log.1").read_text().splitlines()) == 1
        assert len(log.read_text().splitlines()) == 1

    async def test_a_rotation_opens_the_logs_again_and_reloads_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """SIGUSR1, as to Envoy and nginx."""
        caplog.set_level(logging.INFO)
        names = ("access.log", "audit.jsonl")
        logs = {"accessLog": "./access.log", "auditLog": str(tmp_path / "audit.jsonl")}
        async with model_server() as model, running(tmp_path, model, sidecar=logs) as it:
            await it.ask()
            await until(lambda: (tmp_path / "audit.jsonl").stat().st_size)
            for name in names:
                (tmp_path / name).rename(tmp_path / f"{name}.1")
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: all((tmp_path / name).exists() for name in names))
            await it.ask()
            assert it.sidecar.metrics.config_reloads.labels("ok").value == 0
        for name in ("access.log", "access.log.1"):
            assert len((tmp_path / name).read_text().splitlines()) == 1
        (line,) = [record for record in caplog.records if record.getMessage() == "reopening log files"]
        assert line.__dict__["fields"]["audit"] == str(tmp_path / "audit.jsonl")


class TestItsEnd:
    async def test_a_request_under_way_is_finished_and_new_ones_are_served_meanwhile(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with model_server() as model, running(tmp_path, model, sidecar={"drainTimeout": "60s"}) as it:
            connection = await connect(it.inbound.address)
            assert (await it.ask(connection=connection))[0] == b"200"
            slow = asyncio.ensure_future(it.ask(b"/v1/models/slow"))
            await model.asked.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await until(it.sidecar._stopping.is_set)
            await until(lambda: it.inbound.state is ListenerState.DRAINING)
            assert (await it.operate(b"/readyz"))[0] == b"503"
            assert (await it.operate(b"/livez"))[0] == b"200"
            assert (await it.ask(connection=connection))[0] == b"200"
            assert await connection[0].read() == b""  # as it has announced with its answer
            connection[1].close()
            assert (await it.ask())[0] == b"200"
            assert not it.task.done()
            model.release.set()
            assert (await slow)[0] == b"200"
            await asyncio.wait((it.task,))
        assert "drain timeout reached" not in caplog.text

    async def test_it_is_told_by_the_admin_port_too(self, tmp_path: Path) -> None:
        async with model_server() as model, running(tmp_path, model) as it:
            assert (await it.operate(b"/drain", b"POST"))[0] == b"202"
            await asyncio.wait_for(asyncio.shield(it.task), 60)

    @pytest.mark.parametrize("mtls", ["disabled", "permissive"])
    async def test_what_takes_too_long_is_broken_off_and_written_down(
        self, tmp_path: Path, mtls: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        options: dict[str, Any] = {"drainTimeout": "100ms", "accessLog": "./access.log"}
        async with model_server() as model, running(tmp_path, model, mtls=mtls, sidecar=options) as it:
            context = None
            if mtls != "disabled":
                context = trusting()
            connection = await connect(it.inbound.address, context)
            slow = asyncio.ensure_future(it.ask(b"/v1/models/slow", connection=connection))
            await model.asked.wait()
            it.sidecar.drain()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await slow
            await asyncio.wait((it.task,))
            connection[1].close()
        assert "drain timeout reached; aborting in-flight requests" in caplog.text
        assert "/v1/models/slow" in (tmp_path / "access.log").read_text()
        assert it.direction.pipeline.live == set()

    async def test_requests_that_end_in_turns_are_all_written_down(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(h2_server, "ENDED_AT_ONCE", 1)
        count = 4 * PARTING_TURNS
        options: dict[str, Any] = {"drainTimeout": "100ms", "accessLog": "./access.log"}
        async with model_server() as model, running(tmp_path, model, sidecar=options) as it:
            client = H2Connection(Role.CLIENT, Limits(), 0.0)
            for _ in range(count):
                client.send_request(b"GET", b"http", b"x", b"/v1/models/slow", (), True)
            _, writer = await connect(it.inbound.address)
            writer.write(client.take_output())
            await until(lambda: len(it.direction.pipeline.live) == count)
            it.sidecar.drain()
            await asyncio.wait((it.task,))
            writer.close()
        lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
        assert [line["response_flags"] for line in lines] == ["DC"] * count
        assert it.direction.pipeline.live == set()

    async def test_a_part_of_ours_that_dies_ends_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Going on would hide that nothing watches, or writes, any more."""

        async def fail(self: Logs) -> None:
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(Logs, "run", fail)
        async with model_server() as model, running(tmp_path, model, ends=False) as it:
            await asyncio.wait((it.task,))
            with pytest.raises(RuntimeError, match="a mistake of ours"):
                it.task.result()
            with pytest.raises(OSError):
                await it.ask()

    @pytest.mark.parametrize("which", ["inbound", "admin"])
    async def test_a_port_that_is_taken_leaves_nothing_open(self, tmp_path: Path, which: str) -> None:
        async with model_server() as model:
            taken = model.address
            port: Any = {"listen": taken, "server": "local"} if which == "inbound" else {"listen": taken}
            async with running(tmp_path, model, ends=False, sidecar={which: port}) as it:
                await asyncio.wait((it.task,))
                with pytest.raises(OSError, match="in use"):
                    it.task.result()
                if it.inbound.address:
                    with pytest.raises(OSError):
                        await it.ask()

    async def test_a_hang_up_before_it_listens_ends_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def hang_up(self: Any) -> None:
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)

        monkeypatch.setattr(Tokens, "wait_for_keys", hang_up)
        async with model_server() as model, running(tmp_path, model) as it:
            await until(lambda: it.sidecar.metrics.config_reloads.labels("ok").value == 1)
            assert (await it.ask())[0] == b"200"


class TestStarting:
    async def test_it_runs_from_its_documents_to_its_end(self, tmp_path: Path) -> None:
        async with model_server() as model:
            path = tmp_path / "documents.yaml"
            path.write_text(yaml.safe_dump_all(made(model)))
            before = signal.getsignal(signal.SIGTERM)
            task = asyncio.ensure_future(run_sidecar([str(path)], load_own([path]), FileWatch(lambda: [path])))
            # A signal that comes before there is a handler for it would end the tests.
            await until(lambda: signal.getsignal(signal.SIGTERM) is not before)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(task, 60)

    @pytest.mark.parametrize("what", ["documents", "identity", "access log"])
    async def test_what_cannot_be_used_is_told_before_anything_listens(self, tmp_path: Path, what: str) -> None:
        path = tmp_path / "documents.yaml"
        nowhere = {"accessLog": "./nowhere/access.log"}
        documents = environment("127.0.0.1:1", mtls="disabled", sidecar=nowhere if what == "access log" else None)
        if what == "identity":
            documents = environment("127.0.0.1:1")
        path.write_text("kind: Nothing\n" if what == "documents" else yaml.safe_dump_all(documents))
        expected = {"documents": ConfigError, "identity": CertificateError, "access log": OSError}[what]
        with pytest.raises(expected):
            await run_sidecar([str(path)], load_own([path]), FileWatch(lambda: [path]))
