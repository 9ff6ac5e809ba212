"""Layout of frames, against bytes written down by hand from RFC 9113 section 6."""

from __future__ import annotations

import pytest

from meshproxy.codec.h2 import frames


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        (frames.SETTINGS_ACK, "000000 04 01 00000000"),
        (frames.settings([(4, 65_536), (2, 0)]), "00000c 04 00 00000000 0004 00010000 0002 00000000"),
        (frames.settings([]), "000000 04 00 00000000"),
        (frames.rst_stream(3, 8), "000004 03 00 00000003 00000008"),
        (frames.window_update(0, 2**31 - 1), "000004 08 00 00000000 7fffffff"),
        (frames.ping(b"\1\2\3\4\5\6\7\10", ack=False), "000008 06 00 00000000 0102030405060708"),
        (frames.ping(b"\1\2\3\4\5\6\7\10", ack=True), "000008 06 01 00000000 0102030405060708"),
        (frames.goaway(5, 11, "calm"), "00000c 07 00 00000000 00000005 0000000b 63616c6d"),
        (frames.frame(frames.DATA, 1, 2**31 - 1, b"x" * 70_000)[:9], "011170 00 01 7fffffff"),
        (frames.header_frames(1, b"\x82", True, 16_384), "000001 01 05 00000001 82"),
        (frames.header_frames(1, b"\x82", False, 16_384), "000001 01 04 00000001 82"),
        (
            frames.header_frames(1, b"abcde", True, 2),
            "000002 01 01 00000001 6162 000002 09 00 00000001 6364 000001 09 04 00000001 65",
        ),
        (frames.header_frames(1, b"abcd", False, 2), "000002 01 00 00000001 6162 000002 09 04 00000001 6364"),
    ],
)
def test_layout(frame: bytes, wire: str) -> None:
    assert frame == bytes.fromhex(wire)


def test_every_type_has_a_name() -> None:
    assert len(frames.NAMES) == frames.UNKNOWN + 1
    assert frames.NAMES[frames.CONTINUATION] == "CONTINUATION"
