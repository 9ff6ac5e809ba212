"""Relays a request whose route is known: the body, the response, and what happens when either stops.

    the body is     read by                   until
    scanned         `operation.scan`          its end, where only the body names the model
    held            `HeldBody`                model, keys and connection are there
    forwarded       `Retries.send`            its end
    discarded       `ClientSide.discard`      its end, once the request was refused
    a health check  `HealthCall`              its end

Every piece is scanned before it is forwarded, so one that names another model never leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.proxy.client_side import BEGUN, LOOKS, NONE, OVER, SHORTEST_LOOK
from meshproxy.proxy.exchange import Happening, ResponseFlags
from meshproxy.proxy.guard import guarded
from meshproxy.proxy.held_body import HeldBody, Piece
from meshproxy.proxy.request import Request
from meshproxy.proxy.retries import Retries
from meshproxy.proxy.sampled_answer import SampledAnswer
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import Headers, RequestHead
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Scan, Signals
    from meshproxy.proxy.attempt import Attempt
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.health_call import HealthCall
    from meshproxy.proxy.ports import Sampler
    from meshproxy.proxy.route_actions import RouteActions
    from meshproxy.transport.h2_client import H2ClientStream
    from meshproxy.transport.stream import Downstream, Upstream
    from meshproxy.upstream.endpoint import Endpoint


INFLATING_BODIES = 200
"""Of one connection: each takes 40 KB, however little of it has come."""


class Relay(Request):
    """The sink of the client's stream (`stream.RequestSink`)."""

    __slots__ = ("_actions", "_health", "_held", "_is_inflating", "_owed", "_retries", "_scan", "_unread")

    def __init__(self, context: ProxyContext, stream: Downstream, head: RequestHead) -> None:
        Request.__init__(self, context, stream, head)
        self._scan: Scan | None = None
        """Reads the model out of the body."""
        self._is_inflating = False
        """It does so, and its connection has counted it."""
        self._unread: list[Piece] | None = None
        """While the scan is behind: what it is reading, and what has come since. Its credit stays owed."""
        self._held: HeldBody | None = None
        """What of the body cannot be forwarded yet."""
        self._owed = 0
        """Credit due to the client once the upstream takes more."""
        self._actions: RouteActions | None = None
        """What the route asks for, if it asks for more than a server."""
        self._health: HealthCall | None = None
        """Answers the request, if it is a health check."""
        self._retries: Retries | None = None
        stream.sink = self

    def named(self, call: Call) -> None:
        """The call became known, or changed (a station of `pipeline`). Raises Refusal."""
        raise NotImplementedError

    # The request's body (stream.RequestSink)

    @property
    def passes_on(self) -> bool:
        """Nobody looks at what comes of the body, or keeps it (`h1.H1Driver`)."""
        retries = self._retries
        return (
            self._scan is None
            and self._actions is None
            and self._held is None
            and self._unread is None
            and retries is not None
            and retries.passes_on
        )

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self.bytes_received += len(data)
        self.request_ended = end
        if end and self.received:
            self.received = self.context.now()
        try:  # as `guarded`, without its call
            self.take(data, flow, end)
        except Exception as error:
            self.crashed(error)

    @guarded
    def trailers_received(self, headers: Headers) -> None:
        """The request ended with fields. Neither gRPC nor REST has a use for them: only the end is passed on."""
        self.request_ended = True
        if self.received:
            self.received = self.context.now()
        self.take(b"", 0, True)

    def take(self, data: bytes, flow: int, end: bool) -> None:
        """Scan a piece, then forward or hold it. The stations may be passed on the way. Raises Refusal."""
        if self.refusal is not None or self.answer is OVER:
            self.discard(flow, end)
            return
        scan = self._scan
        if scan is not None:
            if self._unread is not None:
                self._unread.append((data, flow, end))
                return
            call = scan.feed(data, end)
            if scan.is_inflating is not self._is_inflating:
                self._count_inflating(scan.is_inflating)
            if scan.is_behind:
                self._unread = [(data, flow, end)]
            if call is not None:
                if not self.read:
                    self.read = self.context.now()
                self.peeked = data
                self.named(call)
                self.peeked = b""
            if scan.is_behind:
                self._wait_for_turn()
                return
        elif self._health is not None:
            self.stream.credit(flow)
            self._health.feed(data, end)
            return
        retries = self._retries  # `_pass_on`, without its call
        if retries is not None and retries.upstream is not None:
            self._forward(retries, data, flow, end)
        else:
            self._hold(data, flow, end)

    def _pass_on(self, data: bytes, flow: int, end: bool) -> None:
        """Forward or hold a piece that has been scanned."""
        retries = self._retries
        if retries is not None and retries.upstream is not None:
            self._forward(retries, data, flow, end)
        else:
            self._hold(data, flow, end)

    @guarded
    def _read_on(self) -> None:
        """It is this body's turn: scan another slice of it."""
        scan, unread = self._scan, self._unread
        assert unread is not None  # or it would have no turn
        if self.refusal is None and self.answer is not OVER and scan is not None:
            call = scan.read_on()
            if scan.is_inflating is not self._is_inflating:
                self._count_inflating(scan.is_inflating)
            if call is not None:
                if not self.read:
                    self.read = self.context.now()
                self.peeked = unread[0][0]
                self.named(call)
                self.peeked = b""
            if scan.is_behind:
                self._wait_for_turn()
                return
        self._unread = None
        self._pass_on(*unread[0])
        for data, flow, end in unread[1:]:
            self.take(data, flow, end)

    def _count_inflating(self, is_inflating: bool) -> None:
        """The scan has begun or ended to inflate. Raises Refusal."""
        connection = self.connection
        self._is_inflating = is_inflating
        connection.inflating += 1 if is_inflating else -1
        if connection.inflating > INFLATING_BODIES:
            raise Refusal(
                Reason.OVERLOADED,
                f"{INFLATING_BODIES} compressed messages of this connection are incomplete: send fewer at once.",
                limit="inflating_bodies",
                retry_after=1,
            )

    def _wait_for_turn(self) -> None:
        if self._unread is not None:  # the exchange is not over
            self.context.turns.add(self._read_on)

    def _hold(self, data: bytes, flow: int, end: bool) -> None:
        if self.refusal is not None or self.answer is OVER:
            self.discard(flow, end)
            return
        held = self._held
        if held is None:
            held = self._held = HeldBody(self)
        if data and self._scan is not None and self.asked is None:
            held.hold_unnamed(data, flow, end)
        else:
            held.hold(data, flow, end)

    def _forward(self, retries: Retries, data: bytes, flow: int, end: bool) -> None:
        if self._actions is not None:
            data = self._actions.take(data, end)
        if retries.send(data, end):
            self.stream.credit(flow)
        else:
            self._owed += flow

    def body_start(self) -> bytes:
        """The part of the body that was received and not forwarded yet."""
        return self._held.start() + self.peeked if self._held is not None else self.peeked

    # On the way to the model server

    def send_to(self, server: str) -> None:
        """The ModelServer is known: try its endpoints. Raises Refusal."""
        clusters, route = self.snapshot.clusters, self.matched
        assert route is not None
        self.server = server
        sampler, operation = self.context.sampler, self.operation
        if sampler is not None and operation is not None and operation.read_signals is not None:
            self._sample(sampler, operation.read_signals)
        cluster = clusters[server]
        key = self.key(cluster.key) if cluster.key is not None else None
        fallback = clusters[route.fallback.server or server] if route.fallback is not None else None
        retries = self._retries = Retries(self, route, cluster, fallback, key)
        retries.begin(self.context.now())

    def _sample(self, sampler: Sampler, read: Callable[[bytes], Signals | None]) -> None:
        """Read the answer, if it is chosen."""
        call = self.forwarded
        if call is not None and sampler.wants(call) and sampler.is_due(self.context.now()):
            sampler.begin()
            assert not isinstance(self.mirrored, SampledAnswer)
            self.mirrored = SampledAnswer(sampler, read, self.mirrored)

    def resume_on(self, endpoint: Endpoint, token: int, stream: Upstream, span_id: bytes, body: bytes) -> None:
        """As after `send_to`, when all was sent (`Retries.resume`)."""
        route = self.matched
        assert route is not None
        self._retries = retries = Retries(self, route, self.snapshot.clusters[self.server], None, None)
        retries.resume(endpoint, token, stream, span_id, body)

    def go_on(self, stream: H2ClientStream) -> Attempt:
        """What was resumed goes on over this stream. Returns who reads it."""
        retries = self._retries
        assert retries is not None
        assert retries.current is not None
        retries.upstream = retries.current.upstream = stream
        return retries.current

    def fall_back(self) -> bool:
        return self._actions is None or self._actions.fall_back()

    def rewrite(self, data: bytes, end: bool) -> bytes:
        return data if self._actions is None else self._actions.rewrite(data, end)

    def request_sent(self, takes_more: bool) -> None:
        """The head is out, and what of the body was sent to an endpoint before: the rest follows."""
        if self._owed and takes_more:
            self.upstream_drained()
        if self.head.expects_continue and self._scan is None and not self.request_ended and self.answer is NONE:
            self.send_interim(100, ())
        held, self._held = self._held, None
        if held is not None:
            self._release(held)

    def _release(self, held: HeldBody) -> None:
        """Forward what was held; if the connection is lost meanwhile, hold the rest again."""
        for data, flow, end in held.take():
            retries = self._retries
            if retries is not None and retries.upstream is not None:
                self._forward(retries, data, flow, end)
            else:
                self._hold(data, flow, end)

    def upstream_drained(self) -> None:
        """The endpoint takes more of the request."""
        owed, self._owed = self._owed, 0
        self.stream.credit(owed)

    # The answer (hooks of ClientSide)

    def resume(self) -> None:
        """The client takes more of the answer."""
        if self._retries is not None and self._retries.current is not None:
            self._retries.current.resume()

    def response_buffered(self) -> None:
        """The upstream's response is complete, and the client has not read it yet: the slot is free for other calls."""
        if self._actions is not None:
            self._actions.leave(is_whole=True)

    def abandon(self) -> None:
        """The upstream's answer is not wanted any more: let go of it, then of the slot there."""
        retries, self._retries = self._retries, None
        if retries is not None:
            retries.finish(is_sent=False)
        if self._actions is not None:
            self._actions.leave(is_whole=False)

    def timed_out(self) -> None:
        # A server that waits for the rest of a request is not to blame for its silence.
        if self._retries is not None and not self.waits_for_client():
            self._retries.deadline_passed()

    def closed(self, is_whole: bool) -> None:
        """The exchange is over. What refers to each other in a circle would have to wait for the garbage collector."""
        held, self._held = self._held, None
        if held is not None:
            held.close()
        if self._unread is not None:
            self._unread = None
            self.context.turns.discard(self._read_on)
        if self._is_inflating:
            self._is_inflating = False
            self.connection.inflating -= 1
        health, self._health = self._health, None
        if health is not None:
            health.close()
        retries, self._retries = self._retries, None
        if retries is not None:
            retries.finish(self.request_ended)
        actions, self._actions = self._actions, None
        if actions is not None:
            actions.close(is_whole)
        self.partial = None
        mirrored, self.mirrored = self.mirrored, None
        if mirrored is not None:
            mirrored.launch(self, is_whole)

    # Progress

    def check_progress(self, now: float) -> None:
        """See whether bytes still move, and whose fault it is if they do not."""
        limit, stalled = self._awaited()
        progress = self.bytes_received + self.bytes_sent
        if self.is_blocked:
            progress -= self.stream.unread
        if progress != self.progress or stalled is None:
            self.progress = progress
            self.moved = now
        look = limit
        if self.answer is BEGUN and self.idle_timeout is not None and self.idle_timeout < limit:
            look = self.idle_timeout  # from the next piece on it is what counts
        next_look = now + max(look / LOOKS, SHORTEST_LOOK)
        if stalled is None or (now - self.moved < limit and not self._is_unnamed(now)):
            self.look_at(min(next_look, self.moved + limit))
        else:
            self.look_at(next_look)
            stalled()

    def _awaited(self) -> tuple[float, Callable[[], None] | None]:
        """How long what is waited for may stand still, and what happens if it does. None: nothing, as the model server
        may take as long as the request's deadline allows."""
        stall, idle = self.snapshot.limits.stall, self.idle_timeout
        if self.is_blocked:
            return stall, self._response_unread
        if self.answer is BEGUN and not self.has_head_only:
            return (idle, self._response_stalled) if idle is not None else (stall, None)
        return stall, self._request_stalled if self.waits_for_client() else None

    def _response_unread(self) -> None:
        self.context.on_limit("body_stall_time")
        self.note(self.context.now(), Happening.LIMIT, ("limit", "body_stall_time"))
        self.give_up()

    def _response_stalled(self) -> None:
        self.flag(ResponseFlags.SI)
        attempt = self._retries.current if self._retries is not None else None
        if attempt is not None and (self.request_ended or self._owed):  # otherwise it may wait for the client
            attempt.report(Failure.TIMEOUT)
        self.break_off(ErrorCode.CANCEL)

    def _request_stalled(self) -> None:
        message = f"No byte of the request body was received within {self.snapshot.limits.stall:g} s."
        self.refuse(Refusal(Reason.REQUEST_TIMEOUT, message, limit="body_stall_time"), waits=False)

    def _is_unnamed(self, now: float) -> bool:
        """The body trickles in, and has not come to its model in all the time that it may stand still."""
        return self._scan is not None and self.asked is None and now - self.started > self.snapshot.limits.stall

    def waits_for_client(self) -> bool:
        """More of the request is missing, and the client may send it: what is held is credited, and nothing else is
        waited for."""
        if self.request_ended or self._owed or not (self.answer is NONE or self.has_head_only):
            return False
        if self._actions is not None and self._actions.is_waiting:
            return False
        if self._unread is not None or (self._retries is not None and self._retries.upstream is None):
            return False  # a turn, a connection is waited for, or the next attempt
        return self._held is None or not self._held.owes_credit
