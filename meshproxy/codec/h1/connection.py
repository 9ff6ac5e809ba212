"""HTTP/1.1 on one connection, both roles: bytes in, events out; commands in, bytes out (RFC 9112).

The states of an exchange: `h1.state`.

Stricter than RFC 9112: no obsolete line folding, no bare LF, no message with both content-length and transfer-encoding,
neither of them repeated, no `101`, no CONNECT, no unsolicited response.
"""

from __future__ import annotations

from meshproxy.codec.events import Data, Event, Failed, Headers, Rejected, RequestHead, ResponseHead, Trailers
from meshproxy.codec.h1.body import BodyReader, ChunkedReader, EofReader
from meshproxy.codec.h1.head import ParsedResponse, check_head, check_request_line, check_status_line
from meshproxy.codec.h1.memo import RequestMemo, ResponseMemo
from meshproxy.codec.h1.state import BODY, BROKEN, DONE, HEAD, IDLE
from meshproxy.codec.h1.write import (
    CLOSE,
    KEEP_ALIVE,
    NOTHING,
    BodyWriter,
    frame_request,
    frame_response,
    write_request_head,
    write_response_head,
)
from meshproxy.codec.h2.errors import ErrorCode
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import MessageProblem, Unacceptable
from meshproxy.codec.role import LocalProtocolError, Role

MAX_INTERIM = 8
"""Interim responses before a final one: 100 and 103 are two. A server could send them without end."""


