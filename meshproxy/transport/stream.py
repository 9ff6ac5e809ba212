"""One exchange on one connection, with its HTTP version out of sight: what the proxy holds at either end.

`Stream` takes commands, `Sink` is told what happened; both in the terms of `codec.events`. Backpressure is one rule
each way: whoever receives data owes its `flow` back as `credit` once the data has left its hands, and `send_data` says
whether that is now (True) or when `drained` comes (False). What is owed when a stream is over is forgiven.

A stream is dead after `reset`, after `reset_received`, and when both messages have ended. Commands on a dead stream do
nothing: the peer may always have been faster.
"""

from __future__ import annotations

from typing import Protocol

from meshproxy.codec.events import Headers, Rejected, RequestHead, ResponseHead
from meshproxy.transport.facts import ConnectionFacts


class HeadRefused(Exception):
    """The server has said that it does not take a head of this size; nothing was sent. Raised by `send_request`."""


class Sink(Protocol):
    """Whoever reads a stream."""

    def head_received(self, head: ResponseHead) -> None:
        """The peer answered; interim heads (below 200) come first. Upstream only."""

    def data_received(self, data: bytes, flow: int, end: bool) -> None:
        """A piece of the body came; `flow` bytes of credit are owed for it."""

    def trailers_received(self, headers: Headers) -> None:
        """The peer's message ended with these fields."""

    def rejected(self, rejected: Rejected) -> None:
        """What came of the client's message breaks a rule or a limit: nothing more comes, but it can be answered."""

    def reset_received(self, code: int, reason: str) -> None:
        """The stream broke; `code` is an HTTP/2 error code. Nothing more comes."""

    def drained(self) -> None:
        """Everything that `send_data` held back has been written."""


class Stream(Protocol):
    """What both roles of both versions offer."""

    sink: Sink | None
    """Whoever reads it; None while nobody does, then what comes is dropped."""
    facts: ConnectionFacts

    def send_data(self, data: bytes, end: bool) -> bool:
        """Write a piece of the body. False: it is held back, `drained` will tell."""

    def send_trailers(self, headers: Headers) -> bool:
        """End the message with these fields (dropped where HTTP/1.1 cannot carry them). Returns as `send_data`."""

    def credit(self, size: int) -> None:
        """`size` bytes of received data have left our hands: the peer may send as much again."""

    def reset(self, code: int) -> None:
        """Break the stream off: RST_STREAM, or closing the connection on HTTP/1.1."""


class Downstream(Stream, Protocol):
    """A stream that a client opened."""

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> None:
        """Write a head; several times for interim ones. `length` declares the body's size if it is known."""

    def stop_receiving(self) -> None:
        """The answer is complete and the rest of the request is of no use."""


class Upstream(Stream, Protocol):
    """A stream that we open."""

    @property
    def address(self) -> str:
        """The server's."""

    def stop_sending(self) -> None:
        """The answer is complete although the request is not: the rest will not come."""

    def send_request(self, head: RequestHead) -> None:
        """Write the request's head; `head.stream` is ignored. Raises HeadRefused."""


class Serve(Protocol):
    """Takes a request from a server connection. It sets `stream.sink` before it returns."""

    def __call__(self, stream: Downstream, head: RequestHead) -> None: ...
