"""New mTLS connections: full handshakes, both certificates verified."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers.peer import MODEL
from benchmarks.works.work import Figures, Pace, Work
from meshproxy.devtools.load.generator import Driver
from meshproxy.devtools.load.messages import grpc_request
from meshproxy.devtools.load.target import open_grpc

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running

TOGETHER = 8


@dataclass(frozen=True, slots=True)
class HandshakesWork(Work):
    """Connections opened and closed as fast as it goes, eight at a time. One counts when the server's first HTTP/2
    frame has come: in TLS 1.3 a client finishes before the server has verified its certificate."""

    headline = ("cpu_us", "per_cpu_second", "per_second")

    @property
    def question(self) -> str:
        return f"full mTLS handshakes, {TOGETHER} at a time; CPU of the proxy for each"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        target = context.target(running, running.grpc_port or running.rest_port)
        message = grpc_request(MODEL, 30)
        count = 0

        async def open_and_close(until: float) -> None:
            nonlocal count
            while time.monotonic() < until:
                (connection,) = await open_grpc(target, message, 1, 1, Driver())
                connection.transport.abort()
                count += 1

        async def all_of_them(seconds: float) -> None:
            until = time.monotonic() + seconds
            await asyncio.gather(*(open_and_close(until) for _ in range(TOGETHER)))

        await all_of_them(pace.warm_up)
        count = 0
        assert running.child is not None
        cpu, own, begun = running.child.cpu(), time.process_time(), time.monotonic()
        await all_of_them(pace.duration)
        seconds = time.monotonic() - begun
        cpu, own = running.child.cpu() - cpu, time.process_time() - own
        return {
            "cpu_us": cpu / count * 1e6,
            "per_cpu_second": count / cpu,
            "per_second": count / seconds,
            "proxy_busy": cpu / seconds,
            "load_us": own / count * 1e6,
        }
