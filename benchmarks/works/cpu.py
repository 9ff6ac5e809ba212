"""CPU per request of the proxy process under a closed loop: the steadiest figure there is on a shared machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.works.work import Figures, Load, Pace, Work, sound

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running


TIMEOUT_MS = 5_000
"""What calls say that they may take, where they say it."""


@dataclass(frozen=True, slots=True)
class CpuWork(Work):
    """As many requests as are answered; what each took of the proxy's core, of the load and of the model server."""

    headline = ("cpu_us", "per_second")

    @property
    def question(self) -> str:
        rules = (
            f", {self.rules.count:,} rules over {self.rules.models:,} models" if self.name.startswith("rules") else ""
        )
        workers = f", {self.workers} workers" if self.workers > 1 else ""
        hops = ", two hops together" if self.hops > 1 else ""
        resilience = f", resilience {self.resilience}" if self.resilience != "default" else ""
        return f"CPU per request: {self.traffic}{rules}{workers}{hops}{resilience}"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        timeout_ms = TIMEOUT_MS if self.resilience == "on" else None
        async with Load(context, running, self.traffic, timeout_ms) as load:
            sound(await load.driver.run_closed(load.slots, pace.warm_up))
            proxy = running.child.cpu() if running.child else 0.0
            server = upstream.child.cpu()
            run = sound(await load.driver.run_closed(load.slots, pace.duration))
            server = upstream.child.cpu() - server
            proxy = running.child.cpu() - proxy if running.child else 0.0
        figures = {
            "cpu_us": proxy / run.done * 1e6,
            "per_second": run.achieved,
            "proxy_busy": proxy / run.seconds,
            "load_us": run.own_cpu / run.done * 1e6,
            "server_us": server / run.done * 1e6,
        }
        if running.child is not None:
            figures["rss_mb"] = running.child.rss() / 1e6
        else:
            del figures["cpu_us"], figures["proxy_busy"]
        return figures
