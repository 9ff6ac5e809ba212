"""The one vocabulary that both HTTP codecs speak, so that nothing above them asks which version it is.

Events are in the past tense: they say what the peer did. A codec turns bytes into a list of them and never raises on
what the peer sent; a broken peer is an event too (`Rejected`, `Reset`, `Failed`).

Names of fields are lower-case bytes, values are raw bytes without surrounding white space. What frames a message or
belongs to one connection (`host`, `content-length`, `connection` and what it nominates, `keep-alive`,
`proxy-connection`, `transfer-encoding`, `te`, `upgrade`, `expect`) never stands in `headers`: the codec has read it and
says it in fields of its own. So a head of one version can be sent in the other as it stands.

The same holds for the `traceparent` of a request (`RequestHead.trace`). It is the one field that differs in every
request of a traced client; without it `headers` is equal from one request to the next, and can be the key of a cache.
"""

from __future__ import annotations

from dataclasses import dataclass

Headers = tuple[tuple[bytes, bytes], ...]
"""Fields in the order of the wire. Codecs share equal tuples between messages: they need no copy and cannot change."""


@dataclass(slots=True)
class RequestHead:
    """The head of a request, complete and well-formed (RFC 9110 section 6.2)."""

    stream: int
    """HTTP/2 stream id; on HTTP/1.1 the number of the request on its connection, from 1."""
    method: bytes
    authority: bytes
    """`:authority` or `host` (two that differ are refused); empty if the client named none (HTTP/1.0)."""
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


@dataclass(slots=True)
class ResponseHead:
    """The head of a response. Below 200 it is interim: another head follows (RFC 9110 section 15.2)."""

    stream: int
    status: int
    headers: Headers
    end: bool
    length: int | None = None


@dataclass(slots=True)
class Data:
    """A piece of a body."""

    stream: int
    data: bytes
    flow: int
    """What the piece took from the flow-control window, padding included: hand it back with `credit`."""
    end: bool


@dataclass(slots=True)
class Trailers:
    """The fields after a body; they end the message."""

    stream: int
    headers: Headers


@dataclass(slots=True)
class Reset:
    """A message was broken off: by the peer, or by the codec since the peer broke a rule on this stream only."""

    stream: int
    code: int
    """An HTTP/2 error code (RFC 9113 section 7)."""
    reason: str
    by_peer: bool


@dataclass(slots=True)
class Rejected:
    """A request that the codec refuses but that can be answered. On HTTP/1.1 the connection is read no further."""

    stream: int
    status: int
    """400, 413, 414, 417, 431, 501 or 505."""
    reason: str
    limit: str | None = None
    """The field of `Limits` that was exceeded."""


@dataclass(slots=True)
class Writable:
    """Everything that `send_data` had to hold back on this stream has been framed."""

    stream: int


@dataclass(slots=True)
class GoneAway:
    """The peer takes no new streams; those above `last_stream` were not processed (RFC 9113 section 6.8)."""

    last_stream: int
    code: int
    reason: str


@dataclass(slots=True)
class Pong:
    """The peer answered our PING."""

    payload: bytes


@dataclass(slots=True)
class Failed:
    """The connection is over, and with it every stream on it. What the codec still has to say is in its output."""

    code: int
    reason: str
    limit: str | None = None
    by_peer: bool = False
    """The peer ended it (EOF or GOAWAY with an error); otherwise the codec refused what it sent."""


Event = RequestHead | ResponseHead | Data | Trailers | Reset | Rejected | Writable | GoneAway | Pong | Failed
