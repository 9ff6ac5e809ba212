from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.h1.body import _RUNS, BodyReader, ChunkedReader, EofReader
from meshproxy.codec.limits import Limits
from tests.thorough import tries

MIB = 1 << 20


def read(reader: BodyReader, wire: bytes, step: int) -> tuple[bytes, bytes]:
    """Feeds in pieces, as a connection does; returns the body and what came behind it."""
    body = []
    kept = b""
    for start in range(0, len(wire), step):
        data = kept + wire[start : start + step]
        piece, at = reader.feed(data, 0)
        body.append(piece)
        kept = data[at:]
        if reader.is_done or reader.problem:
            return b"".join(body), kept + wire[start + step :]
    return b"".join(body), kept


def test_a_block_of_nothing_but_body_is_not_copied() -> None:
    block = bytes(100_000)
    piece, at = EofReader(Limits()).feed(block, 0)
    assert piece is block
    assert at == len(block)


def test_a_body_until_the_end() -> None:
    reader = EofReader(Limits(body_bytes=4))
    assert reader.feed(b"xabc", 1) == (b"abc", 4)
    assert reader.problem is None
    assert reader.feed(b"de", 0) == (b"d", 2)
    assert reader.problem is not None
    assert reader.problem.limit == "body_bytes"


SIZES = st.lists(st.integers(1, 40), max_size=12)
RUNS = st.lists(st.tuples(st.integers(1, 17), st.integers(1, 12)), max_size=4).map(
    lambda runs: [size for size, count in runs for _ in range(count)]
)


@settings(max_examples=tries(200))
@given(
    sizes=st.one_of(SIZES, RUNS),
    content=st.sampled_from([b"x", b"\r\n", b"1\r\n", b"0\r\n\r\n", b"\x00\xff"]),
    extension=st.sampled_from([b"", b"", b";a", b';a="b;\\"c"', b" ; a = b"]),
    is_upper=st.booleans(),
    step=st.sampled_from([1, 2, 5, 7, 50, 10_000]),
    is_bounded=st.booleans(),
)
def test_chunks(
    sizes: list[int], content: bytes, extension: bytes, is_upper: bool, step: int, is_bounded: bool
) -> None:
    pieces = [(content * size)[:size] for size in sizes]
    number = b"%X" if is_upper else b"%x"
    wire = b"".join([number % len(piece) + extension + b"\r\n" + piece + b"\r\n" for piece in pieces]) + b"0\r\n"
    body = b"".join(pieces)
    limits = Limits(body_bytes=len(body) if is_bounded else None)
    reader = ChunkedReader(limits)
    assert read(reader, wire + b"\r\nGET", step) == (body, b"GET")
    assert reader.is_done
    assert reader.trailers == ()
    reader = ChunkedReader(limits)
    assert read(reader, wire + b"a: b\r\nhost: c\r\n\r\n\r\n", step) == (body, b"\r\n")
    assert reader.trailers == ((b"a", b"b"),)
    if is_bounded and body:
        reader = ChunkedReader(Limits(body_bytes=len(body) - 1))
        read(reader, wire + b"\r\n", step)
        assert reader.problem is not None
        assert reader.problem.limit == "body_bytes"


@pytest.mark.parametrize("size", [1, 2, 15, 16, 8_192])
def test_a_mebibyte_in_chunks_of_one_size(size: int) -> None:
    body = bytes(range(256)) * (MIB // 256)
    count = MIB // size
    wire = b"".join([b"%x\r\n%b\r\n" % (size, body[i * size : (i + 1) * size]) for i in range(count)]) + b"0\r\n\r\n"
    assert read(ChunkedReader(Limits()), wire, 65_536) == (body[: count * size], b"")


class Matcher:
    """Counts the bytes that an expression passes over."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self.pattern = pattern
        self.passed = 0

    def match(self, data: bytes, at: int) -> re.Match[bytes] | None:
        match = self.pattern.match(data, at)
        self.passed += match.end() - at if match is not None else 0
        return match


def test_a_row_of_chunks_beyond_the_limit_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """16,000 chunks of one byte, where there is room for 8,000, took 4.8 s: the rest of the row for each of them."""
    matcher = Matcher(_RUNS[1])
    monkeypatch.setitem(_RUNS, 1, matcher)
    wire = b"1\r\nx\r\n" * 16_000
    reader = ChunkedReader(Limits(body_bytes=8_000))
    assert reader.feed(wire, 0) == (b"x" * 8_000, len(wire))
    assert reader.problem is not None
    assert reader.problem.limit == "body_bytes"
    assert matcher.passed <= 2 * len(wire)


def test_the_size_of_a_chunk_is_counted_to() -> None:
    reader = ChunkedReader(Limits())
    assert reader.feed(b"7fffffffffffffff\r\nx", 0) == (b"x", 19)
    assert reader.problem is None
    reader = ChunkedReader(Limits())
    reader.feed(b"ffffffffffffffff\r\nx", 0)
    assert reader.problem is not None


def test_extensions_are_bounded_together() -> None:
    for limit, is_refused in ((10, False), (9, True)):
        for step in (1, 1_000):
            reader = ChunkedReader(Limits(chunk_extension_bytes=limit))
            read(reader, b"1;a\r\nx\r\n" * 5 + b"0\r\n\r\n", step)
            assert (reader.problem is not None) is is_refused
            assert reader.is_done is not is_refused
