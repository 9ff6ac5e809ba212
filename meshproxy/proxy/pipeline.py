"""The way of a request. READ THIS FIRST.

`Pipeline.serve` gets a request's head from a connection and makes a `Passage` of it, which takes it through the
stations, one method each, in this order:

    begin      what the headers say: gRPC or REST, token, deadline, trace
    identified who calls: the workload of the connection's certificate, and the token
    named      what is called: the model, from the path (REST) or as soon as the body shows it (gRPC)
               - may they: the policy permits it or raises a Refusal
               - where to: the route
    Terms      if the route asks for more than a server: limits, faults, a share of a split and so another version, a
               place among the calls of the model, a copy elsewhere
    send_to    the server is known
    Tries      an endpoint is picked, and another one when that fails, until one answers
    respond    the answer has begun: from here on nothing is tried again
    finish     the last byte has left: the observer reads the record

A station that has all it needs calls the next one straight away, so a request whose token is known and for which an
upstream connection is idle is carried without waking the event loop. One that has to wait returns, and is continued by
what it waits for: the issuer's keys, more of the body, a place, a connection. Until then pieces of the body are held.

No byte goes to the model server before `named` has permitted the call. The body is scanned to its end, each piece
before it is forwarded: a later field that changes the model is decided on anew, and a piece that fails is never sent.

`passage` has the stations, `terms` what a route may ask for, `tries` what happens between a request and its answer,
`attempt` one try, `mirror` the copies. `health_service` answers what is asked about the model server's health.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Protocol

from meshproxy.codec.events import Rejected, RequestHead
from meshproxy.inference.surfaces import SURFACES, Surfaces
from meshproxy.proxy.admissions import Admissions
from meshproxy.proxy.headers import HeaderReader
from meshproxy.proxy.mirror import Mirrors
from meshproxy.proxy.passage import Passage

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from meshproxy.proxy.exchange import Exchange, TraceContext
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.routing.failure import Failure
    from meshproxy.routing.retry import Skip
    from meshproxy.transport.reaper import Reaper
    from meshproxy.transport.stream import Downstream


class Observer(Protocol):
    """Reads finished exchanges."""

    def __call__(self, exchange: Exchange) -> None: ...


class Tracer(Protocol):
    """Carries a trace on, or starts one (`telemetry.trace`)."""

    def carry(self, parent: bytes | None, states: Sequence[bytes]) -> tuple[TraceContext, bytes]:
        """The context, and the `traceparent` to forward. `parent` and `states`: what was received of `traceparent` and
        `tracestate`."""


class RefreshKeys(Protocol):
    """Fetches an issuer's keys."""

    def __call__(self, issuer: str, then: Callable[[], None]) -> None:
        """Call `then` once when the attempt is over, however it went."""


class Traffic(Protocol):
    """Counts what happens to requests between their head and their answer."""

    def retried(self, exchange: Exchange, failure: Failure) -> None:
        """A try failed, and another one is made."""

    def retry_skipped(self, exchange: Exchange, failure: Failure, skip: Skip) -> None:
        """A try failed, and no other one is made, because of `skip`."""

    def hedged(self, exchange: Exchange) -> None:
        """A second try is made beside the first."""

    def fell_back(self, exchange: Exchange) -> None:
        """The route's other server is tried."""

    def mirrored(self, route: str, result: str) -> None:
        """A copy was sent, or was not (`proxy.mirror.RESULTS`)."""


class Pipeline:
    """Carries the requests of one direction. Its `snapshot` may be replaced at any time."""

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
        surfaces: Surfaces = SURFACES,
        draw: Callable[[], float] = random.random,
        cpu_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.loop = loop
        self.now = now
        """`time.monotonic`: what the loop's timers go by, too, but uvloop's own `time` counts milliseconds."""
        self.wall_clock = wall_clock
        """Seconds since the epoch: what certificates and tokens expire by."""
        self.snapshot = snapshot
        self.observer = observer
        self.tracer = tracer
        self.refresh_keys = refresh_keys
        self.on_limit = on_limit
        self.traffic = traffic
        self.surfaces = surfaces
        """Which requests can be made, and how their models are named."""
        self.draw = draw
        """Chance, from 0 up to 1: splits, faults, waits between tries."""
        self.cpu_time = cpu_time
        """Seconds that we have had of the processor."""
        self.headers = HeaderReader()
        self.admissions = Admissions(reaper)
        self.mirrors = Mirrors(self)
        self.live: set[Passage] = set()
        """The exchanges under way."""
        reaper.watch(self.live)
        self.served = 0
        """Exchanges that are over."""
        self.held_bytes = 0
        """Held by all requests together, waiting for their models to be known."""
        self.kept_bytes = 0
        """Kept of all requests together, in case they have to be sent again."""
        self.unread_bytes = 0
        """Answers of all requests together that their clients have not taken."""
        self.unread: dict[Passage, None] = {}
        self.holding: dict[Passage, None] = {}
        """Whose bytes those are, the longest first: beyond a limit it is the one that has waited longest that goes, or
        a few who never read, or never name their models, would turn everybody else away."""

    def serve(self, stream: Downstream, head: RequestHead) -> None:
        """Take a request (`stream.Serve`)."""
        Passage(self, stream, head).begin()

    def reject(self, stream: Downstream, rejected: Rejected) -> None:
        """Answer a request that the codec refused (`h1.Reject`); there is no more to it than that it failed."""
        head = RequestHead(rejected.stream, b"", b"", b"", (), end=True)
        Passage(self, stream, head).rejected(rejected)
