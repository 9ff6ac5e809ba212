"""HTTP/2 frames at the least cost per request: what a load generator and the responder it is tested against share.

This is no HTTP/2 implementation for untrusted peers (that is `meshproxy.codec.h2`): header blocks are handed on
undecoded, priorities and pushes are ignored, and a peer that breaks the rules ends the connection. In return a unary
call costs a few microseconds, so that what is measured is the other side. Frame layout: RFC 9113 section 4.1.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384
DEFAULT_WINDOW = 65_535
WINDOW = 4_194_304
"""What we let a peer send, per stream and per connection, and in one frame: what gRPC's C core announces. Like it we
send frames as large as the peer takes."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One whole frame."""
    return b"".join(
        (len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), payload),
    )


def small_data(flags: int, body: bytes) -> bytes:
    """A body as one DATA frame of stream 0, to be copied with other streams' numbers; empty if it takes more frames."""
    return frame(DATA, flags, 0, body) if len(body) <= FRAME_BYTES else b""


def settings(**values: int) -> bytes:
    """A SETTINGS frame: `header_table`, `push`, `streams`, `window`, `frame_bytes` (RFC 9113 section 6.5.2)."""
    names = {"header_table": 1, "push": 2, "streams": 3, "window": 4, "frame_bytes": 5}
    payload = b"".join(names[name].to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


class FramedConnection(asyncio.Protocol):
    """One end of an HTTP/2 connection, with flow control both ways. Subclasses override the `on_` hooks.

    Whatever is sent while bytes are being received is written in one piece at the end, as real clients and servers do.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.is_open = False
        self.closed_because = "the connection was never opened"
        self._rest = b""
        self._out: list[bytes] = []
        self._is_receiving = False
        self._is_paused = False
        self._their_initial_window = DEFAULT_WINDOW
        self._their_frame_bytes = FRAME_BYTES
        self._connection_window = DEFAULT_WINDOW
        self._stream_windows: dict[int, int] = {}
        """Only streams whose body is still held: others need no account."""
        self._held: dict[int, tuple[memoryview, bytes]] = {}
        """Body bytes not sent yet, and the frames that follow them (trailers, or nothing)."""
        self._waiting: deque[int] = deque()
        self._uncredited = 0
        self._uncredited_streams: dict[int, int] = {}

    # hooks

    def on_headers(self, stream: int, block: bytes, end: bool) -> None:
        """A header block arrived: a head, or trailers when `end`."""

    def on_data(self, stream: int, data: bytes, end: bool) -> None:
        """A piece of a body arrived."""

    def on_reset(self, stream: int, code: int) -> None:
        """The peer broke a stream off."""

    def on_settings(self) -> None:
        """The peer's SETTINGS arrived."""

    def on_closed(self, reason: str) -> None:
        """The connection is gone, and all its streams."""

    # commands

    def send(self, data: bytes) -> None:
        """Writes frames now, or at the end of what is being received."""
        if self._is_receiving:
            self._out.append(data)
        else:
            self.transport.write(data)

    def send_body(self, stream: int, body: bytes, after: bytes) -> None:
        """Sends a body in DATA frames as windows and the socket allow, then the frames `after` (trailers). Where
        nothing comes after it, the last DATA frame ends the stream."""
        self._stream_windows[stream] = self._their_initial_window
        self._held[stream] = (memoryview(body), after)
        self._waiting.append(stream)
        self._pump()

    def has_room(self, size: int) -> bool:
        """Whether a body of this size may be sent at once; then it is taken from the connection's window."""
        if size > self._connection_window or size > self._their_initial_window or size > FRAME_BYTES:
            return False
        if self._waiting or self._is_paused:
            return False
        self._connection_window -= size
        return True

    def _pump(self) -> None:
        """Frames of held bodies, round robin, until a window or the socket says stop."""
        blocked = 0
        while self._waiting and self._connection_window > 0 and not self._is_paused and blocked < len(self._waiting):
            stream = self._waiting.popleft()
            held = self._held.get(stream)
            if held is None:
                continue
            body, after = held
            size = min(len(body), self._their_frame_bytes, self._connection_window, self._stream_windows[stream])
            if size <= 0 and len(body) > 0:
                self._waiting.append(stream)
                blocked += 1
                continue
            blocked = 0
            self._connection_window -= size
            self._stream_windows[stream] -= size
            is_last = size == len(body)
            flags = END_STREAM if is_last and not after else 0
            piece = frame(DATA, flags, stream, bytes(body[:size]))
            if is_last:
                del self._held[stream], self._stream_windows[stream]
                piece += after
            else:
                self._held[stream] = (body[size:], after)
                self._waiting.append(stream)
            # Straight to the socket, never into `_out`: a large body must feel `pause_writing`.
            if self._out:
                self.transport.write(b"".join(self._out))
                self._out.clear()
            self.transport.write(piece)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        # After `_fail` this comes too, with nothing new to say.
        if self.is_open:
            self.is_open = False
            self.closed_because = str(exc) if exc else "closed by the peer"
            self.on_closed(self.closed_because)

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._pump()

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        self._is_receiving = True
        position, end = 0, len(data)
        while end - position >= 9:
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            following = position + 9 + length
            if following > end:
                break
            kind = data[position + 3]
            flags = data[position + 4]
            stream = int.from_bytes(data[position + 5 : position + 9], "big")
            if kind == DATA:
                self._receive_data(stream, data[position + 9 : following], flags & END_STREAM != 0)
            elif kind == HEADERS:
                if not flags & END_HEADERS or flags & 0x28:
                    self._fail("a header block in several frames, padded or with priority is not expected here")
                    return
                self.on_headers(stream, data[position + 9 : following], flags & END_STREAM != 0)
            else:
                self._receive_control(kind, flags, stream, data[position + 9 : following])
            position = following
        self._rest = data[position:]
        self._is_receiving = False
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()

    def _receive_data(self, stream: int, data: bytes, end: bool) -> None:
        size = len(data)
        self._uncredited += size
        if self._uncredited > WINDOW // 2:
            self._out.append(window_update(0, self._uncredited))
            self._uncredited = 0
        if end:
            self._uncredited_streams.pop(stream, None)
        elif size:
            waiting = self._uncredited_streams.get(stream, 0) + size
            if waiting > WINDOW // 2:
                self._out.append(window_update(stream, waiting))
                waiting = 0
            self._uncredited_streams[stream] = waiting
        self.on_data(stream, data, end)

    def _receive_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if stream == 0:
                self._connection_window += size
            elif stream in self._stream_windows:
                self._stream_windows[stream] += size
            self._pump()
        elif kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                if payload[at : at + 2] == b"\0\4":
                    window = int.from_bytes(payload[at + 2 : at + 6], "big")
                    change = window - self._their_initial_window
                    self._their_initial_window = window
                    for open_stream in self._stream_windows:
                        self._stream_windows[open_stream] += change
                elif payload[at : at + 2] == b"\0\5":
                    self._their_frame_bytes = int.from_bytes(payload[at + 2 : at + 6], "big")
            self._out.append(frame(SETTINGS, ACK, 0, b""))
            self.on_settings()
            self._pump()
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._held.pop(stream, None)
            self._stream_windows.pop(stream, None)
            self._uncredited_streams.pop(stream, None)
            self.on_reset(stream, int.from_bytes(payload, "big"))
        elif kind == GOAWAY:
            code = int.from_bytes(payload[4:8], "big")
            if code:
                self._fail(f"GOAWAY with code {code}: {payload[8:200].decode('utf-8', 'replace')}")

    def _fail(self, reason: str) -> None:
        if self.is_open:
            self.is_open = False
            self.closed_because = reason
            self.transport.abort()
            self.on_closed(reason)
