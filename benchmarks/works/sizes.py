"""The largest request that a peer forwards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from benchmarks.works.work import Failed, Figures, Load, Pace, Work, human

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running

SIZES = tuple(2**power for power in range(20, 27))
"""1 to 64 MiB, doubling. The last is as much as `envoy-fields-64m` is told to hold."""


@dataclass(frozen=True, slots=True)
class SizesWork(Work):
    """One request of each size, up to the first that is refused; peak memory while the last one passed."""

    headline = ("largest_mib", "peak_rss_mb")
    is_fresh: ClassVar[bool] = True
    at_most_rounds: ClassVar[int | None] = 1

    @property
    def question(self) -> str:
        name = "REST" if self.traffic.protocol == "rest" else "gRPC"
        return f"largest {name} predict of {human(SIZES[0])} to {human(SIZES[-1])} that is answered, one at a time"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        figures: Figures = {}
        for size in SIZES:
            if running.child is not None:
                running.child.reset_peak()
            # A little below, so that the whole message has this size with all that is around the tensor.
            async with Load(context, running, replace(self.traffic, size=size - 64)) as load:
                run = await load.driver.run_closed(load.slots, 60.0, at_most=1)
            if not run.done:
                if not figures:
                    raise Failed(next(iter(run.errors), "no answer"))
                break
            figures = {"largest_mib": size / 2**20}
            if running.child is not None:
                figures["peak_rss_mb"] = running.child.peak_rss() / 1e6
        return figures
