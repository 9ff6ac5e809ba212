"""The limits: each is kept by a codec, and the defaults allow what standards and peers require."""

from __future__ import annotations

import ast
from pathlib import Path

from meshproxy.codec.events import RequestHead
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

CODEC = Path(__file__).parents[2] / "meshproxy" / "codec"


def test_every_limit_is_read_by_a_codec() -> None:
    """A limit that can be set and is not kept would be a promise that is broken in silence."""
    read = {
        node.attr
        for path in CODEC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    assert set(Limits.__struct_fields__) - read == set()


def test_the_defaults_grant_what_the_standards_ask_for() -> None:
    limits = Limits()
    assert limits.target_bytes >= 8_000, "RFC 9112 section 3"
    assert limits.streams >= 100, "RFC 9113 section 6.5.2"
    assert 16_384 <= limits.frame_bytes <= 16_777_215, "RFC 9113 section 4.2"
    assert limits.stream_window >= 65_535, "RFC 9113 section 6.9.2: a smaller one is told too late for the first data"
    assert limits.header_table_bytes >= 4_096, "RFC 7541 section 4.2: the peer may use this much before it is told"


def test_the_defaults_leave_room_for_each_other() -> None:
    limits = Limits()
    assert limits.stream_window <= limits.connection_window
    assert limits.target_bytes < limits.header_bytes
    assert limits.header_name_bytes < limits.header_bytes
    assert limits.continuation_frames * limits.frame_bytes >= limits.header_bytes
    assert limits.resets_burst >= limits.streams, "all streams of a connection may be cancelled at once"


def test_a_head_that_uses_every_limit_up_is_still_read() -> None:
    """As many fields as there may be, of the longest name and the longest target, within `header_bytes`."""
    limits = Limits()
    names = [b"%0*d" % (limits.header_name_bytes, number) for number in range(limits.header_count - 1)]
    target = b"/" + b"x" * (limits.target_bytes - 1)
    head = b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (target, b"".join(b"%b: 1\r\n" % name for name in names))
    (event,) = H1Connection(Role.SERVER, limits).receive(head)
    assert isinstance(event, RequestHead)
    assert len(event.headers) == limits.header_count - 1
    assert event.target == target
