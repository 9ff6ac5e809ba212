"""One HTTP exchange of the sidecar itself over any source of streams: a request with a complete body, and its complete
response.

A source is a connection pool (`upstream/pool.py`) or a `Channel` (`transport/channel.py`). gRPC calls are built on this
(`grpc_client.py`) or beside it (`grpc_stream.py`); all of them fail with a `ClientError`.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import msgspec

from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.transport.connect_failures import UNIX
from meshproxy.transport.listener import PeerRejected
from meshproxy.transport.stream import HeadRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import Headers, RequestHead, ResponseHead
    from meshproxy.transport.connect_failures import ConnectError
    from meshproxy.transport.stream import Upstream

HEAD_BYTES = 65_536
"""The largest response head, or trailers: names, values and 32 for each field (RFC 9113 section 10.5.1)."""
_FIELD_BYTES = 32


class ClientFailure(Enum):
    """What failed."""

    CONNECT = "connect"
    """No connection or no stream; nothing was sent."""
    TLS = "tls"
    """The TLS handshake, or the identity of the peer; nothing was sent."""
    TIMEOUT = "timeout"
    """The deadline of the exchange passed."""
    TOO_LARGE = "too-large"
    """The response exceeds a limit of ours, or the request head one of the server's."""
    PROTOCOL = "protocol"
    """The response is not well-formed HTTP or gRPC."""
    RESET = "reset"
    """The stream or its connection was closed before the response was complete."""
    STATUS = "status"
    """A complete response that is not a success: `StatusError`."""


