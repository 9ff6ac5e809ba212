from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.inference.fields import TooMuch, Unreadable, Work, fields, read_field, read_varint
from meshproxy.inference.protobuf import FieldWalker
from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint as varint
from meshproxy.refusal import Refusal
from tests.thorough import tries


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x0a\x03abc", (0x0A, 2, 5)),
        (b"\x0a\x03a", (0x0A, 2, 5)),  # it ends beyond
        (b"\x0a\x80\x01", (0x0A, 3, 131)),
        (b"\x82\x01\x01a", (130, 3, 4)),
        (b"\x08\x05", (0x08, 1, 2)),
        (b"\x08\x85\x01", (0x08, 1, 3)),
        (b"\x0d", (0x0D, 1, 5)),
        (b"\x09", (0x09, 1, 9)),
        (b"\x0b", (0x0B, 1, 1)),
        (b"\x0c", (0x0C, 1, 1)),
        (b"", (0, 0, 0)),
        (b"\x82", (0, 0, 0)),
        (b"\x0a", (0, 0, 0)),
        (b"\x0a\x80", (0, 0, 0)),
        (b"\x08", (0, 0, 0)),
        (b"\x08\x80", (0, 0, 0)),
    ],
)
def test_tells_where_a_field_stands(data: bytes, field: tuple[int, int, int]) -> None:
    assert read_field(data, 0, len(data)) == field
    assert read_field(b"xy" + data + b"\x01\x01", 2, 2 + len(data)) == tuple(
        place + 2 if i else place for i, place in enumerate(field)
    )


@pytest.mark.parametrize(
    "data", [b"\x00\x01", b"\x07", b"\x0e", b"\x0f", b"\x80" * 10, b"\x08" + b"\x80" * 10, b"\x0a" + b"\xff" * 10]
)
def test_what_is_no_field_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        read_field(data, 0, len(data))


@pytest.mark.parametrize("data", [b"\x0a\x02a", b"\x0a", b"\x0d\x01", b"\x0b", b"\x0c", b"\x0b\x0c\x0c", b"\x08\x80"])
def test_what_is_no_message_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        list(fields(data, 0, len(data), Work(1_000)))


def test_reads_varints() -> None:
    assert read_varint(varint((1 << 64) - 1), 0, 10) == ((1 << 64) - 1, 10)
    assert read_varint(b"\x80\x01", 0, 1) == (0, 0)


parts = st.one_of(
    st.builds(length, st.integers(1, 20), st.binary(max_size=300)),
    st.builds(lambda number, value: varint(number << 3) + varint(value), st.integers(1, 20), st.integers(0, 2**64 - 1)),
    st.builds(lambda number: varint(number << 3 | 1) + bytes(8), st.integers(1, 20)),
    st.builds(lambda number: varint(number << 3 | 5) + bytes(4), st.integers(1, 20)),
    st.builds(lambda inner: b"\x1b" + length(1, inner) + b"\x1c", st.binary(max_size=9)),
)


@given(data=st.lists(parts, max_size=8).map(b"".join) | st.binary(max_size=30))
@settings(max_examples=tries(300))
def test_finds_what_the_strict_reader_finds(data: bytes) -> None:
    wanted = [number << 3 | wire for number in range(1, 21) for wire in (0, 2)]
    try:
        expected = FieldWalker().read(data, wanted, 0)
    except Refusal:
        try:
            list(fields(data, 0, len(data), Work(1_000)))
        except Unreadable:
            pass
        return
    found: list[tuple[int, bytes | int]] = []
    for tag, begin, end in fields(data, 0, len(data), Work(1_000)):
        if tag in wanted:
            found.append((tag, data[begin:end] if tag & 7 else read_varint(data, begin, end)[0]))
    assert found == expected


@pytest.mark.parametrize("field", [b"\x12\x00", b"\x08\x01", b"\x0b\x0c"], ids=["texts", "numbers", "groups"])
def test_no_more_fields_are_looked_at_than_is_allowed(field: bytes) -> None:
    data = field * 100
    count = 200 if field == b"\x0b\x0c" else 100
    work = Work(count)
    assert len(list(fields(data, 0, len(data), work))) in (0, 100)
    assert work.left == 0
    with pytest.raises(TooMuch):
        list(fields(data, 0, len(data), Work(count - 1)))
