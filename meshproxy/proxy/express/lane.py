"""The express lane of one client's connection: makes plans of requests that went well, and carries those like them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.codec.events import RequestHead
from meshproxy.proxy.client_side import TIMER_SECONDS
from meshproxy.proxy.express.plan import ABSENT, NO_LIMIT, Plan, plan_answer, plan_request, went_well
from meshproxy.proxy.express.ride import HEAD_END, Ride
from meshproxy.proxy.express.shape import MOST_HEAD, REQUEST_ID, TIMEOUT, shape_of, split_answer, split_request
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.request import Request
from meshproxy.routing.deadline import format_rest
from meshproxy.transport.h1_client import ASKED
from meshproxy.upstream.cluster import NoEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.limits import Limits
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.exchange import LiveExchange
    from meshproxy.proxy.express.shape import Shape
    from meshproxy.transport.h1_server import H1Server

logger = logging.getLogger(__name__)

MOST_PLANS = 4
"""Of one connection; all are forgotten for another one. A plan takes some kilobytes, and most clients send one
shape."""
MOST_SEEN = 8
"""Shapes that came once; all are forgotten for another one."""
MOST_ANSWERS = 4
"""Shapes of answers that a plan knows; all are forgotten for another one."""
NOTHING = (b"", 0)
PATIENCE = 64
"""Requests in a row that could not be carried, after which the connection does without its lane: looking costs 3 us."""
WASTED = 8
"""Rides in a row that unfolded since the answer could not be planned, after which it does so, too."""


class _Candidate(NamedTuple):
    """An exchange that may become a plan once it is over."""

    request: Request
    head: bytes
    """Of the request, or of the answer."""
    limits: Limits
    """Of the codec that has read this head: a reload gives new ones to new connections."""
    plan: Plan | None
    """Of the request, if the head is that of its answer."""


class Lane:
    """The lane of one connection (`h1_server.Lane`)."""

    __slots__ = ("_candidate", "_followed", "_plans", "_resume", "_seen", "_unused", "context", "wasted")

    def __init__(self, context: ProxyContext, resume: Callable[[Ride], Request]) -> None:
        """
        Args:
            resume: makes an ordinary request of a ride.
        """
        self.context = context
        self._resume = resume
        self._plans: dict[Shape, Plan] = {}
        self._seen: set[int] = set()
        """Hashes of shapes that came once: one that comes twice will come again."""
        self._followed = NOTHING
        """The head of the request that is about to take the ordinary way, if a plan may come of it, and how many bytes
        came with it."""
        self._candidate: _Candidate | None = None
        self._unused = 0
        """Requests in a row that were not carried, and why was not a matter of the moment."""
        self.wasted = 0
        """Rides in a row that unfolded because of an answer of an unknown shape."""

    # Requests (h1.Lane)

    def carry(self, downstream: H1Server, data: bytes) -> bool:
        """Carry the request that `data` is, if it is all of one that a plan is for. Called between two requests. False:
        nothing has happened."""
        try:
            if self._candidate is not None:
                self._learn(downstream)
            end = data.find(HEAD_END) + 4
            if not 4 <= end <= MOST_HEAD:
                return self._cannot(downstream, Outcome.NOT_WHOLE)
            parts = split_request(data[:end])
            shape = (*parts[::3], *parts[1::3])
            plan = self._plans.get(shape)
            if plan is None:
                self._met(shape, data, end)
                return self._cannot(downstream, Outcome.UNKNOWN)
            return self._ride(downstream, plan, [*parts[2::3], b""], data, data[end:])
        except Exception:
            logger.exception("internal error in the express lane")
            downstream.lane = None
            return self._missed(Outcome.DEFECT)

    def _ride(self, downstream: H1Server, plan: Plan, values: list[bytes], data: bytes, body: bytes) -> bool:
        """As `carry`.

        Args:
            values: of the slots; the last one is of those that are absent.
        """
        context, snapshot = self.context, plan.snapshot
        if snapshot is not context.snapshot or plan.tracer is not context.tracer:
            self._plans.clear()
            return self._missed(Outcome.CHANGED)
        length = values[plan.length]
        size = len(body)
        if size != (int(length) if length else 0) or size > plan.most_body:
            return self._cannot(downstream, Outcome.NOT_WHOLE)
        if downstream.is_leaving:
            return self._missed(Outcome.LEAVING)

        # May they, still?
        wall_clock = context.wall_clock()
        if wall_clock >= plan.not_after:
            return self._missed(Outcome.CALLER)
        if plan.authorization is not None and not (holds := plan.token_holds(wall_clock)):
            if holds is None:
                self._plans.clear()
            return self._missed(Outcome.CALLER)

        # Until when?
        started = context.now()
        seconds = plan.seconds
        if said := values[plan.timeout]:
            seconds = min(seconds, int(said) / 1000)
        if seconds <= TIMER_SECONDS:
            return self._missed(Outcome.SHORT)

        # Is its answer to be read?
        if plan.sampler is not None and plan.sampler.is_due(started):
            return self._missed(Outcome.SAMPLED)

        # Where to?
        cluster = snapshot.clusters[plan.server]
        endpoint = cluster.only_rest
        if endpoint is None or not endpoint.allows(plan.model, started):
            if plan.tracer.is_recording:
                return self._missed(Outcome.ENDPOINT)  # spans tell which ones were passed over
            try:
                endpoint = cluster.pick(False, plan.model, started, None, ())
            except NoEndpoint:
                return self._missed(Outcome.ENDPOINT)
        pool = endpoint.rest
        if pool is None or endpoint.is_sidecar is not plan.is_sidecar:
            cluster.give_back(False, endpoint)
            return self._missed(Outcome.ENDPOINT)
        upstream = pool.take_idle()
        if upstream is None:
            cluster.give_back(False, endpoint)
            return self._missed(Outcome.BUSY)

        # It is sent: what the stations would do from here on, trace, retries, and the bytes to the model server.
        ride = None
        try:
            # What the codec would read of a head with these values.
            headers, at = plan.headers, plan.id_field
            if at != ABSENT:
                headers = (*headers[:at], (REQUEST_ID, values[plan.request_id]), *headers[at + 1 :])
            at = plan.timeout_field
            if at != ABSENT:
                headers = (*headers[:at], (TIMEOUT, said), *headers[at + 1 :])
            declared = size if length else plan.declared
            trace = values[plan.trace] or None
            head = RequestHead(0, plan.method, plan.authority, plan.target, headers, not size, declared, False, trace)
            now = context.now()
            due = started + seconds if seconds != NO_LIMIT else 0.0
            address, info = upstream.address, downstream.info
            ride = Ride(self, plan, endpoint, pool, address, head, data, size, info, started, now, due)
            ride.downstream, ride.upstream_connection = downstream, upstream
            parent = b""
            if plan.is_traced:
                tracer = plan.tracer
                traced = tracer.begin(()) if trace is None else tracer.go_on(trace, plan.fields.trace_states)
                ride.trace, parent = traced
                ride.trace_parent = parent
                if ride.trace.record is not None:
                    ride.span_id, parent = tracer.attempt(ride.trace)
            plan.matched.budget.deposit(now)
            left = format_rest(due - now) if due else b""
            to_id, to_left, to_length, to_trace, behind = plan.pieces
            request_id = values[plan.request_id]
            upstream.write(
                b"".join((to_id, request_id, to_left, left, to_length, length, to_trace, parent, behind, body))
            )
            if size:
                ride.received = now
            if size <= plan.most_replayed and context.replay_bytes + size <= snapshot.limits.replay_buffer_total:
                ride.replayed = size
                context.replay_bytes += size
            downstream.ride = upstream.ride = ride
            downstream.deadline, upstream.deadline = 0.0, ASKED
            context.live.add(ride)
        except Exception:
            downstream.ride = upstream.ride = None
            upstream.abort()  # nobody knows what it was sent
            if ride is not None:
                endpoint.cancelled(plan.model, started, ride.token)
            raise
        self._unused = 0
        return True

    def _missed(self, why: Outcome) -> bool:
        """For the time being the ordinary way is the only one."""
        self.context.express[why] += 1
        return False

    def _cannot(self, downstream: H1Server, why: Outcome) -> bool:
        """The same; if it always is, looking is a waste of time."""
        self._unused += 1
        if self._unused >= PATIENCE:
            downstream.lane = None
        return self._missed(why)

    # What happens to a ride (ride.RideOwner)

    def unfold(self, ride: Ride, why: Outcome, answer: bytes = b"") -> LiveExchange:
        """Make an ordinary request of it, which goes on with what happened. Returns it.

        Args:
            answer: the head of an answer that no plan knows.
        """
        self.context.express[why] += 1
        ride.leave()
        request = self._resume(ride)
        if answer:
            self._candidate = _Candidate(request, answer, ride.upstream_connection.limits, ride.plan)
        return request

    # Plans

    def _met(self, shape: Shape, data: bytes, end: int) -> None:
        seen = hash(shape)
        if seen in self._seen:
            self._followed = data[:end], len(data) - end
            return
        if len(self._seen) >= MOST_SEEN:
            self._seen.clear()
        self._seen.add(seen)

    def follow(self, downstream: H1Server) -> None:
        """What `carry` has left has begun on the ordinary way (`h1_server.Lane`)."""
        (head, size), self._followed = self._followed, NOTHING
        request: object = downstream.sink
        # If more than it has come, it may have been answered already, and the sink be that of the next one.
        if head and isinstance(request, Request) and request.request_ended and size == (request.head.length or 0):
            self._candidate = _Candidate(request, head, downstream.limits, None)

    def _learn(self, downstream: H1Server) -> None:
        """The candidate is over: make a plan of it, if it went well."""
        candidate, self._candidate = self._candidate, None
        assert candidate is not None
        request, head, limits, plan = candidate
        context = self.context
        if not went_well(request) or request.snapshot is not context.snapshot:
            return
        if plan is None:
            endpoint = context.snapshot.clusters[request.server].find_rest(request.attempts[0].endpoint)
            if endpoint is None or not context.snapshot.is_express:
                return
            made = plan_request(request, head, limits, context.tracer, is_sidecar=endpoint.is_sidecar)
            if made is not None:
                if len(self._plans) >= MOST_PLANS or any(
                    other.snapshot is not made.snapshot for other in self._plans.values()
                ):
                    self._plans.clear()
                self._plans[shape_of(split_request(head))] = made
            return
        answer = plan_answer(request, head, limits, context.headers.clean, context.repeat, is_sidecar=plan.is_sidecar)
        if answer is not None:
            if len(plan.answers) >= MOST_ANSWERS:
                plan.answers.clear()
                plan.last = None
            plan.answers[shape_of(split_answer(head))] = answer
        self.wasted += 1
        if self.wasted >= WASTED:
            downstream.lane = None
