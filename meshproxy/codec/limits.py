"""Every limit that a codec keeps, with its default, bounds and reason. Time limits are the transport's.

This is also where a document's `MeshConfig.spec.limits` gets these fields from (`config.schema`): the docstring below a
field is its documentation there, `Meta` its bounds, and `extra` says how its value is written.
"""

from typing import Annotated

from msgspec import Meta, Struct

# `type` tells `config.convert` how a value is read, `words` tells `config.reference` what it is called.
Size = Annotated[int, Meta(extra={"type": "size", "words": "size"})]
Count = Annotated[int, Meta(extra={"type": "count", "words": "whole number"})]
Rate = Annotated[float, Meta(extra={"type": "rate", "words": "number per second"})]


class Limits(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Limits of one connection. Sizes are bytes, rates are per second. Exceeding one names it (`Rejected.limit`)."""

    header_bytes: Annotated[Size, Meta(ge=1024, le=1 << 20)] = 65_536
    """A decoded head: names, values and 32 for each field (RFC 9113 section 10.5.1), and the request line on HTTP/1.1.
    60 KiB is what Envoy takes; tokens with many groups need more than the 8 KiB of most servers."""
    header_count: Annotated[Count, Meta(ge=16, le=1000)] = 128
    """Fields of one head. Envoy takes 100."""
    header_name_bytes: Annotated[Size, Meta(ge=64, le=65_536)] = 256
    """The name of one field."""
    target_bytes: Annotated[Size, Meta(ge=256, le=65_536)] = 8_192
    """The request target. RFC 9112 section 3 asks for 8,000 at least."""
    chunk_extension_bytes: Annotated[Size, Meta(le=65_536)] = 4_096
    """Chunk extensions of one HTTP/1.1 body, together."""
    body_bytes: Annotated[Size, Meta(ge=1)] | None = None
    """A request's body, decoded from its transfer coding. Left out: no limit of ours; TensorFlow Serving takes 2 GiB
    in a message."""
    streams: Annotated[Count, Meta(le=10_000)] = 1_024
    """Concurrent HTTP/2 streams of one client connection, as in Envoy: some clients fail beyond it instead of opening
    another connection. Memory is bounded by `connectionWindow` and, for a client that does not read, 16 MiB unread."""
    stream_window: Annotated[Size, Meta(ge=65_535, le=(1 << 31) - 1)] = 262_144
    """The flow-control window of one HTTP/2 stream: one request's share of memory. 256 KiB fills a 1 Gbit/s link at
    2 ms."""
    connection_window: Annotated[Size, Meta(ge=65_535, le=(1 << 31) - 1)] = 1_048_576
    """The flow-control window of one HTTP/2 connection, for all of its streams together."""
    frame_bytes: Annotated[Size, Meta(ge=16_384, le=(1 << 24) - 1)] = 262_144
    """The largest HTTP/2 frame that is accepted: SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 4.2). A body is passed on as
    it comes, however large its frames are; fewer of them cost less. gRPC's C core sends what it may."""
    header_table_bytes: Annotated[Size, Meta(le=65_536)] = 4_096
    """The HPACK dynamic table of one direction (RFC 7541 section 4.2)."""
    continuation_frames: Annotated[Count, Meta(le=1000)] = 16
    """CONTINUATION frames of one header block (CVE-2024-27316). With HEADERS before them they may have 16 KiB each on
    average: 16 carry any head that `headerBytes` allows."""
    resets_rate: Rate = 100.0
    """Streams a second that may end by reset on one connection, by the peer within 0.2 s or by our own (CVE-2023-44487,
    CVE-2025-8671)."""
    resets_burst: Count = 1_500
    """How many resets may come at once before the rate counts: more than `streams`, all of which a client may
    cancel."""
    control_rate: Rate = 100.0
    """PING, SETTINGS, PRIORITY and WINDOW_UPDATE frames a second beyond what data explains (CVE-2019-9512, 9513,
    9515)."""
    control_burst: Count = 1_000
    """How many of those may come at once before the rate counts."""
    refused_fields_rate: Rate = 4_000.0
    """Fields a second, on one connection, of heads that are refused because they exceed a limit: a reference into the
    HPACK tables costs the peer one byte (CVE-2016-6581, CVE-2024-7246)."""
    refused_fields_burst: Count = 16_384
    """How many of those may come at once before the rate counts."""
    empty_frames: Count = 10
    """Consecutive DATA frames without data and without END_STREAM (CVE-2019-9518)."""
    output_bytes: Annotated[Size, Meta(ge=1024, le=1 << 24)] = 65_536
    """HTTP/2 control frames waiting for a peer that does not read (CVE-2019-9511)."""
