"""Latency at a fixed rate (open loop), counted from the time at which a request was due."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.works.work import Failed, Figures, Load, Pace, Work, sound
from meshproxy.devtools.load.figures import has_kept_rate, percentiles
from meshproxy.devtools.load.schedule import uniform

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running


@dataclass(frozen=True, slots=True)
class LatencyWork(Work):
    """Percentiles at `rate` requests per second. What the hop added is the difference to `direct` of the same round."""

    headline = ("p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "cpu_us")
    rate: float = field(kw_only=True)

    @property
    def question(self) -> str:
        hops = ", two hops together" if self.hops > 1 else ""
        return f"latency at {self.rate:,.0f}/s, open loop: {self.traffic}{hops}"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        async with Load(context, running, self.traffic) as load:
            sound(await load.driver.run_open(load.slots, uniform(self.rate, pace.warm_up)))
            proxy = running.child.cpu() if running.child else 0.0
            run = sound(await load.driver.run_open(load.slots, uniform(self.rate, pace.duration)))
            proxy = running.child.cpu() - proxy if running.child else 0.0
        if run.offered is None or not has_kept_rate(run.offered, run.achieved):
            raise Failed(
                f"offered {run.offered:.0f}/s, achieved {run.achieved:.0f}/s: its percentiles would be for another rate"
            )
        figures = {f"p{share:g}_ms": value * 1e3 for share, value in percentiles(run.latencies).items()}
        figures |= {f"lag_p{share:g}_ms": value * 1e3 for share, value in percentiles(run.lags).items()}
        figures["per_second"] = run.achieved
        figures["load_us"] = run.own_cpu / run.done * 1e6
        if running.child is not None:
            figures["cpu_us"] = proxy / run.done * 1e6
            figures["rss_mb"] = running.child.rss() / 1e6
        context.keep_latencies(run.latencies)
        return figures
