"""The client's side of a request, and the only writer to the client's stream.

    answer      what the client has received of a response       ends with
    NONE        nothing but interim heads                        begin_answer -> BEGUN, refuse -> REFUSING or REFUSED
    REFUSING    nothing: the rest of a short body is read first  its end, its excess or a time limit -> REFUSED
    REFUSED     a local response, not yet taken whole            drained -> OVER
    BEGUN       the head of the upstream's answer                its end -> WHOLE; refuse, break_off -> OVER; of gRPC,
                                                                 before the first message, refuse -> REFUSED
    WHOLE       the upstream's answer, not yet taken whole       drained -> OVER
    OVER        the exchange has ended and was observed

What the request does upstream is above this class, which calls six hooks: `abandon`, `response_buffered`, `resume`,
`check_progress`, `timed_out` and `closed`.
"""

from __future__ import annotations

import json
import logging
from enum import Enum
from typing import TYPE_CHECKING, Final

from meshproxy.codec.grpc import encode_message, grpc_status
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.headers import REFUSAL_HEADER
from meshproxy.identity.caller import ANONYMOUS, Caller, Workload
from meshproxy.proxy.exchange import Exchange, Happening, LiveExchange, ResponseFlags
from meshproxy.proxy.guard import guarded
from meshproxy.proxy.headers import has_refusal
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.cors import share
from meshproxy.transport.h1_server import H1Server

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import Headers, Rejected, RequestHead
    from meshproxy.inference.surface import VersionReader
    from meshproxy.proxy.arm_call import ArmCall
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.proxy.mirror import MirroredRequest
    from meshproxy.proxy.sampled_answer import SampledAnswer
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.transport.stream import Downstream

logger = logging.getLogger(__name__)

REFUSAL_BODY = 65_536
"""Bytes of a refused REST request that are read before the answer."""
REFUSAL_SECONDS = 2.0
"""How long they are waited for."""
TIMER_SECONDS = 0.5
"""Before its deadline by so much a request gets a timer: two sweeps of the reaper."""
EARLY = 0.05
"""Of a request's time. Clients of gRPC reset a call when its time is up, and so before our timer, which began after
theirs; and what they tell us they round up, by up to a hundredth."""
LOOKS = 20
"""How often it is looked at within a limit whether bytes move: the limit is late by this part of it at most."""
SHORTEST_LOOK = 0.01
"""Seconds between two looks."""

_REASONS = {
    408: Reason.REQUEST_TIMEOUT,
    413: Reason.BODY_TOO_LARGE,
    414: Reason.HEADERS_TOO_LARGE,
    431: Reason.HEADERS_TOO_LARGE,
}


class ResponseState(Enum):
    """How much of a response the client has received: the table above."""

    NONE = 0
    REFUSING = 1
    REFUSED = 2
    BEGUN = 3
    WHOLE = 4
    OVER = 5


# Bound once: on CPython 3.11 `ResponseState.OVER` costs 0.13 us, a global 0.03.
NONE: Final = ResponseState.NONE
REFUSING: Final = ResponseState.REFUSING
REFUSED: Final = ResponseState.REFUSED
BEGUN: Final = ResponseState.BEGUN
WHOLE: Final = ResponseState.WHOLE
OVER: Final = ResponseState.OVER


