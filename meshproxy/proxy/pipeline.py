"""The way of a request. READ THIS FIRST.

`ActiveRequest` has the stations, in the order in which they run; each calls the next one as soon as it has all it
needs, so a request whose token is known and for which an upstream connection is idle is carried without waking the
event loop. A station that has to wait returns, and is continued by what it waits for: the issuer's keys, more of the
body, a slot, a connection. Until then pieces of the body are held.

No byte goes to the model server before `named` has asked the policy. A body that names its model is scanned to its end,
each piece before it is forwarded: a later field that changes the model is decided on again, and a piece that fails is
never sent.

Below the stations, each a file and each knowing only those under it:

    exchange      the record that the observer reads in the end
    client_side   the only writer to the client: answers, refusals, time limits, the end
    attempt       one attempt at one endpoint, and its answer; tells an `AttemptListener`
    cross_origin  what browsers are told, and the answer to a preflight
    request       who calls what, may they, and what is forwarded
    retries       attempts: retry, hedge, fall back
    route_actions rate limits, faults, split, concurrency, mirror
    relay         the body in, the answer through, stalls

Requests that repeat earlier ones do not come here: `express` has their way, until something happens to one
(`ActiveRequest.unfold`).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from meshproxy.codec.events import Rejected, RequestHead
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.identity.caller import Caller, Workload
from meshproxy.identity.tokens import KeysWanted
from meshproxy.inference.grpc_health import ALIVE
from meshproxy.proxy.client_side import LOOKS, OVER
from meshproxy.proxy.context import ProxyContext
from meshproxy.proxy.cross_origin import answers_preflight
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.express.call_lane import CallLane
from meshproxy.proxy.express.call_ride import NOBODY, Sent
from meshproxy.proxy.express.lane import Lane
from meshproxy.proxy.guard import guarded
from meshproxy.proxy.headers import TRACE_STATE
from meshproxy.proxy.health_call import HealthCall
from meshproxy.proxy.mirror import Mirrors
from meshproxy.proxy.relay import Relay
from meshproxy.proxy.route_actions import RouteActions
from meshproxy.refusal import Reason, Refusal
from meshproxy.transport.h1_server import H1Server
from meshproxy.transport.h2_server import H2ServerStream

if TYPE_CHECKING:
    from meshproxy.identity.caller import Token
    from meshproxy.inference.call import Call
    from meshproxy.proxy.express.call_ride import CallRide
    from meshproxy.proxy.express.ride import Ride
    from meshproxy.proxy.headers import RequestHeaders
    from meshproxy.transport.stream import Downstream, ResponseSink, Upstream


RECORD = frozenset(Exchange.__slots__) - {"head"}
LANE_STREAM = 7
"""The last request with which an express lane may begin: the fourth of a client that counts from 1, the third of one
that counts from 3."""
KEY_FETCHES = 2
"""How often a request waits for the keys of its token's issuer: the first fetch may have begun before the issuer had
the key (`key_budget.KeyBudget.ask`). One that begins afterwards says whether it has."""


class ActiveRequest(Relay):
    """A request in flight: the stations."""

    __slots__ = ()

    context: Pipeline

    def begin(self) -> None:
        """The head has been read: gRPC or REST, trace, time limit. Raises Refusal."""
        context, head = self.context, self.head
        fields = self._read_fields()
        self.is_grpc = fields.is_grpc
        if head.trace is not None:
            self._carry_trace(head.trace, fields)
        tracer = context.tracer
        if self.trace is None and tracer.is_recording and (not fields.b3 or tracer.reads_b3):
            self.trace, self.trace_parent = tracer.begin(fields.b3)
        if self.snapshot.routes.has_cors and not fields.is_grpc and answers_preflight(self):
            return
        if fields.timeout is not None:
            self.limit_time(fields.timeout)
        self._identify(fields)

    def _read_fields(self) -> RequestHeaders:
        """The head's fields: what they say, and which of them are forwarded. A token that comes in another field than
        `authorization` is not."""
        fields = self.context.headers.read(self.head.headers)
        if self.snapshot.token_places is not None:
            fields = self.snapshot.token_places.find(fields)
        self.fields = fields
        self.forward = fields.forward_with_token if self.snapshot.forwards_token else fields.forward
        return fields

    def _identify(self, fields: RequestHeaders) -> None:
        """The caller: the workload of the connection's certificate, and the token. Raises Refusal."""
        connection, verifier, authorization = self.connection, self.snapshot.verifier, fields.authorization
        workload = connection.peer
        assert workload is None or type(workload) is Workload
        now = self.context.wall_clock()
        if workload is not None and now >= workload.not_after:
            raise Refusal(
                Reason.UNAUTHENTICATED,
                "The client certificate of this connection has expired: reconnect with a current one.",
                closes_connection=True,
            )
        token: Token | None = None
        if authorization and verifier is not None:
            if len(authorization) > 1:
                raise Refusal(Reason.UNAUTHENTICATED, "More than one token was sent: send one.")
            try:
                token = verifier.verify(authorization[0], now)
            except KeysWanted as wanted:
                self._refresh_keys(wanted)
                return
        last = connection.caller
        if type(last) is Caller and last.token is token:
            self.caller = last
        else:
            self.caller = connection.caller = Caller(workload, token)
        self._identified(fields)

    def _identified(self, fields: RequestHeaders) -> None:
        """What is asked for: the operation, from method and path; and its model, if those name it. Raises Refusal."""
        head, snapshot, surfaces = self.head, self.snapshot, self.snapshot.surfaces
        if head.target == ALIVE and head.method == b"GET" and self._is_of_the_mesh():
            self.answer_directly(204, ())
            return
        if not self.is_grpc:
            operation = surfaces.find_rest(head.method, head.target)
        elif self.connection.protocol != "HTTP/2" or head.method != b"POST":
            raise Refusal(Reason.UNSUPPORTED_PROTOCOL, "gRPC is spoken over HTTP/2 with POST.", http_status=405)
        else:
            operation = surfaces.find_grpc(head.target)
        self.operation = operation
        self.target = operation.target
        if operation.is_health and snapshot.health is not None:
            self._health = HealthCall(snapshot.health, self, head.target)
            if head.end:
                self._health.feed(b"", True)
        elif operation.call is not None:
            self.named(operation.call)
        else:
            assert operation.scan is not None  # the body names the model
            self._scan = operation.scan(fields.encoding, snapshot.limits.scan)
            self.reading = self.context.now()
            if head.end:
                self.take(b"", 0, True)
            elif head.expects_continue:
                self.send_interim(100, ())

    def _is_of_the_mesh(self) -> bool:
        """Whether the client is a workload whose certificate we have verified."""
        return self.connection.direction == "inbound" and self.caller.workload is not None

    def named(self, call: Call) -> None:
        """The model is known: may they, and where to. Again when a later part of the body names another. Raises
        Refusal."""
        self.asked = call
        self.decide(call)
        route = self.snapshot.routes.match(call, self.head.headers, self.caller)
        if self.matched is not None:
            self._renamed(route is self.matched, call)
            return
        self.matched = route
        self.route = route.name
        self.idle_timeout = route.idle_timeout
        if route.timeout is not None:
            self.limit_time(route.timeout)
        if route.is_plain:
            self.send_to(route.server or self.base_server())
        else:
            self._actions = RouteActions(self, route, call, self.context.mirrors, self.send_to)
            self._actions.begin()

    # `send_to` (relay): the server is known, endpoints are tried until one answers.

    def unfold(self, ride: Ride | CallRide, stream: Upstream) -> None:
        """All of the stations, passed by the express lane: note what they would have noted, and what was sent.

        Args:
            stream: takes again what was sent.
        """
        plan, stall = ride.plan, ride.plan.snapshot.limits.stall
        for name in RECORD:
            setattr(self, name, getattr(ride, name))
        self.snapshot = plan.snapshot
        self.request_ended = True
        self.moved = self.started
        self.look_at(self.started + stall / LOOKS)
        fields = self._read_fields()
        if self.trace is not None and self.trace.state:
            self.forward = (*self.forward, (TRACE_STATE, self.trace.state))
        self.trace_parent = ride.trace_parent
        self.sharing = plan.sharing
        if fields.timeout is not None:
            self.limit_time(fields.timeout)
        self.operation = plan.operation
        self.target = plan.operation.target
        self.matched = route = plan.matched
        self.idle_timeout = route.idle_timeout
        if route.timeout is not None:
            self.limit_time(route.timeout)
        body = ride.data[len(ride.data) - ride.bytes_received :]
        if self.operation.scan is not None:
            self._scan = self.operation.scan(fields.encoding, self.snapshot.limits.scan)
            self._scan.feed(body, True)
        self.resume_on(ride.endpoint, ride.token, stream, ride.span_id, body)

    # What seldom happens on the way

    def _renamed(self, is_same_route: bool, call: Call) -> None:
        if not is_same_route:
            raise Refusal(
                Reason.MODEL_CHANGED,
                "A later part of the message names a model that is served elsewhere: name one model, once.",
            )
        if self._actions is not None:
            self._actions.changed(call)

    def _carry_trace(self, parent: bytes, fields: RequestHeaders) -> None:
        carried = self.context.tracer.carry(parent, fields.trace_states)
        if carried is not None:
            self.trace, self.trace_parent = carried
            if self.trace.state:
                self.forward = (*self.forward, (TRACE_STATE, self.trace.state))

    def _refresh_keys(self, wanted: KeysWanted) -> None:
        if self.key_fetches == KEY_FETCHES:
            # A reload has replaced the issuer meanwhile: the keys that were fetched are not those looked at.
            raise Refusal(Reason.KEYS_UNAVAILABLE, "The keys of the token's issuer are changing: retry.", retry_after=1)
        self.key_fetches += 1
        self.context.refresh_keys(wanted, self._keys_refreshed)

    @guarded
    def _keys_refreshed(self) -> None:
        if self.answer is OVER or self.refusal is not None or self.fields is None:
            return
        self._identify(self.fields)
        held, self._held = self._held, None
        for data, flow, end in held.take() if held is not None else ():
            self.take(data, flow, end)


