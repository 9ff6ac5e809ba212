"""Serves gRPC methods over a `listener.Listener`: the counterpart of `grpc_stream`, for the control plane.

    async def echo(call: ServerCall) -> None:
        async for message in call:
            await call.send(message)

    server = GrpcServer({b"/pkg.Service/Echo": echo})
    listener = Listener(serve=server.serve, reject=server.reject, ...)

A method returns when the call is complete, which ends it with OK, or raises `CallFailed`. It is cancelled if the client
leaves or its deadline passes. Messages are bytes and not compressed. A received message counts against the stream's
window until it is taken.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from meshproxy.codec.grpc import Deframer, Misframed, encode_message, frame, is_grpc, parse_timeout
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.byte_budget import ByteBudget
from meshproxy.transport.grpc_client import COMPRESSED, MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshproxy.codec.events import Headers, Rejected, RequestHead
    from meshproxy.transport.connection_info import ConnectionInfo
    from meshproxy.transport.stream import Downstream

logger = logging.getLogger(__name__)

RECEIVED_BYTES = 16 << 20
"""Of messages that have come in part, in all calls. Beyond, the call whose message began first is refused: whoever
never ends one takes no more memory than that."""
HEAD: Headers = ((b"content-type", b"application/grpc"),)


class CallFailed(Exception):
    """Ends a call with a status other than OK; raised by a method."""

    def __init__(self, status: GrpcStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class ServerCall:
    """One call (`stream.RequestSink`). One task at a time may iterate, and one may send.

    Attributes:
        info: of the client's connection; `info.peer` is its identity.
        has_ended: the client has sent its last message, whether it was taken or not; one that is lost has not.
        is_drained: the transport has taken all that was sent.
    """

    # Thousands of calls wait for most of their life, so each takes as little memory as possible.
    __slots__ = (
        "_budget",
        "_deframer",
        "_failure",
        "_has_head",
        "_is_over",
        "_max_message_bytes",
        "_messages",
        "_owed",
        "_pieces",
        "_stream",
        "_waiting",
        "has_ended",
        "info",
        "is_drained",
        "task",
    )

    def __init__(self, stream: Downstream, head: RequestHead, max_message_bytes: int, budget: ByteBudget) -> None:
        self.info: ConnectionInfo = stream.info
        self._stream = stream
        self._budget = budget
        self._max_message_bytes = max_message_bytes
        self.task: asyncio.Task[None] | None = None
        """Runs the method; cancelled if the client leaves."""
        self._is_over = False
        """Nothing can be sent any more."""
        self._has_head = False
        self.is_drained = True
        # Received.
        self._deframer: Deframer | None = None
        """Within a message."""
        self._pieces: list[bytes] | None = None
        """Of the message that is being received; None between two."""
        self._messages: list[bytes] | None = None
        """None while there are none. Without these three, a call that waits takes 190 bytes less."""
        self._owed = 0
        """Credit that is held back."""
        self.has_ended = head.end
        self._failure: CallFailed | None = None
        """Why what the client sends cannot be read any further."""
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    # For the method

    def __aiter__(self) -> ServerCall:
        return self

    async def __anext__(self) -> bytes:
        """The next message; ends when the client has sent its last. Raises CallFailed if it cannot be read."""
        while (message := self.take()) is None:
            if self.has_ended:
                raise StopAsyncIteration
            await self.wait()
        return message

    def take(self) -> bytes | None:
        """A message that has come, or None. Raises CallFailed if it cannot be read."""
        if self._messages is None:
            if self._failure is not None:
                raise self._failure
            return None
        message = self._messages.pop(0)
        if not self._messages:
            self._messages = None
            self._give_credit()
        return message

    def wait(self) -> asyncio.Future[None]:
        """Awaited, returns when something has changed: what can be taken, whether all is sent or received, or `wake`
        was called. For a method that does several things at once."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting += (waiting,)
        return waiting

    def wake(self) -> None:
        """End `wait`."""
        waiting, self._waiting = self._waiting, ()
        for each in waiting:
            if not each.done():  # it may have been cancelled
                each.set_result(None)

    async def only_message(self) -> bytes:
        """The message of a unary request. Raises CallFailed if there is none, or another."""
        message = await anext(self, None)
        if message is None:
            raise CallFailed(GrpcStatus.UNIMPLEMENTED, "expected one message, got none")
        if await anext(self, None) is not None:  # and who knows how many more
            raise CallFailed(GrpcStatus.UNIMPLEMENTED, "expected one message, got another")
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; returns when the transport has taken it."""
        self.post(frame(message))
        while not self.is_drained:
            await self.wait()

    def fail(self, status: GrpcStatus, message: str) -> None:
        """Have `take` raise CallFailed once all is taken that has come so far: nothing further is read."""
        self._failure = CallFailed(status, message)
        self._drop()
        self.wake()

    def evicted(self) -> None:
        """`byte_budget.Evictable`: a message began too long ago."""
        self.fail(GrpcStatus.RESOURCE_EXHAUSTED, "too much of other messages has come before the end of this one")

    def _drop(self) -> None:
        """What has come of a message."""
        self._pieces = None
        self._budget.release(self)

    def post(self, framed: bytes) -> None:
        """Send one message (`codec.grpc.frame`) without waiting for the transport to take it: `is_drained` says when
        it has. Until then there must be no other."""
        if not self._has_head:
            self._has_head = True
            self._stream.send_response(200, HEAD, end=False)
        self.is_drained = self._stream.send_data(framed, end=False)

    # stream.RequestSink

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """Part of a message, or several messages."""
        self._owed += flow
        if self._failure is None and not self._is_over:
            self._read(data)
        if end:
            self.trailers_received(())
        if self._messages is None:
            self._give_credit()

    def _read(self, data: bytes) -> None:
        deframer = self._deframer or Deframer()
        parts = deframer.receive(data)
        self._deframer = None if deframer.is_idle else deframer
        for part in parts:
            if isinstance(part, Misframed):
                self.fail(GrpcStatus.INTERNAL, part.reason)
            elif part.compressed:
                self.fail(GrpcStatus.UNIMPLEMENTED, COMPRESSED)
            elif part.size > self._max_message_bytes:
                limit = self._max_message_bytes
                self.fail(GrpcStatus.RESOURCE_EXHAUSTED, f"a message of {part.size} bytes exceeds {limit} bytes")
            else:
                pieces = self._pieces = self._pieces or []
                pieces.append(part.data)
                if part.end:
                    messages = self._messages = self._messages or []
                    messages.append(b"".join(pieces))
                    self._drop()
                    self.wake()
                else:
                    self._budget.take(self, len(part.data), RECEIVED_BYTES)
                continue
            return

    def trailers_received(self, headers: Headers) -> None:
        """The client has sent its last message."""
        self.has_ended = True
        if self._failure is None and self._deframer is not None:
            self.fail(GrpcStatus.INTERNAL, "the last message of the request is incomplete")
        self.wake()

    def rejected(self, rejected: Rejected) -> None:
        """The rest of the request violates the protocol."""
        self.fail(GrpcStatus.INTERNAL, rejected.reason)

    def reset_received(self, code: int, reason: str) -> None:
        """The client has cancelled, or is gone."""
        self._is_over = True
        self._drop()
        if self.task is not None:
            self.task.cancel()

    def drained(self) -> None:
        """What was sent has been written."""
        self.is_drained = True
        self.wake()

    # The end

    def ended(self, task: asyncio.Task[None]) -> None:
        """End the call as its method has ended. Not in a coroutine around the method: 280 bytes of each call."""
        # What has failed holds the method's variables, and with them this: until the next collection, message and all.
        self.task = self._failure = None
        if task.cancelled():
            self.end(GrpcStatus.UNAVAILABLE, "the server stops")  # unless the client has left
            return
        error = task.exception()
        if error is None:
            self.end(GrpcStatus.OK, "")
        elif isinstance(error, CallFailed):
            self.end(error.status, error.message)
        else:
            logger.error("a method failed", exc_info=error)
            self.end(GrpcStatus.INTERNAL, "the server has a defect: see its log")

    def end(self, status: GrpcStatus, message: str) -> None:
        """Send the status."""
        if self._is_over:
            return
        self._is_over = True
        self._drop()
        trailers: Headers = ((b"grpc-status", b"%d" % status),)
        if message:
            trailers += ((b"grpc-message", encode_message(message)),)
        if self._has_head:
            self._stream.send_trailers(trailers)
        else:
            self._stream.send_response(200, HEAD + trailers, end=True)
        self._stream.stop_receiving()
        self._give_credit()

    def _give_credit(self) -> None:
        owed, self._owed = self._owed, 0
        if owed:
            self._stream.credit(owed)


Method = Callable[[ServerCall], Coroutine[Any, Any, None]]


class GrpcServer:
    """Hands calls to the methods of its services.

    Args:
        methods: by their paths, `/package.Service/Method`.
        max_message_bytes: of one received message.
    """

    def __init__(
        self,
        methods: Mapping[bytes, Method],
        *,
        max_message_bytes: int = MESSAGE_BYTES,
    ) -> None:
        self._methods = methods
        self._max_message_bytes = max_message_bytes
        self._budget = ByteBudget()
        self._loop = asyncio.get_running_loop()
        self._calls: dict[asyncio.Task[None], ServerCall] = {}
        self._when_ended = self._ended
        """One bound method for all calls."""
        self._context = copy_context()
        """Of all calls: none has variables of its own, and two contexts for each take memory."""

    def serve(self, stream: Downstream, head: RequestHead) -> None:
        """Begin a call (`stream.Serve`)."""
        fields = dict(head.headers)
        if head.method != b"POST" or not is_grpc(fields.get(b"content-type", b"")):
            stream.sink = _Ignoring(stream)
            stream.send_response(415, ((b"accept", b"application/grpc"),), end=True)  # protocol, Requests
            stream.stop_receiving()
            return
        call = stream.sink = ServerCall(stream, head, self._max_message_bytes, self._budget)
        method = self._methods.get(head.target)
        if method is None:
            call.end(GrpcStatus.UNIMPLEMENTED, f"no such method: {head.target.decode('ascii', 'replace')}")
            return
        timeout = fields.get(b"grpc-timeout")
        seconds = parse_timeout(timeout) if timeout is not None else None
        running = method(call) if seconds is None else _within(seconds, method, call)
        call.task = self._loop.create_task(running, context=self._context)
        self._calls[call.task] = call
        call.task.add_done_callback(self._when_ended, context=self._context)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.pop(task).ended(task)

    def reject(self, stream: Downstream, rejected: Rejected) -> None:
        """Answer a request that the codec rejected (`stream.Reject`)."""
        if not rejected.is_reset:
            stream.sink = _Ignoring(stream)
            stream.send_response(rejected.status, (), end=True)
            stream.stop_receiving()

    async def close(self) -> None:
        """End all calls, with UNAVAILABLE."""
        calls = tuple(self._calls)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def _within(seconds: float, method: Method, call: ServerCall) -> None:
    """A method that has a deadline. It is not even called if the client leaves before. Raises CallFailed."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            await method(call)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise CallFailed(GrpcStatus.DEADLINE_EXCEEDED, "the deadline of the call has passed") from None


class _Ignoring:
    """Reads the rest of a request that has been answered (`stream.RequestSink`)."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Downstream) -> None:
        self._stream = stream

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        self._stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None: ...
    def rejected(self, rejected: Rejected) -> None: ...
    def reset_received(self, code: int, reason: str) -> None: ...
    def drained(self) -> None: ...
