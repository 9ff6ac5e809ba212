"""The express lane of one client's connection over HTTP/2: makes plans of gRPC calls that went well, and carries those
like them.

It begins above the codecs: a call is whole if its head and the end of its body were events in a row, and so is an
answer. Frames, windows, header tables and limits are theirs, whatever is carried.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from meshproxy.codec.grpc import parse_timeout
from meshproxy.codec.h2.encoder import LIMIT_LITERAL, REQUEST_ID_LITERAL, TRACE_LITERAL, VARYING_BYTES
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.inference.body_scan import BodyScan, repeats
from meshproxy.proxy.client_side import OVER, TIMER_SECONDS
from meshproxy.proxy.express.call_plan import Plans, plan_answer, plan_call
from meshproxy.proxy.express.call_ride import CallRide
from meshproxy.proxy.express.plan import ABSENT, NO_LIMIT, went_well
from meshproxy.proxy.express_outcome import Outcome
from meshproxy.proxy.request import Request
from meshproxy.refusal import Refusal
from meshproxy.routing.deadline import grpc_timeout
from meshproxy.transport.h2_server import RideStream
from meshproxy.upstream.cluster import NoEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import RequestHead, WholeResponse
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.exchange import LiveExchange
    from meshproxy.proxy.express.call_plan import CallPlan
    from meshproxy.transport.h2_server import H2Server
    from meshproxy.transport.stream import RequestSink, ResponseSink

logger = logging.getLogger(__name__)

MOST_BODY = 16_384
"""Bytes of a body: one frame."""
MOST_ANSWERS = 4
"""Answers that a plan knows; all are forgotten for another one."""
MOST_OF_A_CONNECTION = 64
"""Plans and answers of all shapes together, which take 5 KB each; all are forgotten for another one. Without it a
connection could have 2,560: 11 MB."""
PATIENCE = 64
"""Calls in a row that could not be carried, after which the connection does without its lane."""
WASTED = 8
"""Rides in a row that unfolded since the answer could not be planned, after which it does so, too."""


def _read(plans: Plans, body: bytes) -> CallPlan | None:
    """The plan for the call that the body names; None: there is none, or the body cannot be read at once."""
    operation = plans.operation
    assert operation is not None
    assert operation.scan is not None
    scan = operation.scan(plans.encoding, plans.snapshot.limits.scan)
    try:
        call = scan.feed(body, True)
    except Refusal:
        return None
    if call is None or scan.is_behind or scan.is_inflating:
        return None
    plan = plans.find(call)
    if plan is not None and isinstance(scan, BodyScan) and (first := scan.first_field(body)) is not None:
        plans.last, plans.first, plans.stop = plan, first, 5 + len(first)
    return plan


class _Candidate(NamedTuple):
    """An exchange that may become a plan once it is over."""

    request: Request
    plan: CallPlan | None
    """Of the request, if an answer is to be planned."""
    answer: WholeResponse | None


class CallLane:
    """The lane of one connection (`h2_server.Lane`)."""

    __slots__ = ("_candidate", "_made", "_resume", "_unused", "context", "wasted")

    def __init__(
        self,
        context: ProxyContext,
        resume: Callable[[CallRide], tuple[LiveExchange, RequestSink, ResponseSink]],
    ) -> None:
        """
        Args:
            resume: makes an ordinary request of a ride.
        """
        self.context = context
        self._resume = resume
        self._candidate: _Candidate | None = None
        self._made = 0
        """Plans and answers since all were forgotten."""
        self._unused = 0
        """Calls in a row that were not carried, and why was not a matter of the moment."""
        self.wasted = 0

    # Calls (h2_server.Lane)

    def carry(self, downstream: H2Server, head: RequestHead, body: bytes, flow: int) -> bool:
        """Carry the call that these are, if a plan is for it. False: nothing has happened."""
        try:
            if self._candidate is not None:
                self._learn(downstream)
            shape = head.shape
            plans = shape.plans if shape is not None else None
            if type(plans) is not Plans or plans.operation is None:
                return self._cannot(downstream, Outcome.UNKNOWN)
            return self._ride(downstream, plans, head, body, flow)
        except Exception:
            logger.exception("internal error in the express lane")
            downstream.close_lane()
            return self._missed(Outcome.DEFECT)

    def _ride(self, downstream: H2Server, plans: Plans, head: RequestHead, body: bytes, flow: int) -> bool:
        context, snapshot = self.context, plans.snapshot
        if snapshot is not context.snapshot or plans.tracer is not context.tracer:
            assert head.shape is not None
            head.shape.plans = None
            return self._missed(Outcome.CHANGED)
        size = len(body)
        if not 0 < size <= MOST_BODY:
            return self._cannot(downstream, Outcome.NOT_WHOLE)
        if downstream.is_leaving:
            return self._missed(Outcome.LEAVING)

        # What is called? Read as ever: who may call one model may not call every one.
        plan = plans.last
        if plan is None or not repeats(body, size, plans.first, plans.stop):
            plan = _read(plans, body)
            if plan is None:
                return self._cannot(downstream, Outcome.MODEL)

        # May they, still?
        wall_clock = context.wall_clock()
        if wall_clock >= plan.not_after:
            return self._missed(Outcome.CALLER)
        if plan.authorization is not None and not (holds := plan.token_holds(wall_clock)):
            if holds is None:
                plans.clear()
            return self._missed(Outcome.CALLER)

        # Until when?
        started = context.now()
        seconds = plan.seconds
        if plan.limit_at != ABSENT:
            said = parse_timeout(head.headers[plan.limit_at][1])
            if said is not None and said < seconds:
                seconds = said
        if seconds <= TIMER_SECONDS:
            return self._missed(Outcome.SHORT)

        # Is its answer to be read?
        if plan.sampler is not None and plan.sampler.is_due(started):
            return self._missed(Outcome.SAMPLED)

        # Where to?
        cluster = snapshot.clusters[plan.server]
        endpoint = cluster.only_grpc
        if endpoint is None or not endpoint.allows(plan.model, started):
            if plan.tracer.is_recording:
                return self._missed(Outcome.ENDPOINT)  # spans tell which ones were passed over
            try:
                endpoint = cluster.pick(True, plan.model, started, None, ())
            except NoEndpoint:
                return self._missed(Outcome.ENDPOINT)
        pool = endpoint.grpc
        if pool is None or endpoint.is_sidecar is not plan.is_sidecar:
            cluster.give_back(True, endpoint)
            return self._missed(Outcome.ENDPOINT)
        upstream = pool.find_open()
        if (
            upstream is None
            or upstream.is_paused
            or upstream.scheme != plan.scheme
            or not upstream.codec.takes_call(plan.size + VARYING_BYTES, size)
        ):
            cluster.give_back(True, endpoint)
            return self._missed(Outcome.BUSY)

        # It is sent: time left, request id and trace context behind what is always the same.
        trace = parent = attempt_parent = None
        span_id = b""
        if plan.is_traced:
            tracer = plan.tracer
            trace, parent = (
                tracer.begin(()) if head.trace is None else tracer.go_on(head.trace, plan.fields.trace_states)
            )
            attempt_parent = parent
            if trace.record is not None:
                span_id, attempt_parent = tracer.attempt(trace)
        due = 0.0
        block = plan.block
        if seconds != NO_LIMIT:
            due = started + seconds
            left = grpc_timeout(due - started)
            block = b"%b%b%c%b" % (block, LIMIT_LITERAL, len(left), left)
        if plan.id_at != ABSENT:
            value = head.headers[plan.id_at][1]
            block = b"%b%b%c%b" % (block, REQUEST_ID_LITERAL, len(value), value)
        if attempt_parent is not None:
            block = b"%b%b%b" % (block, TRACE_LITERAL, attempt_parent)
        stream = upstream.send_call(block, body, size)
        ride = None
        try:
            client, address, info = RideStream(downstream, head.stream), stream.address, downstream.info
            ride = CallRide(self, plan, endpoint, pool, address, head, body, size, info, started, started, due)
            ride.is_grpc = True
            ride.reading = ride.read = started
            ride.downstream, ride.upstream_connection = client, stream
            stream.sink = stream.ride = ride
            client.ride = ride
            ride.trace, ride.trace_parent, ride.span_id = trace, parent, span_id
            plan.matched.budget.deposit(started)
            downstream.codec.return_credit(flow)
            if size <= plan.most_replayed and context.replay_bytes + size <= snapshot.limits.replay_buffer_total:
                ride.replayed = size
                context.replay_bytes += size
            context.live.add(ride)
        except Exception as error:
            if ride is None:
                stream.reset(ErrorCode.CANCEL)
                raise
            ride.fail(error)
        self._unused = 0
        return True

    def _missed(self, why: Outcome) -> bool:
        """For the time being the ordinary way is the only one."""
        self.context.express[why] += 1
        return False

    def _cannot(self, downstream: H2Server, why: Outcome) -> bool:
        """The same; if it always is, looking is a waste of time."""
        self._unused += 1
        if self._unused >= PATIENCE:
            downstream.close_lane()
        return self._missed(why)

    # What happens to a ride (call_ride.CallOwner)

    def unfold(
        self, ride: CallRide, why: Outcome, answer: WholeResponse | None = None
    ) -> tuple[LiveExchange, RequestSink, ResponseSink]:
        """Make an ordinary request of it, which goes on with what happened.

        Args:
            answer: one that no plan knows.
        """
        self.context.express[why] += 1
        ride.leave()
        resumed = self._resume(ride)
        request = resumed[0]
        if answer is not None and isinstance(request, Request):
            self._candidate = _Candidate(request, ride.plan, answer)
        return resumed

    # Plans

    def follow(self, request: object) -> None:
        """What `carry` has left has begun on the ordinary way (`h2_server.Lane`)."""
        if self._candidate is not None or not isinstance(request, Request):
            return
        shape, context = request.head.shape, self.context
        if shape is None or not request.snapshot.is_express:
            return
        plans = shape.plans
        if type(plans) is not Plans or plans.snapshot is not request.snapshot or plans.tracer is not context.tracer:
            shape.plans = Plans(request.snapshot, context.tracer)  # such a head came once
        else:
            self._candidate = _Candidate(request, None, None)

    def _learn(self, downstream: H2Server) -> None:
        """Make a plan of the candidate, if it is over and went well."""
        candidate = self._candidate
        assert candidate is not None
        request, plan, answer = candidate
        if request.answer is not OVER:
            return
        self._candidate = None
        context, shape = self.context, request.head.shape
        if not went_well(request) or request.snapshot is not context.snapshot or shape is None:
            return
        encoder = downstream.codec.encoder
        if plan is None or answer is None:
            endpoint = context.snapshot.clusters[request.server].find_grpc(request.attempts[0].endpoint)
            upstream = endpoint.grpc.find_open() if endpoint is not None and endpoint.grpc is not None else None
            plans, asked = shape.plans, request.asked
            if (
                endpoint is None
                or upstream is None
                or type(plans) is not Plans
                or plans.snapshot is not context.snapshot
            ):
                return
            if asked is not None and plans.find(asked) is not None:
                return  # that one knows answers already
            made = plan_call(request, shape, endpoint, upstream.scheme, encoder, context.tracer)
            if made is not None:
                self._count(downstream)
                plans.add(made)
            return
        known = plan_answer(request, answer, encoder, context.headers.clean, context.repeat, plan.is_sidecar)
        if known is not None:
            self._count(downstream)
            if len(plan.answers) >= MOST_ANSWERS:
                plan.answers.clear()
            plan.answers[known.headers, known.trailers, known.version] = known
        self.wasted += 1
        if self.wasted >= WASTED:
            downstream.close_lane()

    def _count(self, downstream: H2Server) -> None:
        """One more plan or answer is about to be kept."""
        if self._made >= MOST_OF_A_CONNECTION:
            self._made = 0
            downstream.codec.forget_heads()
        self._made += 1
