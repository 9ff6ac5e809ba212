"""The way of a request. READ THIS FIRST.

`Pipeline.serve` gets a request's head from a connection and makes a `Passage` of it, which takes it through the
stations, one method each, in this order:

    begin      what the headers say: gRPC or REST, token, deadline, trace
    identified who calls: the workload of the connection's certificate, and the token
    named      what is called: the model, from the path (REST) or as soon as the body shows it (gRPC)
               - may they: the policy permits it or raises a Refusal
               - where to: the route, and with it the cluster
    acquired   a stream to the model server is at hand: the head, what was held, and all that follows go out
    finish     the last byte has left: the observer reads the record

A station that has all it needs calls the next one straight away, so a request whose token is known and for which an
upstream connection is idle is carried without waking the event loop. One that has to wait returns, and is continued by
what it waits for: the issuer's keys, more of the body, a connection. Until then pieces of the body are held.

No byte goes to the model server before `named` has permitted the call. The body is scanned to its end, each piece
before it is forwarded: a later field that changes the model is decided on anew, and a piece that fails is never sent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from meshproxy.codec.events import Headers, Rejected, RequestHead
from meshproxy.identity.caller import NOBODY, Caller, Workload
from meshproxy.identity.tokens import KeysWanted
from meshproxy.inference import tfserving_grpc, tfserving_rest
from meshproxy.proxy.answer import answer
from meshproxy.proxy.attempt import Attempt
from meshproxy.proxy.exchange import Exchange
from meshproxy.proxy.headers import CALLER_HEADER, ISSUER_HEADER, SUBJECT_HEADER, HeaderReader
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.transport.connector import ConnectError
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meshproxy.codec.events import ResponseHead
    from meshproxy.inference.call import Call
    from meshproxy.proxy.exchange import TraceContext
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.routing.routes import Route
    from meshproxy.transport.reaper import Reaper
    from meshproxy.transport.stream import Downstream, Upstream
    from meshproxy.upstream.pool import H1Pool, H2Pool

logger = logging.getLogger(__name__)

INTERNAL_ERROR = 0x2
CANCEL = 0x8
SHORT_BODY = 65_536
"""Of a REST request that is refused, so much is read before the answer."""
REST_SECONDS = 2.0
"""How long that is waited for."""


class Observer(Protocol):
    """Reads finished exchanges."""

    def __call__(self, exchange: Exchange) -> None: ...


class Tracer(Protocol):
    """Carries a trace on, or starts one (`telemetry.trace`)."""

    def carry(self, headers: Headers) -> tuple[TraceContext, Headers]:
        """The context, and the headers to forward."""


class RefreshKeys(Protocol):
    """Fetches an issuer's keys."""

    def __call__(self, issuer: str, then: Callable[[], None]) -> None:
        """Call `then` once when the attempt is over, however it went."""


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
    ) -> None:
        self.loop = loop
        self.now = now
        """`time.monotonic`: what the loop's timers go by, too, but uvloop's own `time` counts milliseconds."""
        self.wall_clock = wall_clock
        """Seconds since the epoch: what certificates and tokens expire by."""
        self.reaper = reaper
        self.snapshot = snapshot
        self.observer = observer
        self.tracer = tracer
        self.refresh_keys = refresh_keys
        self.on_limit = on_limit
        self.headers = HeaderReader()
        self.live: set[Passage] = set()
        """The exchanges under way."""
        self.served = 0
        """Exchanges that are over."""
        self.held_bytes = 0
        """Held by all requests together, waiting for their models to be known."""
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
        "_attempt",
        "_forward",
        "_has_answered",
        "_has_asked",
        "_held",
        "_held_bytes",
        "_is_late",
        "_is_over",
        "_owed",
        "_pipeline",
        "_pool",
        "_progress",
        "_request_ended",
        "_route",
        "_scan",
        "_snapshot",
        "_stream",
        "_target",
        "_timer",
        "_unread",
        "deadline",
    )

    def __init__(self, pipeline: Pipeline, stream: Downstream, head: RequestHead) -> None:
        Exchange.__init__(self, head, stream.facts, pipeline.now())
        self._pipeline = pipeline
        self._snapshot = pipeline.snapshot
        self._stream = stream
        self._request_ended = head.end
        self._scan: tfserving_grpc.BodyScan | None = None
        self._held: list[tuple[bytes, int, bool]] = []
        self._held_bytes = 0
        """Bytes that were credited although they are held: they count against the limits."""
        self._unread = 0
        """Bytes of the answer that the client has not taken."""
        self._owed = 0
        """Credit due to the client once the upstream takes more."""
        self._forward: Headers = ()
        self._target = head.target
        self._route: Route | None = None
        self._pool: H1Pool | H2Pool | None = None
        self._attempt: Attempt | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_answered = False
        """The final response head is out: nothing can be refused any more, only broken off."""
        self._has_asked = False
        """For keys: once is enough."""
        self._is_over = False
        self._is_late = False
        """The client has stopped sending: nothing of it is waited for any more."""
        self._progress = -1
        stream.sink = self
        pipeline.live.add(self)
        pipeline.reaper.add(self)
        self.deadline = self.started + self._snapshot.limits.stall

    # The stations

    def begin(self) -> None:
        """The head has been read."""
        try:
            headers = self._pipeline.headers.read(self.head.headers)
            self.is_grpc = headers.is_grpc
            forward = headers.forward_with_token if self._snapshot.forwards_token else headers.forward
            self.trace, self._forward = self._pipeline.tracer.carry(forward)
            if headers.timeout is not None and headers.is_grpc:
                self._limit_time(headers.timeout)
            self._identify(headers.authorization)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fail(error)

    def _identify(self, authorization: list[bytes]) -> None:
        pipeline, snapshot = self._pipeline, self._snapshot
        facts = self.connection
        workload = facts.peer
        assert workload is None or isinstance(workload, Workload)
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
        if isinstance(last, Caller) and last.token is token:
            self.caller = last
        else:
            self.caller = facts.caller = Caller(workload, token)
        self.identified()

    def _keys_refreshed(self, authorization: list[bytes]) -> None:
        if self._is_over or self.refusal is not None:
            return
        try:
            self._identify(authorization)
            held, self._held = self._held, []
            for data, flow, end in held:
                if not self._is_over:
                    self._take(data, flow, end)
        except Refusal as refusal:
            self.refuse(refusal)
        except Exception as error:
            self.fail(error)

    def identified(self) -> None:
        """The caller is known: find out what is called."""
        head = self.head
        if not self.is_grpc:
            call = tfserving_rest.read(head.method, head.target)
            self._target = call.target
            self.named(call.call)
            return
        if self.connection.protocol != "HTTP/2" or head.method != b"POST":
            raise Refusal(Reason.UNSUPPORTED_PROTOCOL, "gRPC is spoken over HTTP/2 with POST.", http_status=405)
        method = tfserving_grpc.method(head.target)
        if method is None:
            raise Refusal(
                Reason.PERMISSION_DENIED,
                "This is not a method of TensorFlow Serving that anyone may call.",
                rule="unknown-method",
            )
        if method.naming is None:
            self.named(method.call)
            return
        encoding = self._pipeline.headers.read(head.headers).encoding
        self._scan = method.scan(encoding, self._snapshot.limits.scan)
        if head.end:
            self._scan.feed(b"", True)
        elif head.expects_continue:
            self._stream.send_response(100, (), end=False)

    def named(self, call: Call) -> None:
        """The model is known: decide, and find the way. Again, when a later part of the body names another."""
        self.call = call
        permit = self._snapshot.policy.decide(self.caller, call)
        self.rule = permit.rule
        self.permit_audits = permit.audits
        route = self._snapshot.routes.match(call)
        if self._route is None:
            self._route = route
            self.decided = self._pipeline.now()
            if route.timeout is not None:
                self._limit_time(route.timeout)
            self._connect(route)
        elif route is not self._route:
            raise Refusal(
                Reason.MODEL_CHANGED,
                "A later part of the message names a model that is served elsewhere: name one model, once.",
            )

    def _connect(self, route: Route) -> None:
        self.attempts += 1
        pool = self._snapshot.clusters[route.server].acquire(self.is_grpc, self)
        if self._attempt is None and not self._is_over:
            self._pool = pool

    def acquired(self, upstream: Upstream) -> None:
        """A stream to the model server is at hand (`pool.Taker`). Whatever goes wrong with it is this request's alone:
        we may be called from the end of another one."""
        self._pool = None
        try:
            self._send_request(upstream)
        except HeadRefused as refused:
            upstream.sink = self._attempt = None
            self.refuse(Refusal(Reason.HEADERS_TOO_LARGE, f"The model server refuses the request: {refused}."))
        except Exception as error:
            self.fail(error)

    def _send_request(self, upstream: Upstream) -> None:
        self.connected = self._pipeline.now()
        self.upstream = upstream.address
        attempt = self._attempt = Attempt(self, upstream)
        head = self.head
        headers = self._forward
        if self._snapshot.forwards_identity:
            headers = (*headers, *identity_headers(self.caller))
        authority = head.authority or upstream.address.encode()
        upstream.send_request(RequestHead(0, head.method, authority, self._target, headers, head.end, head.length))
        if head.expects_continue and self._scan is None and not self._request_ended:
            self._stream.send_response(100, (), end=False)
        if self._held:
            held, self._held = self._held, []
            self._release_held()
            for data, flow, end in held:
                self._send(attempt, data, flow, end)

    def acquire_failed(self, error: ConnectError) -> None:
        """There is no stream to be had (`pool.Taker`)."""
        self._pool = None
        if isinstance(error, PoolFull):
            self.flags = "UO"
            reason, limit = Reason.OVERLOADED, "max_pending"
        else:
            self.flags = "UF"
            reason, limit = Reason.CONNECT_FAILED, None
        self.refuse(Refusal(reason, f"The model server cannot be reached: {error}.", limit=limit, retry_after=1))

    def finish(self) -> None:
        """The exchange is over, well or not: nothing more happens, and it is written down."""
        if self._is_over:
            return
        self._is_over = True
        pipeline = self._pipeline
        self.finished = pipeline.now()
        if self._timer is not None:
            self._timer.cancel()
        pipeline.reaper.discard(self)
        pipeline.live.discard(self)
        pipeline.served += 1
        self._release_held()
        self.release_answer()
        self._held.clear()
        attempt = self._attempt
        if attempt is not None:
            if not attempt.is_over:
                attempt.cancel()
            elif self._owed or not self._request_ended:
                attempt.upstream.stop_sending()
            # What refers to each other in a circle would have to wait for the garbage collector.
            self._attempt = None
        if not self._request_ended:
            self._stream.stop_receiving()
        self._stream.sink = None
        pipeline.observer(self)

    # The request's body (transport.stream.Sink of the client's stream)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece came."""
        self.bytes_received += len(data)
        self._request_ended = end
        if self._is_over:
            return  # the stream is too: what is owed is forgiven
        if self.refusal is not None:
            self._stream.credit(flow)
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
        if self._scan is not None:
            call = self._scan.feed(data, end)
            if call is not None:
                self.named(call)
        if self._attempt is not None:
            self._send(self._attempt, data, flow, end)
        elif not self._is_over:
            self._hold(data, flow, end)

    def _send(self, attempt: Attempt, data: bytes, flow: int, end: bool) -> None:
        if attempt.upstream.send_data(data, end):
            self._stream.credit(flow)
        else:
            self._owed += flow

    def _hold(self, data: bytes, flow: int, end: bool) -> None:
        """Keep a piece. While the model is not known the client must be able to send on, so the piece is credited and
        counts against limits of its own; otherwise the flow-control window is limit enough."""
        if self._scan is not None and self.call is None:
            pipeline, limits = self._pipeline, self._snapshot.limits
            pipeline.holding.setdefault(self)
            self._held_bytes += len(data)
            pipeline.held_bytes += len(data)
            if self._held_bytes > limits.held:
                raise Refusal(
                    Reason.SCAN_LIMIT,
                    f"The message does not name its model within {limits.held} bytes: write model_spec first.",
                    limit="held_body_bytes",
                )
            self._stream.credit(flow)
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
            if self._is_over:
                return
        self._held.append((data, flow, end))

    def _release_held(self) -> None:
        self._pipeline.holding.pop(self, None)
        self._pipeline.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def upstream_drained(self) -> None:
        """The model server takes more of the request."""
        owed, self._owed = self._owed, 0
        self._stream.credit(owed)

    def trailers_received(self, headers: Headers) -> None:
        """The request ended with fields. Neither gRPC nor REST has a use for them: only the end is passed on."""
        self.data_received(b"", 0, True)

    def rejected(self, rejected: Rejected) -> None:
        """The codec refuses the rest of the request: its body is malformed, or too long."""
        self._request_ended = True
        reason = _REASONS.get(rejected.status, Reason.BAD_REQUEST)
        if self.refusal is not None:
            if not self._has_answered:
                self._answer()  # which waited for the rest
            return
        refusal = Refusal(reason, f"Bad request: {rejected.reason}.", limit=rejected.limit, http_status=rejected.status)
        self.refuse(refusal, is_counted=True)

    def reset_received(self, code: int, reason: str) -> None:
        """The client is gone, or what it sends broke the protocol."""
        if self._is_over:
            return
        self.flags = self.flags or "DC"
        self._request_ended = True
        self._abandon()
        self._stream.reset(CANCEL)
        self.finish()

    def head_received(self, head: ResponseHead) -> None:
        """Never: clients send no responses."""
        raise AssertionError("a response came from a client")

    # The response

    def respond(self, head: ResponseHead) -> None:
        """The model server's final head came."""
        if self._is_over:
            return  # the client's connection may carry another exchange by now
        self.first_byte = self._pipeline.now()
        self._has_answered = True
        self.status = head.status
        headers = self._pipeline.headers.clean(head.headers)
        if head.end and self.is_grpc:
            self.read_grpc_status(headers)
        self._stream.send_response(head.status, headers, head.end, head.length)
        if head.end:
            self.finish()

    def read_grpc_status(self, trailers: Headers) -> None:
        """Write down how the call ended (gRPC over HTTP/2, Status)."""
        for name, value in trailers:
            if name == b"grpc-status":
                self.grpc_status = int(value) if value.isdigit() and len(value) < 3 else GrpcStatus.UNKNOWN
                return

    def hold_answer(self, size: int) -> None:
        """The client does not take `size` bytes of the answer now. One client's windows bound what it can make us hold,
        and this all clients' together."""
        pipeline = self._pipeline
        pipeline.unread.setdefault(self)
        self._unread += size
        pipeline.unread_bytes += size
        while pipeline.unread_bytes > self._snapshot.limits.unread_total and pipeline.unread:
            pipeline.on_limit("unread_total_bytes")
            oldest = next(iter(pipeline.unread))
            del pipeline.unread[oldest]
            oldest.give_up_answer()

    def give_up_answer(self) -> None:
        """The client has not taken the answer for too long, or longer than all others."""
        if self._is_over:
            return
        self.flags = "DT"
        self._abandon()
        self.break_off(CANCEL)

    def release_answer(self) -> None:
        """The client has taken it, or never will."""
        self._pipeline.unread.pop(self, None)
        self._pipeline.unread_bytes -= self._unread
        self._unread = 0

    @property
    def stream(self) -> Downstream:
        """The client's stream."""
        return self._stream

    def drained(self) -> None:
        """The client takes more of the response."""
        if self._attempt is not None:
            self._attempt.release()
        elif self._has_answered:
            self.finish()  # it was a refusal

    # What goes wrong

    def refuse(self, refusal: Refusal, *, is_counted: bool = False) -> None:
        """Answer ourselves; if an answer has begun, all that is left is to break it off.

        Args:
            is_counted: the connection has counted the limit already.
        """
        if self._is_over or self.refusal is not None:
            return
        self.refusal = refusal
        if self.caller is NOBODY and isinstance(self.connection.peer, Workload):
            self.caller = Caller(self.connection.peer)  # whoever sends a bad token is still known by the certificate
        if refusal.audits:
            self.permit_audits = refusal.audits
        if refusal.limit is not None and not is_counted:
            self._pipeline.on_limit(refusal.limit)
        self._abandon()
        if self._has_answered:
            self._request_ended = True
            self._stream.reset(INTERNAL_ERROR)
            self.finish()
        elif self._request_ended or self._is_late or self._awaits_answer():
            self._answer()
        else:
            # The client sends the rest of a short body first: the connection stays usable, and a message that breaks
            # the protocol further on breaks the stream instead of being answered.
            self.deadline = self._pipeline.now() + REST_SECONDS

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
        size, is_written = answer(self._stream, refusal, self.is_grpc)
        self.bytes_sent += size
        if is_written:
            self.finish()
        else:
            self.deadline = self._pipeline.now() + self._snapshot.limits.stall

    def break_off(self, code: int) -> None:
        """The model server's answer broke after it had begun: the client must see a break, never a clean end."""
        if self._is_over:
            return
        self._request_ended = True
        self._stream.reset(code)
        self.finish()

    @property
    def has_answered(self) -> bool:
        """The final response head is out."""
        return self._has_answered

    def _abandon(self) -> None:
        """Let go of the upstream side."""
        if self._pool is not None:
            self._pool.withdraw(self)
            self._pool = None
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None

    def fail(self, error: Exception) -> None:
        """A mistake of ours: refuse this request, keep the others."""
        logger.error("internal error while carrying %s", self.head.target.partition(b"?")[0][:200], exc_info=error)
        self.refuse(Refusal(Reason.INTERNAL, "The sidecar failed to handle this request; its log says why."))

    # Time

    def _limit_time(self, seconds: float) -> None:
        when = self._pipeline.now() + seconds
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._pipeline.loop.call_at(when, self._time_out)

    def _time_out(self) -> None:
        self.flags = "UT"
        self.refuse(Refusal(Reason.DEADLINE_EXCEEDED, "The deadline passed before the model server answered."))

    def _is_unnamed(self, now: float) -> bool:
        """The body trickles in, and has not come to its model in all the time that it may stand still."""
        return self._scan is not None and self.call is None and now - self.started > self._snapshot.limits.stall

    def _waits_for_client(self) -> bool:
        """More of the request is missing, and nothing of ours keeps the client from sending it: what is held is either
        credited, or waits for a connection or for keys."""
        if self._request_ended or self._has_answered or self._owed or self._pool is not None:
            return False
        return not self._held or self._held_bytes > 0

    def expire(self, now: float) -> None:
        """Look whether bytes still move (`reaper.Mortal`). What we wait for decides whose fault it is if they do not;
        the model server may take as long as the request's deadline allows."""
        limits = self._snapshot.limits
        progress = self.bytes_received + self.bytes_sent
        self.deadline = now + limits.stall
        if self.refusal is not None:
            if self._has_answered:
                self.flags = "DT"
                self.break_off(CANCEL)
            else:
                self._answer()
            return
        if progress != self._progress and not self._is_unnamed(now):
            self._progress = progress
            return
        if self._attempt is not None and self._attempt.is_held:
            self._pipeline.on_limit("body_stall_time")
            self.give_up_answer()
        elif self._waits_for_client():
            self._is_late = True
            self.refuse(
                Refusal(
                    Reason.REQUEST_TIMEOUT,
                    f"No byte of the request's body came for {limits.stall:g} s.",
                    limit="body_stall_time",
                )
            )


def identity_headers(caller: Caller) -> Headers:
    """The verified caller, for a model server that wants to know."""
    headers = []
    if caller.workload is not None:
        headers.append((CALLER_HEADER, caller.workload.spiffe_id.encode()))
    if caller.token is not None:
        headers.append((ISSUER_HEADER, caller.token.issuer.encode()))
        headers.append((SUBJECT_HEADER, quote(caller.token.subject, safe=_PRINTABLE).encode()))
    return tuple(headers)


_PRINTABLE = "!#$&'()*+,/:;=?@[] |"
"""Left as they are in a subject; `%`, controls and everything beyond ASCII are percent-encoded."""
