"""Reload and drain under load lose no request: a real sidecar process, counted at the client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import ssl
from pathlib import Path

import pytest

from meshproxy.devtools import messages
from meshproxy.devtools.clients import SERVER_NAME, Answer, Certificate, GrpcClient, RestClient, tls_context
from meshproxy.devtools.local_mesh import (
    LocalSidecar,
    document,
    local_mesh,
    local_replica,
    replace_documents,
    server_of,
)
from meshproxy.devtools.models import predict_request
from tests.processes.calls import PREDICT
from tests.processes.waiting import until

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONNECTIONS = 64
REQUESTS = 2_000
REQUEST = (
    b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    b'content-length: 20\r\n\r\n{"instances": [1.0]}'
)


class Client:
    """A client that keeps its connection until it is asked to close it, and takes no second chance.

    Attributes:
        answered: requests that were answered 200 with a whole body.
        failures: what happened to the others.
        told_to_close: answers that said `connection: close`.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self.told_to_close = 0
        self._port = port
        self._context = context

    async def run(self, until: asyncio.Event) -> None:
        """Sends one request after another; ends when asked to close once `until` is set."""
        while True:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context, server_hostname=SERVER_NAME
            )
            try:
                while not await self._exchange(reader, writer):
                    pass
            finally:
                writer.close()
            if until.is_set():
                return

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection is to be left afterwards."""
        try:
            writer.write(REQUEST)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.failures.append(repr(error))
            return True
        if head.startswith(b"http/1.1 200 "):
            self.answered += 1
        else:
            self.failures.append(head.decode())
        closes = b"\r\nconnection: close\r\n" in head
        self.told_to_close += closes
        return closes


async def reload_often(running: LocalSidecar) -> None:
    """Every 100 ms another configuration and a SIGHUP; every third has a problem."""
    documents = running.documents
    for number in itertools.count(1):
        extra = document("ModelRole", {"rules": [{"models": [f"model-{number}"], "verbs": ["predict"]}]}, "extra")
        if number % 3 == 0:
            extra["spec"]["rulez"] = []
        replace_documents(running.path, [*documents, extra])
        running.child.signal(signal.SIGHUP)
        await asyncio.sleep(0.1)


async def test_no_request_is_lost_to_reloads_and_a_drain(tmp_path: Path) -> None:
    async with local_replica(tmp_path / "mesh") as running:
        client = Client(running.port, tls_context(running.client))
        stopping = asyncio.Event()
        reloading = asyncio.ensure_future(reload_often(running))
        workers = [asyncio.ensure_future(client.run(stopping)) for _ in range(CONNECTIONS)]
        while client.answered < REQUESTS and not client.failures:
            await asyncio.sleep(0.01)
        # However fast the machine is, some reloads of either kind must have been under way.
        while min(await running.reloads("ok"), await running.reloads("failed")) < 2:
            await asyncio.sleep(0.05)
        reloading.cancel()
        stopping.set()
        running.child.signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*workers), 60)
        assert await asyncio.wait_for(running.child.wait(), 60) == 0
        assert client.failures == []
        assert client.answered >= REQUESTS
        assert client.told_to_close == CONNECTIONS


async def test_calls_under_way_are_finished_before_the_end(tmp_path: Path) -> None:
    """The model server stands still until the drain has begun: so long no call can be over."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica()
        running = replica.sidecar
        assert running is not None
        request = predict_request("half_plus_two", [2.0]).SerializeToString()
        async with GrpcClient(running.inbound, mesh.client) as grpc, RestClient(running.inbound, mesh.client) as rest:

            async def call_at_once() -> list[Answer]:
                path, content = "/v1/models/half_plus_two:predict", {"instances": [2.0]}
                over_rest = (rest.call("POST", path, content) for _ in range(20))
                return await asyncio.gather(*(grpc.call(PREDICT, request) for _ in range(20)), *over_rest)

            statuses = ["OK"] * 20 + ["200"] * 20
            # All connections are made before: a server that stands still for ten seconds is taken for lost.
            assert [answer.status for answer in await call_at_once()] == statuses
            replica.model_server.signal(signal.SIGSTOP)
            calls = asyncio.ensure_future(call_at_once())
            while await running.total("meshproxy_requests_in_flight") < len(statuses):
                await asyncio.sleep(0.02)
            running.child.signal(signal.SIGTERM)
            await until(lambda: running.said("draining"))
            replica.model_server.signal(signal.SIGCONT)
            answers = await calls
        assert [answer.status for answer in answers] == statuses
        assert list(messages.PredictResponse.FromString(answers[0].body).outputs["y"].float_val) == [4.0]
        assert await asyncio.wait_for(running.child.wait(), 60) == 0


