"""What traces cost: CPU per request, beside the same proxies without them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.sink import spans_taken
from benchmarks.works.cpu import CpuWork
from benchmarks.works.work import Failed, Figures, Pace

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running

ARRIVAL_SECONDS = 15.0
"""How long spans may be on their way: meshproxy and Envoy send them every 5 s."""


@dataclass(frozen=True, slots=True)
class TelemetryWork(CpuWork):
    """As `cpu-*`, with a collector. Peers that export are believed when spans of theirs have arrived."""

    exports: bool = True

    @property
    def question(self) -> str:
        return f"CPU per request: {self.traffic}, metrics and access log, with and without traces"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        port = context.sink().taking
        before = await asyncio.to_thread(spans_taken, port)
        # Not `super()`: a dataclass with slots is another class than the one that the compiler has put into it.
        figures = await CpuWork.measure(self, context, upstream, running, pace)
        waited = 0.0
        while running.exports and await asyncio.to_thread(spans_taken, port) == before:
            if waited >= ARRIVAL_SECONDS:
                raise Failed("no span has arrived at the collector")
            await asyncio.sleep(0.5)
            waited += 0.5
        return figures