class H1Connection:
    """One connection, in either role.

    Input never raises. Commands out of order raise `LocalProtocolError`; those that continue a message after `Failed`
    write nothing, since the caller may not have seen it yet.
    """

    __slots__ = (
        "_checked",
        "_has_eof",
        "_has_skipped_blank",
        "_interim",
        "_is_server",
        "_method",
        "_ours",
        "_partial",
        "_peer_is_http10",
        "_reader",
        "_requests",
        "_responses",
        "_theirs",
        "_waits_for_continue",
        "_writer",
        "held",
        "left",
        "limits",
        "must_close",
        "number",
    )

    def __init__(self, role: Role, limits: Limits) -> None:
        # State of the connection.
        self._is_server = role is Role.SERVER
        self.limits = limits
        self._requests = RequestMemo(limits)
        self._responses = ResponseMemo(limits)
        self._partial = b""
        """Incomplete input: the beginning of a head, of a chunk's size line or of trailers."""
        self.held = b""
        """As server: input after the current request. Do not read more before `next_message`."""
        self.must_close = False
        """The current exchange is the last; without one, close now."""
        self._has_eof = False
        # State of the exchange.
        self.number = 0
        """Of the current exchange, from 1. While a server `is_fresh`, it may be counted up: an exchange has passed the
        codec by."""
        self._ours = IDLE if self._is_server else HEAD
        self._theirs = HEAD if self._is_server else IDLE
        self._method = b""
        self._peer_is_http10 = False
        self._waits_for_continue = False
        self._interim = 0
        self._has_skipped_blank = False
        self._checked = 0
        """Bytes of an incomplete head that have been checked."""
        self.left = 0
        """Bytes to come of a body with a content-length (RFC 9112 section 6.2); 0 for another framing."""
        self._reader: BodyReader | None = None
        """Reads a body with another framing."""
        self._writer: BodyWriter = NOTHING

    # Questions

    @property
    def is_idle(self) -> bool:
        """No message is in progress in either direction, not even part of a head."""
        asks, answers = (self._theirs, self._ours) if self._is_server else (self._ours, self._theirs)
        return asks is HEAD and answers is IDLE and not self._partial and not self.held

    @property
    def is_fresh(self) -> bool:
        """As server: nothing has been received since the last exchange, and another one may begin."""
        return (
            self._theirs is HEAD
            and self._ours is IDLE
            and not self._partial
            and not self.held
            and not self.must_close
            and not self._has_skipped_blank
        )

    @property
    def is_over(self) -> bool:
        """As server: no exchange is in progress. Input of the next request may be held."""
        return self._ours is IDLE or self._ours is BROKEN

    # Bytes in, events out

    def receive(self, data: bytes) -> list[Event]:
        """Process input of any size. Returns the events; always [] after Rejected or Failed."""
        theirs = self._theirs
        events: list[Event] = []
        if theirs is BROKEN or not data:
            return events
        at = 0
        seen = len(self._partial)
        if seen:
            data = self._partial + data
            self._partial = b""
        if theirs is HEAD and not self.held:
            receive_head = self._receive_request if self._is_server else self._receive_responses
            at = receive_head(data, seen, events)
            theirs = self._theirs
        size = len(data)
        if at < size and theirs is BODY:
            at = self._receive_body(data, at, events)
        if at < size:
            self._receive_beyond(data[at:], events)
        return events

    def receive_eof(self) -> list[Event]:
        """The peer closed its half. Returns [] between messages, otherwise the events for the current message."""
        theirs = self._theirs
        self._has_eof = True
        if theirs is BROKEN:
            return []
        if theirs is DONE or self.held:
            # Complete requests may be held: they are answered first.
            self.must_close = self.must_close or not self.held
            return []
        self.must_close = True
        if theirs is BODY and isinstance(self._reader, EofReader):
            self._theirs = DONE
            self._finish()
            return [Data(self.number, b"", 0, True)]
        if theirs is IDLE or (theirs is HEAD and self._is_server and self._partial in (b"", b"\r")):
            self._theirs = self._ours = BROKEN
            self._partial = b""
            return []
        if theirs is BODY:
            reason = "the connection was closed in the middle of a body"
        elif self._partial or self._interim:
            reason = "the connection was closed in the middle of a head"
        else:
            reason = "the connection was closed before the response began"
        events: list[Event] = []
        self._fail(events, ErrorCode.NO_ERROR, reason, by_peer=True)
        return events

    def next_message(self) -> list[Event]:
        """As server, after an exchange: the events of the input that was held."""
        if not self.held or self._theirs is not HEAD:
            return []
        held = self.held
        self.held = b""
        events = self.receive(held)
        if self._has_eof:
            events += self.receive_eof()
        return events

    def give_up_head(self, status: int, reason: str, limit: str) -> list[Event]:
        """As server: reject an incomplete head (408, RFC 9110 section 15.5.9). Returns [] if none has begun."""
        events: list[Event] = []
        if self._is_server and self._theirs is HEAD and self._partial:
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
        """As client: begin an exchange.

        Args:
            end: no body follows.
            length: bytes that follow; None without `end`: unknown, the body goes out in chunks.
            trace: the value of `traceparent`, to be sent last.
        """
        if self._is_server or self._ours is not HEAD or self._theirs is not IDLE:
            raise LocalProtocolError("no request may be sent now")
        if method == b"CONNECT":
            raise LocalProtocolError("CONNECT is not supported")
        framing, writer = frame_request(method, end, length)
        if self.must_close:
            framing += CLOSE
        head = write_request_head(method, target, authority, headers, framing, trace)
        self._writer = writer
        self._ours = DONE if end else BODY
        self._theirs = HEAD
        self._method = method
        self.number += 1
        return head

    def send_response(self, status: int, headers: Headers, end: bool, length: int | None = None) -> bytes:
        """Answer, as server: interim heads (below 200, nothing else changes) and one final one.

        Args:
            end: no body follows.
            length: the declared content-length, with `end` only for what has no body anyway (HEAD, 304). None without
                `end`: unknown, the body goes out in chunks, or until the connection closes for an HTTP/1.0 client.
        """
        if not self._is_server or self._ours is not HEAD:
            raise LocalProtocolError("no response may be sent now")
        if status < 200:
            if status == 101 or end or length is not None:
                raise LocalProtocolError("an interim response is not 101 and has no body")
            if status == 100:
                self._waits_for_continue = False
            # HTTP/1.0 takes the first head for the final one (RFC 9110 section 15.2).
            return b"" if self._peer_is_http10 else write_response_head(status, headers, b"")

        framing, writer, closes = frame_response(status, self._method, end, length, self._peer_is_http10)
        # A client that waits for 100 may now send its body or omit it: the next input would be ambiguous
        # (RFC 9110 section 10.1.1).
        if closes or self.must_close or (self._waits_for_continue and self._theirs is BODY):
            closes = True
            framing += CLOSE
        elif self._peer_is_http10:
            framing += KEEP_ALIVE
        head = write_response_head(status, headers, framing)
        self.must_close = closes
        self._writer = writer
        self._ours = DONE if end else BODY
        if end and self._theirs is DONE:
            self._finish()
        return head

    def send_data(self, data: bytes, end: bool) -> bytes:
        """Send part of the body of our message."""
        if self._ours is not BODY:
            return self._refuse_body()
        out = self._writer.write(data, end)
        if end:
            self._ours = DONE
            if self._theirs is DONE:
                self._finish()
        return out

    def send_trailers(self, headers: Headers) -> bytes:
        """End our message with trailers. Dropped: all if the framing cannot carry them, and fields not allowed
        there."""
        if self._ours is not BODY:
            return self._refuse_body()
        out = self._writer.write_trailers(headers)
        self._ours = DONE
        self._finish()
        return out

    def close_after_message(self) -> None:
        """Make the current or next exchange the last one, and say so in its head if it has not been sent."""
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
                self._checked = check_head(self._partial, self._checked, self.limits, check_request_line)
                return len(data)
            request = self._requests.parse(head)
        except MessageProblem as problem:
            self._refuse(problem, events)
            return len(data)
        method, authority, target, headers, length, chunked, expects_continue, is_http10, closes, trace = request
        self._checked = 0
        self._has_skipped_blank = False
        self.number += 1
        self._method = method
        self._peer_is_http10 = is_http10
        self._waits_for_continue = expects_continue
        if closes:
            self.must_close = True
        self._ours = HEAD
        self._theirs = BODY
        if chunked:
            self._reader = ChunkedReader(self.limits)
        elif length:
            self.left = length
        else:
            self._theirs = DONE
        is_end = self._theirs is DONE
        events.append(
            RequestHead(self.number, method, authority, target, headers, is_end, length, expects_continue, trace)
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
                    self._checked = check_head(self._partial, self._checked, self.limits, check_status_line)
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
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "the response switches protocols, which was not requested")
                return len(data)
            if response.length or response.chunked:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "an interim response has a body")
                return len(data)
            if self._interim > MAX_INTERIM:
                self._fail(events, ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_INTERIM} interim responses")
                return len(data)
            events.append(ResponseHead(self.number, response.status, response.headers, False))
        return at

    def _begin_response(self, response: ParsedResponse, events: list[Event]) -> None:
        status, headers, length, chunked, closes = response
        self._theirs = BODY
        if closes:
            self.must_close = True
        if self._method == b"HEAD" or status == 304:
            self._theirs = DONE
        elif status == 204:
            if length or chunked:
                self._fail(events, ErrorCode.PROTOCOL_ERROR, "a 204 response has a body")
                return
            length = None
            self._theirs = DONE
        elif chunked:
            self._reader = ChunkedReader(self.limits)
        elif length is None:
            self._reader = EofReader(self.limits)
            self.must_close = True
        elif length:
            self.left = length
        else:
            self._theirs = DONE
        is_end = self._theirs is DONE
        events.append(ResponseHead(self.number, status, headers, is_end, length))
        if is_end and self._ours is DONE:
            self._finish()

    def _receive_body(self, data: bytes, at: int, events: list[Event]) -> int:
        self._waits_for_continue = False
        left = self.left
        if left:
            stop = at + left
            available = len(data) - at
            if available < left:
                self.left = left - available
                events.append(Data(self.number, data[at:], available, False))
                return at + available
            self.left = 0
            self._theirs = DONE
            events.append(Data(self.number, data[at:stop], left, True))
            if self._ours is DONE:
                self._finish()
            return stop
        reader = self._reader
        assert reader is not None
        piece, at = reader.feed(data, at)
        if reader.is_done:
            self._theirs = DONE
            if reader.trailers:
                if piece:
                    events.append(Data(self.number, piece, len(piece), False))
                events.append(Trailers(self.number, reader.trailers))
            else:
                events.append(Data(self.number, piece, len(piece), True))
            if self._ours is DONE:
                self._finish()
            return at
        if piece:
            events.append(Data(self.number, piece, len(piece), False))
        if reader.problem is not None:
            self._refuse(reader.problem, events)
        elif at < len(data):
            self._partial = data[at:]
        return len(data)

    def _receive_beyond(self, rest: bytes, events: list[Event]) -> None:
        """Input after the current message, or without one."""
        if self._theirs is BROKEN or (self.must_close and self._theirs is DONE):
            return  # behind the last message of a connection nothing has a meaning (RFC 9112 section 9.6)
        if self._is_server:
            self.held += rest
        else:
            self._fail(events, ErrorCode.PROTOCOL_ERROR, "data was received after the end of the response")

    # Ends

    def _finish(self) -> None:
        """End the exchange if both sides are DONE."""
        if self._ours is not DONE or self._theirs is not DONE:
            return
        if self.must_close:
            self._ours = self._theirs = BROKEN
            self.held = b""
        elif self._is_server:
            self._theirs = HEAD
            self._ours = IDLE
        else:
            self._ours = HEAD
            self._theirs = IDLE
            self._interim = 0
        self._reader = None
        self._writer = NOTHING

    def _refuse(self, problem: MessageProblem, events: list[Event]) -> None:
        if not self._is_server:
            code = ErrorCode.PROTOCOL_ERROR if problem.limit is None else ErrorCode.ENHANCE_YOUR_CALM
            self._fail(events, code, problem.reason, problem.limit)
            return
        if self._ours is IDLE:
            self.number += 1
            self._ours = HEAD
            self._method = b""
            self._peer_is_http10 = False
        self._theirs = BROKEN
        self.must_close = True
        self._partial = b""
        self.left = 0
        self._reader = None
        events.append(Rejected(self.number, problem.status, problem.reason, problem.limit))

    def _fail(
        self, events: list[Event], code: int, reason: str, limit: str | None = None, *, by_peer: bool = False
    ) -> None:
        self._theirs = BROKEN
        if not self._is_server:
            self._ours = BROKEN
        self.must_close = True
        self._partial = b""
        self.left = 0
        self._reader = None
        events.append(Failed(code, reason, limit, by_peer))

    def _refuse_body(self) -> bytes:
        if self._ours is BROKEN:
            return b""
        raise LocalProtocolError("no body may be sent now")
