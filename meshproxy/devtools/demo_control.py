"""The demo, third part: an application and a replica whose sidecars have their identities and documents from a control
plane. A certificate rotates under load, a role is taken away, and the control plane is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable

from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.demo_outbound import NAME, REQUEST, Scene, problem_of
from meshproxy.devtools.load.generator import Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.managed_mesh import LIFETIME, ManagedMesh

RATE = 100.0
"""Calls a second, over each of REST and gRPC."""
STEP = 0.5
"""Seconds of load at a time."""
CALM_LIFETIME = 3_600.0
"""Of the certificates of the control plane that is started again, in seconds."""


async def run(mesh: ManagedMesh) -> AsyncIterator[Scene]:
    """Plays the scenes, one after another."""
    yield await role(mesh)
    yield await rotation(mesh)
    yield await away(mesh)


async def role(mesh: ManagedMesh) -> Scene:
    """The binding of the application is taken out of a file and put back; each time, one call follows."""
    statuses, seconds = [], []
    async with RestClient(mesh.application.outbound, None) as client:

        async def call() -> str:
            path = "/v1/models/half_plus_two:predict"
            return (await client.call("POST", path, {"instances": [1.0]}, {"host": NAME})).status

        statuses.append(await call())
        for binds in (False, True):
            begun = time.monotonic()
            await mesh.edit_policy(binds=binds)
            seconds.append(time.monotonic() - begun)
            statuses.append(await call())
    expected = ["200", "403", "200"]
    problem = "" if statuses == expected else f"answers {', '.join(statuses)}, expected {', '.join(expected)}"
    seen = f"answers {', '.join(statuses)}; in sync in {max(seconds) * 1e3:.0f} ms"
    failed = sum(each != wanted for each, wanted in zip(statuses, expected, strict=True))
    return Scene("a role is taken away, and given back", len(statuses), failed, seen, problem)


async def rotation(mesh: ManagedMesh, patience: float = LIFETIME) -> Scene:
    """Load until both certificates have been renewed."""
    before, begun = mesh.rotations(), time.monotonic()
    runs: list[Run] = []
    while mesh.rotations() == before and time.monotonic() - begun < patience:
        runs += await _load(mesh, STEP)
    runs += await _load(mesh, STEP)
    problem = _problem_of(runs)
    if not problem and mesh.rotations() == before:
        problem = f"not both certificates were renewed within {patience:g} s"
    seen = f"both rotated within {time.monotonic() - begun:.1f} s; longest {_longest(runs):.0f} ms"
    return _scene(f"certificates that live for {LIFETIME:g} s rotate", runs, seen, problem)


async def away(mesh: ManagedMesh, seconds: float = 1.5) -> Scene:
    """kill -9 of the control plane under load; then it is started again."""

    async def strike() -> None:
        await asyncio.sleep(seconds / 3)
        await mesh.control.kill()

    runs = await _load(mesh, seconds, strike())
    begun = time.monotonic()
    await mesh.restart_control(CALM_LIFETIME)
    await mesh.in_sync()
    back = time.monotonic() - begun
    seen = f"longest {_longest(runs):.0f} ms; it is back, and has all in sync after {back:.1f} s"
    return _scene("kill -9 of the control plane", runs, seen, _problem_of(runs))


async def _load(mesh: ManagedMesh, seconds: float, meanwhile: Awaitable[None] | None = None) -> list[Run]:
    address = mesh.application.outbound
    rest, grpc, *_ = await asyncio.gather(
        predict_over_rest(address, RATE, seconds, name=NAME),
        predict_over_grpc(address, RATE, seconds, REQUEST, name=NAME),
        *([meanwhile] if meanwhile is not None else []),
    )
    assert isinstance(rest, Run)
    assert isinstance(grpc, Run)
    return [rest, grpc]


def _scene(what: str, runs: list[Run], seen: str, problem: str) -> Scene:
    failed = sum(run.failed for run in runs)
    return Scene(what, sum(run.done for run in runs) + failed, failed, seen, problem)


def _longest(runs: list[Run]) -> float:
    """Milliseconds."""
    return 1e3 * max((latency for run in runs for latency in run.latencies), default=0.0)


def _problem_of(runs: list[Run]) -> str:
    """The first fault; empty if there is none."""
    return next((problem for problem in map(problem_of, runs) if problem), "")
