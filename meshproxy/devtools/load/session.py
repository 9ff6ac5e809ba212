"""One comparison: a model server through its sidecar and directly, in alternating rounds."""

from __future__ import annotations

import asyncio
import gc
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshproxy.devtools.load.figures import has_kept_rate, percentiles
from meshproxy.devtools.load.generator import Driver, Run
from meshproxy.devtools.load.schedule import poisson, uniform
from meshproxy.devtools.load.target import Target, grpc_slots, open_grpc, open_rest, rest_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.devtools.load.generator import Slot

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sent."""

    protocol: str
    """`rest` or `grpc`."""
    path: str
    """REST: the path of the request; gRPC: the method."""
    body: bytes
    """REST: JSON; gRPC: a serialized message."""
    rate: float | None
    """Requests per second; None: a closed loop."""
    duration: float
    """Seconds, over all rounds, for each side."""
    rounds: int = 3
    connections: int = 8
    streams: int = 1
    warm_up: float = 1.0
    is_poisson: bool = False


@dataclass(slots=True)
class Side:
    """What one side did, over all rounds."""

    name: str
    rounds: list[Run] = field(default_factory=list)

    @property
    def latencies(self) -> array[float]:
        """Seconds, all rounds together."""
        together = array("d")
        for run in self.rounds:
            together.extend(run.latencies)
        return together

    @property
    def errors(self) -> Counter[str]:
        return sum((run.errors for run in self.rounds), Counter())

    @property
    def done(self) -> int:
        return sum(run.done for run in self.rounds)

    @property
    def achieved(self) -> float:
        """Answered requests per second."""
        seconds = sum(run.seconds for run in self.rounds)
        return self.done / seconds if seconds else 0.0

    @property
    def own_cpu(self) -> float:
        """CPU seconds of the generator for each request."""
        return sum(run.own_cpu for run in self.rounds) / self.done if self.done else 0.0

    def fault(self) -> str | None:
        """Why its percentiles would mislead; None if they do not."""
        unanswered = sum(run.unanswered for run in self.rounds)
        if not self.done:
            return "no request was answered"
        if unanswered:
            return f"{unanswered} requests were not answered"
        for run in self.rounds:
            if run.offered is not None and not run.errors and not has_kept_rate(run.offered, run.achieved):
                return (
                    f"{run.achieved:.0f} requests/s were answered instead of {run.offered:.0f}, so latencies would be "
                    "those of another rate; use a lower --rate or more --connections"
                )
        return None


def read_url(url: str) -> tuple[str, int, bool]:
    """Host, port and whether it is TLS.

    Raises:
        ValueError: it is not a URL of a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"{url!r} is not a URL of the form https://host:port")
    return parts.hostname, parts.port or PORTS[parts.scheme], parts.scheme == "https"


async def compare(
    sides: dict[str, Target], plan: Plan, progress: Callable[[str, int], None] = lambda _side, _round: None
) -> list[Side]:
    """Measures every side in turns, `plan.rounds` times.

    Args:
        sides: targets by name.
        progress: called with the side and the round before each measurement.

    Raises:
        OSError: a connection cannot be opened.
    """
    found = [Side(name) for name in sides]
    for number in range(plan.rounds):
        # In alternating order, so that no side is always the second.
        for side in found if number % 2 == 0 else reversed(found):
            progress(side.name, number)
            side.rounds.append(await _measure(sides[side.name], plan, number))
    return found


async def _measure(target: Target, plan: Plan, number: int) -> Run:
    driver = Driver()
    slots: list[Slot]
    if plan.protocol == "rest":
        request = rest_request(target, plan.path, plan.body)
        rest = await open_rest(target, request, plan.connections, driver)
        slots, transports = [*rest], [connection.transport for connection in rest]
    else:
        path = plan.path.encode()
        grpc = await open_grpc(target, plan.body, plan.connections, plan.streams, driver, path)
        slots, transports = [*grpc_slots(grpc)], [connection.transport for connection in grpc]
    try:
        gc.collect()
        seconds = plan.duration / plan.rounds
        warm = await driver.run_closed(slots, plan.warm_up, at_most=20 * len(slots))
        if warm.errors:
            return warm
        if plan.rate is None:
            return await driver.run_closed(slots, seconds)
        starts = poisson(plan.rate, seconds, seed=number) if plan.is_poisson else uniform(plan.rate, seconds)
        return await driver.run_open(slots, starts)
    finally:
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)


def hop(through: Side, around: Side, share: float) -> tuple[float, float, float] | None:
    """What the hop added to a percentile, in seconds: median, lowest and highest of the rounds. None if a round has too
    few requests for this percentile."""
    added = []
    for ours, theirs in zip(through.rounds, around.rounds, strict=True):
        our, their = percentiles(ours.latencies, (share,)), percentiles(theirs.latencies, (share,))
        if share not in our or share not in their:
            return None
        added.append(our[share] - their[share])
    added.sort()
    return added[len(added) // 2], added[0], added[-1]
