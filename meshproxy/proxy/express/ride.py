"""A request in flight on the express lane, from the moment when it was sent whole to its answer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from meshproxy.proxy.client_side import LOOKS, TIMER_SECONDS
from meshproxy.proxy.exchange import AttemptRecord, Exchange, LiveExchange
from meshproxy.proxy.express.shape import MOST_HEAD, split_answer
from meshproxy.proxy.express_outcome import Outcome

if TYPE_CHECKING:
    from meshproxy.codec.events import RequestHead
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.express.plan import Plan
    from meshproxy.transport.h1 import H1Client, H1Server
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.pool import H1Pool

logger = logging.getLogger(__name__)

HEAD_END = b"\r\n\r\n"


class RideOwner(Protocol):
    """The lane that a ride is on (`lane.Lane`)."""

    context: ProxyContext
    wasted: int
    """Rides in a row whose answers have unfolded them."""

    def unfold(self, ride: Ride, why: Outcome, answer: bytes = b"") -> LiveExchange:
        """Make an ordinary request of it, and return that. `answer`: the head of one that no plan knows."""


class Ride(LiveExchange):
    """The record of an exchange on the lane, and who takes its answer (`h1.Ride`)."""

    __slots__ = (
        "data",
        "downstream",
        "due",
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

    def __init__(
        self,
        lane: RideOwner,
        plan: Plan,
        downstream: H1Server,
        upstream: H1Client,
        endpoint: Endpoint,
        pool: H1Pool,
        head: RequestHead,
        data: bytes,
        started: float,
        decided: float,
        due: float,
    ) -> None:
        """
        Args:
            upstream: an idle connection to `endpoint`, of `pool`, which the request is about to be written to.
            data: the request as it came.
            decided: the time now.
            due: when the answer must be whole; 0.0: no time limit.
        """
        Exchange.__init__(self, head, downstream.info, started)
        self.lane = lane
        self.plan = plan
        self.downstream = downstream
        self.upstream_connection = upstream
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
        # What the stations would have noted.
        self.caller = plan.caller
        self.asked = self.forwarded = plan.asked
        self.rule = plan.rule
        self.permit_audits = plan.permit_audits
        self.conditions = plan.conditions
        self.route = plan.matched.name
        self.server = plan.server
        self.target = plan.operation.target
        self.upstream = upstream.address
        self.decided = self.connected = decided
        look = started + plan.snapshot.limits.stall / LOOKS
        self.deadline = due - TIMER_SECONDS if due and due - TIMER_SECONDS < look else look

    def answered(self, data: bytes) -> bool:
        """The answer came, or some of it (`h1.Ride`). False: the ride has unfolded."""
        try:
            plan, lane = self.plan, self.lane
            end = data.find(HEAD_END) + 4
            parts = split_answer(data[:end]) if end <= MOST_HEAD else []
            values = parts[2::3]
            del parts[2::3]
            shape = tuple(parts)
            answer = plan.answers.get(shape)
            size = len(data) - end
            if answer is None or size != int(values[answer.length]):
                lane.unfold(self, Outcome.ANSWER, data[:end] if answer is None and end >= len(HEAD_END) else b"")
                return False
            context = lane.context
            if context.snapshot is not plan.snapshot:
                lane.unfold(self, Outcome.RELOADED)
                return False
            upstream, downstream, endpoint = self.upstream_connection, self.downstream, self.endpoint
            self.first_byte = first_byte = context.now()
            upstream.ride_over()
            endpoint.succeeded(plan.model, first_byte - self.connected, first_byte, self.token)
            self.is_reported = True
            self.attempts = (
                AttemptRecord(
                    upstream.address,
                    self.decided,
                    self.connected,
                    first_byte,
                    first_byte,
                    None,
                    False,
                    answer.status,
                    None,
                    self.span_id,
                    self.pool.is_tls,
                ),
            )
            self.status = answer.status
            self.bytes_sent = size
            before, between, behind = answer.pieces
            values.append(b"")
            self.head.stream = downstream.ride_over(
                b"".join((before, values[answer.date], between, values[answer.length], behind, data[end:])), first_byte
            )
            lane.wasted = 0
            context.live.discard(self)
            context.replay_bytes -= self.replayed
            self.replayed = 0
            context.served += 1
            context.express[Outcome.CARRIED] += 1
            self.finished = context.now()
            answer.observe(self)
        except Exception as error:
            self._fail(error)
        return True

    # What else may happen: it unfolds, and the ordinary request hears of it

    def client_acted(self) -> None:
        """The client sent something, or is gone (`h1.Ride`)."""
        self._unfold(Outcome.CLIENT)

    def client_leaves(self) -> None:
        """The client is to be asked to leave (`h1.Ride`)."""
        self._unfold(Outcome.DRAINED)

    def server_left(self) -> None:
        """The connection to the model server has ended (`h1.Ride`)."""
        self._unfold(Outcome.UPSTREAM)

    def expire(self, now: float) -> None:
        """It takes long (`reaper.Expirable`)."""
        request = self._unfold(Outcome.TIME)
        if request is not None:
            request.expire(now)

    def _unfold(self, why: Outcome) -> LiveExchange | None:
        try:
            return self.lane.unfold(self, why)
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        """A defect: neither side can be trusted to be where it should be."""
        logger.error("internal error in the express lane", exc_info=error)
        context, upstream = self.lane.context, self.upstream_connection
        context.express[Outcome.FAILED] += 1
        context.live.discard(self)
        context.replay_bytes -= self.replayed
        self.replayed = 0
        if not self.is_reported:
            self.is_reported = True
            self.endpoint.cancelled(self.plan.model, context.now(), self.token)
        self.downstream.ride = None
        self.downstream.abort()
        if upstream.ride is self:  # else it is somebody else's by now
            upstream.ride = None
            upstream.abort()
