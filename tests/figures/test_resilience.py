"""How fast and how well calls are served while replicas die, hang, are slow or get too much: figures, printed and held
against bounds. They need a quiet machine, so they are no part of `make test` and `make drills`, which assert that
nothing is lost meanwhile (`tests/processes/test_outbound.py`, `tests/drills/test_replicas.py`)."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from meshproxy.devtools.load.generator import Driver, Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest, target_of
from meshproxy.devtools.load.target import grpc_slots, open_grpc
from meshproxy.devtools.local_mesh import Document, document, local_mesh, server_of
from tests.processes.calls import REQUEST
from tests.processes.replicas import CHECKED, after, all_away, both

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(60)]


def percentile(run: Run, share: float) -> float:
    """Seconds."""
    return sorted(run.latencies)[int(len(run.latencies) * share)]


def show(title: str, run: Run) -> None:
    print(
        f"{title}: {run.done} answered at {run.achieved:.0f}/s, {run.errors.total()} failed, {run.unanswered} without "
        f"an answer; p50 {percentile(run, 0.5) * 1e3:.2f} ms, p99 {percentile(run, 0.99) * 1e3:.2f} ms, longest "
        f"{max(run.latencies) * 1e3:.2f} ms {dict(run.errors)}"
    )


def route(**spec: Any) -> Document:
    return document("ModelRoute", {"models": ["half_plus_two"], "server": "models", **spec})


async def test_calls_of_one_connection_are_spread_evenly(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        # Twenty milliseconds, as a model takes. Of those that take none, whichever the system has delayed looks worst.
        replicas = await asyncio.gather(*(mesh.replica("--latency-ms=20", server=CHECKED) for _ in range(3)))
        application = await mesh.application(
            [server_of(replicas, health={"check": "grpc", "models": ["half_plus_two"]})]
        )
        run = await predict_over_grpc(application.outbound, 500, 2, REQUEST)
        show("one connection", run)
        counts = [await replica.request_count() for replica in replicas]
        print("calls of the replicas, health checks among them:", counts)
        assert run.is_clean
        assert min(counts) >= 0.2 * run.done


async def test_a_hung_replica_delays_calls_by_less_than_a_second(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replicas = await mesh.bare_each((), (), ())
        reasons = ["connect-failure", "refused-stream", "goaway", "reset", "timeout"]
        retried = route(tryTimeout="250ms", retries={"reasons": reasons})
        health = {"check": "model-status", "interval": "500ms", "timeout": "500ms"}
        application = await mesh.application([server_of(replicas, health=health), retried])
        hung = replicas[0]
        runs, _ = await asyncio.gather(both(application, 150, 4), after(1, lambda: hung.signal(signal.SIGSTOP)))
        for title, run in zip(("REST", "gRPC"), runs, strict=True):
            show(title, run)
        hung.signal(signal.SIGCONT)
        timeouts = await application.total("meshproxy_retries_total", 'reason="timeout"')
        print(f"{timeouts:.0f} calls timed out at the hung replica and were tried elsewhere")
        assert all(run.is_clean for run in runs)
        assert max(max(run.latencies) for run in runs) < 1.0


async def test_a_slow_replica_gets_a_small_share(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replicas = await mesh.bare_each(("--latency-ms=5",), ("--latency-ms=5",), ("--latency-ms=50",))
        application = await mesh.application([server_of(replicas)])
        warm = await predict_over_grpc(application.outbound, 300, 1, REQUEST)
        before = [await replica.request_count() for replica in replicas]
        run = await predict_over_grpc(application.outbound, 300, 3, REQUEST)
        show("one of three is ten times slower", run)
        counts = [await replica.request_count() - known for replica, known in zip(replicas, before, strict=True)]
        print("calls of the replicas:", counts)
        assert warm.is_clean
        assert run.is_clean
        assert counts[2] / run.done < 0.12
        assert statistics.median(run.latencies) < 0.02
        assert percentile(run, 0.99) < 0.15


@pytest.mark.parametrize("more", [{}, CHECKED], ids=["breakers alone", "with checks"])
async def test_calls_are_answered_soon_after_a_replica_is_back(more: Document, tmp_path: Path) -> None:
    outage = await all_away(tmp_path / "mesh", more, timeout=2)
    slowest = max(answer.seconds for answer in outage.answers)
    print(
        f"{len(outage.answers)} calls were refused, the slowest after {slowest * 1e3:.1f} ms; answered "
        f"{outage.seconds:.2f} s after the first was back"
    )
    assert {answer.status for answer in outage.answers} == {"UNAVAILABLE"}
    assert outage.seconds < 2


async def test_a_reload_takes_less_than_a_second_under_load(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        (replica,) = await mesh.bare_each(("--model=half_plus_two=1,2",))
        server = server_of([replica])

        def split(first: int, second: int) -> Document:
            return route(split=[{"weight": first, "version": 1}, {"weight": second, "version": 2}])

        application = await mesh.application([server, split(100, 0)])

        async def reload() -> float:
            await asyncio.sleep(1)
            begun = time.monotonic()
            await application.reload([server, split(0, 100)])
            return time.monotonic() - begun

        run, seconds = await asyncio.gather(predict_over_rest(application.outbound, 500, 3), reload())
        show("reloaded after a second", run)
        print(f"the reload took {seconds:.2f} s")
        assert run.is_clean
        assert seconds < 1


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


@pytest.mark.parametrize("limit", [{"limit": 10}, {}], ids=["fixed", "adaptive"])
async def test_goodput_at_twice_the_capacity(limit: Document, tmp_path: Path) -> None:
    """A model server that serves eight at a time. Goodput: calls answered within half a second."""
    seconds = 4
    concurrency = {**limit, "queue": 20, "queueTimeout": "200ms"}
    limited = document("ModelRoute", {"models": ["half_plus_two"], "concurrency": concurrency})
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.replica("--latency-ms=40", "--concurrency=8", documents=[limited])
        application = await mesh.application([server_of([replica]), route(timeout="500ms", retries={"attempts": 1})])
        capacity = await capacity_of(replica.grpc)
        # A slot that was refused takes no further call: there is one for each.
        rate = 2 * capacity
        run = await predict_over_grpc(application.outbound, rate, seconds, REQUEST, streams=int(rate * seconds) + 1)
        show("twice the capacity", run)
        goodput = sum(latency <= 0.5 for latency in run.latencies) / run.seconds
        print(f"goodput {goodput:.0f}/s, capacity {capacity:.0f}/s, ratio {goodput / capacity:.3f}")
        assert not run.unanswered
        assert goodput >= 0.9 * capacity
        assert percentile(run, 0.99) < 0.4
        assert set(run.errors) == {"RESOURCE_EXHAUSTED, refused by meshproxy: overloaded"}


@asynccontextmanager
async def broken_server(answer: bytes) -> AsyncIterator[str]:
    """The address of a server that closes each connection after this much of an answer, or hangs if it is empty."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while await reader.read(65_536):
                if answer:
                    writer.write(answer)
                    break
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_shadows_that_hang_or_break_cost_no_time(tmp_path: Path) -> None:
    async with (
        local_mesh(tmp_path / "mesh") as mesh,
        broken_server(b"") as silent,
        broken_server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{") as breaking,
    ):
        servers = [
            server_of([await mesh.bare("--latency-ms=5")]),
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
            show(title, run)
            assert run.is_clean
        usual = runs.pop("no shadow")
        for run in runs.values():
            assert percentile(run, 0.5) < percentile(usual, 0.5) + 0.001
            assert percentile(run, 0.9) < percentile(usual, 0.9) + 0.010


async def test_most_answers_of_shadows_are_compared(tmp_path: Path) -> None:
    """Comparing takes a twentieth of the time at most: what comes closer together is answered, and not compared."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        replica = await mesh.bare("--model=half_plus_two=1,2")
        split = [{"weight": 1, "version": 1}]
        application = await mesh.application(
            [server_of([replica]), route(split=split, mirror={"compare": {}, "version": 2})]
        )
        runs = (
            await predict_over_rest(application.outbound, 100, 1),
            await predict_over_grpc(application.outbound, 100, 1, REQUEST),
        )
        assert all(run.is_clean for run in runs)
        while await application.total("meshproxy_mirrored_total") < 200:
            await asyncio.sleep(0.02)
        compared = await application.total("meshproxy_mirrored_total", 'result="differs"')
        print(f"{compared:.0f} of 200 were compared")
        assert compared >= 100
