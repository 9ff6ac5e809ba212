"""The events of both HTTP codecs, so that the layers above are independent of the version.

An event is something that the peer did. A codec turns bytes into a list of events and never raises because of what the
peer sent: violations are events too (`Rejected`, `Reset`, `Failed`).

Field names are lower-case bytes, values are raw bytes without surrounding white space. Fields that frame a message or
belong to one connection (`host`, `content-length`, `connection` and the fields it nominates, `keep-alive`,
`proxy-connection`, `transfer-encoding`, `te`, `upgrade`, `expect`) are never part of `headers`: their meaning is in the
attributes of the event. So a head received in one version can be sent in the other unchanged.

The same holds for the `traceparent` of a request (`RequestHead.trace`). It is the one field that differs in every
request of a traced client; without it `headers` is equal from one request to the next, and can be the key of a cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import msgspec

Headers = tuple[tuple[bytes, bytes], ...]
"""Fields in their order on the wire. Codecs share equal tuples between messages."""


class Shape(Protocol):
    """What several heads of a connection have in common (`codec.h2.shape`)."""

    places: tuple[tuple[int, bytes, int], ...]
    """Of each field whose value differs: where it is among the fields, its name, and its number."""
    trace: int
    """The number of `traceparent`; -1: it does not differ, or there is none."""
    plans: object
    """What the layers above keep of requests with such heads (`proxy.express`)."""


@dataclass(slots=True)
class RequestHead:
    """The head of a request, complete and well-formed (RFC 9110 section 6.2)."""

    stream: int
    """HTTP/2 stream id; on HTTP/1.1 the number of the request on its connection, from 1."""
    method: bytes
    authority: bytes
    """`:authority` or `host` (if both are sent they must be equal); empty if there is none (HTTP/1.0)."""
    target: bytes
    """Path and query in origin-form, byte for byte as sent; `*` for OPTIONS only."""
    headers: Headers
    end: bool
    """No body and no trailers follow."""
    length: int | None = None
    """The declared content-length; None if none was declared."""
    expects_continue: bool = False
    """The client waits for 100 (RFC 9110 section 10.1.1)."""
    trace: bytes | None = None
    """The value of `traceparent`, not validated and possibly empty. None if none was received, or several: these count
    as none (https://www.w3.org/TR/trace-context/ section 3.2.2.3). Never part of `headers`; sent behind them."""
    shape: Shape | None = field(default=None, compare=False, repr=False)
    """What other heads of this connection have in common with it, on HTTP/2, as far as that is kept."""


class ResponseHead(msgspec.Struct):
    """The head of a response. Below 200 it is interim: another head follows (RFC 9110 section 15.2)."""

    stream: int
    status: int
    headers: Headers
    end: bool
    length: int | None = None


class Data(msgspec.Struct):
    """Part of a body."""

    stream: int
    data: bytes
    flow: int
    """Bytes of the flow-control window that it used, including padding: to be returned with `credit`."""
    end: bool


class Trailers(msgspec.Struct):
    """The fields after a body; they end the message."""

    stream: int
    headers: Headers


class Reset(msgspec.Struct):
    """A stream was aborted: by the peer, or by the codec because of a violation that affects this stream only."""

    stream: int
    code: int
    """An HTTP/2 error code (RFC 9113 section 7)."""
    reason: str
    by_peer: bool


class Rejected(msgspec.Struct):
    """A request that the codec rejects. On HTTP/1.1 no further input is read."""

    stream: int
    status: int
    """400, 413, 414, 417, 431, 501 or 505."""
    reason: str
    limit: str | None = None
    """The field of `Limits` that was exceeded."""
    is_grpc: bool = False
    """The request's `content-type` had been read, and is gRPC's: the response should be trailers-only."""
    is_reset: bool = False
    """The stream has been reset, because its head is malformed: no response can be sent (RFC 9113 section 8.1.1)."""


class Writable(msgspec.Struct):
    """All data that `send_data` had buffered for this stream has been framed."""

    stream: int


class GoneAway(msgspec.Struct):
    """GOAWAY: the peer accepts no new streams, and has not processed those above `last_stream` (RFC 9113 section
    6.8)."""

    last_stream: int
    code: int
    reason: str


class Pong(msgspec.Struct):
    """The peer acknowledged our PING."""

    payload: bytes


class Failed(msgspec.Struct):
    """The connection has ended, with every stream on it. The last output of the codec is still to be written."""

    code: int
    reason: str
    limit: str | None = None
    by_peer: bool = False
    """The peer ended it (EOF or GOAWAY with an error); otherwise it is because of a violation."""


class WholeRequest(msgspec.Struct):
    """The head of a request and all of its body, which came in one read (HTTP/2, `codec.h2.joined`)."""

    head: RequestHead
    data: bytes
    flow: int
    """See `Data`."""


class WholeResponse(msgspec.Struct):
    """The final head of a response, all of its body and its trailers, which came in one read."""

    stream: int
    status: int
    headers: Headers
    length: int | None
    data: bytes
    flow: int
    trailers: Headers

    def apart(self) -> tuple[Event, ...]:
        """The same as three events."""
        return (
            ResponseHead(self.stream, self.status, self.headers, False, self.length),
            Data(self.stream, self.data, self.flow, False),
            Trailers(self.stream, self.trailers),
        )


Event = (
    RequestHead
    | ResponseHead
    | Data
    | Trailers
    | Reset
    | Rejected
    | Writable
    | GoneAway
    | Pong
    | Failed
    | WholeRequest
    | WholeResponse
)