class Pipeline(ProxyContext):
    """Carries the requests of one direction."""

    @cached_property
    def mirrors(self) -> Mirrors:
        """The mirrored requests."""
        return Mirrors(self)

    def serve(self, stream: Downstream, head: RequestHead) -> None:
        """Take a request (`stream.Serve`). From its second one on, a connection has an express lane."""
        if 1 < head.stream <= LANE_STREAM and self.snapshot.is_express:
            if head.stream == 2 and type(stream) is H1Server:
                stream.lane = Lane(self, self._unfold)
            elif type(stream) is H2ServerStream:
                stream.open_lane(self._make_lane)
        request = ActiveRequest(self, stream, head)
        try:
            request.begin()
        except Exception as error:
            request.crashed(error)

    def _make_lane(self) -> CallLane:
        return CallLane(self, self._unfold_call)

    def _unfold_call(self, ride: CallRide) -> tuple[ActiveRequest, ActiveRequest, ResponseSink]:
        """The same of one over HTTP/2, whose codecs have missed nothing."""
        downstream, upstream = ride.downstream, ride.upstream_connection
        is_open = downstream.sink is not None
        request = ActiveRequest(self, downstream, ride.head)
        if not is_open:
            downstream.sink = None
        request.is_grpc = request.request_ended = True
        sink: ResponseSink = NOBODY
        try:
            request.unfold(ride, Sent(upstream))
            sink = request.go_on(upstream)
            if upstream.sink is ride:
                upstream.sink = sink
        except Exception as error:
            request.crashed(error)
            upstream.sink = None
            upstream.reset(ErrorCode.CANCEL)
        downstream.ride = upstream.ride = None
        return request, request, sink

    def _unfold(self, ride: Ride) -> ActiveRequest:
        """A ride becomes an ordinary request. What its connections' codecs missed passes them now."""
        downstream, upstream = ride.downstream, ride.upstream_connection
        request = ActiveRequest(self, downstream, downstream.unfold(ride.data))
        upstream.ride = None
        queued, watched = upstream.queued, upstream.deadline
        try:
            request.unfold(ride, upstream)
        except Exception as error:
            request.crashed(error)
            upstream.abort()
        upstream.take_back(queued)
        upstream.deadline = watched  # its path, since it was sent
        return request

    def reject(self, stream: Downstream, rejected: Rejected) -> None:
        """Answer a request that the codec refused (`stream.Reject`); all that is known of it is that it failed."""
        request = ActiveRequest(self, stream, RequestHead(rejected.stream, b"", b"", b"", (), end=True))
        if self.tracer.is_recording:
            request.trace, _ = self.tracer.begin(())
        request.rejected(rejected)
