"""Large tensors: bytes per second there and back, what a byte costs, and how much memory many of them take at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.works.work import Figures, Load, Pace, Work, sound

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running


@dataclass(frozen=True, slots=True)
class BodiesWork(Work):
    """A closed loop of large requests with equally large answers."""

    headline = ("mb_per_second", "mb_per_cpu_second", "peak_rss_mb")

    @property
    def question(self) -> str:
        return f"bytes per second, both ways together: {self.traffic}, answers alike"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        async with Load(context, running, self.traffic) as load:
            sound(await load.driver.run_closed(load.slots, pace.warm_up))
            child = running.child
            if child is not None:
                child.reset_peak()
            before = child.cpu() if child else 0.0
            waited = child.waited() if child else 0.0
            run = sound(await load.driver.run_closed(load.slots, pace.duration))
            spent = child.cpu() - before if child else 0.0
            waited = child.waited() - waited if child else 0.0
        megabytes = run.done * (self.traffic.size + self.traffic.reply) / 1e6
        figures = {
            "mb_per_second": megabytes / run.seconds,
            "per_second": run.achieved,
            "load_us": run.own_cpu / run.done * 1e6,
        }
        if child is not None:
            figures |= {
                "mb_per_cpu_second": megabytes / spent,
                "proxy_busy": spent / run.seconds,
                "proxy_waited": waited / run.seconds,
                "peak_rss_mb": child.peak_rss() / 1e6,
            }
        return figures
