"""What all requests of a pipeline share: clocks, ports, caches, budgets, and the set of requests in flight."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from meshproxy.proxy.admissions import Admissions
from meshproxy.proxy.express_outcome import new_tally
from meshproxy.proxy.headers import HeaderReader
from meshproxy.transport.byte_budget import ByteBudget
from meshproxy.transport.turns import Turns

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from meshproxy.proxy.exchange import Exchange, LiveExchange
    from meshproxy.proxy.ports import Meter, Observer, RefreshKeys, Sampler, Tracer, Traffic
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.transport.reaper import Reaper


class ProxyContext:
    """Lives as long as the listener. Its `snapshot` may be replaced at any time."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        now: Callable[[], float],
        wall_clock: Callable[[], float],
        reaper: Reaper,
        snapshot: Snapshot,
        observer: Observer,
        tracer: Tracer,
        refresh_keys: RefreshKeys,
        on_limit: Callable[[str], None],
        traffic: Traffic,
        repeat: Callable[[Exchange], Callable[[Exchange], None]] | None = None,
        admit_admin: Callable[[], None] | None = None,
        draw: Callable[[], float] = random.random,
        cpu_time: Callable[[], float] = time.thread_time,
        turns: Turns | None = None,
    ) -> None:
        """`turns`: of the event loop; None: nobody else takes any."""
        self.loop = loop
        self.now = now
        """`time.monotonic`: what the loop's timers go by, too, but uvloop's own `time` counts milliseconds."""
        self.wall_clock = wall_clock
        """Seconds since the epoch: what certificates and tokens expire by."""
        self.snapshot = snapshot
        self.observer = observer
        self.repeat = repeat if repeat is not None else lambda exchange: self.observer
        """Makes the observer of exchanges that repeat one on the express lane: in nothing do they differ but in times,
        sizes, ids and trace."""
        self.tracer = tracer
        self.refresh_keys = refresh_keys
        self.on_limit = on_limit
        """Counts a limit that was exceeded, by its name."""
        self.traffic = traffic
        self.admit_admin = admit_admin
        """Asked after the policy has permitted a call of an admin verb; raises Refusal. None: nobody is."""
        self.draw = draw
        """A random number from 0 up to 1: splits, faults, back-off."""
        self.cpu_time = cpu_time
        """Seconds of processor time that this thread has used."""
        self.headers = HeaderReader()
        self.admissions = Admissions(reaper)
        self.live: set[LiveExchange] = set()
        """The exchanges in flight."""
        reaper.watch(self.live)
        self.turns = (turns or Turns(loop)).queue()
        """Bodies that are read in slices."""
        self.express = new_tally()
        """What became of the requests that the express lane looked at."""
        self.meters: Mapping[str, Meter] = {}
        """What measures the arms of rollouts that are being judged, by the name of the rollout."""
        self.sampler: Sampler | None = None
        """Chooses the calls whose answers are read; None: none is. It changes with the snapshot alone: plans of the
        express lane have it."""
        self.served = 0
        """Exchanges that have ended."""
        self.scan_buffer = ByteBudget()
        """Request bodies whose model is not known yet."""
        self.response_buffer = ByteBudget()
        """Responses that their clients have not taken."""
        self.replay_bytes = 0
        """Request bodies kept for another attempt. Nothing is evicted: over the limit the newest is not kept."""
