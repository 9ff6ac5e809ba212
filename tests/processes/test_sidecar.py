"""Sidecars as processes of their own, seen from outside: who gets in, what a reload changes, what large bodies cost,
and how the process ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from meshproxy.codec.events import Data, ResponseHead, Trailers
from meshproxy.codec.h2.connection import H2Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role
from meshproxy.devtools.child import MODEL_SERVER, Child
from meshproxy.devtools.clients import SERVER_NAME, Answer, Certificate, GrpcClient, RestClient, tls_context
from meshproxy.devtools.issuer import DevelopmentIssuer
from meshproxy.devtools.local_mesh import TRUST_DOMAIN, LocalSidecar, document, environment, local_sidecar
from meshproxy.devtools.models import predict_request
from tests.processes.calls import PREDICT
from tests.processes.waiting import json_lines, until

pytestmark = [
    pytest.mark.asyncio(loop_factories=["uvloop"], loop_scope="module"),
]

MIB = 1 << 20
ISSUER = DevelopmentIssuer(algorithm="ES256")
MINE = f"spiffe://{TRUST_DOMAIN}/ns/tests/sa/client"
REST_PREDICT = "/v1/models/half_plus_two:predict"


def token(group: str = "finance") -> str:
    return ISSUER.token("alice", groups=[group])


def policy() -> list[dict[str, Any]]:
    """One workload, with a token of one group, may call one model."""
    subject = {
        "workload": {"namespace": "tests", "serviceAccount": "client"},
        "token": {"issuer": "corp", "claims": {"groups": "finance"}},
    }
    return [
        document("ModelRole", {"rules": [{"models": ["half_plus_two"], "verbs": ["predict"]}]}, "reader"),
        document("ModelRoleBinding", {"role": "reader", "subjects": [subject]}, "team"),
    ]


def believing() -> dict[str, Any]:
    """A MeshConfig's part that believes the tokens of `ISSUER`."""
    issuer = {"name": "corp", "issuer": ISSUER.issuer, "audiences": ["models"], "keys": {"file": "jwks.json"}}
    return {"issuers": [issuer]}


async def operate(running: LocalSidecar, method: str, path: str, host: str = "localhost") -> Answer:
    async with RestClient(running.admin, None) as admin:
        return await admin.call(method, path, headers={"host": host})


async def metric(running: LocalSidecar, series: str) -> float:
    """0 if there is no such line yet."""
    page = str((await operate(running, "GET", "/metrics")).body)
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(series + " "))


def resident(running: LocalSidecar) -> int:
    """Bytes of memory that the process occupies."""
    status = Path(f"/proc/{running.child.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def connect(
    running: LocalSidecar, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", running.port, ssl=context, server_hostname=SERVER_NAME if context else None
    )


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class Upstream:
    """A model server that shows what it was asked, and does nothing before it may."""

    def __init__(self) -> None:
        self.address = ""
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_read = asyncio.Event()
        self.sent = 0
        self.received = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def serve(cls) -> AsyncIterator[Upstream]:
        upstream = cls()
        server = await asyncio.start_server(upstream._connected, "127.0.0.1", 0)
        upstream.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield upstream
        finally:
            server.close()
            upstream.may_answer.set()
            upstream.may_read.set()
            for writer in tuple(upstream._writers):
                writer.transport.abort()
            await until(lambda: not upstream._writers)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.remove(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.set()
        if b"/slow" in head:
            await self.may_answer.wait()
        left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if left:
            await self.may_read.wait()
        while left:
            piece = await reader.read(min(left, MIB))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            self.received += len(piece)
        if b"/large" not in head:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(head), head))
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (64 * MIB))
        for _ in range(256):
            writer.write(bytes(MIB // 4))
            await writer.drain()
            self.sent += MIB // 4


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: bytes = b"/v1/models/m", host: bytes = b"x"
) -> tuple[bytes, bytes]:
    """One HTTP/1.1 exchange; the answer's head and body."""
    writer.write(b"GET " + target + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))


