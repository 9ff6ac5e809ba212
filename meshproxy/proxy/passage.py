"""A request under way: the stations of `pipeline`, one method each, and what goes wrong between them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshproxy.codec.events import Headers, Rejected, RequestHead
from meshproxy.identity.caller import NOBODY, Caller, Workload
from meshproxy.identity.tokens import KeysWanted
from meshproxy.inference.hash_key import stable_hash
from meshproxy.proxy.answer import answer
from meshproxy.proxy.attempt import grpc_status
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.headers import TRACE_STATE, RequestHeaders, identity_headers
from meshproxy.proxy.health_service import HealthCall
from meshproxy.proxy.terms import Terms
from meshproxy.proxy.tries import Tries
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing import deadline
from meshproxy.routing.failure import Failure

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import ResponseHead
    from meshproxy.config.servers import Key
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Operation, Scan
    from meshproxy.proxy.mirror import Shadow
    from meshproxy.proxy.pipeline import Pipeline
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.routing.routes import Route
    from meshproxy.transport.stream import Downstream, Upstream

logger = logging.getLogger(__name__)

INTERNAL_ERROR = 0x2
CANCEL = 0x8
SHORT_BODY = 65_536
"""Of a REST request that is refused, so much is read before the answer."""
REST_SECONDS = 2.0
"""How long that is waited for."""
NEAR = 0.5
"""Seconds before its deadline that a request gets a timer: two looks of the reaper."""

_REASONS = {
    408: Reason.REQUEST_TIMEOUT,
    413: Reason.BODY_TOO_LARGE,
    414: Reason.HEADERS_TOO_LARGE,
    431: Reason.HEADERS_TOO_LARGE,
}


class Passage(Exchange):
    """An exchange under way: the sink of the client's stream, and what it takes to carry it.

    The fields below are those of its life; what is written down about it stands in `Exchange`.
    """

    __slots__ = (
        "_fields",
        "_forward",
        "_forward_trace",
        "_has_answered",
        "_has_asked",
        "_health",
        "_held",
        "_held_bytes",
        "_is_late",
        "_look",
        "_moved",
        "_owed",
        "_peeked",
        "_progress",
        "_route",
        "_scan",
        "_terms",
        "_timer",
        "_tries",
        "_unread",
        "deadline",
        "due",
        "has_ended",
        "is_over",
        "operation",
        "pipeline",
        "request_ended",
        "shadow",
        "snapshot",
        "stream",
        "target",
    )

    def __init__(self, pipeline: Pipeline, stream: Downstream, head: RequestHead) -> None:
        Exchange.__init__(self, head, stream.facts, pipeline.now())
        self.pipeline = pipeline
        self.snapshot: Snapshot = pipeline.snapshot
        """The configuration that it began with, and is carried by to its end."""
        self.stream = stream
        """The client's."""
        self.request_ended = head.end
        self.operation: Operation | None = None
        """What the request line asks for; None until the caller is known."""
        self._scan: Scan | None = None
        self._held: list[tuple[bytes, int, bool]] = []
        self._held_bytes = 0
        """Bytes that were credited although they are held: they count against the limits."""
        self._unread = 0
        """Bytes of the answer that the client has not taken."""
        self._owed = 0
        """Credit due to the client once the upstream takes more."""
        self._fields: RequestHeaders | None = None
        """What the head's fields say."""
        self._forward: Headers = ()
        self._forward_trace: bytes | None = None
        self.target = head.target
        """What is asked for, as it was authorised."""
        self._route: Route | None = None
        self._peeked = b""
        """The piece of the body that is being looked at."""
        self._terms: Terms | None = None
        """What the route asks for, if it asks for more than a server."""
        self._health: HealthCall | None = None
        """Answers it, if that is what is asked."""
        self._tries: Tries | None = None
        self.shadow: Shadow | None = None
        """The copy that is sent elsewhere."""
        self.due = 0.0
        """When the answer must be whole; 0.0: there is no such time."""
        self._timer: asyncio.TimerHandle | None = None
        """Strikes when it is due; set when that is near."""
        self._has_answered = False
        """The final response head is out: nothing can be refused any more, only broken off."""
        self.has_ended = False
        """The model server's answer has come whole."""
        self._has_asked = False
        """For keys: once is enough."""
        self.is_over = False
        """Nothing more happens."""
        self._is_late = False
        """The client has stopped sending: nothing of it is waited for any more."""
        self._progress = -1
        self._moved = self.started
        """When bytes were last seen to move."""
        stream.sink = self
        pipeline.live.add(self)
        self.deadline = self._look = self.started + self.snapshot.limits.stall
        """When it is looked at, and when that is to see whether bytes move."""

    # The stations

    def begin(self) -> None:
        """The head has been read."""
        try:
            self._fields = headers = self.pipeline.headers.read(self.head.headers)
            self.is_grpc = headers.is_grpc
            forward = headers.forward_with_token if self.snapshot.forwards_token else headers.forward
            self.trace, self._forward_trace = self.pipeline.tracer.carry(self.head.trace, headers.trace_states)
            state = self.trace.state
            self._forward = (*forward, (TRACE_STATE, state)) if state else forward
            if headers.timeout is not None:
                self._limit_time(headers.timeout)
            self._identify(headers.authorization)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fail(error)

    def _identify(self, authorization: list[bytes]) -> None:
        pipeline, snapshot = self.pipeline, self.snapshot
        facts = self.connection
        workload = facts.peer
        assert workload is None or type(workload) is Workload
        now = pipeline.wall_clock()
        if workload is not None and now >= workload.not_after:
            raise Refusal(
                Reason.UNAUTHENTICATED,
                "The client certificate of this connection has expired: connect again with a current one.",
            )
        token = None
        if authorization and snapshot.verifier is not None:
            if len(authorization) > 1:
                raise Refusal(Reason.UNAUTHENTICATED, "More than one authorization header was sent: send one.")
            try:
                token = snapshot.verifier.verify(authorization[0], now)
            except KeysWanted as wanted:
                if self._has_asked:
                    # A reload has replaced the issuer meanwhile: the keys that were fetched are not those looked at.
                    raise Refusal(
                        Reason.KEYS_UNAVAILABLE,
                        "The keys of the token's issuer are changing: try again.",
                        retry_after=1,
                    ) from None
                self._has_asked = True
                pipeline.refresh_keys(wanted.issuer, lambda: self._keys_refreshed(authorization))
                return
        last = facts.caller
        if type(last) is Caller and last.token is token:
            self.caller = last
        else:
            self.caller = facts.caller = Caller(workload, token)
        self.identified()

    def _keys_refreshed(self, authorization: list[bytes]) -> None:
        if self.is_over or self.refusal is not None:
            return
        try:
            self._identify(authorization)
            held, self._held = self._held, []
            for data, flow, end in held:
                if not self.is_over:
                    self._take(data, flow, end)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fail(error)

    def identified(self) -> None:
        """The caller is known: find out what is called."""
        head = self.head
        if not self.is_grpc:
            self.operation = operation = self.pipeline.surfaces.find_rest(head.method, head.target)
            self.target = operation.target
        else:
            if self.connection.protocol != "HTTP/2" or head.method != b"POST":
                raise Refusal(Reason.UNSUPPORTED_PROTOCOL, "gRPC is spoken over HTTP/2 with POST.", http_status=405)
            self.operation = operation = self.pipeline.surfaces.find_grpc(head.target)
        if operation.is_health and self.snapshot.health is not None:
            self._health = HealthCall(self.snapshot.health, self, head.target)
            if head.end:
                self._health.feed(b"", True)
            return
        if operation.call is not None:
            self.named(operation.call)
            return
        assert operation.scan is not None
        self._scan = operation.scan(self.encoding, self.snapshot.limits.scan)
        if head.end:
            self._scan.feed(b"", True)
        elif head.expects_continue:
            self.stream.send_response(100, (), end=False)

    def decide(self, call: Call) -> None:
        """This is what is called: may they? Raises Refusal."""
        self.call = call
        permit = self.snapshot.policy.decide(self.caller, call)
        self.rule = permit.rule
        self.permit_audits = permit.audits
        if not self.decided:
            self.decided = self.pipeline.now()

    def named(self, call: Call) -> None:
        """The model is known: decide, and find the way. Again, when a later part of the body names another."""
        self.decide(call)
        snapshot = self.snapshot
        route = snapshot.routes.match(call, self.head.headers, self.caller)
        if self._route is None:
            self._route = route
            self.route = route.name
            if route.timeout is not None:
                self._limit_time(route.timeout)
            if route.is_plain:
                self.send_to(route.server or self.base_server())
            else:
                self._terms = Terms(self, route, call)
                self._terms.begin()
        elif route is not self._route:
            raise Refusal(
                Reason.MODEL_CHANGED,
                "A later part of the message names a model that is served elsewhere: name one model, once.",
            )
        elif self._terms is not None:
            self._terms.changed(call)

    def base_server(self) -> str:
        """The server of calls whose route names none: ours for inbound ones, whichever the client meant for others.

        Raises:
            Refusal: nothing says which.
        """
        snapshot = self.snapshot
        if snapshot.servers is not None:
            head = self.head
            named = snapshot.servers.find(
                head.authority, self._fields.server if self._fields else None, self.connection.original
            )
            if named:
                return named
            if named is not None:
                self.flag("NR")
                raise Refusal(Reason.NO_ROUTE, "The header x-model-server names a ModelServer that there is not.")
        if snapshot.server is None:
            self.flag("NR")
            raise Refusal(
                Reason.NO_ROUTE,
                "Nothing says which model server is meant: call it by its name as host or :authority, send the header "
                "x-model-server, or have a ModelRoute for this model.",
            )
        return snapshot.server

    def send_to(self, server: str) -> None:
        """The server is known: try its endpoints. Raises Refusal."""
        clusters, route, call = self.snapshot.clusters, self._route, self.call
        assert route is not None
        assert call is not None
        self.server = server
        cluster = clusters[server]
        model = call.models[0].name if call.models else ""
        key = self.key(cluster.key) if cluster.key is not None else None
        fallback = clusters[route.fallback] if route.fallback is not None else None
        self._tries = Tries(self, route, cluster, fallback, model, key)
        self._tries.begin()

    def caller_key(self) -> str:
        """Whoever calls, for what is counted for each caller: the token's subject, the workload, or the address."""
        caller = self.caller
        if caller.token is not None:
            return f"{caller.token.issuer} {caller.token.subject}"
        if caller.workload is not None:
            return caller.workload.spiffe_id
        return self.connection.remote.rpartition(":")[0]

    def key(self, key: Key) -> int:
        """What of the request stays the same, as a number of 64 bits."""
        if key.by == "header":
            wanted = str(key.header).encode()
            for name, value in self.head.headers:
                if name == wanted:
                    return stable_hash(value)
        elif key.by == "client-id" and self.operation is not None and self.operation.affinity_key is not None:
            found = self.operation.affinity_key(b"".join([data for data, _, _ in self._held]) + self._peeked)
            if found is not None:
                return stable_hash(found)
        return stable_hash(self.caller_key().encode())

    @property
    def encoding(self) -> bytes | None:
        """`grpc-encoding` of the request."""
        return self._fields.encoding if self._fields is not None else None

    # On the way to the model server

    def send_request(self, upstream: Upstream, now: float) -> None:
        """A stream is at hand: write the head, as it was authorised. Raises HeadRefused."""
        if not self.connected:
            self.connected = now
        self.upstream = upstream.address
        head = self.head
        headers = self._forward
        if self.snapshot.forwards_identity:
            headers = (*headers, *identity_headers(self.caller))
        if self.due:
            left = self.due - now
            if left < 0.001:
                left = 0.001
            field = (
                (b"grpc-timeout", deadline.grpc_timeout(left))
                if self.is_grpc
                else (deadline.REST_HEADER, deadline.format_rest(left))
            )
            headers = (*headers, field)
        authority = head.authority or upstream.address.encode()
        length = None if self._terms is not None and self._terms.rewrites_body else head.length
        upstream.send_request(
            RequestHead(0, head.method, authority, self.target, headers, head.end, length, trace=self._forward_trace)
        )

    def request_sent(self, takes_more: bool) -> None:
        """The head is out, and whatever was sent before to another endpoint: what was held follows."""
        if self._owed and takes_more:
            self.upstream_drained()
        if self.head.expects_continue and self._scan is None and not self.request_ended and not self._has_answered:
            self.stream.send_response(100, (), end=False)
        if self._held:
            held, self._held = self._held, []
            if self._held_bytes:
                self._release_held()
            for data, flow, end in held:
                if self._tries is not None and self._tries.upstream is not None:
                    self._send(self._tries, data, flow, end)
                elif not self.is_over:
                    self._held.append((data, flow, end))

    def finish(self) -> None:
        """The exchange is over, well or not: nothing more happens, and it is written down."""
        if self.is_over:
            return
        self.is_over = True
        pipeline = self.pipeline
        self.finished = pipeline.now()
        if self._timer is not None:
            self._timer.cancel()
        pipeline.live.discard(self)
        pipeline.served += 1
        if self._held_bytes:
            self._release_held()
        if self._unread:
            self.release_answer()
        if self._held:
            self._held.clear()
        health, self._health = self._health, None
        if health is not None:
            health.close()
        tries = self._tries
        if tries is not None:
            # What refers to each other in a circle would have to wait for the garbage collector.
            self._tries = None
            tries.finish(self.request_ended)
        terms = self._terms
        if terms is not None:
            self._terms = None
            terms.close()
        if not self.request_ended:
            self.stream.stop_receiving()
        self.stream.sink = None
        if self.shadow is not None:
            self.shadow.finish(self)
            self.shadow = None
        pipeline.observer(self)

    # The request's body (transport.stream.RequestSink of the client's stream)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece came."""
        self.bytes_received += len(data)
        self.request_ended = end
        if self.is_over:
            return  # the stream is too: what is owed is forgiven
        if self.refusal is not None:
            self.stream.credit(flow)
            if not self._has_answered and (end or self.bytes_received > SHORT_BODY):
                self._answer()
            return
        try:
            self._take(data, flow, end)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fail(error)

    def _take(self, data: bytes, flow: int, end: bool) -> None:
        """Scan a piece, then send it on or hold it. `named` may be reached on the way, and `acquired` within it."""
        if self._health is not None:
            self.stream.credit(flow)
            self._health.feed(data, end)
            return
        if self._scan is not None:
            call = self._scan.feed(data, end)
            if call is not None:
                self._peeked = data
                self.named(call)
                self._peeked = b""
        tries = self._tries
        if tries is not None and tries.upstream is not None:
            self._send(tries, data, flow, end)
        elif not self.is_over:
            self._hold(data, flow, end)

    def _send(self, tries: Tries, data: bytes, flow: int, end: bool) -> None:
        if self._terms is not None:
            data = self._terms.take(data, end)
        if tries.send(data, end):
            self.stream.credit(flow)
        else:
            self._owed += flow

    def _hold(self, data: bytes, flow: int, end: bool) -> None:
        """Keep a piece. While the model is not known the client must be able to send on, so the piece is credited and
        counts against limits of its own; otherwise the flow-control window is limit enough."""
        if data and self._scan is not None and self.call is None:
            pipeline, limits = self.pipeline, self.snapshot.limits
            pipeline.holding.setdefault(self)
            self._held_bytes += len(data)
            pipeline.held_bytes += len(data)
            if self._held_bytes > limits.held:
                raise Refusal(
                    Reason.SCAN_LIMIT,
                    f"The message does not name its model within {limits.held} bytes: write model_spec first.",
                    limit="held_body_bytes",
                )
            self.stream.credit(flow)
            flow = 0
            while pipeline.held_bytes > limits.held_total and pipeline.holding:
                oldest = next(iter(pipeline.holding))
                del pipeline.holding[oldest]
                oldest.refuse(
                    Refusal(
                        Reason.OVERLOADED,
                        "Too many messages that name their model late are under way: write model_spec first.",
                        limit="held_total_bytes",
                        retry_after=1,
                    )
                )
            if self.is_over:
                return
        self._held.append((data, flow, end))

    def _release_held(self) -> None:
        self.pipeline.holding.pop(self, None)
        self.pipeline.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def upstream_drained(self) -> None:
        """The model server takes more of the request."""
        owed, self._owed = self._owed, 0
        self.stream.credit(owed)

    def trailers_received(self, headers: Headers) -> None:
        """The request ended with fields. Neither gRPC nor REST has a use for them: only the end is passed on."""
        self.data_received(b"", 0, True)

    def rejected(self, rejected: Rejected) -> None:
        """The codec refuses the rest of the request: its body is malformed, or too long."""
        self.request_ended = True
        reason = _REASONS.get(rejected.status, Reason.BAD_REQUEST)
        if self.refusal is not None:
            if not self._has_answered:
                self._answer()  # which waited for the rest
            return
        refusal = Refusal(reason, f"Bad request: {rejected.reason}.", limit=rejected.limit, http_status=rejected.status)
        self.refuse(refusal, is_counted=True)

    def reset_received(self, code: int, reason: str) -> None:
        """The client is gone, or what it sends broke the protocol."""
        if self.is_over:
            return
        self.flag("DC")
        self.request_ended = True
        self._abandon()
        self.stream.reset(CANCEL)
        self.finish()

    # The response

    def respond(self, head: ResponseHead, first_byte: float) -> None:
        """The model server's final head came at `first_byte`, and is the one that counts."""
        if self.is_over:
            return  # the client's connection may carry another exchange by now
        self.first_byte = first_byte
        self._has_answered = True
        if self._route is not None and self._route.idle_timeout is not None:
            self._look_at(first_byte + self._route.idle_timeout)
            self._progress = self.bytes_received + self.bytes_sent
            self._moved = first_byte
        self.status = head.status
        tries = self._tries
        assert tries is not None
        assert tries.current is not None
        # Another sidecar's refusals are passed on as such.
        headers = self.pipeline.headers.clean(head.headers, tries.current.endpoint.is_sidecar)
        if head.end and self.is_grpc:
            self.grpc_status = grpc_status(headers)
        self.stream.send_response(head.status, headers, head.end, head.length)
        if head.end:
            self.answer_ended()
            self.finish()

    def answer_ended(self) -> None:
        """The model server's answer has come whole; the client may take its time."""
        self.has_ended = True
        if self._terms is not None:
            self._terms.leave()

    def answer_with(self, headers: Headers, end: bool) -> None:
        """Begin an answer of our own that is no refusal."""
        self.first_byte = self.pipeline.now()
        self._has_answered = True
        self.status = 200
        self.stream.send_response(200, headers, end)

    def hold_answer(self, size: int) -> None:
        """The client does not take `size` bytes of the answer now. One client's windows bound what it can make us hold,
        and this all clients' together."""
        if not size:
            return
        pipeline = self.pipeline
        pipeline.unread.setdefault(self)
        self._unread += size
        pipeline.unread_bytes += size
        while pipeline.unread_bytes > self.snapshot.limits.unread_total and pipeline.unread:
            pipeline.on_limit("unread_total_bytes")
            oldest = next(iter(pipeline.unread))
            del pipeline.unread[oldest]
            oldest.give_up_answer()

    def give_up_answer(self) -> None:
        """The client has not taken the answer for too long, or longer than all others."""
        if self.is_over:
            return
        self.flag("DT")
        self._abandon()
        self.break_off(CANCEL)

    def release_answer(self) -> None:
        """The client has taken it, or never will."""
        self.pipeline.unread.pop(self, None)
        self.pipeline.unread_bytes -= self._unread
        self._unread = 0

    @property
    def forwarded_headers(self) -> Headers:
        """What goes on of the request's headers."""
        return self._forward

    @property
    def forwarded_trace(self) -> bytes | None:
        """The `traceparent` that goes on."""
        return self._forward_trace

    def drained(self) -> None:
        """The client takes more of the response."""
        tries = self._tries
        if tries is not None and tries.current is not None:
            tries.current.release()
        elif self.refusal is not None and self._has_answered:
            self.finish()

    # What goes wrong

    def flag(self, word: str) -> None:
        """Write down one of Envoy's response flags."""
        self.flags = f"{self.flags},{word}" if self.flags else word

    def refuse(self, refusal: Refusal, *, is_counted: bool = False) -> None:
        """Answer ourselves; if an answer has begun, all that is left is to break it off.

        Args:
            is_counted: the connection has counted the limit already.
        """
        if self.is_over or self.refusal is not None:
            return
        self.refusal = refusal
        if self.caller is NOBODY and isinstance(self.connection.peer, Workload):
            self.caller = Caller(self.connection.peer)  # whoever sends a bad token is still known by the certificate
        if refusal.audits:
            self.permit_audits = refusal.audits
        if refusal.limit is not None and not is_counted:
            self.pipeline.on_limit(refusal.limit)
        self._abandon()
        if self._has_answered:
            self.request_ended = True
            self.stream.reset(INTERNAL_ERROR)
            self.finish()
        elif self.request_ended or self._is_late or self._awaits_answer():
            self._answer()
        else:
            # The client sends the rest of a short body first: the connection stays usable, and a message that breaks
            # the protocol further on breaks the stream instead of being answered.
            self._look_at(self.pipeline.now() + REST_SECONDS)

    def _awaits_answer(self) -> bool:
        """The client may not send the rest of its message before it has our answer, or it is too much to wait for."""
        head = self.head
        return self.is_grpc or head.expects_continue or (head.length or self.bytes_received) > SHORT_BODY

    def _answer(self) -> None:
        """Send the refusal."""
        refusal = self.refusal
        assert refusal is not None
        self._has_answered = True
        self.status = 200 if self.is_grpc else refusal.http_status
        self.grpc_status = refusal.grpc_status if self.is_grpc else None
        size, is_written = answer(self.stream, refusal, self.is_grpc)
        self.bytes_sent += size
        if is_written:
            self.finish()
        else:
            self._look_at(self.pipeline.now() + self.snapshot.limits.stall)

    def break_off(self, code: int) -> None:
        """The model server's answer broke after it had begun: the client must see a break, never a clean end."""
        if self.is_over:
            return
        self.request_ended = True
        self.stream.reset(code)
        self.finish()

    def _abandon(self) -> None:
        """Let go of the upstream side, then of the place there."""
        tries, self._tries = self._tries, None
        if tries is not None:
            tries.cancel()
        if self._terms is not None:
            self._terms.leave()

    def fail(self, error: Exception) -> None:
        """A mistake of ours: refuse this request, keep the others."""
        logger.error("internal error while carrying %s", self.head.target.partition(b"?")[0][:200], exc_info=error)
        self.refuse(Refusal(Reason.INTERNAL, "The sidecar failed to handle this request; its log says why."))

    # Time

    def _limit_time(self, seconds: float) -> None:
        """The answer must be whole so long after the request's head came. That is exact, and few requests come near it:
        those that have longer than `NEAR` get their timer when they do, and all others pay for none."""
        due = self.started + seconds
        if self.due:
            if self.due <= due:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self.due = due
        if seconds > NEAR:
            if due - NEAR < self.deadline:
                self.deadline = due - NEAR
        else:
            self._timer = self.pipeline.loop.call_at(due, self._time_out)

    def _look_at(self, when: float) -> None:
        """See whether bytes move then; before that, whether the time limit is near."""
        self._look = when
        if self.due and self._timer is None and self.due - NEAR < when:
            when = self.due - NEAR
        self.deadline = when

    def _time_out(self) -> None:
        if self.refusal is not None:
            return  # which waits for the rest of the request
        self.flag("UT")
        if self._tries is not None:
            self._tries.out_of_time()
        self.refuse(Refusal(Reason.DEADLINE_EXCEEDED, "The deadline passed before the model server answered."))

    def _is_unnamed(self, now: float) -> bool:
        """The body trickles in, and has not come to its model in all the time that it may stand still."""
        return self._scan is not None and self.call is None and now - self.started > self.snapshot.limits.stall

    def _waits_for_client(self) -> bool:
        """More of the request is missing, and nothing of ours keeps the client from sending it: what is held is either
        credited, or waits for a connection or for keys."""
        if self.request_ended or self._has_answered or self._owed:
            return False
        if self._terms is not None and self._terms.is_waiting:
            return False
        if self._tries is not None and self._tries.upstream is None:
            return False  # a connection is waited for, or the time for another try
        return not self._held or self._held_bytes > 0

    def expire(self, now: float) -> None:
        """Look whether bytes still move (`reaper.Mortal`). What we wait for decides whose fault it is if they do not;
        the model server may take as long as the request's deadline allows."""
        if self._timer is None and self.due and now >= self.due - NEAR:
            self._timer = self.pipeline.loop.call_at(self.due, self._time_out)
        if now < self._look:
            self.deadline = self._look
            return
        limits = self.snapshot.limits
        progress = self.bytes_received + self.bytes_sent
        idle = self._route.idle_timeout if self._route is not None and self._has_answered else None
        self._look_at(now + (limits.stall if idle is None else min(idle, limits.stall)))
        if self.refusal is not None:
            if self._has_answered:
                self.flag("DT")
                self.break_off(CANCEL)
            else:
                self._answer()
            return
        if progress != self._progress and not self._is_unnamed(now):
            self._progress = progress
            self._moved = now
            return
        attempt = self._tries.current if self._tries is not None else None
        if attempt is not None and attempt.is_held:
            if idle is None or now - self._moved >= limits.stall:
                self.pipeline.on_limit("body_stall_time")
                self.give_up_answer()
        elif attempt is not None and idle is not None and now - self._moved >= idle:
            self.flag("SI")
            attempt.report(Failure.TIMEOUT)
            self.break_off(CANCEL)
        elif self._waits_for_client():
            self._is_late = True
            self.refuse(
                Refusal(
                    Reason.REQUEST_TIMEOUT,
                    f"No byte of the request's body came for {limits.stall:g} s.",
                    limit="body_stall_time",
                )
            )
