"""What a request in flight on an express lane is made of, over HTTP/1.1 (`ride`) and HTTP/2 (`call_ride`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from meshproxy.proxy.client_side import LOOKS, TIMER_SECONDS
from meshproxy.proxy.exchange import NO_FLAGS, AttemptRecord, LiveExchange
from meshproxy.proxy.express_outcome import Outcome

if TYPE_CHECKING:
    from meshproxy.codec.events import RequestHead
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.express.plan import Decisions
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.pool import H1Pool, H2Pool

logger = logging.getLogger(__name__)


class Owner(Protocol):
    """The lane that it is on."""

    context: ProxyContext
    wasted: int
    """Rides in a row whose answers have unfolded them."""


class Carried(LiveExchange):
    """The record of an exchange on a lane, with what the stations would have noted of it."""

    __slots__ = (
        "data",
        "downstream",
        "due",
        "ended",
        "endpoint",
        "is_reported",
        "lane",
        "plan",
        "pool",
        "replayed",
        "span_id",
        "token",
        "trace_parent",
        "upstream_connection",
    )

    lane: Owner
    plan: Decisions
    ended: float
    """When it was answered; 0.0: it has not been."""

    # What no ride is: it unfolds first. Nothing sets these; to read one takes 0.05 us more than a slot, so those that
    # metrics and the access log read are slots.
    arm = refusal = None
    is_refused_remotely = False
    notes = ()
    flags = NO_FLAGS
    refused = 0.0

    def __init__(
        self,
        lane: Owner,
        plan: Decisions,
        endpoint: Endpoint,
        pool: H1Pool | H2Pool,
        upstream: str,
        head: RequestHead,
        data: bytes,
        received: int,
        connection: ConnectionInfo,
        started: float,
        decided: float,
        due: float,
    ) -> None:
        """
        Args:
            pool: of `endpoint`, whose connection the request is about to be written to.
            upstream: the address of that.
            data: what an ordinary request would go on with.
            received: bytes of the body.
            connection: the client's.
            decided: the time now.
            due: when the answer must be whole; 0.0: no time limit.
        """
        # As `Exchange`, without its call, and with what was decided.
        self.head = head
        self.connection = connection
        self.caller = plan.caller
        self.asked = self.forwarded = plan.asked
        self.target = plan.operation.target
        self.effective_version = ""
        self.trace = self.grpc_status = None
        self.is_grpc = False
        self.rule = plan.rule
        self.permit_audits = plan.permit_audits
        self.conditions = plan.conditions
        self.route = plan.matched.name
        self.server = plan.server
        self.upstream = upstream
        self.status = self.bytes_sent = 0
        self.bytes_received = received
        self.started = started
        self.decided = self.connected = decided
        self.reading = self.read = self.dequeued = self.retried = self.received = 0.0
        self.first_byte = self.ended = self.finished = 0.0
        self.lane = lane
        self.plan = plan
        self.endpoint = endpoint
        self.pool = pool
        self.data = data
        self.due = due
        self.replayed = 0
        """Bytes of the body that count as kept for another attempt."""
        self.trace_parent: bytes | None = None
        """The `traceparent` of our span; None without a trace."""
        self.span_id = b""
        """Of the client span; empty without one."""
        self.token = endpoint.begin(plan.model, decided)
        """Of the endpoint, until it is told how it went."""
        self.is_reported = False
        """It has been told."""
        look = started + plan.snapshot.limits.stall / LOOKS
        self.deadline = due - TIMER_SECONDS if due and due - TIMER_SECONDS < look else look

    @property
    def attempts(self) -> tuple[AttemptRecord, ...]:  # type: ignore[override]
        """The one that was answered, as soon as it has been. Made when somebody asks: metrics and the access log do
        not."""
        answered = self.ended
        if not answered:
            return ()
        return (
            AttemptRecord(
                self.pool.address,
                self.decided,
                self.connected,
                answered,
                answered,
                None,
                False,
                self.status,
                self.grpc_status,
                self.span_id,
                self.pool.is_tls,
            ),
        )

    def leave(self) -> None:
        """It is not on the lane any longer: what it counted for is given back."""
        context = self.lane.context
        context.live.discard(self)
        context.replay_bytes -= self.replayed
        self.replayed = 0

    def broke(self, error: Exception) -> None:
        """A defect: nothing is known of either side. Both are still to be broken off."""
        logger.error("internal error in the express lane", exc_info=error)
        context = self.lane.context
        context.express[Outcome.FAILED] += 1
        self.leave()
        if not self.is_reported:
            self.is_reported = True
            self.endpoint.cancelled(self.plan.model, context.now(), self.token)
