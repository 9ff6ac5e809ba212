"""What an application's sidecar does with calls: shares of a split and reloads that move them, keys that stay, limits
under too much load, shadows, and streams whose client waits for the head of the response. What that costs in time is
measured by `tests/figures/test_resilience.py`."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc.aio
import pytest

from meshproxy.devtools.clients import GrpcClient, RestClient, refusal_of
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.local_mesh import (
    CLIENT,
    SERVER,
    Document,
    LocalMesh,
    LocalSidecar,
    document,
    environment,
    local_mesh,
    permissive_documents,
    server_of,
)
from meshproxy.devtools.models import predict_request
from tests.processes.calls import PATH, PREDICT, REQUEST

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]

CONTENT = {"instances": [1.0]}


def route(**spec: Any) -> Document:
    return document("ModelRoute", {"models": ["half_plus_two"], "server": "models", **spec})


def split(first: int, second: int, **more: Any) -> Document:
    return route(split=[{"weight": first, "version": 1}, {"weight": second, "version": 2}], **more)


class Scripted(asyncio.Protocol):
    """A model server of a few lines: takes everything and answers nothing."""

    def __init__(self, transports: list[asyncio.Transport], counts: Counter[int]) -> None:
        self.transports = transports
        self.counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transports.append(self.transport)


class Counting(Scripted):
    """Says which version it was asked for: one answer for each request in one piece."""

    def data_received(self, data: bytes) -> None:
        version = int(data.partition(b"/versions/")[2][:1] or b"0")
        self.counts[version] += 1
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % version)


class Breaking(Scripted):
    """Breaks every connection off on which something was asked, in the middle of its answer."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        self.transport.close()


@asynccontextmanager
async def serving(kind: type[Scripted]) -> AsyncIterator[tuple[str, Counter[int]]]:
    """The address of such a server, and what it has counted."""
    counts: Counter[int] = Counter()
    transports: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: kind(transports, counts), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", counts
    finally:
        server.close()
        for transport in transports:
            transport.abort()


async def reload_under_load(application: LocalSidecar, documents: list[Document], counts: Counter[int]) -> Counter[int]:
    """Replaces the documents once calls are coming; what the server had counted when they were in force."""
    async with asyncio.timeout(60):
        while counts.total() < 100:
            await asyncio.sleep(0.01)
    await application.reload(documents)
    return Counter(counts)


async def versions_by_key(application: LocalSidecar, keys: range) -> dict[int, Any]:
    """Which version answers the calls of each key."""
    found = {}
    async with RestClient(application.outbound, None) as client:
        for key in keys:
            answer = await client.call("POST", PATH, CONTENT, {"host": "models", "x-user": str(key)})
            assert answer.status == "200"
            found[key] = answer.body
    return found


