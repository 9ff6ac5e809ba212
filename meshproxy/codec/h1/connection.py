"""HTTP/1.1 on one connection, either end: bytes in, events out; commands in, bytes out (RFC 9112).

One exchange at a time. Each side of it walks down its own column; what the other column says decides who may begin:

    the side that asks                        the side that answers
    ------------------                        ---------------------
    HEAD  <------------- both DONE -------->  IDLE
     | head                                    | the head of the request has passed
     v                                         v
    BODY   data...                            HEAD   interim heads (1xx)...
     | last byte, last chunk                   | final head
     v                                         v
    DONE                                      BODY   data...
                                               | last byte, last chunk, close
                                               v
                                              DONE

`theirs` is the column we read, `ours` the one we write: a server reads the left one and writes the right one, a client
the other way round. A head without a body passes BODY at once. An answer may be DONE before its request is.

    what happens                     theirs   ours              then
    a broken rule, as server         BROKEN   may still answer  Rejected; closes after the answer
    a broken rule, as client         BROKEN   BROKEN            Failed
    their EOF, nothing under way     BROKEN   BROKEN            nothing
    their EOF inside a message       BROKEN   client: BROKEN    Failed
    their EOF, a body that ends so   DONE     as it was         the end of the body; closes
    their EOF behind their message   DONE     as it was         nothing; closes after this exchange
    both DONE, something says close  BROKEN   BROKEN            nothing more is read

Where we differ from RFC 9112, always to the strict side: no obsolete line folding, no bare LF, no message with both
content-length and transfer-encoding, no field of those twice, no `101`, no CONNECT, no answer nobody asked for.
"""

from __future__ import annotations

from enum import Enum

from meshproxy.codec.events import Data, Event, Failed, Headers, Rejected, RequestHead, ResponseHead, Trailers
from meshproxy.codec.h1.body import ChunkedReader, EofReader, Reader
from meshproxy.codec.h1.head import Response, check_head, check_request_line, check_status_line
from meshproxy.codec.h1.memo import RequestMemo, ResponseMemo
from meshproxy.codec.h1.write import (
    CLOSE,
    KEEP_ALIVE,
    NOTHING,
    Writer,
    frame_request,
    frame_response,
    write_request_head,
    write_response_head,
)
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import MessageProblem, Unacceptable
from meshproxy.codec.role import LocalProtocolError, Role