class RawH2:
    """An HTTP/2 client that takes the bodies of answers, or does not."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, takes: bool = True) -> None:
        self._reader = reader
        self._takes = takes
        self.writer = writer
        window = 65_535
        limits = Limits() if takes else Limits(stream_window=window, connection_window=window)
        self.codec = H2Connection(Role.CLIENT, limits, 0.0)
        self.heads: dict[int, ResponseHead] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()

    def send(self, headers: Any, target: bytes, body: bytes | None = None) -> int:
        method = b"GET" if body is None else b"POST"
        stream = self.codec.send_request(method, b"https", b"localhost", target, headers, end=body is None)
        if body is not None:
            self.codec.send_data(stream, body, end=True)
        self.writer.write(self.codec.take_output())
        return stream

    async def read_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                data = await self._reader.read(65_536)
                assert data, "the connection ended"
                for event in self.codec.receive(data, 0.0):
                    if isinstance(event, ResponseHead):
                        self.heads[event.stream] = event
                    if isinstance(event, Data):
                        self.bodies[event.stream] = self.bodies.get(event.stream, b"") + event.data
                        if self._takes:
                            self.codec.credit(event.stream, event.flow)
                    if getattr(event, "end", False) or isinstance(event, Trailers):
                        self.ended.add(event.stream)  # type: ignore[union-attr]
                self.writer.write(self.codec.take_output())

    async def get(self, target: bytes) -> tuple[int, bytes]:
        stream = self.send((), target)
        await self.read_until(lambda: stream in self.ended)
        return self.heads[stream].status, self.bodies[stream]


class TestStrict:
    """Certificates and tokens before a development model server."""

    @pytest_asyncio.fixture(scope="class", loop_scope="module")
    @staticmethod
    async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
        directory = tmp_path_factory.mktemp("strict")
        (directory / "sidecar").mkdir(mode=0o700)
        (directory / "sidecar" / "jwks.json").write_text(json.dumps(ISSUER.jwks()))
        model_server = await Child.start("the model server", *MODEL_SERVER, directory=directory)
        said = model_server.listening
        documents = environment(
            said["rest"], said["grpc"], mesh=believing(), sidecar={"drainTimeout": "2s", "accessLog": "./access.log"}
        )
        try:
            async with local_sidecar(directory / "sidecar", [*documents, *policy()]) as running:
                yield running
        finally:
            await model_server.stop()

    @pytest.mark.parametrize(
        ("group", "rest", "grpc"),
        [
            ("finance", ("200", None), ("OK", None)),
            ("sales", ("403", "permission-denied"), ("PERMISSION_DENIED", "permission-denied")),
            (None, ("401", "unauthenticated"), ("UNAUTHENTICATED", "unauthenticated")),
        ],
        ids=["the right group", "the wrong group", "no token"],
    )
    async def test_the_token_decides(
        self, running: LocalSidecar, group: str | None, rest: tuple[str, Any], grpc: tuple[str, Any]
    ) -> None:
        carried = token(group) if group else None
        async with RestClient(running.inbound, running.client, carried) as client:
            answer = await client.call("POST", REST_PREDICT, {"instances": [1.0]})
        assert (answer.status, answer.refusal) == rest
        async with GrpcClient(running.inbound, running.client, carried) as client_of_grpc:
            message = predict_request("half_plus_two", [1.0]).SerializeToString()
            answer = await client_of_grpc.call(PREDICT, message)
        assert (answer.status, answer.refusal) == grpc

    async def test_the_workload_decides_too(self, running: LocalSidecar) -> None:
        async with RestClient(running.inbound, running.mesh.certificate("tests", "other"), token()) as client:
            answer = await client.call("POST", REST_PREDICT, {"instances": [1.0]})
        assert (answer.status, answer.refusal) == ("403", "permission-denied")

    async def test_what_was_decided_is_written_down(self, running: LocalSidecar) -> None:
        log = running.mesh.directory / "access.log"

        def of_the_workload() -> list[dict[str, Any]]:
            return [line for line in json_lines(log) if line["path"] == REST_PREDICT and line["response_code"] == 200]

        async with RestClient(running.inbound, running.client, token()) as client:
            await client.call("POST", REST_PREDICT, {"instances": [1.0]})
        await until(of_the_workload)
        assert MINE in json.dumps(of_the_workload()[-1])
        assert await metric(running, 'meshproxy_refusals_total{direction="inbound",reason="permission-denied"}') >= 0

    async def test_no_certificate_is_refused_at_the_handshake(self, running: LocalSidecar) -> None:
        await self.expect_no_answer(running, Certificate(running.client.bundle), "failed", "no_certificate")

    @pytest.mark.parametrize(
        ("uris", "options", "result", "reason"),
        [
            (("spiffe://other.example/ns/tests/sa/client",), {}, "rejected", "other_trust_domain"),
            ((MINE, f"{MINE}-too"), {}, "rejected", "not_a_workload"),
            ((), {"dns": ["client.example"]}, "rejected", "not_a_workload"),
            (
                (MINE,),
                {
                    "not_before": datetime.now(UTC) - timedelta(hours=2),
                    "not_after": datetime.now(UTC) - timedelta(hours=1),
                },
                "failed",
                "expired",
            ),
        ],
        ids=["another trust domain", "two URIs", "no URI", "expired"],
    )
    async def test_a_certificate_that_proves_nothing_is_closed(
        self, running: LocalSidecar, uris: tuple[str, ...], options: dict[str, Any], result: str, reason: str
    ) -> None:
        issued = running.mesh.ca.issue(*uris, **options).write(running.mesh.directory, "shown")
        await self.expect_no_answer(running, Certificate(running.client.bundle, *issued), result, reason)

    async def test_so_is_one_of_an_authority_of_nobody(self, running: LocalSidecar) -> None:
        stranger = type(running.mesh.ca).create(TRUST_DOMAIN).issue(MINE).write(running.mesh.directory, "stranger")
        await self.expect_no_answer(
            running, Certificate(running.client.bundle, *stranger), "failed", "unknown_authority"
        )

    async def expect_no_answer(self, running: LocalSidecar, certificate: Certificate, result: str, reason: str) -> None:
        """The handshake ends with `result` for `reason`, and nothing is answered, not even a refusal."""
        series = f'meshproxy_tls_handshakes_total{{direction="inbound",result="{result}",reason="{reason}"}}'
        before = await metric(running, series)
        async with RestClient(running.inbound, certificate, token()) as client:
            answer = await client.call("POST", REST_PREDICT, {"instances": [1.0]})
        assert not answer.status.isdigit()

        async def is_counted() -> bool:
            return await metric(running, series) == before + 1

        await until(is_counted)

    async def test_denied_calls_do_not_use_up_their_connection(self, running: LocalSidecar) -> None:
        """6 MiB that nobody takes, through windows of 1 MiB."""
        denied = predict_request("secret", bytes(64 * 1024)).SerializeToString()
        permitted = predict_request("half_plus_two", [1.0]).SerializeToString()
        async with GrpcClient(running.inbound, running.client, token()) as client:
            for _ in range(96):
                assert (await client.call(PREDICT, denied)).status == "PERMISSION_DENIED"
            assert (await client.call(PREDICT, permitted)).status == "OK"

    async def test_answers_that_are_not_read_stop_nobody_elses(self, running: LocalSidecar) -> None:
        """All gRPC clients share one connection to the model server."""
        context = tls_context(running.client)
        context.set_alpn_protocols(["h2"])
        reader, writer = await connect(running, context)
        slow = RawH2(reader, writer, takes=False)
        headers = ((b"content-type", b"application/grpc"), (b"authorization", f"Bearer {token()}".encode()))
        message = predict_request("half_plus_two", bytes(400_000), signature="echo").SerializeToString()
        for _ in range(8):
            slow.send(headers, PREDICT.encode(), b"\0" + len(message).to_bytes(4, "big") + message)
        await slow.read_until(lambda: len(slow.heads) == 8)
        large = predict_request("half_plus_two", bytes(3_000_000), signature="echo").SerializeToString()
        async with GrpcClient(running.inbound, running.client, token()) as client:
            assert (await client.call(PREDICT, large, timeout=15)).status == "OK"
        await leave(writer)


class TestPermissive:
    """Everything on one port; the model server is told who called."""

    @pytest_asyncio.fixture(scope="class", loop_scope="module")
    @staticmethod
    async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalSidecar]:
        async with Upstream.serve() as upstream:
            inbound = {"listen": "127.0.0.1:0", "server": "local", "forwardIdentity": True}
            own = {"drainTimeout": "2s", "inbound": inbound}
            documents = environment(upstream.address, mtls="permissive", sidecar=own)
            async with local_sidecar(tmp_path_factory.mktemp("permissive"), documents) as running:
                yield running

    async def test_plaintext_of_both_versions(self, running: LocalSidecar) -> None:
        reader, writer = await connect(running)
        head, asked = await ask(reader, writer)
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"x-meshproxy-caller" not in asked
        await leave(writer)
        h2 = RawH2(*await connect(running))
        status, asked = await h2.get(b"/v1/models/m")
        assert status == 200
        assert b"x-meshproxy-caller" not in asked
        await leave(h2.writer)

    @pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
    @pytest.mark.parametrize("shows", [True, False], ids=["with a certificate", "without one"])
    async def test_tls_of_both_versions(self, running: LocalSidecar, protocol: str, shows: bool) -> None:
        context = tls_context(running.client if shows else Certificate(running.client.bundle))
        context.set_alpn_protocols([protocol])
        reader, writer = await connect(running, context)
        if protocol == "h2":
            status, asked = await RawH2(reader, writer).get(b"/v1/models/m")
            assert status == 200
        else:
            head, asked = await ask(reader, writer)
            assert head.startswith(b"HTTP/1.1 200 ")
        assert (f"x-meshproxy-caller: {MINE}\r\n".encode() in asked) is shows
        await leave(writer)

    async def test_a_certificate_that_proves_nothing_is_not_taken_for_none(self, running: LocalSidecar) -> None:
        issued = running.mesh.ca.issue("spiffe://other.example/ns/a/sa/b").write(running.mesh.directory, "shown")
        async with RestClient(running.inbound, Certificate(running.client.bundle, *issued)) as client:
            assert not (await client.call("GET", "/v1/models/m")).status.isdigit()


async def test_without_tls_nobody_shakes_hands(tmp_path: Path) -> None:
    async with Upstream.serve() as upstream:
        documents = environment(upstream.address, mtls="disabled", sidecar={"drainTimeout": "2s"})
        async with local_sidecar(tmp_path, documents) as running:
            reader, writer = await connect(running)
            assert (await ask(reader, writer))[0].startswith(b"HTTP/1.1 200 ")
            await leave(writer)
            h2 = RawH2(*await connect(running))
            assert (await h2.get(b"/v1/models/m"))[0] == 200
            await leave(h2.writer)
            with pytest.raises(OSError):
                await connect(running, tls_context(running.client))


class TestReloading:
    @pytest_asyncio.fixture(scope="class", loop_scope="module")
    @staticmethod
    async def upstream() -> AsyncIterator[Upstream]:
        async with Upstream.serve() as upstream:
            yield upstream

    def documents(self, upstream: Upstream, *more: dict[str, Any]) -> list[dict[str, Any]]:
        return [*environment(upstream.address, sidecar={"drainTimeout": "2s"}), *more]

    async def reload(self, running: LocalSidecar, event: str) -> dict[str, Any]:
        """Hang up, and wait for what the log says then."""
        before = len(running.said(event))
        running.child.signal(signal.SIGHUP)
        await until(lambda: len(running.said(event)) > before)
        return running.said(event)[-1]

    async def test_good_and_bad_documents(self, tmp_path: Path, upstream: Upstream) -> None:
        async with local_sidecar(tmp_path, self.documents(upstream)) as running:
            path = running.path
            context = tls_context(running.client)
            connection = await connect(running, context)
            assert (await ask(*connection))[0].startswith(b"HTTP/1.1 200 ")

            path.write_text(path.read_text().replace("mtls: strict", "mtls: srtict"))
            line = await self.reload(running, "configuration rejected; keeping the previous one")
            assert any("srtict" in problem for problem in line["problems"])
            assert await metric(running, "meshproxy_config_in_sync") == 0
            assert (await ask(*connection))[0].startswith(b"HTTP/1.1 200 ")

            path.write_text(yaml.safe_dump_all(self.documents(upstream, *policy()[:1])))
            await self.reload(running, "configuration applied")
            assert await metric(running, "meshproxy_config_in_sync") == 1
            assert (await ask(*connection))[0].startswith(b"HTTP/1.1 403 ")
            await leave(connection[1])


class TestSizes:
    """What large bodies and slow peers cost: the windows, whatever the body's size."""

    MOST = 4 * MIB

    @pytest_asyncio.fixture(loop_scope="module")
    @staticmethod
    async def upstream() -> AsyncIterator[Upstream]:
        async with Upstream.serve() as upstream:
            yield upstream

    @pytest_asyncio.fixture(loop_scope="module")
    @staticmethod
    async def running(tmp_path: Path, upstream: Upstream) -> AsyncIterator[LocalSidecar]:
        documents = environment(upstream.address, sidecar={"drainTimeout": "2s"})
        async with local_sidecar(tmp_path, documents) as running:
            yield running

    async def still(self, moved: Callable[[], int]) -> int:
        """Wait until bytes have begun to move, and no longer do: everything is full."""
        seen = [0]
        async with asyncio.timeout(60):
            while not seen[-1] or len(set(seen[-10:])) > 1 or len(seen) < 10:
                seen.append(moved())
                await asyncio.sleep(0.02)
        return seen[-1]

    async def test_an_answer_that_is_read_slowly(self, running: LocalSidecar, upstream: Upstream) -> None:
        reader, writer = await connect(running, tls_context(running.client))
        await ask(reader, writer)
        before = resident(running)
        writer.write(b"GET /v1/models/large HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert await self.still(lambda: upstream.sent) < 32 * MIB
        assert resident(running) - before < self.MOST
        received = 0
        while received < 64 * MIB:
            received += len(await reader.read(MIB))
            assert resident(running) - before < self.MOST
        assert received == 64 * MIB
        await leave(writer)

    async def test_a_request_that_the_model_server_reads_slowly(
        self, running: LocalSidecar, upstream: Upstream
    ) -> None:
        reader, writer = await connect(running, tls_context(running.client))
        await ask(reader, writer)
        before = resident(running)
        writer.write(b"POST /v1/models/m:predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (64 * MIB))
        sent = 0

        async def send() -> None:
            nonlocal sent
            while sent < 64 * MIB:
                writer.write(bytes(MIB // 4))
                await writer.drain()
                sent += MIB // 4

        sending = asyncio.ensure_future(send())
        assert await self.still(lambda: sent) < 32 * MIB
        assert resident(running) - before < self.MOST
        upstream.may_read.set()
        await sending
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert upstream.received == 64 * MIB
        assert resident(running) - before < self.MOST
        await leave(writer)


async def test_beyond_the_limit_connections_wait(tmp_path: Path) -> None:
    async with Upstream.serve() as upstream:
        limited = {"limits": {"connections": 2}}
        documents = environment(upstream.address, mtls="disabled", mesh=limited, sidecar={"drainTimeout": "2s"})
        async with local_sidecar(tmp_path, documents) as running:
            connections = [await connect(running) for _ in range(3)]
            for connection in connections[:2]:
                await ask(*connection)
            third = asyncio.ensure_future(ask(*connections[2]))

            async def is_counted() -> bool:
                return (
                    await metric(running, 'meshproxy_limits_exceeded_total{direction="inbound",limit="connections"}')
                    > 0
                )

            await until(is_counted)
            assert not third.done()
            await leave(connections[0][1])
            assert (await third)[0].startswith(b"HTTP/1.1 200 ")
            for connection in connections[1:]:
                await leave(connection[1])


class TestItsEnd:
    @asynccontextmanager
    async def running(self, directory: Path) -> AsyncIterator[tuple[LocalSidecar, Upstream]]:
        async with Upstream.serve() as upstream:
            documents = environment(upstream.address, mtls="disabled", sidecar={"drainTimeout": "20s"})
            async with local_sidecar(directory, documents) as running:
                yield running, upstream

    async def test_a_slow_request_is_finished_and_then_the_process_ends(self, tmp_path: Path) -> None:
        async with self.running(tmp_path) as (running, upstream):
            reader, writer = await connect(running)
            slow = asyncio.ensure_future(ask(reader, writer, b"/v1/models/slow"))
            await upstream.asked.wait()
            running.child.signal(signal.SIGTERM)
            await until(lambda: running.said("draining"))
            assert running.said("draining")[0]["in_flight"] == 1
            upstream.may_answer.set()
            head, _ = await slow
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in head.lower()
            assert await running.child.wait() == 0
            assert running.said("drain timeout reached; aborting in-flight requests") == []
            await leave(writer)

    async def test_an_answer_that_is_read_slowly_is_sent_to_its_end(self, tmp_path: Path) -> None:
        """What the sidecar has left to write counts, too."""
        async with self.running(tmp_path) as (running, _):
            reader, writer = await connect(running)
            writer.write(b"GET /v1/models/large HTTP/1.1\r\nhost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            running.child.signal(signal.SIGTERM)
            await until(lambda: running.said("draining"))
            received = 0
            while received < 64 * MIB:
                piece = await reader.read(MIB)
                assert piece, f"broken off after {received} bytes"
                received += len(piece)
                if received > 63 * MIB:
                    await asyncio.sleep(0.05)  # the rest is read slowly
            assert await running.child.wait() == 0
            await leave(writer)

    async def test_draining_is_for_this_host_by_its_own_name(self, tmp_path: Path) -> None:
        async with self.running(tmp_path) as (running, _):
            for host in ("rebound.example", "10.0.0.7:18502"):
                assert (await operate(running, "POST", "/drain", host)).status == "403"
                assert (await operate(running, "GET", "/config", host)).status == "403"
            assert (await operate(running, "GET", "/drain")).status == "405"
            assert (await operate(running, "GET", "/readyz", "anybody.example")).status == "200"
            assert (await operate(running, "POST", "/drain")).status == "202"
            assert await running.child.wait() == 0
