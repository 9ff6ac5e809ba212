"""What an application's sidecar does with calls on their way: shares of a split and reloads that move them, keys that
stay, limits under too much load, and shadows."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.load.generator import Driver, Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest, target_of
from meshproxy.devtools.load.target import grpc_slots, open_grpc
from meshproxy.devtools.local_mesh import Document, LocalSidecar, document, local_mesh, server_of
from meshproxy.devtools.models import predict_request

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(60)]

REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()
PATH = "/v1/models/half_plus_two:predict"
CONTENT = {"instances": [1.0]}


def told(title: str, run: Run) -> None:
    """The figures of a run, for whoever reads the output of a test."""
    latencies = sorted(run.latencies)
    p50, p99 = (latencies[int(len(latencies) * share)] * 1e3 for share in (0.5, 0.99))
    print(
        f"{title}: {run.done} answered at {run.achieved:.0f}/s, {run.errors.total()} failed, {run.unanswered} without "
        f"an answer; p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {latencies[-1] * 1e3:.2f} ms {dict(run.errors)}"
    )


def percentile(run: Run, share: float) -> float:
    return sorted(run.latencies)[int(len(run.latencies) * share)]


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
        told("90/10", run)
        assert run.done == 10_000
        assert not run.errors
        # Binomial: five standard deviations are 150 calls.
        bound = 5 * math.sqrt(run.done * 0.9 * 0.1)
        print(f"calls by version: {dict(counts)}, allowed from 9,000 and 1,000: {bound:.0f}")
        assert counts.total() == run.done
        assert abs(counts[1] - 9_000) <= bound

        counts.clear()
        moved: dict[str, Any] = {}

        async def move() -> None:
            await asyncio.sleep(1)
            asked = time.monotonic()
            await application.reload([server, split(0, 100)])
            moved["seconds"] = time.monotonic() - asked
            moved["then"] = Counter(counts)

        run, _ = await asyncio.gather(predict_over_rest(application.outbound, 1_000, 3), move())
        told("0/100 after a second", run)
        late = counts[1] - moved["then"][1]
        print(f"calls by version: {dict(counts)}; the reload took {moved['seconds']:.2f} s, {late} calls to 1 after it")
        assert run.done == 3_000
        assert not run.errors
        assert not run.unanswered
        assert moved["seconds"] < 1
        # Those that were under way.
        assert late <= 32
        assert counts[2] > 1_000

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


async def capacity_of(address: str) -> float:
    """Calls a second that a model server answers while it always has more of them than it serves at a time."""
    driver = Driver()
    connections = await open_grpc(target_of(address, "models"), REQUEST, 1, 16, driver)
    try:
        run = await driver.run_closed(grpc_slots(connections), 1.5)
    finally:
        connections[0].transport.abort()
    assert not run.errors
    return run.done / run.seconds


@pytest.mark.parametrize("limit", [{"limit": 10}, {}], ids=["a limit", "one that is found out"])
async def test_twice_as_much_as_can_be_served_costs_little_of_what_can(limit: Document, tmp_path: Path) -> None:
    """A model server that serves eight at a time. Goodput are the calls that were answered within half a second."""
    seconds = 4
    concurrency = {**limit, "queue": 20, "queueTimeout": "200ms"}
    limited = document("ModelRoute", {"models": ["half_plus_two"], "concurrency": concurrency})
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica("--latency-ms=40", "--concurrency=8", documents=[limited])
        application = await mesh.application([server_of([replica]), route(timeout="500ms", retries={"attempts": 1})])
        capacity = await capacity_of(str(replica.model_server.listening["grpc"]))
        # A slot that was refused takes no further call: there is one for each.
        rate = 2 * capacity
        run = await predict_over_grpc(application.outbound, rate, seconds, REQUEST, streams=int(rate * seconds) + 1)
        told("twice the capacity", run)
        goodput = sum(latency <= 0.5 for latency in run.latencies) / run.seconds
        print(f"goodput {goodput:.0f}/s, capacity {capacity:.0f}/s, ratio {goodput / capacity:.3f}")
        assert not run.unanswered
        assert goodput >= 0.9 * capacity
        assert percentile(run, 0.99) < 0.4
        assert set(run.errors) == {"RESOURCE_EXHAUSTED, refused by meshproxy: overloaded"}


async def mirrored(application: LocalSidecar) -> dict[str, float]:
    """What became of copies."""
    return {
        series.partition('result="')[2].partition('"')[0]: value
        for series, value in (await application.metrics()).items()
        if series.startswith("meshproxy_mirrored_total{")
    }


async def test_shadows_that_hang_or_break_cost_a_call_nothing(tmp_path: Path) -> None:
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
        application = await mesh.application([*servers, route()])
        mirrors = {
            "no shadow": {},
            "one that hangs": {"mirror": {"server": "silent", "timeout": "1s"}},
            "one that breaks": {"mirror": {"server": "breaking"}},
        }
        runs = {}
        for title, mirror in mirrors.items():
            await application.reload([*servers, route(**mirror)])
            await predict_over_rest(application.outbound, 200, 0.3)
            run = runs[title] = await predict_over_rest(application.outbound, 200, 2)
            told(title, run)
            assert not run.errors
            assert not run.unanswered
        async with asyncio.timeout(5):
            while await application.total("meshproxy_mirrored_total") < 2 * 460:
                await asyncio.sleep(0.02)
        found = await mirrored(application)
        print("what became of the shadows:", found)
        assert found["timeout"] >= 32
        # Those that hang take the places of those that break for a second.
        assert found["failed"] >= 200
        assert found["timeout"] + found["limited"] + found["failed"] == 920
        usual = runs.pop("no shadow")
        for run in runs.values():
            assert percentile(run, 0.5) < percentile(usual, 0.5) + 0.001
            assert percentile(run, 0.9) < percentile(usual, 0.9) + 0.010


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
        async with asyncio.timeout(5):
            while await application.total("meshproxy_mirrored_total") < 200:
                await asyncio.sleep(0.02)
        found = await mirrored(application)
        print("what became of the shadows:", found)
        # Comparing takes a twentieth of the time at most: what comes closer together is answered, and not compared.
        assert set(found) <= {"differs", "answered"}
        assert found["differs"] >= 100
        assert sum(found.values()) == 200
        again = server_of([replica], "again")
        await application.reload([server, again, split(0, 1, mirror={"compare": {}, "server": "again"})])
        async with RestClient(application.outbound, None) as client:
            answer = await client.call("POST", PATH, CONTENT, {"host": "models"})
        assert (answer.status, answer.body) == ("200", {"predictions": [3.5]})
        async with asyncio.timeout(5):
            while await application.total("meshproxy_mirrored_total", 'result="agrees"') < 1:
                await asyncio.sleep(0.02)