class State(Enum):
    """Where one side of an exchange is."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    DONE = "done"
    BROKEN = "broken"


# Looked up once: a member costs 30 ns each time, and a request passes a dozen.
_IDLE, _HEAD, _BODY, _DONE, _BROKEN = State

MAX_INTERIM = 8
"""Interim responses before a final one. 100 and 103 make two; a server that sends on and on holds the client."""


class H1Connection:
    """One connection, seen from our end.

    What the peer sends never raises. Commands raise `LocalProtocolError` when they come out of order; those that go on
    with a message after `Failed` write nothing instead, as the two may have crossed.
    """

    __slots__ = (
        "_checked",
        "_has_eof",
        "_has_skipped_blank",
        "_interim",
        "_is_server",
        "_left",
        "_limits",
        "_method",
        "_ours",
        "_partial",
        "_peer_is_http10",
        "_reader",
        "_requests",
        "_responses",
        "_stream",
        "_theirs",
        "_waits_for_continue",
        "_writer",
        "held",
        "must_close",
    )

    def __init__(self, role: Role, limits: Limits) -> None:
        # As long as the connection.
        self._is_server = role is Role.SERVER
        self._limits = limits
        self._requests = RequestMemo(limits)
        self._responses = ResponseMemo(limits)
        self._partial = b""
        """The beginning of what has not come whole: a head, the size line of a chunk, trailers."""
        self.held = b""
        """As server: what came behind the request under way. Read no more before `next_message`."""
        self.must_close = False
        """Nothing may follow the exchange under way; if none is, close now."""
        self._has_eof = False
        # As long as an exchange.
        self._stream = 0
        self._ours = _IDLE if self._is_server else _HEAD
        self._theirs = _HEAD if self._is_server else _IDLE
        self._method = b""
        self._peer_is_http10 = False
        self._waits_for_continue = False
        self._interim = 0
        self._has_skipped_blank = False
        self._checked = 0
        """How much of an unfinished head has been found well-formed."""
        self._left = 0
        """Bytes to come of a body of a declared length (RFC 9112 section 6.2); 0 if it is framed otherwise."""
        self._reader: Reader | None = None
        """Reads one that is framed otherwise."""
        self._writer: Writer = NOTHING

    # Questions

    @property
    def is_idle(self) -> bool:
        """No message is under way in either direction, not even the beginning of one."""
        asks, answers = (self._theirs, self._ours) if self._is_server else (self._ours, self._theirs)
        return asks is _HEAD and answers is _IDLE and not self._partial and not self.held

    @property
    def is_over(self) -> bool:
        """As server: no exchange is under way. Bytes of the next request may be held, or `must_close` says that none
        will be taken."""
        return self._ours is _IDLE or self._ours is _BROKEN

    # Bytes in, events out

    def receive(self, data: bytes) -> list[Event]:
        """Take what was read, in pieces of any size. Returns what it means; [] for good after Rejected or Failed."""
        theirs = self._theirs
        events: list[Event] = []
        if theirs is _BROKEN or not data:
            return events
        at = 0
        seen = len(self._partial)
        if seen:
            data = self._partial + data
            self._partial = b""
        if theirs is _HEAD and not self.held:
            receive_head = self._receive_request if self._is_server else self._receive_responses
            at = receive_head(data, seen, events)
            theirs = self._theirs
        size = len(data)
        if at < size and theirs is _BODY:
            at = self._receive_body(data, at, events)
        if at < size:
            self._receive_beyond(data[at:], events)
        return events

    def receive_eof(self) -> list[Event]:
        """The peer sends nothing more. Returns [] between messages, else what that does to the one under way."""
        theirs = self._theirs
        self._has_eof = True
        if theirs is _BROKEN:
            return []
        if theirs is _DONE or self.held:
            # What is held may be whole requests: those are answered first.
            self.must_close = self.must_close or not self.held
            return []
        self.must_close = True
        if theirs is _BODY and isinstance(self._reader, EofReader):
            self._theirs = _DONE
            self._finish()
            return [Data(self._stream, b"", 0, True)]
        if theirs is _IDLE or (theirs is _HEAD and self._is_server and self._partial in (b"", b"\r")):
            self._theirs = self._ours = _BROKEN
            self._partial = b""
            return []
        if theirs is _BODY:
            reason = "the connection was closed in the middle of a body"
        elif self._partial or self._interim:
            reason = "the connection was closed in the middle of a head"
        else:
            reason = "the connection was closed before the response began"
        events: list[Event] = []
        self._fail(events, ErrorCode.NO_ERROR, reason, by_peer=True)
        return events

    def next_message(self) -> list[Event]:
        """As server, when an exchange is over: what the bytes that came behind its request mean."""
        if not self.held or self._theirs is not _HEAD:
            return []
        held = self.held
        self.held = b""
        events = self.receive(held)
        if self._has_eof:
            events += self.receive_eof()
        return events

    def give_up_head(self, status: int, reason: str, limit: str) -> list[Event]:
        """As server: the rest of a head is not waited for any longer (408, RFC 9110 section 15.5.9). Returns what that
        means; [] where no head has begun."""
        events: list[Event] = []
        if self._is_server and self._theirs is _HEAD and self._partial:
            self._refuse(Unacceptable(status, reason, limit), events)
        return events

    # Commands, each returns the bytes to write

    def send_request(
        self,
        method: bytes,
        target: bytes,
        authority: bytes,
        headers: Headers,
        end: bool,
        length: int | None = None,
        trace: bytes | None = None,
    ) -> bytes:
        """Begin an exchange, as client.

        Args:
            end: no body follows.
            length: bytes that follow; None without `end`: unknown, the body goes out in chunks.
            trace: the value of `traceparent`, to be sent last.
        """
        if self._is_server or self._ours is not _HEAD or self._theirs is not _IDLE:
            raise LocalProtocolError("no request may be sent now")
        if method == b"CONNECT":
            raise LocalProtocolError("CONNECT is not offered")
        framing, writer = frame_request(method, end, length)
        if self.must_close:
            framing += CLOSE
        head = write_request_head(method, target, authority, headers, framing, trace)
        self._writer = writer
        self._ours = _DONE if end else _BODY
        self._theirs = _HEAD
        self._method = method
        self._stream += 1
        return head

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> bytes:
        """Answer, as server: interim heads (below 200, nothing else changes) and one final one.

        Args:
            end: no body follows.
            length: the declared content-length, with `end` only for what has no body anyway (HEAD, 304). None without
                `end`: unknown, the body goes out in chunks, or until the connection closes for an HTTP/1.0 client.
        """
        if not self._is_server or self._ours is not _HEAD:
            raise LocalProtocolError("no response may be sent now")
        if status < 200:
            if status == 101 or end or length is not None:
                raise LocalProtocolError("an interim response is not 101 and has no body")
            if status == 100:
                self._waits_for_continue = False
            # HTTP/1.0 takes the first head for the final one (RFC 9110 section 15.2).
            return b"" if self._peer_is_http10 else write_response_head(status, headers, b"")

        framing, writer, closes = frame_response(status, self._method, end, length, self._peer_is_http10)
        # A client that waits for 100 may send its body or leave it out now: what would follow cannot be told apart
        # (RFC 9110 section 10.1.1).
        if closes or self.must_close or (self._waits_for_continue and self._theirs is _BODY):
            closes = True
            framing += CLOSE
        elif self._peer_is_http10:
            framing += KEEP_ALIVE
        head = write_response_head(status, headers, framing)
        self.must_close = closes
        self._writer = writer
        self._ours = _DONE if end else _BODY
        if end and self._theirs is _DONE:
            self._finish()
        return head

    def send_data(self, data: bytes, end: bool) -> bytes:
        """Go on with the body of our message; `end` closes it."""
        if self._ours is not _BODY:
            return self._refuse_body()
        out = self._writer.write(data, end)
        if end:
            self._ours = _DONE
            if self._theirs is _DONE:
                self._finish()
        return out

    def send_trailers(self, headers: Headers) -> bytes:
        """End our message with trailers. They are dropped where the framing has no place for them, and so is each field
        that must not stand there."""
        if self._ours is not _BODY:
            return self._refuse_body()
        out = self._writer.write_trailers(headers)
        self._ours = _DONE
        self._finish()
        return out

    def close_after_message(self) -> None:
        """Let the exchange under way, or the next one, be the last, and say so in its head if that is still to come."""
        self.must_close = True

    # Reading

    def _receive_request(self, data: bytes, seen: int, events: list[Event]) -> int:
        """Read a head at the beginning of `data`, `seen` bytes of which are known not to hold its end. Returns where
        reading stopped."""
        start = 0
        if data[0] == 13 and data.startswith(b"\r\n") and not self._has_skipped_blank:
            # One blank line before a request, as some clients end a body with (RFC 9112 section 2.2).
            self._has_skipped_blank = True
            start = 2
        end = data.find(b"\r\n\r\n", max(start, seen - 3) if seen else start) + 4
        head = data[start:end] if end >= 4 else b""
        try:
            if not head:
                self._partial = data[start:]
                self._checked = check_head(self._partial, self._checked, self._limits, check_request_line)
                return len(data)
            request = self._requests.parse(head)
        except MessageProblem as problem:
            self._refuse(problem, events)
            return len(data)
        method, authority, target, headers, length, chunked, expects_continue, is_http10, closes, trace = request
        self._checked = 0
        self._has_skipped_blank = False
        self._stream += 1
        self._method = method
        self._peer_is_http10 = is_http10
        self._waits_for_continue = expects_continue
        if closes:
            self.must_close = True
        self._ours = _HEAD
        self._theirs = _BODY
        if chunked:
            self._reader = ChunkedReader(self._limits)
        elif length:
            self._left = length
        else:
            self._theirs = _DONE
        is_end = self._theirs is _DONE
        events.append(
            RequestHead(self._stream, method, authority, target, headers, is_end, length, expects_continue, trace)
        )
        return end

    def _receive_responses(self, data: bytes, seen: int, events: list[Event]) -> int:
        """Read heads at the beginning of `data`, up to a final one. As `_receive_request`."""
        at = 0
        while at < len(data):
            end = data.find(b"\r\n\r\n", max(at, seen - 3) if seen else at) + 4
            head = data[at:end] if end >= 4 else b""
            try:
                if not head:
                    self._partial = data[at:]
                    self._checked = check_head(self._partial, self._checked, self._limits, check_status_line)
                    return len(data)
                response = self._responses.parse(head)
            except MessageProblem as problem:
                self._refuse(problem, events)
                return len(data)
            self._checked = 0
            at = end
            if response.status >= 200:
                self._begin_response(response, events)
                return at
            self._interim += 1
            if response.status == 101:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "the response changes to a protocol that nobody asked for")
                return len(data)
            if response.length or response.chunked:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "an interim response has a body")
                return len(data)
            if self._interim > MAX_INTERIM:
                self._fail(events, ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_INTERIM} interim responses came")
                return len(data)
            events.append(ResponseHead(self._stream, response.status, response.headers, False))
        return at

    def _begin_response(self, response: Response, events: list[Event]) -> None:
        status, headers, length, chunked, closes = response
        self._theirs = _BODY
        if closes:
            self.must_close = True
        if self._method == b"HEAD" or status == 304:
            self._theirs = _DONE
        elif status == 204:
            if length or chunked:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "a 204 response has a body")
                return
            length = None
            self._theirs = _DONE
        elif chunked:
            self._reader = ChunkedReader(self._limits)
        elif length is None:
            self._reader = EofReader(self._limits)
            self.must_close = True
        elif length:
            self._left = length
        else:
            self._theirs = _DONE
        is_end = self._theirs is _DONE
        events.append(ResponseHead(self._stream, status, headers, is_end, length))
        if is_end and self._ours is _DONE:
            self._finish()

    def _receive_body(self, data: bytes, at: int, events: list[Event]) -> int:
        self._waits_for_continue = False
        left = self._left
        if left:
            stop = at + left
            available = len(data) - at
            if available < left:
                self._left = left - available
                events.append(Data(self._stream, data[at:], available, False))
                return at + available
            self._left = 0
            self._theirs = _DONE
            events.append(Data(self._stream, data[at:stop], left, True))
            if self._ours is _DONE:
                self._finish()
            return stop
        reader = self._reader
        assert reader is not None
        piece, at = reader.feed(data, at)
        if reader.is_done:
            self._theirs = _DONE
            if reader.trailers:
                if piece:
                    events.append(Data(self._stream, piece, len(piece), False))
                events.append(Trailers(self._stream, reader.trailers))
            else:
                events.append(Data(self._stream, piece, len(piece), True))
            if self._ours is _DONE:
                self._finish()
            return at
        if piece:
            events.append(Data(self._stream, piece, len(piece), False))
        if reader.problem is not None:
            self._refuse(reader.problem, events)
        elif at < len(data):
            self._partial = data[at:]
        return len(data)

    def _receive_beyond(self, rest: bytes, events: list[Event]) -> None:
        """Bytes behind the message under way, or without any."""
        if self._theirs is _BROKEN or (self.must_close and self._theirs is _DONE):
            return  # behind the last message of a connection nothing has a meaning (RFC 9112 section 9.6)
        if self._is_server:
            self.held += rest
        else:
            self._fail(events, ErrorCode.PROTOCOL_ERROR, "bytes came that belong to no response")

    # Ends

    def _finish(self) -> None:
        """Leave the exchange if both sides are through with it."""
        if self._ours is not _DONE or self._theirs is not _DONE:
            return
        if self.must_close:
            self._ours = self._theirs = _BROKEN
            self.held = b""
        elif self._is_server:
            self._theirs = _HEAD
            self._ours = _IDLE
        else:
            self._ours = _HEAD
            self._theirs = _IDLE
            self._interim = 0
        self._reader = None
        self._writer = NOTHING

    def _refuse(self, problem: MessageProblem, events: list[Event]) -> None:
        if not self._is_server:
            code = ErrorCode.PROTOCOL_ERROR if problem.limit is None else ErrorCode.ENHANCE_YOUR_CALM
            self._fail(events, code, problem.reason, problem.limit)
            return
        if self._ours is _IDLE:
            self._stream += 1
            self._ours = _HEAD
            self._method = b""
            self._peer_is_http10 = False
        self._theirs = _BROKEN
        self.must_close = True
        self._partial = b""
        self._left = 0
        self._reader = None
        events.append(Rejected(self._stream, problem.status, problem.reason, problem.limit))

    def _fail(
        self, events: list[Event], code: int, reason: str, limit: str | None = None, *, by_peer: bool = False
    ) -> None:
        self._theirs = _BROKEN
        if not self._is_server:
            self._ours = _BROKEN
        self.must_close = True
        self._partial = b""
        self._left = 0
        self._reader = None
        events.append(Failed(code, reason, limit, by_peer))

    def _refuse_body(self) -> bytes:
        if self._ours is _BROKEN:
            return b""
        raise LocalProtocolError("no body may be sent now")
