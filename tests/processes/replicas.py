"""An application before several replicas: load, and what happens to the replicas meanwhile."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshproxy.devtools.child import free_port
from meshproxy.devtools.clients import Answer, GrpcClient
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.local_mesh import local_mesh, server_of
from tests.processes.calls import PREDICT, REQUEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meshproxy.devtools.load.generator import Run
    from meshproxy.devtools.local_mesh import Document, LocalSidecar

CHECKED: Document = {"health": {"check": "model-status", "models": ["half_plus_two"]}}
"""Of a ModelServer."""


async def both(application: LocalSidecar, rate: float, seconds: float) -> tuple[Run, Run]:
    """The same rate over REST and over one connection of gRPC, at the same time."""
    return await asyncio.gather(
        predict_over_rest(application.outbound, rate, seconds),
        predict_over_grpc(application.outbound, rate, seconds, REQUEST),
    )


async def after(seconds: float, action: Callable[[], Any]) -> None:
    """Something that happens in the middle of a load, whose clock is what it is timed by."""
    await asyncio.sleep(seconds)
    found = action()
    if asyncio.iscoroutine(found):
        await found


@dataclass(frozen=True, slots=True)
class Outage:
    """What calls came to while all replicas were away.

    Attributes:
        answers: to the calls meanwhile.
        seconds: from when the first replica was back until a call was answered OK.
    """

    answers: list[Answer]
    seconds: float


async def all_away(folder: Path, server: Document, timeout: float) -> Outage:
    """Two replicas that serve are killed for three seconds; then one is back. Raises TimeoutError 30 s later.

    Args:
        folder: of the mesh.
        server: more for the ModelServer.
        timeout: of each call, in seconds.
    """
    async with local_mesh(folder) as mesh:
        # The same ports before and after: nobody else is given them meanwhile.
        ports = (f"--rest-port={free_port()}", f"--port={free_port()}")
        replicas = await mesh.bare_each(ports, ())
        application = await mesh.application([server_of(replicas, **server)])
        async with GrpcClient(application.outbound, None) as client:
            headers = {"x-model-server": "models"}
            assert (await client.call(PREDICT, REQUEST, headers)).status == "OK"
            await asyncio.gather(*(replica.kill() for replica in replicas))
            answers = []
            # Long enough for breakers to have opened for as long as they do.
            until = time.monotonic() + 3
            while time.monotonic() < until:
                answers.append(await client.call(PREDICT, REQUEST, headers, timeout=timeout))
                await asyncio.sleep(0.02)
            await mesh.bare(*ports)
            back = time.monotonic()
            async with asyncio.timeout(60):
                while (await client.call(PREDICT, REQUEST, headers, timeout=timeout)).status != "OK":
                    await asyncio.sleep(0.01)
            return Outage(answers, time.monotonic() - back)
