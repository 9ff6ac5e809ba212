"""An application's sidecar before several replicas, some of which die, hang, are slow or fail: every part is a process,
and what came of each call is counted at the client. How fast it is: `tests/figures/test_resilience.py`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from meshproxy.devtools.load.predict import predict_over_grpc
from meshproxy.devtools.local_mesh import Document, LocalMesh, LocalSidecar, Replica, document, local_mesh, server_of
from tests.processes.calls import REQUEST
from tests.processes.replicas import CHECKED, after, all_away, both

pytestmark = [pytest.mark.asyncio(loop_factories=["uvloop"])]


async def trio(mesh: LocalMesh, *arguments: str) -> list[Replica]:
    """Three replicas with sidecars, which look after the health of their model servers."""
    return list(await asyncio.gather(*(mesh.replica(*arguments, server=CHECKED) for _ in range(3))))


async def until_unhealthy(application: LocalSidecar) -> None:
    """One endpoint is known to be unhealthy, by its breaker or by its checks."""
    async with asyncio.timeout(60):
        while await application.total("meshproxy_endpoints", 'state="unhealthy"') != 1:
            await asyncio.sleep(0.02)


async def test_one_connection_of_grpc_reaches_every_replica_and_a_killed_one_fails_no_call(tmp_path: Path) -> None:
    """linkerd2#2636: a connection was balanced, not its calls, so that one replica got them all."""
    async with local_mesh(tmp_path / "mesh") as mesh:
        # Twenty milliseconds, as a model takes. Of those that take none, whichever the system has held up looks worst.
        replicas = await trio(mesh, "--latency-ms=20")
        application = await mesh.application(
            [server_of(replicas, health={"check": "grpc", "models": ["half_plus_two"]})]
        )
        run = await predict_over_grpc(application.outbound, 500, 2, REQUEST)
        counts = [await replica.request_count() for replica in replicas]
        print("calls of the replicas, checks of their health among them:", counts)
        assert run.is_clean
        # A balanced connection would give all to one. How even the shares are is a figure (tests/figures).
        assert min(counts) >= 0.02 * run.done

        runs, _ = await asyncio.gather(both(application, 250, 4), after(1.5, replicas[0].kill))
        retried = await application.total("meshproxy_retries_total")
        print(f"one of three was killed: {retried:.0f} calls were tried again")
        assert all(run.is_clean for run in runs)
        await until_unhealthy(application)
        assert await application.total("meshproxy_endpoints", 'state="known"') == 3


async def test_a_replica_that_hangs_fails_no_call(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replicas = await mesh.bare_each((), (), ())
        route = document(
            "ModelRoute",
            {
                "models": ["half_plus_two"],
                "server": "models",
                "tryTimeout": "1s",
                "retries": {"reasons": ["connect-failure", "refused-stream", "goaway", "reset", "timeout"]},
            },
        )
        health = {"check": "model-status", "interval": "500ms", "timeout": "2s"}
        application = await mesh.application([server_of(replicas, health=health), route])
        hung = replicas[0]
        runs, _ = await asyncio.gather(both(application, 150, 4), after(1, lambda: hung.signal(signal.SIGSTOP)))
        await until_unhealthy(application)
        hung.signal(signal.SIGCONT)
        assert all(run.is_clean for run in runs)


async def test_a_slow_replica_gets_the_smallest_share(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replicas = await mesh.bare_each(("--latency-ms=5",), ("--latency-ms=5",), ("--latency-ms=200",))
        application = await mesh.application([server_of(replicas)])
        # Few calls: with more, a busy machine has a queue before each of the three, longer than the slow one takes.
        warm = await predict_over_grpc(application.outbound, 60, 2, REQUEST)
        before = [await replica.request_count() for replica in replicas]
        run = await predict_over_grpc(application.outbound, 60, 5, REQUEST)
        counts = [await replica.request_count() - known for replica, known in zip(replicas, before, strict=True)]
        print("calls of the replicas:", counts)
        assert warm.is_clean
        assert run.is_clean
        assert sum(counts) == run.done
        # Half of an even share would be much. Of the two others, one that the system has held up may have had less.
        assert counts[2] < run.done / 6


async def test_a_replica_that_fails_half_of_the_time_is_made_up_for_within_the_budget(tmp_path: Path) -> None:
    async with local_mesh(tmp_path / "mesh") as mesh:
        replicas = await mesh.bare_each((), (), ("--failure-rate=0.5", "--seed=1"))
        # In turn, with neither breaker nor ejection: retries alone have to do it.
        server = server_of(
            replicas, balancing={"policy": "round-robin"}, breaker={"enabled": False}, ejection={"enabled": False}
        )
        application = await mesh.application([server])
        runs = await both(application, 200, 3)
        calls = sum(run.done + run.errors.total() for run in runs)
        retries = await application.total("meshproxy_retries_total")
        failed = await replicas[2].request_count("UNAVAILABLE")
        print(f"{failed} of {calls} calls were answered UNAVAILABLE, {retries:.0f} tried again")
        assert sum(run.done for run in runs) / calls >= 0.999
        assert failed > 50
        # A fifth of the calls, and ten a second; see `retries.budgetRatio`, `retries.budgetMin`.
        assert failed * 0.9 <= retries <= 0.2 * calls + 10 * max(run.seconds for run in runs) + 10


@pytest.mark.parametrize("more", [{}, CHECKED], ids=["breakers alone", "with checks"])
async def test_when_all_were_away_calls_are_answered_once_the_first_is_back(more: Document, tmp_path: Path) -> None:
    outage = await all_away(tmp_path / "mesh", more, timeout=20)
    assert {answer.status for answer in outage.answers} == {"UNAVAILABLE"}
