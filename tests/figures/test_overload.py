"""More calls than a model server can serve, and callers whose calls fail: what is left for the others.

Everything is on loopback, and every figure is a ratio of two runs of the same minute: absolute ones are the machine's.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from meshproxy.devtools.load.generator import Driver, Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest, target_of
from meshproxy.devtools.load.target import grpc_slots, open_grpc
from meshproxy.devtools.local_mesh import LocalMesh, document, environment, local_mesh, server_of
from meshproxy.devtools.models import predict_request

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"]), pytest.mark.timeout(120)]

REQUEST = predict_request("half_plus_two", [1.0]).SerializeToString()
SECONDS = 4.0
CONNECTIONS = 32
"""Enough for what is in flight: a hundred calls fit into one."""
FULL_QUEUE = ("--latency-ms=40", "--concurrency=8", "--queue=8")
"""200 calls a second; what does not fit into the queue is UNAVAILABLE at once."""


async def capacity_of(address: str) -> float:
    """Calls a second that a model server answers while it always has as many as it takes."""
    driver = Driver()
    connections = await open_grpc(target_of(address, "models"), REQUEST, 1, 12, driver)
    try:
        run = await driver.run_closed(grpc_slots(connections), 1.5)
    finally:
        connections[0].transport.abort()
    assert not run.errors
    return run.done / run.seconds


async def offered(title: str, address: str, rate: float) -> Run:
    """`rate` calls a second. A slot whose call failed is not used again, so there is one for each call."""
    streams = int(rate * SECONDS) // CONNECTIONS + 1
    run = await predict_over_grpc(address, rate, SECONDS, REQUEST, connections=CONNECTIONS, streams=streams)
    print(f"{title}: {run.achieved:.0f}/s of {rate:.0f}/s, {dict(run.errors)}, {run.unanswered} unanswered")
    return run


async def plain_sidecar(mesh: LocalMesh, rest: str, grpc: str) -> str:
    """The address of a sidecar before a model server that takes calls in plain text, with default settings."""
    sidecar = await mesh.sidecar("the sidecar", environment(rest, grpc, mtls="disabled"))
    return sidecar.inbound


@pytest.mark.parametrize("replicas", [1, 3])
async def test_twice_the_capacity_of_a_full_queue(tmp_path: Path, replicas: int) -> None:
    """A full batching queue answers UNAVAILABLE, and is healthy."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        servers = [await mesh.bare(*FULL_QUEUE) for _ in range(replicas)]
        application = await mesh.application([server_of(servers)])
        inbound = await plain_sidecar(mesh, servers[0].rest, servers[0].grpc)
        capacity = await capacity_of(servers[0].grpc)
        direct = await offered("direct", servers[0].grpc, 2 * capacity)
        through = await offered("inbound", inbound, 2 * capacity)
        each = await asyncio.gather(*(offered("direct, all at once", one.grpc, 2 * capacity) for one in servers))
        out = await offered("outbound", application.outbound, 2 * capacity * replicas)
        ratios = through.achieved / direct.achieved, out.achieved / sum(run.achieved for run in each)
        print(f"capacity {capacity:.0f}/s; inbound {ratios[0]:.3f} of direct, outbound {ratios[1]:.3f}")
        assert min(ratios) >= 0.95
        assert await application.total("meshproxy_circuit_transitions_total") == 0


async def test_a_replica_that_hangs(tmp_path: Path) -> None:
    """SIGSTOP: its kernel still accepts connections. No failures after five seconds, and no call later than its
    deadline."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        servers = [await mesh.bare("--latency-ms=5") for _ in range(3)]
        route = document("ModelRoute", {"models": ["*"], "server": "models", "timeout": "500ms"})
        application = await mesh.application([server_of(servers), route])
        before = await predict_over_grpc(application.outbound, 300, 1, REQUEST)
        assert not before.errors
        servers[0].signal(signal.SIGSTOP)
        try:
            during = [
                await predict_over_grpc(application.outbound, 300, 1, REQUEST, streams=300, name="models")
                for _ in range(10)
            ]
        finally:
            servers[0].signal(signal.SIGCONT)
        failed = [run.failed for run in during]
        print(
            f"failures in each second after it hangs: {failed}; longest {max(max(r.latencies) for r in during):.3f} s"
        )
        assert not any(failed[5:])


async def test_bad_input_of_one_caller(tmp_path: Path) -> None:
    """Twenty-five calls a second that fail, beside good ones of another caller."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        servers = [await mesh.bare("--failure-rate=1"), await mesh.bare()]
        for number, server in enumerate(servers):
            inbound = await plain_sidecar(mesh, server.rest, server.grpc)
            bad, good = await asyncio.gather(
                predict_over_grpc(inbound, 25, 3, REQUEST, streams=80),
                predict_over_rest(inbound, 20, 3, connections=80),
            )
            print(f"server {number}: bad {dict(bad.errors)}, good {dict(good.errors)}")
            assert not any("meshproxy" in error for error in (*bad.errors, *good.errors))
