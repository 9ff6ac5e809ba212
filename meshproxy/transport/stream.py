"""One exchange on one connection, independent of the HTTP version: the interface between the proxy and the transport.

A `Downstream` is a request of a client, an `Upstream` one that we send. Commands go to the stream; what the peer does
goes to the sink that reads it: a `RequestSink` reads what a client sends, a `ResponseSink` what a server sends.

Backpressure: the receiver of data returns its `flow` as `credit` once the data has been passed on. `send_data` returns
True if the data was written, or False if it is buffered; `drained` follows. Credit that is outstanding when a stream
ends is returned by the transport.

A stream is closed after `reset`, after `reset_received`, and when both messages have ended. Commands on a closed stream
do nothing, since the peer may have closed it first.
"""

from __future__ import annotations

from typing import Protocol

from meshproxy.codec.events import Headers, Rejected, RequestHead, ResponseHead
from meshproxy.transport.connection_info import ConnectionInfo


class HeadRefused(Exception):
    """The head exceeds the size that the server has announced. Nothing was sent. Raised by `send_request`."""


class Sink(Protocol):
    """What both sinks receive."""

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """Part of the body; `flow` bytes of credit are to be returned for it."""

    def trailers_received(self, headers: Headers) -> None:
        """The message has ended, with trailers."""

    def reset_received(self, code: int, reason: str) -> None:
        """The stream was aborted; `code` is an HTTP/2 error code. No further events follow."""

    def drained(self) -> None:
        """All data that `send_data` buffered has been written."""


class RequestSink(Sink, Protocol):
    """Reads the request of a `Downstream`."""

    def rejected(self, rejected: Rejected) -> None:
        """The rest of the request violates the protocol or a limit. No further events follow, but a response may still
        be sent."""


class ResponseSink(Sink, Protocol):
    """Reads the response of an `Upstream`."""

    def head_received(self, head: ResponseHead) -> None:
        """A response head; interim ones (below 200) come before the final one."""


class Stream(Protocol):
    """The commands that both directions have."""

    info: ConnectionInfo

    def send_data(self, data: bytes, end: bool) -> bool:
        """Write part of the body. False: it is buffered, and `drained` follows."""

    def send_trailers(self, headers: Headers) -> bool:
        """End the message with trailers (dropped where HTTP/1.1 cannot carry them). Returns as `send_data`."""

    def credit(self, size: int) -> None:
        """`size` bytes of received data have been passed on: the peer may send as much again."""

    def reset(self, code: int) -> None:
        """Abort the stream: RST_STREAM, or closing the connection on HTTP/1.1."""


class Downstream(Stream, Protocol):
    """A stream that a client opened."""

    sink: RequestSink | None
    """Without one, what is received is dropped."""

    @property
    def unread(self) -> int:
        """Bytes of the response that wait for the client to read."""

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Write a head, interim or final. `length` declares the size of the body if it is known."""

    def stop_receiving(self) -> None:
        """The response is complete and the rest of the request is not needed."""

    def close_connection(self) -> None:
        """Ask the client, with the response whose head comes next, to send further requests on another connection."""


class Upstream(Stream, Protocol):
    """A stream to a server."""

    sink: ResponseSink | None
    """Without one, what is received is dropped."""

    @property
    def address(self) -> str:
        """`host:port` of the server, or `unix:` and the path of its UNIX socket."""

    def stop_sending(self) -> None:
        """The response is complete and the rest of the request will not be sent."""

    def send_request(self, head: RequestHead) -> None:
        """Write the head of the request; `head.stream` is ignored. Raises HeadRefused."""


class Serve(Protocol):
    """Handles a request. Sets `stream.sink` before it returns."""

    def __call__(self, stream: Downstream, head: RequestHead) -> None: ...


class Reject(Protocol):
    """Answers a request that the codec rejected. The stream has no sink, and is closed if `rejected.is_reset`."""

    def __call__(self, stream: Downstream, rejected: Rejected) -> None: ...
