"""The highest rate at which the 99th percentile stays below ten milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from benchmarks.works.work import Failed, Figures, Load, Pace, Work, sound
from meshproxy.devtools.load.figures import has_kept_rate, percentiles
from meshproxy.devtools.load.schedule import uniform

if TYPE_CHECKING:
    from benchmarks.context import Context, Upstream
    from benchmarks.peers.peer import Running

BOUND = 0.010
PROBES = 7


@dataclass(frozen=True, slots=True)
class CapacityWork(Work):
    """Searches by halving between 5 % and 110 % of what a closed loop gets."""

    headline = ("held_per_second", "p99_ms")
    at_most_rounds: ClassVar[int | None] = 3

    @property
    def question(self) -> str:
        return f"highest rate held at p99 < {BOUND * 1e3:.0f} ms, open loop: {self.traffic}"

    async def measure(self, context: Context, upstream: Upstream, running: Running, pace: Pace) -> Figures:
        async with Load(context, running, self.traffic) as load:
            closed = sound(await load.driver.run_closed(load.slots, max(1.0, pace.warm_up)))
            low, high = 0.05 * closed.achieved, 1.1 * closed.achieved
            best: Figures = {}
            for _ in range(PROBES):
                rate = (low + high) / 2
                run = await load.driver.run_open(load.slots, uniform(rate, max(1.0, pace.duration / 2)))
                # Too few requests for a percentile: then none of them may be late.
                p99 = percentiles(run.latencies, (99.0,)).get(99.0) or max(run.latencies, default=BOUND)
                if run.errors or run.unanswered:
                    sound(run)
                if has_kept_rate(rate, run.achieved, 0.02) and p99 < BOUND:
                    low = rate
                    best = {"held_per_second": rate, "p99_ms": p99 * 1e3}
                else:
                    high = rate
        if not best:
            raise Failed(f"no rate from {0.05 * closed.achieved:.0f}/s up was held at this bound")
        return best