class GrpcCallers:
    """Callers that call as long as the port is open: with a channel for each call, with a channel each, and with a
    channel for all.

    Attributes:
        answered: calls that were answered with OK.
        failures: what happened to the others.
    """

    def __init__(self, address: str, certificate: Certificate | None, headers: dict[str, str] | None = None) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._address = address
        self._certificate = certificate
        self._headers = headers
        self._request = predict_request("half_plus_two", [2.0]).SerializeToString()

    async def run(self) -> None:
        """Ends when every caller has found the port closed: nothing of such a call is sent, it may go elsewhere."""
        async with self._client() as shared:
            await asyncio.gather(
                *(self._call_with(shared) for _ in range(4)),
                *(self._call_with_own() for _ in range(4)),
                *(self._call_with_new_ones() for _ in range(4)),
            )

    def _client(self) -> GrpcClient:
        return GrpcClient(self._address, self._certificate, retries=True)

    async def more(self, count: int) -> None:
        """Returns when so many further calls were answered, or one failed."""
        goal = self.answered + count
        while self.answered < goal and not self.failures:
            await asyncio.sleep(0.01)

    async def _call_with(self, client: GrpcClient) -> None:
        while await self._call(client):
            pass

    async def _call_with_own(self) -> None:
        async with self._client() as client:
            await self._call_with(client)

    async def _call_with_new_ones(self) -> None:
        is_open = True
        while is_open:
            async with self._client() as client:
                is_open = await self._call(client)

    async def _call(self, client: GrpcClient) -> bool:
        """Whether the port is open."""
        answer = await client.call(PREDICT, self._request, self._headers)
        if answer.status == "OK":
            self.answered += 1
        elif "Failed to connect to remote host" in str(answer.body):
            return False
        else:
            self.failures.append(f"{answer.status}: {answer.body}")
        return True


async def test_no_call_is_lost_while_grpc_clients_keep_coming(tmp_path: Path) -> None:
    """Connections that are made during the drain are served, and the port is closed before the drain is cut."""
    async with local_replica(tmp_path / "mesh", sidecar={"drainTimeout": "10s"}) as running:
        callers = GrpcCallers(running.inbound, running.client)
        calling = asyncio.ensure_future(callers.run())
        await callers.more(100)
        running.child.signal(signal.SIGTERM)
        before = callers.answered
        assert await asyncio.wait_for(running.child.wait(), 60) == 0
        await asyncio.wait_for(calling, 60)
        assert callers.failures == []
        assert callers.answered > before + 50
        assert not any("aborting in-flight requests" in line for line in running.child.output)


class RestCallers:
    """Callers of an outbound port: some call all the time, the others together, seconds apart, so that in between
    connections to the sidecars are idle.

    Attributes:
        answered: calls that were answered with 200.
        failures: what happened to the others.
    """

    def __init__(self, address: str) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._client = RestClient(address, None)
        self._is_over = asyncio.Event()

    async def run(self) -> None:
        async with self._client:
            await asyncio.gather(
                *(self._steadily() for _ in range(4)), *(self._together(1.0 + pause) for pause in (0, 1, 2))
            )

    def stop(self) -> None:
        self._is_over.set()

    async def more(self, count: int) -> None:
        """Returns when so many further calls were answered, or one failed."""
        goal = self.answered + count
        while self.answered < goal and not self.failures:
            await asyncio.sleep(0.01)

    async def _steadily(self) -> None:
        while not self._is_over.is_set():
            await self._call()

    async def _together(self, pause: float) -> None:
        while not self._is_over.is_set():
            await asyncio.gather(*(self._call() for _ in range(16)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_over.wait(), pause)

    async def _call(self) -> None:
        headers = {"x-model-server": "models"}
        answer = await self._client.call("POST", "/v1/models/half_plus_two:predict", {"instances": [2.0]}, headers)
        if answer.status == "200":
            self.answered += 1
        else:
            self.failures.append(f"{answer.status}: {answer.body}")


async def test_no_rest_call_between_sidecars_is_lost_when_one_drains(tmp_path: Path) -> None:
    """Over HTTP/1.1 idle connections cannot be told. Nothing is tried again here that the sidecar may have seen."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        leaving, staying = await asyncio.gather(mesh.replica(sidecar={"drainTimeout": "12s"}), mesh.replica())
        assert leaving.sidecar is not None
        unseen = {"reasons": ["connect-failure", "refused-stream", "goaway"]}
        once = document("ModelRoute", {"models": ["*"], "retries": unseen})
        application = await mesh.application([server_of([leaving, staying]), once])
        callers = RestCallers(application.outbound)
        calling = asyncio.ensure_future(callers.run())
        while await rest_connections(leaving.sidecar) < 8 and not callers.failures:
            await asyncio.sleep(0.1)
        leaving.sidecar.child.signal(signal.SIGTERM)
        assert await asyncio.wait_for(leaving.sidecar.child.wait(), 60) == 0
        await callers.more(200)
        callers.stop()
        await asyncio.wait_for(calling, 60)
        print(f"{callers.answered} calls were answered")
        assert callers.failures == []


async def rest_connections(running: LocalSidecar) -> float:
    """Those of HTTP/1.1 to its inbound port."""
    return await running.total("meshproxy_open_connections", 'direction="inbound"', 'protocol="HTTP/1.1"')


async def test_an_outbound_port_loses_no_call_when_a_replica_or_itself_drains(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        leaving, staying = await asyncio.gather(mesh.replica(sidecar={"drainTimeout": "3s"}), mesh.replica())
        assert leaving.sidecar is not None
        application = await mesh.application([server_of([leaving, staying])], sidecar={"drainTimeout": "5s"})
        callers = GrpcCallers(application.outbound, None, {"x-model-server": "models"})
        calling = asyncio.ensure_future(callers.run())
        await callers.more(200)
        leaving.sidecar.child.signal(signal.SIGTERM)
        assert await asyncio.wait_for(leaving.sidecar.child.wait(), 60) == 0
        await callers.more(200)
        assert callers.failures == []
        application.child.signal(signal.SIGTERM)
        assert await asyncio.wait_for(application.child.wait(), 60) == 0
        await asyncio.wait_for(calling, 60)
        assert callers.failures == []
