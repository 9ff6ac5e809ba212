"""Streaming gRPC calls of the sidecar itself: any number of messages each way, with flow control for both.

    async with await open_call(source, b"/pkg.Service/Method") as call:
        await call.send(request)
        await call.done_sending()
        async for message in call:
            ...

A received message counts against the stream's window until it is taken by `async for`; only the one that is still being
received does not, or a message larger than the window could never arrive. So a call holds at most one window and one
message, whatever the server sends. `send` returns when the transport has taken the message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from meshproxy.codec.grpc import Deframer, Misframed, frame
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.transport.client import (
    HEAD_BYTES,
    ClientError,
    ClientFailure,
    StatusError,
    broken_off,
    complete_head,
    connect_failed,
    head_refused,
    head_size,
    timed_out,
)
from meshproxy.transport.grpc_client import COMPRESSED, MESSAGE_BYTES, check_status, request_head
from meshproxy.transport.stream import HeadRefused

if TYPE_CHECKING:
    from types import TracebackType

    from meshproxy.codec.events import Headers, RequestHead, ResponseHead
    from meshproxy.transport.client import StreamSource
    from meshproxy.transport.connect_failures import ConnectError
    from meshproxy.transport.stream import Upstream


async def open_call(
    source: StreamSource,
    path: bytes,
    *,
    metadata: Headers = (),
    timeout: float | None = None,
    max_message_bytes: int = MESSAGE_BYTES,
) -> Call:
    """Begin a streaming call: returns when its head has been sent.

    Args:
        source: of the stream; it must be HTTP/2.
        path: `/package.Service/Method`.
        metadata: further request headers.
        timeout: seconds for the whole call; sent to the server (`grpc-timeout`). None: no deadline; the source bounds
            the time for a connection.
        max_message_bytes: of one received message.

    Raises:
        ClientError: there is no stream, or none in time.
    """
    head = complete_head(request_head(path, metadata, timeout), source, None)
    call = Call(source, head, timeout, max_message_bytes)
    try:
        source.acquire(call)
        await call.wait_opened()
    except BaseException:
        source.withdraw(call)
        call.cancel()
        raise
    return call


class State(Enum):
    """The state of a call."""

    OPENING = "opening"
    OPEN = "open"
    """The server has not ended it."""
    OVER = "over"


class Call:
    """One streaming call (`StreamWaiter`, `stream.ResponseSink`). One task at a time may iterate; several may send.

    Attributes:
        state: how far it is.
        initial_metadata: headers of the response, once they have come.
        trailing_metadata: its trailers, once it has ended.
    """

    def __init__(self, source: StreamSource, head: RequestHead, timeout: float | None, max_message_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self.state = State.OPENING
        self.initial_metadata: Headers = ()
        self.trailing_metadata: Headers = ()
        self._source = source
        self._head = head
        self._timeout = timeout
        self._max_message_bytes = max_message_bytes
        self._timer = loop.call_later(timeout, self._expire) if timeout is not None else None
        self._stream: Upstream | None = None
        self._error: Exception | None = None
        """Why it ended; None if it ended with OK."""
        self._opened: asyncio.Future[Exception | None] = loop.create_future()
        """None when the head has been sent."""
        # Received.
        self._http_status = 0
        self._deframer = Deframer()
        self._pieces: list[bytes] = []
        """Of the message that is being received."""
        self._messages: deque[bytes] = deque()
        self._owed = 0
        """Credit that is held back."""
        self._arrived = asyncio.Event()
        # Sent.
        self._has_ended_sending = False
        self._is_held = False
        """The transport has not yet taken all of the last message."""
        self._writable = asyncio.Event()
        self._writable.set()

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()

    # Receiving

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> bytes:
        """The next message. Ends when the server has ended the call with OK.

        Raises:
            StatusError: the server ended it with another status.
            ClientError: it failed, or was cancelled.
        """
        while not self._messages:
            if self.state is State.OVER:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        if not self._messages:
            self._give_credit()
        return message

    # Sending

    async def send(self, message: bytes) -> None:
        """Send one message; returns when the transport has taken all of it.

        Raises:
            StatusError: the server has ended the call with another status than OK.
            ClientError: the call failed, was cancelled, or is over.
        """
        await self._wait_writable()
        if self._has_ended_sending:
            raise RuntimeError("send after done_sending")
        assert self._stream is not None
        if not self._stream.send_data(frame(message), False):
            self._hold()
            await self._wait_writable()

    async def done_sending(self) -> None:
        """No further messages: the stream is half-closed. Raises as `send`."""
        await self._wait_writable()
        if not self._has_ended_sending:
            assert self._stream is not None
            self._has_ended_sending = True
            if not self._stream.send_data(b"", True):
                self._hold()

    def cancel(self) -> None:
        """Reset the stream, unless the call is over; messages that were not taken are dropped."""
        self._messages.clear()
        self._fail(ClientError(ClientFailure.RESET, "the call was cancelled", code=ErrorCode.CANCEL))

    def _hold(self) -> None:
        self._is_held = True
        self._writable.clear()

    async def _wait_writable(self) -> None:
        while self._is_held and self.state is not State.OVER:
            await self._writable.wait()
        if self.state is State.OVER:
            raise self._error or ClientError(
                ClientFailure.RESET, "the server has ended the call", code=ErrorCode.NO_ERROR
            )

    # StreamWaiter

    async def wait_opened(self) -> None:
        """Return when the head has been sent. Raises ClientError."""
        error = await self._opened
        if error is not None:
            raise error

    def acquired(self, stream: Upstream) -> None:
        self._stream = stream
        stream.sink = self
        try:
            stream.send_request(self._head)
        except HeadRefused as refused:  # nothing was sent
            self._end(head_refused(stream, refused))
        else:
            self.state = State.OPEN
            if not self._opened.done():
                self._opened.set_result(None)

    def crashed(self, error: Exception) -> None:
        """`acquired` raised."""
        self._fail(error)

    def acquire_failed(self, error: ConnectError) -> None:
        self._end(connect_failed(error))

    # stream.ResponseSink

    def head_received(self, head: ResponseHead) -> None:
        """Initial metadata, or the end of a call that is trailers-only."""
        if self.state is State.OVER or head.status < 200:
            return
        self._http_status = head.status
        self.initial_metadata = head.headers
        if head_size(head.headers) > HEAD_BYTES:
            self._fail(ClientError(ClientFailure.TOO_LARGE, f"the response head exceeds {HEAD_BYTES} bytes"))
        elif head.end:
            self._finish(head.headers)
        elif head.status != 200:
            self._fail(StatusError(f"HTTP status {head.status}", head.status))

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of a message, or several messages."""
        if self.state is State.OVER:
            return
        self._owed += flow
        for part in self._deframer.receive(data):
            if isinstance(part, Misframed):
                self._fail(ClientError(ClientFailure.PROTOCOL, part.reason))
                return
            if part.compressed:
                self._fail(ClientError(ClientFailure.PROTOCOL, COMPRESSED))
                return
            if part.size > self._max_message_bytes:
                limit = self._max_message_bytes
                self._fail(
                    ClientError(ClientFailure.TOO_LARGE, f"a message of {part.size} bytes exceeds {limit} bytes")
                )
                return
            self._pieces.append(part.data)
            if part.end:
                self._messages.append(b"".join(self._pieces))
                self._pieces.clear()
                self._arrived.set()
        if end:
            self._finish(())
        elif not self._messages:
            self._give_credit()

    def trailers_received(self, headers: Headers) -> None:
        """The server has ended the call."""
        if self.state is not State.OVER:
            self._finish(headers)

    def reset_received(self, code: int, reason: str) -> None:
        """The stream or its connection is gone."""
        if self.state is not State.OVER:
            self._end(broken_off(code, reason))

    def drained(self) -> None:
        self._is_held = False
        self._writable.set()

    # The end

    def _give_credit(self) -> None:
        owed, self._owed = self._owed, 0
        if owed and self._stream is not None and self.state is State.OPEN:
            self._stream.credit(owed)

    def _finish(self, trailers: Headers) -> None:
        """The response is complete. What we have not sent is of no use to the server any more."""
        self.trailing_metadata = trailers
        error: ClientError | None = None
        try:
            check_status(self._http_status, trailers)
            if not self._deframer.is_idle:
                raise ClientError(ClientFailure.PROTOCOL, "the last message of the response is incomplete")
        except ClientError as problem:
            error = problem
        stream = self._stream
        self._end(error)
        if stream is not None and (self._is_held or not self._has_ended_sending):
            stream.stop_sending()

    def _expire(self) -> None:
        assert self._timeout is not None
        self._source.withdraw(self)
        self._fail(timed_out(self._source, self._timeout, has_stream=self._stream is not None))

    def _fail(self, error: Exception) -> None:
        if self.state is State.OVER:
            return
        stream = self._stream
        self._end(error)
        if stream is not None:
            stream.reset(ErrorCode.CANCEL)

    def _end(self, error: Exception | None) -> None:
        """Nothing more comes; all that wait are woken."""
        self.state = State.OVER
        self._error = error
        self._stream = None
        self._pieces.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._opened.done():
            self._opened.set_result(error)
        self._arrived.set()
        self._writable.set()