async def test_a_split_keeps_its_shares_and_a_reload_moves_them_at_once(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh, serving(Counting) as (address, counts):
        server = document("ModelServer", {"endpoints": [{"rest": address}]}, "models")
        application = await mesh.application([server, split(90, 10)])
        run = await predict_over_rest(application.outbound, 2_500, 4)
        assert run.is_clean
        assert run.done == 10_000
        # Binomial: five standard deviations are 150 calls.
        bound = 5 * math.sqrt(run.done * 0.9 * 0.1)
        print(f"calls by version: {dict(counts)}, allowed from 9,000 and 1,000: {bound:.0f}")
        assert counts.total() == run.done
        assert abs(counts[1] - 9_000) <= bound

        counts.clear()
        reload = asyncio.ensure_future(reload_under_load(application, [server, split(0, 100)], counts))
        runs = []
        while not reload.done():
            runs.append(await predict_over_rest(application.outbound, 1_000, 1))
        late = counts[1] - (await reload)[1]
        print(f"calls by version: {dict(counts)}, {late} calls to 1 after the reload")
        assert all(run.is_clean for run in runs)
        assert counts.total() == 1_000 * len(runs)
        # Those that were in flight, one on each connection.
        assert late <= 32
        counts.clear()
        assert (await predict_over_rest(application.outbound, 1_000, 1)).is_clean
        assert counts == {2: 1_000}

        # Keys: the same share each time, also after a reload that changes something else, and nearly all of them after
        # one that moves a tenth.
        sticky = {"sticky": {"by": "header", "header": "x-user"}}
        await application.reload([server, split(50, 50, **sticky)])
        keys = range(200)
        before = await versions_by_key(application, keys)
        assert await versions_by_key(application, keys) == before
        await application.reload([server, split(50, 50, timeout="10s", **sticky)])
        assert await versions_by_key(application, keys) == before
        await application.reload([server, split(60, 40, **sticky)])
        after = await versions_by_key(application, keys)
        others = [key for key in keys if after[key] != before[key]]
        print(f"50/50 -> 60/40 moved {len(others)} of {len(keys)} keys")
        assert {after[key] for key in others} <= {"1"}
        assert 1 <= len(others) <= 50


@pytest.mark.parametrize("limit", [{"limit": 10}, {"initial": 10}], ids=["fixed", "adaptive"])
async def test_calls_beyond_the_concurrency_limit_and_its_queue_are_refused(limit: Document, tmp_path: Path) -> None:
    """A hundred calls at once to a model server that takes four seconds for eight of them."""
    concurrency = {**limit, "queue": 20, "queueTimeout": "200ms"}
    limited = document("ModelRoute", {"models": ["half_plus_two"], "concurrency": concurrency})
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica("--latency-ms=4000", "--concurrency=8", documents=[limited])
        application = await mesh.application([server_of([replica]), route(timeout="50s", retries={"attempts": 1})])
        run = await predict_over_grpc(application.outbound, 100_000, 0.001, REQUEST, streams=100)
        print(f"{run.done} answered, {dict(run.errors)}")
        assert set(run.errors) == {"RESOURCE_EXHAUSTED, refused by meshproxy: overloaded"}
        assert run.done + run.errors.total() == 100
        # The queue outlives its timeout only if the sidecar is stopped for as long as a call takes.
        assert 10 <= run.done <= 30
        assert await replica.request_count() == run.done
        assert replica.sidecar is not None
        refused = await replica.sidecar.total("meshproxy_refusals_total", 'reason="overloaded"')
        assert refused == run.errors.total()


async def mirrored(application: LocalSidecar) -> dict[str, float]:
    """What became of copies."""
    return {
        series.partition('result="')[2].partition('"')[0]: value
        for series, value in (await application.metrics()).items()
        if series.startswith("meshproxy_mirrored_total{")
    }


async def until_mirrored(application: LocalSidecar, count: int, *labels: str) -> None:
    async with asyncio.timeout(60):
        while await application.total("meshproxy_mirrored_total", *labels) < count:
            await asyncio.sleep(0.02)


async def test_shadows_that_hang_or_break_fail_no_call(tmp_path: Path) -> None:
    async with (
        serving(Scripted) as (silent, _),
        serving(Breaking) as (breaking, _),
        local_mesh(tmp_path / "mesh") as mesh,
    ):
        replica = await mesh.bare("--latency-ms=5")
        servers = [
            server_of([replica]),
            document("ModelServer", {"endpoints": [{"rest": silent}]}, "silent"),
            document("ModelServer", {"endpoints": [{"rest": breaking}], "breaker": {"enabled": False}}, "breaking"),
        ]
        application = await mesh.application([*servers, route(mirror={"server": "silent", "timeout": "1s"})])
        assert (await predict_over_rest(application.outbound, 200, 2)).is_clean
        await until_mirrored(application, 400)
        found = await mirrored(application)
        print("what became of the shadows that hang:", found)
        assert found["timeout"] >= 32
        assert found["timeout"] + found["limited"] == 400

        await application.reload([*servers, route(mirror={"server": "breaking"})])
        assert (await predict_over_rest(application.outbound, 200, 2)).is_clean
        await until_mirrored(application, 800)
        more = await mirrored(application)
        print("what became of all shadows:", more)
        assert more["failed"] >= 32
        assert more["failed"] + more["limited"] - found["limited"] == 400
        assert more["timeout"] == found["timeout"]


async def test_shadows_that_disagree_are_counted(tmp_path: Path) -> None:
    """Version 2 answers one more than version 1 to the same, and just the same to those who name a version."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.bare("--model=half_plus_two=1,2")
        server = server_of([replica])
        mirror = {"compare": {}, "version": 2}
        application = await mesh.application([server, split(1, 0, mirror=mirror)])
        runs = (
            await predict_over_rest(application.outbound, 100, 1),
            await predict_over_grpc(application.outbound, 100, 1, REQUEST),
        )
        assert [run.done for run in runs] == [100, 100]
        await until_mirrored(application, 200)
        found = await mirrored(application)
        print("what became of the shadows:", found)
        # Comparing takes a twentieth of the time at most: what comes closer together is answered, and not compared. On
        # a busy machine more come together than may be in flight.
        assert set(found) <= {"differs", "answered", "limited"}
        assert found["differs"] >= 1
        assert sum(found.values()) == 200
        again = server_of([replica], "again")
        await application.reload([server, again, split(0, 1, mirror={"compare": {}, "server": "again"})])
        async with RestClient(application.outbound, None) as client, asyncio.timeout(60):
            while await application.total("meshproxy_mirrored_total", 'result="agrees"') < 1:
                answer = await client.call("POST", PATH, CONTENT, {"host": "models"})
                assert (answer.status, answer.body) == ("200", {"predictions": [3.5]})


REFLECT = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


async def echo(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
    """Sends its head at once, and what it has got when that is all."""
    await context.send_initial_metadata((("x-session", "7"),))
    for message in [message async for message in messages]:
        yield message


@asynccontextmanager
async def behind_two_hops(mesh: LocalMesh) -> AsyncIterator[LocalSidecar]:
    """The sidecar of an application, and another one before a server that streams both ways."""
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(echo)
    for path in (PREDICT, REFLECT):
        service, method = path[1:].split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        inbound = await mesh.sidecar("the server's sidecar", [*environment(grpc=f"127.0.0.1:{port}"), *permissive()])
        models = {"endpoints": [{"sidecar": inbound.inbound}], "connectTimeout": "10s"}
        workload = {"namespace": SERVER[0], "serviceAccount": SERVER[1]}
        application = document("ModelServer", {**models, "workload": workload}, "models")
        yield await mesh.application([application], outbound={"server": "models"})
    finally:
        await server.stop(None)


def permissive() -> list[Document]:
    """Everything is permitted, but for one model."""
    role = document("ModelRole", {"rules": [{"models": ["denied"], "verbs": ["predict"]}]}, "denied")
    subjects = [{"workload": {"namespace": CLIENT[0], "serviceAccount": CLIENT[1]}}]
    binding = document("ModelRoleBinding", {"role": "denied", "action": "deny", "subjects": subjects}, "denied")
    return [*permissive_documents(), role, binding]


async def test_a_client_that_waits_for_the_head_gets_it_while_it_still_sends(tmp_path: Path) -> None:
    """Through both hops. What is refused behind it says why, and nobody blames the server's sidecar for that."""
    denied = predict_request("denied", [0.0]).SerializeToString()
    async with (
        local_mesh(tmp_path / "mesh") as mesh,
        behind_two_hops(mesh) as application,
        GrpcClient(application.outbound, None) as client,
    ):
        stream: Any = client.channel.stream_stream
        # One names its model in the first message, the other none.
        for path, first, then in ((PREDICT, [REQUEST], REQUEST), (REFLECT, [], b"list")):
            call = stream(path)(timeout=60)
            for message in first:
                await call.write(message)
            assert dict(await call.initial_metadata())["x-session"] == "7"
            await call.write(then)
            await call.done_writing()
            assert [answer async for answer in call] == [*first, then]
            assert await call.code() is grpc.StatusCode.OK

        for _ in range(6):  # one more than open a breaker
            call = stream(PREDICT)(timeout=60)
            await call.write(REQUEST)
            assert dict(await call.initial_metadata())["x-session"] == "7"
            await call.write(denied)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert (error.value.code(), refusal_of(error.value)) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "permission-denied",
            )
        assert await application.total("meshproxy_requests_total", 'grpc_status="PERMISSION_DENIED"') == 6
        assert await application.total("meshproxy_circuit_transitions_total") == 0
