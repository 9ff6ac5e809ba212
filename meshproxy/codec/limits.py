"""Every limit that a codec keeps, with its default and the reason for it. Time limits are the transport's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one connection. Sizes are bytes, rates are per second. Exceeding one names it (`Rejected.limit`)."""

    header_bytes: int = 65_536
    """A decoded head: names, values and 32 for each field (RFC 9113 section 10.5.1), plus the request line on HTTP/1.1.
    60 KiB is what Envoy takes; tokens with many groups need more than the 8 KiB of most servers."""
    header_count: int = 128
    """Fields of one head. Envoy takes 100; a head of one-byte fields costs us more than its bytes."""
    header_name_bytes: int = 256
    target_bytes: int = 8_192
    """RFC 9112 section 3 asks for 8,000 at least."""
    chunk_extension_bytes: int = 4_096
    """Chunk extensions of one body, together: they carry nothing for us."""
    body_bytes: int | None = None
    """A body, decoded from its transfer coding. None: TensorFlow Serving itself takes 2 GiB in a message."""
    streams: int = 100
    """Concurrent streams a client may open (RFC 9113 section 6.5.2 asks for 100 at least)."""
    stream_window: int = 262_144
    """What a stream may send us before we read on: one request's share of memory. 256 KiB fills a 1 Gbit/s link at
    2 ms."""
    connection_window: int = 1_048_576
    """What all streams of one connection may send us together."""
    frame_bytes: int = 16_384
    """SETTINGS_MAX_FRAME_SIZE: the least that a peer may be told (RFC 9113 section 4.2)."""
    header_table_bytes: int = 4_096
    """HPACK dynamic table of one direction (RFC 7541 section 4.2)."""
    continuation_frames: int = 16
    """CONTINUATION frames of one header block: 16 KiB each carry any head that `header_bytes` allows
    (CVE-2024-27316 and its family: frames without end)."""
    resets_rate: float = 100.0
    """Streams a second that end by reset, the peer's or our own (CVE-2023-44487, CVE-2025-8671)."""
    resets_burst: int = 500
    control_rate: float = 100.0
    """PING, SETTINGS, PRIORITY and WINDOW_UPDATE frames a second beyond what data explains
    (CVE-2019-9512, 9513, 9515)."""
    control_burst: int = 1_000
    empty_frames: int = 10
    """DATA frames in a row that carry nothing and end nothing (CVE-2019-9518)."""
    output_bytes: int = 65_536
    """Control frames waiting to be written while the peer does not read (CVE-2019-9511)."""