class ClientSide(LiveExchange):
    """What the client is sent, and until when."""

    __slots__ = (
        "_look",
        "_timer",
        "answer",
        "context",
        "due",
        "idle_timeout",
        "is_blocked",
        "mirrored",
        "moved",
        "progress",
        "request_ended",
        "sharing",
        "snapshot",
        "stream",
        "version_reader",
    )

    def __init__(self, context: ProxyContext, stream: Downstream, head: RequestHead) -> None:
        Exchange.__init__(self, head, stream.info, context.now())
        self.context = context
        self.snapshot: Snapshot = context.snapshot
        """The configuration that it began with, kept to its end."""
        self.stream = stream
        """The client's. Only this class writes to it."""
        self.answer = NONE
        self.request_ended = head.end
        """The client has sent everything, or its input is no longer read."""
        self.is_blocked = False
        """The client does not take what it was sent."""
        self.due = 0.0
        """When the answer must be whole; 0.0: no time limit."""
        self._timer: asyncio.TimerHandle | None = None
        """Set when `due` is near."""
        self.mirrored: MirroredRequest | ArmCall | SampledAnswer | None = None
        """The copy that is sent elsewhere, what measures the arm of a rollout, which may have one, or what reads the
        answer, which may have either."""
        self.version_reader: VersionReader | None = None
        """Finds the version that answered in the body of the answer."""
        self.sharing: Headers | None = None
        """What browsers are told with the answer; None where no `cors` applies."""
        self.idle_timeout: float | None = None
        """Seconds between two parts of the response."""
        self.progress = 0
        self.moved = self.started
        """When progress was last seen, and the bytes transferred by then."""
        self.deadline = self._look = self.started + self.snapshot.limits.stall / LOOKS
        """When the reaper checks it, and whether that check is about progress."""
        context.live.add(self)

    # Hooks

    def abandon(self) -> None:
        """The upstream's answer is not wanted any more."""
        raise NotImplementedError

    def response_buffered(self) -> None:
        """The upstream's response is complete, and the client has not read it yet, which may take long."""
        raise NotImplementedError

    def resume(self) -> None:
        """The client takes more of the upstream's answer."""
        raise NotImplementedError

    def timed_out(self) -> None:
        """`due` has passed without a whole answer."""
        raise NotImplementedError

    def closed(self, is_whole: bool) -> None:
        """The exchange has ended. `is_whole`: the upstream's response was complete."""
        raise NotImplementedError

    def check_progress(self, now: float) -> None:
        """See whether bytes still move, and say when to look again."""
        raise NotImplementedError

    @property
    def has_head_only(self) -> bool:
        """The client has received the head of a gRPC response and nothing else: trailers can still say anything."""
        return self.answer is BEGUN and self.is_grpc and not self.bytes_sent and self.status == 200

    # The response of the upstream, or a local one that is not a refusal

    def send_interim(self, status: int, headers: Headers) -> None:
        """Send a head below 200 (RFC 9110 section 15.2)."""
        self.stream.send_response(status, headers, end=False)

    def begin_answer(
        self, status: int, headers: Headers, first_byte: float, end: bool = False, length: int | None = None
    ) -> None:
        """Send the final head. From here on the request can only be broken off, not refused; over gRPC that is so from
        the first byte of the body on.

        The exchange may be over afterwards: a head that is larger than the client takes resets its stream.

        Args:
            first_byte: when it came from the upstream.
            end: there is no body.
        """
        self.first_byte = first_byte
        self.answer = BEGUN
        self.status = status
        if self.idle_timeout is not None:
            self.look_at(min(self._look, first_byte + self.idle_timeout / LOOKS))
            if not self.has_head_only:
                self.progress = self.bytes_received + self.bytes_sent
                self.moved = first_byte
        if self.sharing is not None:
            headers = share(headers, self.sharing)
        self.stream.send_response(status, headers, end, length)
        if end and self.answer is BEGUN:  # it is OVER if the client does not take a head of this size
            if self.is_grpc:
                self.grpc_status = grpc_status(headers)
            self.answer = WHOLE
            self.finish()

    def answer_directly(self, status: int, headers: Headers) -> None:
        """Send a final head without a body that is neither the upstream's nor a refusal."""
        self.answer = WHOLE
        self.status = status
        self.stream.send_response(status, headers, end=True)
        self.finish()

    @property
    def passes_answer_on(self) -> bool:
        """Nobody looks at what comes of the answer, or keeps it (`Attempt.passes_on`)."""
        return self.mirrored is None and self.version_reader is None and isinstance(self.stream, H1Server)

    def send_body(self, data: bytes, flow: int, end: bool) -> bool:
        """Send a piece of the body. False: the client does not read it now; `resume` will be called.

        Args:
            flow: the bytes that are owed to the upstream as credit until then.
        """
        self.bytes_sent += len(data)
        if self.mirrored is not None:
            self.mirrored.take_answer(data)
        if self.version_reader is not None and not self.effective_version:
            self.effective_version = self.version_reader.feed(data)
        if end:
            self.answer = WHOLE
        if not self.stream.send_data(data, end):
            self.is_blocked = True
            if end:
                self.response_buffered()
            if flow:
                self.context.response_buffer.take(self, flow, self.snapshot.limits.response_buffer_total)
            return False
        if end:
            self.finish()
        return True

    def send_trailers(self, headers: Headers, status: int | None) -> None:
        """End the answer with these fields. `status`: what they say of a gRPC call."""
        self.grpc_status = status
        if status and has_refusal(headers):
            self.is_refused_remotely = True
        self.answer = WHOLE
        if self.stream.send_trailers(headers):
            self.finish()
        else:
            self.is_blocked = True
            self.response_buffered()

    @guarded
    def drained(self) -> None:
        """The client has read what it was sent (`stream.RequestSink`)."""
        if self.is_blocked:
            self.is_blocked = False
            self.context.response_buffer.release(self)
        if self.answer is WHOLE or self.answer is REFUSED:
            self.finish()
        elif self.answer is BEGUN:
            self.resume()

    @guarded
    def evicted(self) -> None:
        """Of all clients that do not read, this one has not done so for longest (`byte_budget.Evictable`)."""
        self.context.on_limit("response_buffer_total_bytes")
        self.note(self.context.now(), Happening.LIMIT, ("limit", "response_buffer_total_bytes"))
        self.give_up()

    def give_up(self) -> None:
        """The client does not take the answer: break it off."""
        if self.answer is not OVER:
            self.flag(ResponseFlags.DT)
            self.abandon()
            self.break_off(ErrorCode.CANCEL)

    def break_off(self, code: int) -> None:
        """The upstream's answer broke after it had begun: the client must see a break, never a clean end."""
        if self.answer is not OVER:
            self.request_ended = True
            self.stream.reset(code)
            self.finish()

    # Refusals

    def flag(self, flag: ResponseFlags) -> None:
        """Record one of Envoy's response flags."""
        self.flags |= flag

    def crashed(self, error: Exception) -> None:
        """A callback raised (`guard.Guarded`): answer a Refusal; anything else is a defect that costs this request."""
        path = self.head.target.partition(b"?")[0][:200]
        try:
            if not isinstance(error, Refusal):
                logger.error("internal error in a request for %s", path, exc_info=error)
                error = Refusal(Reason.INTERNAL, "The sidecar failed to handle this request; see its log.")
            if self.refusal is None or self.answer is REFUSING:
                self.refuse(error)
            else:  # it was being refused: `refuse` takes no second refusal, and the client would wait for ever
                self.break_off(ErrorCode.INTERNAL_ERROR)
        except Exception:
            logger.exception("internal error in the response to a request for %s", path)
            self.break_off(ErrorCode.INTERNAL_ERROR)

    def refuse(self, refusal: Refusal, *, is_counted: bool = False, waits: bool = True) -> None:
        """Answer with a local response: over gRPC behind a head, too. If more of an answer was sent, break it off.

        Args:
            is_counted: the connection has counted the limit already.
            waits: the rest of a short request body may be read first, so that the connection stays usable, and a
                message that breaks the protocol further on breaks the stream instead of being answered.
        """
        if self.answer is OVER or self.refusal is not None:
            return
        # Its frames refer to this request: a reference circle, which would have to wait for the garbage collector.
        refusal.__traceback__ = refusal.__cause__ = refusal.__context__ = None
        self.refusal = refusal
        self.refused = self.context.now()
        if self.caller is ANONYMOUS and isinstance(self.connection.peer, Workload):
            self.caller = Caller(self.connection.peer)  # a bad token leaves the certificate's identity known
        if refusal.audits:
            self.permit_audits = refusal.audits
        if refusal.limit is not None and not is_counted:
            self.context.on_limit(refusal.limit)
        self.abandon()
        if self.has_head_only:
            self._send_refusal()
        elif self.answer is not NONE:
            self.request_ended = True
            self.stream.reset(ErrorCode.INTERNAL_ERROR)
            self.finish()
        elif self.request_ended or not waits or self._awaits_answer():
            self._send_refusal()
        else:
            self.answer = REFUSING
            self.look_at(self.context.now() + REFUSAL_SECONDS)

    def _awaits_answer(self) -> bool:
        """The client may not send the rest of its message before it has a response, or the rest is too long to wait
        for."""
        head = self.head
        return self.is_grpc or head.expects_continue or (head.length or self.bytes_received) > REFUSAL_BODY

    def _send_refusal(self) -> None:
        """Send the local response: for REST the status and TensorFlow Serving's `{"error": "..."}`; for gRPC trailers,
        only these unless the head is out, with HTTP status 200
        (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Responses)."""
        refusal, has_head = self.refusal, self.answer is BEGUN
        assert refusal is not None
        self.answer = REFUSED
        if refusal.closes_connection:
            self.stream.close_connection()
        if self.is_grpc:
            self.status = 200
            self.grpc_status = refusal.grpc_status
            if has_head:
                self.first_byte = 0.0  # as in `finish`
                self.stream.send_trailers(grpc_trailers(refusal))
            else:
                self.stream.send_response(200, grpc_headers(refusal), end=True)
            self.finish()
            return
        self.status = refusal.http_status
        body = json.dumps({"error": refusal.message}).encode()
        self.bytes_sent += len(body)
        headers = rest_headers(refusal)
        if self.sharing is not None:
            headers = share(headers, self.sharing)
        self.stream.send_response(refusal.http_status, headers, end=False, length=len(body))
        if self.stream.send_data(body, end=True):
            self.finish()
        else:
            self.look_at(self.context.now() + self.snapshot.limits.stall)

    def discard(self, flow: int, end: bool) -> None:
        """Read on without a use for what comes: the request was refused."""
        if self.answer is OVER:
            return  # the stream is over too: what is owed is forgiven
        self.stream.credit(flow)
        if self.answer is REFUSING and (end or self.bytes_received > REFUSAL_BODY):
            self._send_refusal()

    @guarded
    def rejected(self, rejected: Rejected) -> None:
        """The codec refuses the rest of the request (`stream.RequestSink`): its body is malformed, or too long."""
        self.request_ended = True
        if self.answer is REFUSING:
            self._send_refusal()
        message = f"Bad request: {rejected.reason}."
        reason = _REASONS.get(rejected.status, Reason.BAD_REQUEST)
        refusal = Refusal(reason, message, limit=rejected.limit, http_status=rejected.status)
        self.is_grpc = self.is_grpc or rejected.is_grpc
        if rejected.is_reset:
            self.flag(ResponseFlags.DPE)
            self.refusal = refusal
            self.finish()
        else:
            self.refuse(refusal, is_counted=True)

    @guarded
    def reset_received(self, code: int, reason: str) -> None:
        """The client left, or what it sends broke the protocol (`stream.RequestSink`)."""
        if self.answer is not OVER:
            self.flag(ResponseFlags.DC)
            if self.due and self.due - self.context.now() <= EARLY * (self.due - self.started):
                self.timed_out()  # the client's clock was first
            self.request_ended = True
            self.abandon()
            self.stream.reset(ErrorCode.CANCEL)
            self.finish()

    # Time

    def limit_time(self, seconds: float) -> None:
        """The response must be complete within this time of the request head; the shortest limit applies. It is exact,
        and few requests come near it: those that have longer than `TIMER_SECONDS` get their timer when they do, and all
        others pay for none (0.5 to 0.7 us)."""
        due = self.started + seconds
        if self.due:
            if self.due <= due:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self.due = due
        if seconds > TIMER_SECONDS:
            if due - TIMER_SECONDS < self.deadline:
                self.deadline = due - TIMER_SECONDS
        else:
            self._timer = self.context.loop.call_at(due, self.time_out)

    def look_at(self, when: float) -> None:
        """See whether bytes move then; before that, whether the time limit is near."""
        self._look = when
        if self.due and self._timer is None and self.due - TIMER_SECONDS < when:
            when = self.due - TIMER_SECONDS
        self.deadline = when

    def expire(self, now: float) -> None:
        """`deadline` has passed (`reaper.Expirable`)."""
        if self.answer is OVER:
            return  # ended by another one that expired in the same sweep
        if self._timer is None and self.due and now >= self.due - TIMER_SECONDS:
            self._timer = self.context.loop.call_at(self.due, self.time_out)
        if now < self._look:
            self.deadline = self._look
        elif self.answer is REFUSING:
            self._send_refusal()
        elif self.answer is REFUSED:
            self.flag(ResponseFlags.DT)
            self.break_off(ErrorCode.CANCEL)
        else:
            self.check_progress(now)

    @guarded
    def time_out(self) -> None:
        """The time limit has passed."""
        if self.refusal is None:  # otherwise the rest of the request is being read
            self.flag(ResponseFlags.UT)
            self.timed_out()
            self.refuse(Refusal(Reason.DEADLINE_EXCEEDED, "The deadline passed before the model server answered."))

    # The end

    def finish(self) -> None:
        """The exchange is over, well or not: let go of everything and have it observed."""
        was = self.answer
        if was is OVER:
            return
        if was is BEGUN and self.has_head_only:
            self.first_byte = 0.0  # what began did not come to an answer
        self.answer = OVER
        context = self.context
        self.finished = context.now()
        if self._timer is not None:
            self._timer.cancel()
        context.live.discard(self)
        context.served += 1
        if self.is_blocked:
            context.response_buffer.release(self)
        self.closed(was is WHOLE)
        stream = self.stream
        if not self.request_ended:
            stream.stop_receiving()
        stream.sink = None
        context.observer(self)


def rest_headers(refusal: Refusal) -> Headers:
    """The fields of a local REST response."""
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (REFUSAL_HEADER, refusal.reason.label.encode()),
    ]
    if refusal.challenge is not None:
        headers.append((b"www-authenticate", refusal.challenge.encode()))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    return tuple(headers)


def grpc_headers(refusal: Refusal) -> Headers:
    """The trailers-only head of a local gRPC response."""
    return ((b"content-type", b"application/grpc"), *grpc_trailers(refusal))


def grpc_trailers(refusal: Refusal) -> Headers:
    """The trailers of one whose head is out."""
    headers = [
        (b"grpc-status", b"%d" % refusal.grpc_status),
        (b"grpc-message", encode_message(refusal.message)),
        (REFUSAL_HEADER, refusal.reason.label.encode()),
    ]
    if refusal.retry_after is not None:
        headers.append((b"grpc-retry-pushback-ms", b"%d" % (refusal.retry_after * 1000)))
    return tuple(headers)
