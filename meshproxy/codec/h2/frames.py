"""The layout of frames (RFC 9113 sections 4.1 and 6): constants, and serialisers for every frame that we send.

Length (24) | Type (8) | Flags (8) | R (1) Stream Identifier (31) | Payload ...
"""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113 section 3.4)."""

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9
UNKNOWN = 0xA
"""Where statistics count every type above those of RFC 9113."""
NAMES = (
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
    "unknown",
)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
DEFAULT_FRAME_BYTES = 16_384
MAX_FRAME_BYTES = 2**24 - 1
DEFAULT_TABLE_BYTES = 4_096
MAX_STREAM_ID = 2**31 - 1
FRAME_HEADER_BYTES = 9

FRAME_HEADER = Struct(">LBL")
"""Length and type in one word, flags, stream: 75 ns to unpack, 110 ns as a slice and `int.from_bytes`."""
SETTING = Struct(">HL")
WORD = Struct(">L")
TWO_WORDS = Struct(">LL")

pack_header = FRAME_HEADER.pack
pack_two_headers = Struct(">LBLLBL").pack
pack_three_headers = Struct(">LBLLBLLBL").pack
"""Of frames that are written together."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of any type. `payload` must be within the peer's SETTINGS_MAX_FRAME_SIZE."""
    return pack_header(len(payload) << 8 | kind, flags, stream) + payload


def header_frames(stream: int, block: bytes, end: bool, frame_bytes: int) -> bytes:
    """A header block as HEADERS and as many CONTINUATION frames as it takes: one piece, since nothing may come between
    them (RFC 9113 section 4.3)."""
    size = len(block)
    if size <= frame_bytes:
        return pack_header(size << 8 | HEADERS, END_HEADERS | END_STREAM if end else END_HEADERS, stream) + block
    pieces = [frame(HEADERS, END_STREAM if end else 0, stream, block[:frame_bytes])]
    for start in range(frame_bytes, size, frame_bytes):
        stop = start + frame_bytes
        pieces.append(frame(CONTINUATION, END_HEADERS if stop >= size else 0, stream, block[start:stop]))
    return b"".join(pieces)


def rst_stream(stream: int, code: int) -> bytes:
    """RFC 9113 section 6.4."""
    return frame(RST_STREAM, 0, stream, WORD.pack(code))


def settings(values: list[tuple[int, int]]) -> bytes:
    """RFC 9113 section 6.5: (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*value) for value in values))


SETTINGS_ACK = frame(SETTINGS, ACK, 0, b"")


def ping(payload: bytes, *, ack: bool) -> bytes:
    """RFC 9113 section 6.7; `payload` is 8 bytes."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream: int, code: int, reason: str) -> bytes:
    """RFC 9113 section 6.8; `reason` becomes the debug data."""
    return frame(GOAWAY, 0, 0, TWO_WORDS.pack(last_stream, code) + reason.encode())


def window_update(stream: int, increment: int) -> bytes:
    """RFC 9113 section 6.9; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, WORD.pack(increment))
