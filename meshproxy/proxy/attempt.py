"""One attempt at one endpoint: its connection, its answer, and whom to blame for how it went.

    state       what has come                                    ends with
    ACQUIRING   no connection yet                                acquired -> AWAITING, acquire_failed -> OVER
    AWAITING    the request's head is out                        a final head -> ANSWERING, DEFERRED or HEADED
    DEFERRED    a gRPC head, kept: only what follows it tells    data -> ANSWERING, trailers -> WHOLE
                whether the call went well
    HEADED      a gRPC head, passed on: the request goes on,     data -> ANSWERING, trailers -> WHOLE
                and its client may wait for the head
    ANSWERING   the head was passed on; of gRPC, more than that  the end of the answer -> WHOLE
    WHOLE       the whole answer; the request may not be out yet
    OVER        nothing more: it failed, broke, or was cancelled

From every state but the last two, a reset or `cancel` leads to OVER; before the first byte, so does a time limit. The
endpoint hears once how it went, and the listener nothing once the attempt is OVER. The head of a gRPC response, which
may come before the server has done anything, is no answer: HEADED ends as AWAITING does, only without another attempt.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from meshproxy.codec.grpc import forbids_retry, grpc_status
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.headers import REFUSAL_HEADER
from meshproxy.proxy.exchange import AttemptRecord, ResponseFlags
from meshproxy.proxy.guard import guarded
from meshproxy.proxy.headers import clean_trailers
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing.failure import Failure, of_grpc, of_http
from meshproxy.transport.h2_client import GOING_AWAY
from meshproxy.transport.stream import HeadRefused
from meshproxy.upstream.pool import PoolFull

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meshproxy.codec.events import Headers, ResponseHead
    from meshproxy.transport.connect_failures import ConnectError
    from meshproxy.transport.stream import Upstream
    from meshproxy.upstream.endpoint import Endpoint
    from meshproxy.upstream.pool import H1Pool, H2Pool

BLAME_SECONDS = 0.9
"""Seconds of silence for which an endpoint is to blame: callers choose their deadlines, and one that is in a hurry must
not open breakers for everybody. Of a deadline of a second, as many have it, the endpoint has a little less."""
CONTINUE = 100


class State(Enum):
    """The table above."""

    ACQUIRING = 0
    AWAITING = 1
    DEFERRED = 2
    HEADED = 3
    ANSWERING = 4
    WHOLE = 5
    OVER = 6


# Bound once: on CPython 3.11 `State.OVER` costs 0.13 us, a global 0.03.
ACQUIRING: Final = State.ACQUIRING
AWAITING: Final = State.AWAITING
DEFERRED: Final = State.DEFERRED
HEADED: Final = State.HEADED
ANSWERING: Final = State.ANSWERING
WHOLE: Final = State.WHOLE
OVER: Final = State.OVER


class AnswerSink(Protocol):
    """Who takes an answer whose head was passed on."""

    def send_body(self, data: bytes, flow: int, end: bool) -> bool:
        """Take a piece. False: not now; `Attempt.resume` will be called for its `flow`."""

    def send_trailers(self, headers: Headers, status: int | None) -> None:
        """Take the end. `status`: `grpc-status`, of a gRPC call."""


class AttemptListener(Protocol):
    """Who made the attempt. What it raises goes to its own `crashed`."""

    @property
    def request_ended(self) -> bool:
        """The client has sent all of the request."""

    def connected(self, attempt: Attempt, stream: Upstream) -> None:
        """A stream is at hand: write the request to it. Raises HeadRefused."""

    def failed(self, attempt: Attempt, failure: Failure, refusal: Refusal, flag: ResponseFlags | None) -> None:
        """Nothing of an answer was passed on but, perhaps, the head of a gRPC response, and nothing will be.

        Args:
            refusal: what to answer if that was the last attempt.
            flag: the response flag that goes with it.
        """

    def interim(self, attempt: Attempt, head: ResponseHead) -> None:
        """A head below 200 came."""

    def answered(self, attempt: Attempt, head: ResponseHead, failure: Failure | None) -> AnswerSink | None:
        """The final head came: pass it on and say who takes the rest. None: the attempt has been cancelled instead.

        Args:
            failure: what the head says went wrong, or for gRPC the trailers, if they came with it.
        """

    def failed_late(self, attempt: Attempt, failure: Failure) -> None:
        """The trailers say that the call failed, after the head was passed on."""

    def gave_up(self) -> bool:
        """The endpoint has cancelled a gRPC call. True: because the time that it was given is up, and all is done."""

    def broke(self, attempt: Attempt, failure: Failure, code: int) -> None:
        """The answer broke after it was passed on, with an HTTP/2 error code."""

    def drained(self, attempt: Attempt) -> None:
        """The endpoint takes more of the request."""

    def reported(self, attempt: Attempt, record: AttemptRecord) -> None:
        """The endpoint has been told how it went."""

    def crashed(self, error: Exception) -> None:
        """As in `guard.Guarded`."""


class Attempt:
    """Waits for a connection (`client.StreamWaiter`), then reads the answer (`stream.ResponseSink`)."""

    __slots__ = (
        "_failure",
        "_head",
        "_is_grpc",
        "_listener",
        "_model",
        "_needs_status",
        "_now",
        "_owed",
        "_sink",
        "_token",
        "endpoint",
        "first_byte",
        "forbids_retry",
        "grpc_status",
        "pool",
        "sent",
        "span_id",
        "started",
        "state",
        "status",
        "takes_more",
        "timer",
        "upstream",
    )

    def __init__(
        self,
        listener: AttemptListener,
        endpoint: Endpoint,
        model: str,
        is_grpc: bool,
        started: float,
        now: Callable[[], float],
        token: int | None = None,
    ) -> None:
        """
        Args:
            model: what the endpoint's breakers and latencies go by.
            started: the time now; with a `token`, that of its beginning.
            token: of the endpoint, if the call was begun there.
        """
        self._listener = listener
        self._model = model
        self._is_grpc = is_grpc
        self._token: int | None
        self._now = now
        self.endpoint = endpoint
        self._token = endpoint.begin(model, started) if token is None else token
        """Of the endpoint, until it has been told how it went."""
        self.state = ACQUIRING
        pool = endpoint.grpc if is_grpc else endpoint.rest
        assert pool is not None  # or it would not have been picked
        self.pool: H1Pool | H2Pool = pool
        """Where the listener acquires a connection for it."""
        self.upstream: Upstream | None = None
        """The stream; None before there is one, and when it is broken."""
        self.takes_more = True
        """All that was sent has been written."""
        self.started = started
        self.sent = 0.0
        """When the request's head was written."""
        self.first_byte = 0.0
        self.span_id = b""
        """Of its client span; empty without one."""
        self.status = 0
        """HTTP status of the answer."""
        self.grpc_status: int | None = None
        """What a gRPC call ended with."""
        self.forbids_retry = False
        """The server has said so, with that status."""
        self._head: ResponseHead | None = None
        """Of a gRPC answer, while DEFERRED."""
        self._needs_status = False
        """The answer is one of gRPC: without trailers it ends without saying how the call went."""
        self._failure: Failure | None = None
        """What the answer's head says went wrong."""
        self._sink: AnswerSink | None = None
        """Who takes the answer, once its head was passed on."""
        self._owed = 0
        """Credit due to the endpoint once the client takes more."""
        self.timer: asyncio.TimerHandle | None = None
        """Ends an attempt that takes too long."""

    @property
    def is_over(self) -> bool:
        """The upstream stream is not this attempt's any more."""
        return self.state is OVER or self.state is WHOLE

    # Getting a connection (client.StreamWaiter)

    def acquired(self, stream: Upstream) -> None:
        """A stream is at hand. Called within `Pool.acquire`, or from the end of another request: the pool guards it."""
        stream.sink = self
        self.upstream = stream
        self.state = AWAITING
        try:
            self._listener.connected(self, stream)
        except HeadRefused as refused:
            stream.sink = self.upstream = None
            self.state = OVER
            self.report(None, is_cancelled=True)
            refusal = Refusal(Reason.HEADERS_TOO_LARGE, f"The model server refuses the request: {refused}.")
            self._listener.failed(self, Failure.ERROR, refusal, None)

    @guarded
    def acquire_failed(self, error: ConnectError) -> None:
        """No stream is available."""
        if self.state is OVER:
            return  # cancelled while others that waited were told
        self.state = OVER
        if isinstance(error, PoolFull):  # a limit of the sidecar's: no fault of the endpoint
            self.report(None, is_cancelled=True)
            failure, reason, limit, flag = Failure.OVERLOADED, Reason.OVERLOADED, "max_pending", ResponseFlags.UO
        else:
            failure, reason, limit, flag = Failure.CONNECT, Reason.CONNECT_FAILED, None, ResponseFlags.UF
            self.report(failure, is_slow=isinstance(error.__cause__, TimeoutError))
        refusal = Refusal(reason, f"The model server cannot be reached: {error}.", limit=limit, retry_after=1)
        self._listener.failed(self, failure, refusal, flag)

    # The answer (stream.ResponseSink)

    def head_received(self, head: ResponseHead) -> None:
        """The endpoint answered."""
        try:  # as `guarded`
            if self.state is not AWAITING:
                return
            status = head.status
            if status < 200:
                # The sidecar has sent a 100 of its own, when the request was permitted.
                if status != CONTINUE:
                    self._listener.interim(self, head)
                return
            self.first_byte = self._now()
            self.status = status
            if self.timer is not None:
                self.timer.cancel()
            if not self._is_grpc or status != 200:
                failure = of_http(status) if status != 200 else None
                if failure is Failure.GATEWAY and self.endpoint.is_sidecar and _is_busy(head.headers):
                    failure = Failure.OVERLOADED
            elif head.end:
                self.grpc_status = grpc_status(head.headers)
                failure = of_grpc(self.grpc_status)
                if self.grpc_status != 0:
                    self.forbids_retry = forbids_retry(head.headers)
            else:
                self._needs_status = True
                if self._listener.request_ended:
                    self._head = head
                    self.state = DEFERRED
                else:
                    self.state = HEADED
                    self._sink = self._listener.answered(self, head, None)
                return
            self.state = WHOLE if head.end else ANSWERING
            self._failure = failure
            if failure is not None or head.end:
                self.report(failure)
            self._sink = self._listener.answered(self, head, failure)
        except Exception as error:
            self.crashed(error)

    @property
    def passes_on(self) -> bool:
        """Nobody looks at what comes of the answer, or keeps it (`h1.H1Driver`)."""
        return self.state is ANSWERING and getattr(self._sink, "passes_answer_on", False)

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of the answer's body came."""
        try:  # as `guarded`
            state = self.state
            if not data and not end and state in _HEAD_ONLY:
                if self.upstream is not None:
                    self.upstream.credit(flow)  # of padding
                return
            if state is DEFERRED:
                self.state = ANSWERING
                head, self._head = self._head, None
                assert head is not None
                self._sink = self._listener.answered(self, head, None)
            elif state is HEADED:
                self.state = ANSWERING
            elif state is not ANSWERING:
                return
            sink = self._sink
            if sink is None:
                return
            if end:
                self.state = WHOLE
                if self._needs_status:
                    self._failure = Failure.ERROR
                self.report(self._failure)
            if not sink.send_body(data, flow, end):
                self._owed += flow
            elif not end and self.upstream is not None:
                self.upstream.credit(flow)
        except Exception as error:
            self.crashed(error)

    def trailers_received(self, headers: Headers) -> None:
        """The answer ended with fields: for gRPC they say how the call went."""
        try:  # as `guarded`
            if self.state not in _UNFINISHED:
                return
            self.state = WHOLE
            failure, status = self._failure, None
            if self._is_grpc:
                self.grpc_status = status = grpc_status(headers)
                if status != 0 or headers[1:]:  # nearly all say 0 and nothing else
                    headers = clean_trailers(headers, self.endpoint.is_sidecar)
                failure = of_grpc(status) if status != 0 else None
                if status != 0:
                    self.forbids_retry = forbids_retry(headers)
            self.report(failure)
            head, self._head = self._head, None
            if head is not None:
                self._sink = self._listener.answered(self, head, failure)
            elif failure is not None and failure is not self._failure:
                self._listener.failed_late(self, failure)
            if self._sink is not None:
                self._sink.send_trailers(headers, status)
        except Exception as error:
            self.crashed(error)

    @guarded
    def reset_received(self, code: int, reason: str) -> None:
        """The answer broke off."""
        if self.is_over:
            return
        self.upstream = None
        if code == ErrorCode.CANCEL and self._is_grpc and self._listener.gave_up():
            self.cancel()
            return
        was_answering = self.state is ANSWERING
        self.state = OVER
        if code == ErrorCode.REFUSED_STREAM and not self.first_byte:
            failure = Failure.GOAWAY if reason is GOING_AWAY else Failure.REFUSED
        else:
            failure = Failure.RESET
        self.report(failure)
        if was_answering:
            self._listener.broke(self, failure, code)
        elif code == ErrorCode.PROTOCOL_ERROR:
            refusal = Refusal(Reason.UPSTREAM_PROTOCOL, f"The model server's answer cannot be read: {reason}.")
            self._listener.failed(self, failure, refusal, ResponseFlags.UPE)
        else:
            refusal = Refusal(Reason.UPSTREAM_RESET, f"The model server broke off: {reason}.")
            self._listener.failed(self, failure, refusal, ResponseFlags.UC)

    @guarded
    def time_out(self, received: float = 0.0) -> None:
        """Nothing of an answer came within `tryTimeout`. `received`: as of `deadline_passed`."""
        if self.is_over or self.first_byte:
            return
        self.report(Failure.TIMEOUT, received=received)
        self.cancel()
        message = "The model server did not begin to answer within the route's tryTimeout."
        refusal = Refusal(Reason.UPSTREAM_TIMEOUT, message, retry_after=1)
        self._listener.failed(self, Failure.TIMEOUT, refusal, ResponseFlags.UT)

    @guarded
    def drained(self) -> None:
        """The endpoint takes more of the request."""
        if self.state is OVER:
            return
        self.takes_more = True
        self._listener.drained(self)

    def crashed(self, error: Exception) -> None:
        """A callback raised (`guard.Guarded`)."""
        self._listener.crashed(error)

    # What the listener wants of it

    def resume(self) -> None:
        """The client takes more of the answer: so may the endpoint send."""
        owed, self._owed = self._owed, 0
        if self.upstream is not None and not self.is_over:
            self.upstream.credit(owed)

    def deadline_passed(self, received: float = 0.0) -> None:
        """The request's deadline has passed. An endpoint that had long enough and sent nothing, or the head of a gRPC
        answer only, is to blame for that, or one that hangs would never be found by calls whose deadline is shorter
        than `tryTimeout`.

        Args:
            received: when the end of the request came, if it came later than its head went out.
        """
        if self._silence(received) >= BLAME_SECONDS:
            self.report(Failure.TIMEOUT, received=received)

    def _silence(self, received: float) -> float:
        """Seconds for which the endpoint could have answered, and did not."""
        return max(0.0, self._now() - max(self.sent, received)) if self.state in _SILENT else 0.0

    def cancel(self, received: float = inf) -> None:
        """The answer is not wanted any more.

        Args:
            received: as of `deadline_passed`; inf: not yet, so that the endpoint may wait for it.
        """
        if self.timer is not None:
            self.timer.cancel()
        self.report(None, is_cancelled=True, received=received)
        was, self.state = self.state, OVER
        if was is ACQUIRING:
            self.pool.withdraw(self)
        elif was is WHOLE:
            if self.upstream is not None:
                self.upstream.stop_sending()  # the request has not gone out whole
        elif was is not OVER and self.upstream is not None:
            self.upstream.reset(ErrorCode.CANCEL)

    def report(
        self, failure: Failure | None, is_cancelled: bool = False, is_slow: bool = False, received: float = inf
    ) -> None:
        """Tell the endpoint how it went, once: well, if `failure` is None and it was not cancelled. `received`: as of
        `cancel`."""
        token, self._token = self._token, None
        if token is None:
            return
        now, endpoint = self._now(), self.endpoint
        if is_cancelled:
            endpoint.cancelled(self._model, now, token, self._silence(received))
        elif failure is None:
            endpoint.succeeded(self._model, self.first_byte - self.sent, now, token)
        else:
            endpoint.failed(self._model, failure, now, token, is_slow, self._silence(received))
        self._listener.reported(
            self,
            AttemptRecord(
                self.pool.address,
                self.started,
                self.sent,
                self.first_byte,
                now,
                failure,
                is_cancelled,
                self.status,
                self.grpc_status,
                self.span_id,
                self.pool.is_tls,
            ),
        )


def _is_busy(headers: Headers) -> bool:
    """Another sidecar refused the call, and not because something is wrong with the model there."""
    return any(name == REFUSAL_HEADER and value in _BUSY for name, value in headers)


_SILENT = (AWAITING, DEFERRED, HEADED)
_HEAD_ONLY = (DEFERRED, HEADED)
_UNFINISHED = (ANSWERING, DEFERRED, HEADED)
_BUSY = tuple(reason.label.encode() for reason in (Reason.OVERLOADED, Reason.DEADLINE_EXCEEDED))