class ClientError(Exception):
    """An exchange failed. The message is one sentence; a ConnectError of the transport is its `__cause__`.

    Attributes:
        failure: what failed.
        code: the HTTP/2 error code of a RESET (RFC 9113 section 7): after REFUSED_STREAM the server has not processed
            the request.
    """

    def __init__(self, failure: ClientFailure, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.failure = failure
        self.code = code


class StatusError(ClientError):
    """The server responded with an error.

    Attributes:
        http_status: of the response head.
        grpc_status: the number in `grpc-status`; None for plain HTTP, and where a gRPC response has none.
        details: the decoded `grpc-message`.
    """

    def __init__(self, message: str, http_status: int, grpc_status: int | None = None, details: str = "") -> None:
        super().__init__(ClientFailure.STATUS, message)
        self.http_status = http_status
        self.grpc_status = grpc_status
        self.details = details


class StreamWaiter(Protocol):
    """Waits for a stream. One of `acquired` and `acquire_failed` is called, once."""

    def acquired(self, stream: Upstream) -> None:
        """The stream is the waiter's until it has ended."""

    def acquire_failed(self, error: ConnectError) -> None:
        """There is no stream. Must not raise."""

    def crashed(self, error: Exception) -> None:
        """`acquired` raised `error` when it was called for one of several that waited. Must not raise."""


class StreamSource(Protocol):
    """Opens streams to one server: `Pool` and `Channel`."""

    @property
    def address(self) -> str:
        """`host:port`, or `unix:` and the path of a UNIX socket."""

    def acquire(self, waiter: StreamWaiter) -> None:
        """Give `waiter` a stream, at once or later."""

    def withdraw(self, waiter: StreamWaiter) -> None:
        """`waiter` does not wait any longer."""


class Response(msgspec.Struct, frozen=True):
    """A complete response."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers = ()


async def exchange(
    source: StreamSource,
    head: RequestHead,
    body: bytes = b"",
    *,
    timeout: float,
    max_body_bytes: int,
    max_head_bytes: int = HEAD_BYTES,
) -> Response:
    """Send one request and read its whole response, whatever its status.

    Cancelling it resets the stream.

    Args:
        source: of the stream.
        head: of the request. Without `authority` it gets the source's address; `end` follows from `body`.
        body: of the request, whole.
        timeout: seconds, including the wait for a stream.
        max_body_bytes: of the response.
        max_head_bytes: of the response head and of its trailers, counted as `HEAD_BYTES` is.

    Raises:
        ClientError: any failure but STATUS.
    """
    outcome: asyncio.Future[Response | Exception] = asyncio.get_running_loop().create_future()

    def ended(result: Response | Exception) -> None:
        if not outcome.done():
            outcome.set_result(result)  # errors are results too: an exception that is never retrieved would be logged

    reader = UnaryExchange(complete_head(head, source, body), body, max_head_bytes, max_body_bytes, ended)
    try:
        async with asyncio.timeout(timeout):
            source.acquire(reader)
            result = await outcome
    except TimeoutError:
        if not outcome.done() or outcome.cancelled():
            raise timed_out(source, timeout, has_stream=reader.stream is not None) from None
        result = outcome.result()  # it came in the same turn of the loop
    finally:
        if not outcome.done() or outcome.cancelled():
            source.withdraw(reader)
            reader.cancel()
    if isinstance(result, Exception):
        raise result
    return result


def complete_head(head: RequestHead, source: StreamSource, body: bytes | None) -> RequestHead:
    """`head` with an authority, and with the end that its body gives it; None for a body that follows in pieces."""
    return replace(head, authority=head.authority or authority_of(source.address), end=body == b"")


def authority_of(address: str) -> bytes:
    """What a request names that has no host of its own. A UNIX socket has none either: `localhost`, as gRPC clients
    send; its path would be refused (400 by nginx)."""
    return b"localhost" if address.startswith(UNIX) else address.encode()


def head_size(headers: Headers) -> int:
    """The size that `HEAD_BYTES` limits."""
    return sum(len(name) + len(value) + _FIELD_BYTES for name, value in headers)


def connect_failed(error: ConnectError) -> ClientError:
    """The ClientError for a source that has no stream."""
    cause = error.__cause__
    failure = ClientFailure.TLS if isinstance(cause, (ssl.SSLError, PeerRejected)) else ClientFailure.CONNECT
    failed = ClientError(ClientFailure.TIMEOUT if isinstance(cause, TimeoutError) else failure, str(error))
    failed.__cause__ = error
    return failed


def timed_out(source: StreamSource, timeout: float, *, has_stream: bool) -> ClientError:
    """The ClientError for a deadline that passed."""
    missing = "answer" if has_stream else "accept a request"
    return ClientError(ClientFailure.TIMEOUT, f"{source.address} did not {missing} within {timeout:g} s")


def head_refused(stream: Upstream, refused: HeadRefused) -> ClientError:
    """The ClientError for a request head that the server does not accept; nothing was sent."""
    return ClientError(ClientFailure.TOO_LARGE, f"{stream.address} does not accept the request head: {refused}")


def broken_off(code: int, reason: str) -> ClientError:
    """The ClientError for a stream that was reset (`Sink.reset_received`)."""
    if code == ErrorCode.PROTOCOL_ERROR:
        return ClientError(ClientFailure.PROTOCOL, f"the response is malformed: {reason}", code=code)
    return ClientError(ClientFailure.RESET, f"the response broke off: {reason}", code=code)


class UnaryExchange:
    """Waits for a stream (`StreamWaiter`), sends the request, and collects the response (`stream.ResponseSink`).

    `exchange` is the coroutine over it; callers without one use it as it is.
    """

    __slots__ = (
        "_body",
        "_head",
        "_is_sending",
        "_max_body_bytes",
        "_max_head_bytes",
        "_on_end",
        "_pieces",
        "_response",
        "_size",
        "stream",
    )

    def __init__(
        self,
        head: RequestHead,
        body: bytes,
        max_head_bytes: int,
        max_body_bytes: int,
        on_end: Callable[[Response | Exception], None],
    ) -> None:
        """
        Args:
            head: complete (`complete_head`).
            on_end: called once with the response or a ClientError, unless it was cancelled.
        """
        self._head = head
        self._body = body
        self._max_head_bytes = max_head_bytes
        self._max_body_bytes = max_body_bytes
        self._on_end: Callable[[Response | Exception], None] | None = on_end
        self.stream: Upstream | None = None
        self._response: ResponseHead | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_sending = False
        """Part of the request body is held back by flow control."""

    def acquired(self, stream: Upstream) -> None:
        """Send the request (`StreamWaiter`)."""
        self.stream = stream
        stream.sink = self
        try:
            stream.send_request(self._head)
            self._is_sending = bool(self._body) and not stream.send_data(self._body, True)
        except HeadRefused as refused:  # nothing was sent
            self._end(head_refused(stream, refused))

    def crashed(self, error: Exception) -> None:
        """`acquired` raised (`StreamWaiter`)."""
        self._fail(error)

    def acquire_failed(self, error: ConnectError) -> None:
        """No connection (`StreamWaiter`)."""
        self._end(connect_failed(error))

    def head_received(self, head: ResponseHead) -> None:
        """A response head; interim ones are dropped."""
        if head.status < 200:
            return
        self._response = head
        if head_size(head.headers) > self._max_head_bytes:
            self._fail(self._exceeds("head", self._max_head_bytes))
        elif head.end:
            self._finish(())
        elif head.length is not None and head.length > self._max_body_bytes:
            self._fail(self._exceeds("body", self._max_body_bytes))

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        if self.stream is None:
            return
        self._pieces.append(data)
        self._size += len(data)
        if self._size > self._max_body_bytes:
            self._fail(self._exceeds("body", self._max_body_bytes), is_complete=end)
        elif end:
            self._finish(())
        else:
            self.stream.credit(flow)

    def trailers_received(self, headers: Headers) -> None:
        if head_size(headers) > self._max_head_bytes:
            self._fail(self._exceeds("trailers", self._max_head_bytes), is_complete=True)
        else:
            self._finish(headers)

    def reset_received(self, code: int, reason: str) -> None:
        """The stream or its connection is gone."""
        self.stream = None
        self._end(broken_off(code, reason))

    def drained(self) -> None:
        """The request has been sent whole."""
        self._is_sending = False

    def cancel(self) -> None:
        """Reset the stream; `on_end` will not be called."""
        self._on_end = None
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.reset(ErrorCode.CANCEL)

    def _exceeds(self, part: str, limit: int) -> ClientError:
        return ClientError(ClientFailure.TOO_LARGE, f"the response {part} exceeds {limit} bytes")

    def _finish(self, trailers: Headers) -> None:
        stream, self.stream = self.stream, None
        if self._is_sending and stream is not None:
            stream.stop_sending()
        head = self._response
        assert head is not None
        self._end(Response(head.status, head.headers, b"".join(self._pieces), trailers))

    def _fail(self, error: Exception, *, is_complete: bool = False) -> None:
        """Stop; an HTTP/1.1 connection whose response is complete may be carrying its next exchange already."""
        self._pieces.clear()
        self._end(error)
        if is_complete and not self._is_sending:
            self.stream = None
        else:
            self.cancel()

    def _end(self, outcome: Response | Exception) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(outcome)
