"""The attempts of one request: another one when one fails, a second one beside it when it takes long, and an end.

Nothing is tried again once a byte of an answer has gone to the client. Until then what was sent of the body is kept,
within a limit, so that it can be sent again; `RetryRule` says what is worth another attempt, and `RetryBudget` how many
of those all requests of a route may make together.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.pieces import join
from meshproxy.proxy.attempt import WHOLE, Attempt
from meshproxy.proxy.client_side import OVER
from meshproxy.proxy.exchange import Happening, ResponseFlags
from meshproxy.proxy.guard import guarded
from meshproxy.proxy.headers import has_refusal
from meshproxy.proxy.server_timing import server_timing
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.failure import Failure
from meshproxy.routing.retry import Skip
from meshproxy.transport.h1_client import H1Client
from meshproxy.upstream.cluster import NoEndpoint

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import ResponseHead
    from meshproxy.inference.call import Call
    from meshproxy.proxy.attempt import AnswerSink
    from meshproxy.proxy.exchange import AttemptRecord
    from meshproxy.proxy.request import Request
    from meshproxy.routing.failure import Failure
    from meshproxy.routing.routes import Route
    from meshproxy.transport.stream import Upstream
    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.latency import Latency

SERVER_EARLY = 0.005
"""Seconds. Servers of gRPC cancel a call when its time is up, some with nothing but RST_STREAM (grpc-go, while the
method runs), and before our timer: what they are told is rounded down to milliseconds, and they may round once more. As
for clients of gRPC, that is the deadline and no failure."""


class Retries:
    """Makes the attempts of one request, and listens to them (`attempt.AttemptListener`)."""

    __slots__ = (
        "_cluster",
        "_committed",
        "_fallback",
        "_has_sent",
        "_hedge",
        "_key",
        "_latency",
        "_model",
        "_note",
        "_replay",
        "_replay_bytes",
        "_request",
        "_route",
        "_timer",
        "_tried",
        "count",
        "current",
        "upstream",
    )

    def __init__(
        self,
        request: Request,
        route: Route,
        cluster: Cluster,
        fallback: Cluster | None,
        key: int | None,
    ) -> None:
        """
        Args:
            fallback: whose endpoints are tried when none of `cluster` can be called.
            key: what endpoints are hashed by, if `cluster` does that.
        """
        self._request = request
        self._route = route
        self._cluster = cluster
        self._fallback = fallback
        self._note = ""
        """Why the fallback was of no use."""
        self._model = _model_of(request.forwarded)
        """Name of the model, or of the first one: what breakers and latencies go by."""
        self._key = key
        self._latency: Latency | None = None
        """How long such calls take, if the route refuses those with too little time: of those that run a model and have
        a deadline."""
        self.count = 0
        """Attempts made so far."""
        self.current: Attempt | None = None
        self._hedge: Attempt | None = None
        """The second one, made while the first had not answered."""
        self._committed: Attempt | None = None
        """Whose answer is on its way to the client."""
        self.upstream: Upstream | None = None
        """The stream that takes the body; None while there is none."""
        self._tried: tuple[Endpoint, ...] = ()
        self._replay: list[tuple[bytes | bytearray, bool]] | None = [] if route.retry.attempts > 1 else None
        """What was sent of the body, kept for another attempt; None: it is not, or was too much."""
        self._replay_bytes = 0
        self._has_sent = False
        """Some of the body."""
        self._timer: asyncio.TimerHandle | None = None
        """Until the next attempt, or until a second one is made beside the first."""

    def begin(self, now: float) -> None:
        """Make the first attempt. Raises Refusal."""
        request, call = self._request, self._request.forwarded
        if request.due and now >= request.due:
            request.flag(ResponseFlags.UT)
            raise Refusal(Reason.DEADLINE_EXCEEDED, "The deadline passed before the request could be forwarded.")
        if self._route.refuses_late and request.due and call is not None and call.verb.is_inference:
            self._latency = latency = self._cluster.latency(self._model)
            if latency.should_refuse(request.due - now, now):
                request.flag(ResponseFlags.UT)
                raise Refusal(
                    Reason.DEADLINE_EXCEEDED,
                    "The remaining deadline is below this model's median latency: raise it, or retry later.",
                    limit="deadline",
                )
        self._route.budget.deposit(now)
        self._attempt(now)

    def _attempt(self, now: float) -> None:
        request, has_fallback = self._request, self._fallback is not None
        try:
            endpoint = self._cluster.pick(request.is_grpc, self._model, now, self._key, self._tried, has_fallback)
        except NoEndpoint as none:
            self._note_skipped(now)
            if has_fallback:
                if not self._fall_back(now):
                    self._attempt(now)  # as without one: breakers choose between endpoints, and refuse nothing
                return
            request.flag(ResponseFlags.UH)
            message = f"No model server can be called: {none}{self._note}."
            request.refuse(Refusal(Reason.NO_UPSTREAM, message, retry_after=max(1, ceil(none.retry_after))))
            return
        if self.count:
            request.retried = now
        if request.trace is not None and (request.trace.sampled or self.count):
            self._note_skipped(now)
        self.count += 1
        self.current = attempt = Attempt(self, endpoint, self._model, request.is_grpc, now, request.context.now)
        attempt.pool.acquire(attempt)

    def _note_skipped(self, now: float) -> None:
        """Note which endpoints could not be picked: for spans, as it takes a look at each."""
        request = self._request
        if request.trace is not None and request.trace.record is not None:
            skipped = self._cluster.skipped(request.is_grpc, self._model, now)
            if skipped:
                request.note(now, Happening.ENDPOINTS_SKIPPED, *skipped)

    def resume(self, endpoint: Endpoint, token: int, stream: Upstream, span_id: bytes, body: bytes) -> None:
        """As after `begin` and `send`: the request has been sent whole to `endpoint`, over `stream`, which takes it
        again without sending it (`express.ride.Ride`)."""
        request = self._request
        self.count = 1
        self.current = attempt = Attempt(
            self, endpoint, self._model, request.is_grpc, request.decided, request.context.now, token
        )
        attempt.span_id = span_id
        sent = request.connected
        attempt.acquired(stream)
        attempt.sent = request.connected = sent
        if body:
            self.send(body, True)

    # The request (what the body goes through)

    @property
    def passes_on(self) -> bool:
        """What is sent is not kept, and may be a view."""
        return self._replay is None and isinstance(self.upstream, H1Client)

    def send(self, data: bytes, end: bool) -> bool:
        """Send a piece of the body, and keep it for another attempt. Returns as `stream.Stream.send_data`."""
        assert self.upstream is not None
        self._has_sent = True
        replay = self._replay
        if replay is not None and (data or end):
            context, size = self._request.context, len(data)
            if (
                self._replay_bytes + size > self._route.retry.replay_bytes
                or context.replay_bytes + size > context.snapshot.limits.replay_buffer_total
            ):
                self._drop_replay()
            else:
                self._replay_bytes += size
                context.replay_bytes += size
                joined = join(replay[-1][0], data) if replay else None
                if joined is not None:
                    replay[-1] = joined, end
                else:
                    replay.append((data, end))
        takes_more = self.upstream.send_data(data, end)
        if not takes_more and self.current is not None:
            self.current.takes_more = False
        return takes_more

    def _drop_replay(self) -> None:
        self._request.context.replay_bytes -= self._replay_bytes
        self._replay_bytes = 0
        self._replay = None

    # What the attempts ask and tell (attempt.AttemptListener)

    @property
    def request_ended(self) -> bool:
        """The client has sent all of the request."""
        return self._request.request_ended

    def connected(self, attempt: Attempt, stream: Upstream) -> None:
        """A stream is at hand: send the head, and what of the body was sent before."""
        request, route = self._request, self._route
        attempt.sent = now = request.context.now()
        if attempt is self.current:
            request.connected = now
            if not request.request_ended:
                request.received = inf
        request.upstream = address = stream.address
        parent = None
        if request.trace is not None and request.trace.record is not None and not attempt.span_id:
            attempt.span_id, parent = request.context.tracer.attempt(request.trace)
        stream.send_request(request.forwarded_head(now, address, parent))
        if route.try_timeout is not None:
            attempt.timer = request.context.loop.call_at(now + route.try_timeout, self._try_over, attempt)
        takes_more = True
        for data, end in self._replay or ():
            takes_more = stream.send_data(bytes(data), end)
        attempt.takes_more = takes_more
        if attempt is not self.current:
            return  # a hedge: the whole of the body was kept
        self.upstream = stream
        if self.count == 1 and route.retry.hedge_after is not None:
            self._timer = request.context.loop.call_at(now + route.retry.hedge_after, self._hedge_now)
        request.request_sent(takes_more)

    def interim(self, attempt: Attempt, head: ResponseHead) -> None:
        """A head below 200 came: pass on those of the first attempt."""
        if attempt is self.current:
            self._request.send_interim(head.status, self._request.context.headers.clean(head.headers))

    def answered(self, attempt: Attempt, head: ResponseHead, failure: Failure | None) -> AnswerSink | None:
        """The final head came: pass it on, or try again because of what it says."""
        request, rule = self._request, self._route.retry
        if (
            rule.statuses
            and (failure is None or failure not in rule.reasons)
            and (head.status in rule.statuses or attempt.grpc_status in rule.statuses)
        ):
            failure = Failure.STATUS
        if failure is not None:
            other = self._other(attempt)
            if other is not None or self._may_retry(failure, attempt.forbids_retry):
                attempt.cancel()
                self._go_on(attempt, other)
                return None
        self._committed = attempt
        if self._timer is not None:
            self._stop_timer()
        if self._hedge is not None:
            self._drop_other(attempt)
        if self.count > 1:
            request.retried, request.connected = attempt.started, attempt.sent
            if attempt.upstream is not None:
                request.upstream = attempt.upstream.address
        if self._replay is not None:  # `_drop_replay`, without its call
            request.context.replay_bytes -= self._replay_bytes
            self._replay_bytes = 0
            self._replay = None
        # Another sidecar's refusals are passed on as such. They are errors: over gRPC without a body.
        is_sidecar = attempt.endpoint.is_sidecar
        headers = request.context.headers.clean(head.headers, is_sidecar)
        if is_sidecar and (head.end or head.status >= 400):
            request.is_refused_remotely = has_refusal(headers)
        if request.set_cookies:
            headers = (*headers, *request.set_cookies)
        operation, call = request.operation, request.forwarded
        if (
            operation is not None
            and operation.read_version is not None
            and call is not None
            and call.models
            and call.models[0].version is None
        ):
            request.version_reader = operation.read_version()
        if request.snapshot.tells_timing and request.fields is not None and request.fields.wants_timing:
            request.first_byte = attempt.first_byte
            headers = (*headers, *server_timing(request))
        if request.partial is not None:
            return request.partial.begin(head, headers, attempt.first_byte)
        request.begin_answer(head.status, headers, attempt.first_byte, head.end, head.length)
        return request if request.answer is not OVER else None

    def failed_late(self, attempt: Attempt, failure: Failure) -> None:
        """Only its trailers said that the call failed: it may not be tried again, which is counted."""
        self._may_retry(failure)

    def gave_up(self) -> bool:
        """Whether the deadline has passed, or will at once: then the call ends as it does when our timer is first."""
        request = self._request
        if not request.due or request.due - request.context.now() > SERVER_EARLY:
            return False
        request.time_out()
        return True

    def broke(self, attempt: Attempt, failure: Failure, code: int) -> None:
        """The answer broke after it was passed on."""
        self._may_retry(failure)  # it may not: counted
        self._request.flag(ResponseFlags.UPE if code == ErrorCode.PROTOCOL_ERROR else ResponseFlags.UC)
        # CANCEL, as of a lost connection, would say that the client has given up the call itself.
        self._request.break_off(ErrorCode.INTERNAL_ERROR if code == ErrorCode.CANCEL else code)

    def failed(self, attempt: Attempt, failure: Failure, refusal: Refusal, flag: ResponseFlags | None) -> None:
        """The attempt came to nothing: try again, or answer with `refusal`."""
        self._request.upstream = attempt.pool.address
        attempt.cancel()
        other = self._other(attempt)
        if other is not None or self._may_retry(failure):
            self._go_on(attempt, other)
            return
        if failure.is_unsent and self._fall_back(self._request.context.now()):
            return
        if flag is not None:
            self._request.flag(flag)
        self._request.refuse(refusal)

    @guarded
    def _try_over(self, attempt: Attempt) -> None:
        """`tryTimeout` has passed since the attempt's head went out, or since the end of the request: what the client
        keeps back, the endpoint waits for. One that does not read has the time from the head."""
        request, limit = self._request, self._route.try_timeout
        assert limit is not None
        now = request.context.now()
        due = limit + (now if request.waits_for_client() else max(attempt.sent, self._received()))
        if due > now:
            attempt.timer = request.context.loop.call_at(due, self._try_over, attempt)
        else:
            attempt.time_out(self._received())

    def drained(self, attempt: Attempt) -> None:
        """The endpoint takes more of the request."""
        if attempt is self.current:
            self._request.upstream_drained()

    def reported(self, attempt: Attempt, record: AttemptRecord) -> None:
        """The endpoint has been told how it went."""
        self._request.attempts += (record,)
        if self._latency is not None and record.failure is None and not record.is_cancelled:
            self._latency.add(record.first_byte - record.sent, record.ended)

    def crashed(self, error: Exception) -> None:
        """As in `guard.Guarded`."""
        self._request.crashed(error)

    # What follows

    def _drop_other(self, attempt: Attempt) -> None:
        """The answer of `attempt` is passed on: the one beside it is not wanted any more."""
        other = self._other(attempt)
        self.current, self._hedge = attempt, None
        if other is not None:
            other.cancel(self._request.received)
            self.upstream = attempt.upstream

    def _other(self, attempt: Attempt) -> Attempt | None:
        """The attempt that is in flight beside `attempt`."""
        other = self._hedge if attempt is self.current else self.current
        return other if other is not None and not other.is_over else None

    def _may_retry(self, failure: Failure, is_forbidden: bool = False) -> bool:
        """Whether the call is tried again; counted, also if it is not. `is_forbidden`: by the server."""
        request = self._request
        skip = self._why_not(failure, is_forbidden)
        if skip is None:
            request.context.traffic.retried(request, failure)
        elif self._route.retry.attempts > 1 and skip is not Skip.REASON:
            request.context.traffic.retry_skipped(request, failure, skip)
            facts = ("reason", failure.value), ("skip", skip.value)
            request.note(request.context.now(), Happening.RETRY_SKIPPED, *facts)
        return skip is None

    def _why_not(self, failure: Failure, is_forbidden: bool) -> Skip | None:
        request, rule = self._request, self._route.retry
        call = request.forwarded
        skip = rule.skip(failure, call.verb if call is not None else None, self.count)
        if skip is not None:
            return skip
        if self._committed is not None:
            return Skip.ANSWERED
        if is_forbidden:
            return Skip.PUSHBACK
        if self._replay is None and self._has_sent:
            return Skip.BODY
        now = request.context.now()
        if request.due and now >= request.due:
            return Skip.DEADLINE
        # What an endpoint has answered is not asked for again while every breaker is open.
        is_possible = self._cluster.can_call if failure.is_unsent else self._cluster.allows
        if self._fallback is None and not is_possible(request.is_grpc, self._model, now):
            return Skip.NO_ENDPOINT
        return None if self._route.budget.withdraw(now) else Skip.BUDGET

    def _go_on(self, attempt: Attempt, other: Attempt | None) -> None:
        """`attempt` has failed: wait for `other`, or make another one."""
        self._tried = (*self._tried, attempt.endpoint)
        if other is not None:
            self.current, self._hedge = other, None
            self.upstream = other.upstream
            self._request.retried, self._request.connected = other.started, other.sent
            return
        self.current = self._hedge = self.upstream = None
        if self._timer is not None:
            self._stop_timer()
        context, rule = self._request.context, self._route.retry
        wait = rule.wait(self.count, context.draw)
        now = context.now()
        if not wait and not self._cluster.allows(self._request.is_grpc, self._model, now, self._tried):
            wait = rule.backoff * context.draw()  # the same endpoint again: give it a moment
        if wait:
            self._timer = context.loop.call_at(now + wait, self._attempt_again)
        else:
            self._attempt(now)

    @guarded
    def _attempt_again(self) -> None:
        self._timer = None
        self._attempt(self._request.context.now())

    def _fall_back(self, now: float) -> bool:
        """No endpoint of the server can be called: try the route's fallback server. Only once, and before anything of
        the body was sent that is not kept."""
        fallback, self._fallback = self._fallback, None
        if fallback is None or (self._replay is None and self._has_sent):
            return False
        if not self._request.fall_back():
            self._note = ", and the caller may not call the fallback's model"
            return False
        self._model = _model_of(self._request.forwarded)
        if self._replay:
            self._replay = [(self._request.rewrite(bytes(data), end), end) for data, end in self._replay]
        self.current = self.upstream = None  # an attempt that failed: nothing more may go there
        if self._timer is not None:
            self._stop_timer()
        self._cluster = fallback
        if self._latency is not None:
            self._latency = fallback.latency(self._model)
        self._tried = ()
        self._request.context.traffic.fell_back(self._request)
        self._attempt(now)
        return True

    @guarded
    def _hedge_now(self) -> None:
        """The first attempt takes long: make the same call elsewhere, and take whichever answers first."""
        self._timer = None
        request, current, cluster, route = self._request, self.current, self._cluster, self._route
        if self._committed is not None or current is None or current.is_over or self._hedge is not None:
            return
        if self._replay is None or not (request.head.end or (self._replay and self._replay[-1][1])):
            return  # not all of it has been sent on, or it was not kept
        call = request.forwarded
        if call is None or call.verb not in route.retry.verbs:
            return
        now = request.context.now()
        tried = (*self._tried, current.endpoint)
        if not cluster.allows(request.is_grpc, self._model, now, tried) or not route.budget.withdraw(now):
            return
        endpoint = cluster.pick(request.is_grpc, self._model, now, self._key, tried)
        request.context.traffic.hedged(request)
        self.count += 1
        self._hedge = hedge = Attempt(self, endpoint, self._model, request.is_grpc, now, request.context.now)
        hedge.pool.acquire(hedge)

    def _stop_timer(self) -> None:
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None

    # The end

    def deadline_passed(self) -> None:
        """The request's deadline has passed, and its client has sent what the endpoint takes."""
        if self.current is not None:
            self.current.deadline_passed(self._received())

    def _received(self) -> float:
        """When the end of the request came, if that was after its head had been sent on; else 0.0."""
        received = self._request.received
        return received if received != inf else 0.0

    def finish(self, is_sent: bool) -> None:
        """The exchange is over. `is_sent`: the request has gone out to its end."""
        if self._timer is not None:
            self._stop_timer()
        attempt, hedge = self.current, self._hedge
        # Reference circles would have to wait for the garbage collector.
        self.current = self._hedge = self._committed = self.upstream = None
        if hedge is not None:
            hedge.cancel(self._request.received)
        if attempt is not None and not (is_sent and attempt.state is WHOLE and attempt.takes_more):
            attempt.cancel(self._request.received)
        if self._replay is not None:
            self._drop_replay()


def _model_of(call: Call | None) -> str:
    return call.models[0].name if call is not None and call.models else ""
