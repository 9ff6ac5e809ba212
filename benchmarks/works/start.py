"""What it takes to start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.works.work import Failed, Figures, Pace, Work

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running


@dataclass(frozen=True, slots=True)
class StartWork(Work):
    """A proxy that has just opened its port: CPU so far, of children that it has waited for, too, and memory."""

    headline = ("start_cpu_ms", "rss_mb")
    is_fresh: ClassVar[bool] = True

    @property
    def question(self) -> str:
        return "from the start of the process until its port takes connections"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        if running.child is None:
            raise Failed("there is no process to measure")
        cpu = running.child.cpu() + running.child.reaped_cpu()
        return {"start_cpu_ms": cpu * 1e3, "rss_mb": running.child.rss() / 1e6}
