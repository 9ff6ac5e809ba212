"""One try at an endpoint: who waits for its connection, then the sink of its stream, which hands the answer on.

A mistake in carrying one exchange must not rise into the upstream's connection, which others share: it ends the
exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.proxy.headers import REFUSAL_HEADER
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.routing.failure import Failure, of_grpc, of_http
from meshproxy.transport.h2_client import GOING_AWAY
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull

if TYPE_CHECKING:
    import asyncio

    from meshproxy.codec.events import Headers, ResponseHead
    from meshproxy.proxy.passage import Passage
    from meshproxy.proxy.tries import Tries
    from meshproxy.transport.connector import ConnectError
    from meshproxy.transport.stream import Upstream
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.pool import H1Pool, H2Pool

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
REFUSED_STREAM = 0x7
CANCEL = 0x8
LONG_ENOUGH = 1.0
"""Seconds of silence for which an endpoint is to blame: callers choose their deadlines, and one that is in a hurry must
not open breakers for everybody. (Calls that have less time than their model usually takes are not sent at all.)"""
CONTINUE = 100


class Attempt:
    """Asks one endpoint, and carries its answer into the passage. However it ends, the endpoint hears of it once."""

    __slots__ = (
        "_first_byte",
        "_head",
        "_is_reported",
        "_model",
        "_owed",
        "_passage",
        "_pool",
        "_token",
        "_tries",
        "_verdict",
        "endpoint",
        "is_held",
        "is_over",
        "sent",
        "takes_more",
        "timer",
        "upstream",
    )

    def __init__(self, tries: Tries, passage: Passage, endpoint: Endpoint, model: str, now: float) -> None:
        self._tries = tries
        self._passage = passage
        self._model = model
        self.endpoint = endpoint
        self._token = endpoint.begin(model, now)
        self._is_reported = False
        self._pool: H1Pool | H2Pool | None = None
        """Where we wait for a connection."""
        self.upstream: Upstream | None = None
        """The stream; None before there is one, and when it is broken."""
        self.takes_more = True
        """All that was sent has left our hands."""
        self.sent = 0.0
        """When the request's head was written."""
        self._first_byte = 0.0
        self._head: ResponseHead | None = None
        """Of a gRPC answer, until it is known whether the call went well: that may be told at the end only."""
        self._verdict: Failure | None = None
        """What the answer's status says of the model server."""
        self._owed = 0
        """Credit due to the model server once the client takes more."""
        self.is_held = False
        """The client does not take what the model server sends."""
        self.is_over = False
        """The response has ended or broken off, or nobody wants it: the upstream stream is not ours any more."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends a try that takes too long."""

    # Getting a connection (pool.Taker)

    def start(self) -> None:
        """Ask for a stream. `acquired` or `acquire_failed` may be called before this returns."""
        endpoint = self.endpoint
        pool = endpoint.grpc if self._passage.is_grpc else endpoint.rest
        assert pool is not None
        self._pool = pool
        pool.acquire(self)

    def acquired(self, stream: Upstream) -> None:
        """A stream is at hand. Whatever goes wrong with it is this request's alone: we may be called from the end of
        another one."""
        self._pool = None
        passage = self._passage
        try:
            stream.sink = self
            self.upstream = stream
            self._tries.acquired(self, stream)
        except HeadRefused as refused:
            stream.sink = self.upstream = None
            self.is_over = True
            self.report_cancelled()
            refusal = Refusal(Reason.HEADERS_TOO_LARGE, f"The model server refuses the request: {refused}.")
            self._failed(Failure.ERROR, refusal, "")
        except Refusal as refusal:
            passage.refuse(refusal)  # what was held of the body cannot be sent on
        except Exception as error:
            passage.fail(error)

    def acquire_failed(self, error: ConnectError) -> None:
        """There is no stream to be had."""
        if self.is_over:
            return  # it was given up while others were told, and that was one of many
        self._pool = None
        self.is_over = True
        if isinstance(error, PoolFull):
            # That is for us to say, not for the endpoint to be blamed for.
            self.report_cancelled()
            failure, reason, limit, flags = Failure.OVERLOADED, Reason.OVERLOADED, "max_pending", "UO"
        else:
            failure, reason, limit, flags = Failure.CONNECT, Reason.CONNECT_FAILED, None, "UF"
            self.report(failure)
        refusal = Refusal(reason, f"The model server cannot be reached: {error}.", limit=limit, retry_after=1)
        self._failed(failure, refusal, flags)

    def _failed(self, failure: Failure, refusal: Refusal, flags: str) -> None:
        try:
            self._tries.failed(self, failure, refusal, flags)
        except Exception as error:
            self._passage.fail(error)

    # The answer (stream.ResponseSink)

    def head_received(self, head: ResponseHead) -> None:
        """The model server answered."""
        if self.is_over:
            return
        passage = self._passage
        try:
            if head.status < 200:
                if head.status != CONTINUE and self._tries.current is self:
                    # We have sent a 100 of our own, when the request was permitted. Others are passed on (RFC 9110
                    # 15.2).
                    passage.stream.send_response(head.status, head.headers, end=False)
                return
            self._first_byte = passage.pipeline.now()
            if self.timer is not None:
                self.timer.cancel()
            self.is_over = head.end
            if not passage.is_grpc or head.status != 200:
                verdict = of_http(head.status)
                if verdict is Failure.GATEWAY and self.endpoint.is_sidecar and _is_busy(head.headers):
                    verdict = Failure.OVERLOADED
            elif head.end:
                verdict = of_grpc(grpc_status(head.headers))
            else:
                self._head = head
                return
            if verdict is not None:
                self._verdict = verdict
                self.report(verdict)
                if self._tries.retries(self, verdict):
                    return
            elif head.end:
                self.report(None)
            self._tries.commit(self)
            passage.respond(head, self._first_byte)
        except Exception as error:
            passage.fail(error)

    def _release_head(self) -> bool:
        """What comes after the head has come: the answer has begun. False if that was the end of us."""
        head, self._head = self._head, None
        assert head is not None
        self._tries.commit(self)
        self._passage.respond(head, self._first_byte)
        return not self.is_over

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of the response's body came."""
        if self.is_over:
            return
        passage = self._passage
        passage.bytes_sent += len(data)
        try:
            if self._head is not None and not self._release_head():
                return
            self.is_over = end
            if end:
                if passage.is_grpc and passage.status == 200:
                    self._verdict = Failure.ERROR  # it ends without saying how it went
                self.report(self._verdict)
                passage.answer_ended()
            if passage.shadow is not None:
                passage.shadow.take_answer(data)
            if not passage.stream.send_data(data, end):
                self.is_held = True
                self._owed += flow
                passage.hold_answer(flow)
                return
        except Exception as error:
            passage.fail(error)
            return
        if end:
            passage.finish()
        else:
            assert self.upstream is not None
            self.upstream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        """The response ended with fields: for gRPC they say how the call went."""
        if self.is_over:
            return
        passage = self._passage
        self.is_over = True
        try:
            verdict, status = self._verdict, None
            if passage.is_grpc:
                status = grpc_status(headers)
                verdict = of_grpc(status)
            self.report(verdict)
            if self._head is not None:
                if verdict is not None and self._tries.retries(self, verdict):
                    return
                self._release_head()
            elif verdict is not self._verdict and verdict is not None:
                self._tries.may_retry(verdict)  # it may not: counted
            passage.grpc_status = status
            passage.answer_ended()
            is_written = passage.stream.send_trailers(headers)
        except Exception as error:
            passage.fail(error)
            return
        if is_written:
            passage.finish()

    def reset_received(self, code: int, reason: str) -> None:
        """The response broke off."""
        if self.is_over:
            return
        self.is_over = True
        self.upstream = None
        passage = self._passage
        if code == REFUSED_STREAM and not self._first_byte:
            failure = Failure.GOAWAY if reason is GOING_AWAY else Failure.REFUSED
        else:
            failure = Failure.RESET
        self.report(failure)
        flags = "UPE" if code == PROTOCOL_ERROR else "UC"
        if self._tries.is_committed_to(self):
            self._tries.may_retry(failure)  # it may not: counted
            passage.flag(flags)
            # CANCEL, as of a lost connection, would say that the client has given up the call itself.
            passage.break_off(INTERNAL_ERROR if code == CANCEL else code)
        elif code == PROTOCOL_ERROR:
            refusal = Refusal(Reason.UPSTREAM_PROTOCOL, f"The model server's answer cannot be read: {reason}.")
            self._failed(failure, refusal, flags)
        else:
            self._failed(failure, Refusal(Reason.UPSTREAM_RESET, f"The model server broke off: {reason}."), flags)

    def out_of_time(self) -> None:
        """The request's deadline has passed. An endpoint that had long enough and said nothing is to blame for that, or
        one that hangs would be found by nobody whose deadline is shorter than a `tryTimeout`."""
        if self.sent and not self._first_byte and self._passage.pipeline.now() - self.sent >= LONG_ENOUGH:
            self.report(Failure.TIMEOUT)

    def time_out(self) -> None:
        """Nothing of an answer came within the time of a try."""
        if self.is_over or self._first_byte:
            return
        self.report(Failure.TIMEOUT)
        message = "The model server did not begin to answer within the time of a try."
        self._failed(Failure.TIMEOUT, Refusal(Reason.UPSTREAM_TIMEOUT, message, retry_after=1), "UT")

    def drained(self) -> None:
        """The model server takes more of the request."""
        self.takes_more = True
        if self._tries.current is self:
            self._passage.upstream_drained()

    # What the passage wants of it

    def release(self) -> None:
        """The client takes more of the response."""
        owed, self._owed = self._owed, 0
        self.is_held = False
        self._passage.release_answer()
        if self.is_over:
            self._passage.finish()  # and the stream may carry another exchange by now
        else:
            assert self.upstream is not None
            self.upstream.credit(owed)

    def cancel(self) -> None:
        """Nobody wants the response any more."""
        if self.timer is not None:
            self.timer.cancel()
        self.report_cancelled()
        if self._pool is not None:
            self._pool.withdraw(self)
            self._pool = None
            self.is_over = True
        elif self.upstream is None:
            self.is_over = True
        elif self.is_over:
            # It has come whole, the request has not gone out whole.
            self.upstream.stop_sending()
        else:
            self.is_over = True
            self.upstream.reset(CANCEL)

    def report(self, failure: Failure | None) -> None:
        """Tell the endpoint how it went, once."""
        if self._is_reported:
            return
        self._is_reported = True
        now = self._passage.pipeline.now()
        if failure is None:
            seconds = self._first_byte - self.sent
            self.endpoint.succeeded(self._model, seconds, now, self._token)
            self._tries.answered(seconds, now)
        else:
            self.endpoint.failed(self._model, failure, now, self._token)

    def report_cancelled(self) -> None:
        """Tell the endpoint that nobody will know how it went, unless that was told before."""
        if not self._is_reported:
            self._is_reported = True
            self.endpoint.cancelled(self._model, self._passage.pipeline.now(), self._token)


def grpc_status(fields: Headers) -> int | None:
    """How a call ended (gRPC over HTTP/2, Status): UNKNOWN if it is not said properly, None if it is not said."""
    for name, value in fields:
        if name == b"grpc-status":
            if value == b"0":
                return 0
            return int(value) if value.isdigit() and len(value) < 3 else GrpcStatus.UNKNOWN
    return None


def _is_busy(headers: Headers) -> bool:
    """Another sidecar refused the call, and not because something is wrong with the model there."""
    return any(name == REFUSAL_HEADER and value in _BUSY for name, value in headers)


_BUSY = tuple(reason.label.encode() for reason in (Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED))
