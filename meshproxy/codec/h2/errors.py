"""Error codes of HTTP/2, and how a broken rule travels inside the codec until it becomes an event.

Neither exception leaves the codec: `H2Connection.receive` turns them into `Reset` and `Failed`.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):
    """The peer broke a rule that ends the connection (RFC 9113 section 5.4.1).

    Attributes:
        code: what GOAWAY will say.
        reason: one phrase, for the log and for the debug data of GOAWAY.
        limit: the field of `Limits` that was exceeded, if one was.
        is_of_peer: the peer reported it in a GOAWAY.
    """

    def __init__(self, code: int, reason: str, limit: str | None = None, *, is_of_peer: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.limit = limit
        self.is_of_peer = is_of_peer


class StreamFault(Exception):
    """The peer broke a rule that ends one stream (RFC 9113 section 5.4.2).

    Attributes:
        stream: the id that RST_STREAM will carry.
        code: what RST_STREAM will say.
        reason: one phrase for the log.
    """

    def __init__(self, stream: int, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.stream = stream
        self.code = code
        self.reason = reason
