"""Memory of a sidecar that has worked, and of connections that do nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.works.work import Failed, Figures, Load, Pace, Traffic, Work, human, sound

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running

REQUESTS = 100_000
AT_REST = 6.0
"""Seconds without a request, after which they hold what idle ones hold (`connection.REST_SECONDS`)."""
TOGETHER = 20
"""Connections that ask at the same time: a backlog of thousands would measure the client."""


@dataclass(frozen=True, slots=True)
class WorkedWork(Work):
    """Resident memory with 100 connections, half of them REST, half gRPC, after 100,000 requests."""

    headline = ("rss_mb", "peak_rss_mb")
    is_fresh: ClassVar[bool] = True
    at_most_rounds: ClassVar[int | None] = 3

    @property
    def question(self) -> str:
        return f"RSS after {REQUESTS:,} requests, half of them gRPC, with {self.traffic.connections} connections open"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        if running.child is None:
            raise Failed("there is no process to measure")
        protocols = [
            name for name, port in (("rest", running.rest_port), ("grpc", running.grpc_port)) if port is not None
        ]
        begun = running.child.rss()
        share = self.traffic.connections // len(protocols)
        loads = [Load(context, running, Traffic(protocol, connections=share)) for protocol in protocols]
        async with loads[0] as first, loads[-1] if len(loads) > 1 else _Nothing():
            del first
            for load in loads:
                sound(await load.driver.run_closed(load.slots, 300.0, at_most=REQUESTS // len(loads)))
            return {
                "rss_mb": running.child.rss() / 1e6,
                "peak_rss_mb": running.child.peak_rss() / 1e6,
                "start_rss_mb": begun / 1e6,
            }


class _Nothing:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class IdleWork(Work):
    """Idle connections: how many are open, and the memory of each."""

    headline = ("held", "kb_per_connection", "rss_mb")
    is_fresh: ClassVar[bool] = True
    at_most_rounds: ClassVar[int | None] = 1

    @property
    def question(self) -> str:
        name = "HTTP/1.1" if self.traffic.protocol == "rest" else "HTTP/2"
        size = f" of {human(self.traffic.size)}" if self.traffic.size != Traffic(self.traffic.protocol).size else ""
        return f"{self.traffic.connections:,} idle {name} connections over mTLS, each after one request{size}"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        child = running.child
        if child is None:
            raise Failed("there is no process to measure")
        traffic = self.traffic
        async with Load(context, running, Traffic(traffic.protocol)) as load:
            sound(await load.driver.run_closed(load.slots, 1.0))
        before = child.rss()
        async with AsyncExitStack() as stack:
            loads = []
            for _ in range(traffic.connections // TOGETHER):
                batch = Traffic(traffic.protocol, traffic.size, connections=TOGETHER)
                load = await stack.enter_async_context(Load(context, running, batch))
                sound(await load.driver.run_closed(load.slots, 10.0, at_most=TOGETHER))
                loads.append(load)
            await asyncio.sleep(AT_REST)
            after = child.rss()
            count = len(loads) * TOGETHER
            held = sum(connection.is_open for load in loads for connection in load.connections)
            # What is held must still serve.
            for load in loads[:: max(1, len(loads) // 10)]:
                sound(await load.driver.run_closed(load.slots, 10.0, at_most=TOGETHER))
        return {"held": float(held), "kb_per_connection": (after - before) / count / 1e3, "rss_mb": after / 1e6}
