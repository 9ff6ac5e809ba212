from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.inference.protobuf import (
    DEPTH,
    FIELDS,
    OCCURRENCES,
    REPEATED_FIELDS,
    FieldScanner,
    FieldWalker,
    as_int64,
    holds_only_others,
)
from meshproxy.inference.unary import write_bytes as length
from meshproxy.inference.unary import write_varint as varint
from meshproxy.refusal import Reason, Refusal
from tests.thorough import tries

SPEC = 0x0A


def scan(data: bytes, step: int = 1 << 20, *, size: int | None = None, limit: int = 1000) -> list[bytes]:
    """Field 1 of a message that comes in pieces of `step` bytes."""
    scanner = FieldScanner((SPEC,), len(data) if size is None else size, limit, "spec_bytes")
    found = [occurrence for i in range(0, len(data), step) for _, occurrence in scanner.feed(data[i : i + step])]
    scanner.finish()
    return found


def refusal(data: bytes, step: int = 1 << 20, **options: int) -> Refusal:
    with pytest.raises(Refusal) as refused:
        scan(data, step, **options)
    return refused.value


STEPS = [1, 2, 3, 1 << 20]

FOUND = {
    "empty message": (b"", []),
    "alone": (length(1, b"abc"), [b"abc"]),
    "empty": (length(1, b""), [b""]),
    "long": (length(1, b"x" * 300), [b"x" * 300]),
    "after a tensor": (length(2, b"x" * 200) + length(1, b"abc"), [b"abc"]),
    "before a tensor": (length(1, b"abc") + length(2, b"x" * 20_000), [b"abc"]),
    "twice": (length(1, b"abc") + length(2, b"x") + length(1, b""), [b"abc", b""]),
    "among all wire types": (
        varint(5 << 3)
        + varint(1 << 63)
        + varint(6 << 3 | 1)
        + bytes(8)
        + length(1, b"a")
        + varint(7 << 3 | 5)
        + bytes(4),
        [b"a"],
    ),
    "large field numbers": (length((1 << 29) - 1, b"x") + length(1, b"a") + varint(1000 << 3) + b"\x00", [b"a"]),
    "not inside a tensor": (length(2, length(1, b"abc")), []),
    "not inside a group": (b"\x1b" + length(1, b"abc") + b"\x1c" + length(1, b"a"), [b"a"]),
    "not inside a group of its number": (b"\x0b" + length(1, b"abc") + b"\x0c", []),
    "not as a varint": (b"\x08\x01" + length(1, b"a"), [b"a"]),
    "not as fixed64": (b"\x09" + length(1, b"123456")[:8] + length(1, b"a"), [b"a"]),
    "groups within each other": (b"\x1b\x23\x1b\x1c\x24\x1c" + length(1, b"a"), [b"a"]),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", FOUND)
def test_finds_the_field_at_the_top_level_only(name: str, step: int) -> None:
    data, expected = FOUND[name]
    assert scan(data, step) == expected


REFUSED = {
    # threats: the same bytes name two models, depending on the parser
    "padded tag": (length(1, b"\x0a\x06public") + b"\x8a\x80\x80\x80\x00" + b"\x08\x0a\x06secret", "padded"),
    "tag above 32 bits": (length(1, b"\x0a\x06public") + b"\x8a\x80\x80\x80\x10" + b"\x08\x0a\x06secret", "too large"),
    "tag padded by one": (b"\x8a\x00\x01a", "padded"),
    "tag of six bytes": (b"\x8a\x80\x80\x80\x80\x00\x01a", "too long"),
    "tag of ten bytes": (b"\x8a" + b"\x80" * 8 + b"\x00\x01a", "too long"),
    "padded tag in a group": (b"\x1b\xa0\x00\x01\x1c", "padded"),
    "padded length": (b"\x0a\x81\x00a", "padded"),
    "padded length of a tensor": (b"\x12\x81\x80\x80\x80\x00a", "padded"),
    "length of six bytes": (b"\x12\x81\x80\x80\x80\x80\x00a", "too long"),
    "length above 2^31": (b"\x12\x80\x80\x80\x80\x08a", "too large"),
    "length 2^32 - 1": (b"\x12\xff\xff\xff\xff\x0fa", "too large"),
    "longer than the message": (b"\x0a\x05abcd", "longer"),
    "tensor longer than the message": (b"\x12\x05abcd", "longer"),
    "fixed64 longer than the message": (b"\x19" + bytes(7), "longer"),
    "fixed32 longer than the message": (b"\x1d" + bytes(3), "longer"),
    "field number 0": (b"\x02\x01a", "field number 0"),
    "field number 0, varint": (b"\x00\x01", "field number 0"),
    "varint of eleven bytes": (b"\x18" + b"\xff" * 10 + b"\x01", "64 bits"),
    "varint of 65 bits": (b"\x18" + b"\xff" * 9 + b"\x02", "64 bits"),
    "wire type 6": (b"\x0e\x01", "wire type 6"),
    "wire type 7": (b"\x0f\x01", "wire type 7"),
    "end of no group": (b"\x0c", "did not begin"),
    "end of another group": (b"\x0b\x14", "did not begin"),
    "group without an end": (length(1, b"a") + b"\x0b", "cut short"),
    "cut in a tag": (length(1, b"a") + b"\x80", "cut short"),
    "cut before a length": (length(1, b"a") + b"\x12", "cut short"),
    "cut in a length": (length(1, b"a") + b"\x12\x80", "cut short"),
    "cut before a varint": (length(1, b"a") + b"\x18", "cut short"),
    "cut in a varint": (length(1, b"a") + b"\x18" + b"\x80" * 9, "cut short"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_parsers_disagree_on(name: str, step: int) -> None:
    data, why = REFUSED[name]
    refused = refusal(data, step)
    assert refused.reason is Reason.MALFORMED_MESSAGE
    assert why in refused.message


def test_a_message_of_unknown_size_is_checked_at_its_end() -> None:
    assert scan(length(1, b"abc"), 1, size=1 << 20) == [b"abc"]
    assert "cut short" in refusal(b"\x12\x05abcd", size=1 << 20).message
    assert "cut short" in refusal(b"\x0a\x05abcd", size=1 << 20).message
    assert "cut short" in refusal(b"\x19" + bytes(7), 1, size=1 << 20).message


@pytest.mark.parametrize("step", STEPS)
def test_depth_is_that_of_protobuf(step: int, messages: dict[str, Any]) -> None:
    deepest = b"\x1b" * DEPTH + b"\x1c" * DEPTH
    assert scan(deepest, step) == []
    messages["SpecRequest"].FromString(deepest)
    with pytest.raises(DecodeError):
        messages["SpecRequest"].FromString(b"\x1b" + deepest + b"\x1c")
    assert "deeper" in refusal(b"\x1b" + deepest + b"\x1c", step).message


def test_depth_counts_the_messages_around() -> None:
    walker = FieldWalker()
    deepest = b"\x1b" * (DEPTH - 2) + b"\x1c" * (DEPTH - 2)
    assert walker.read(deepest, (SPEC,), 2) == []
    with pytest.raises(Refusal, match="deeper"):
        walker.read(deepest, (SPEC,), 3)


@pytest.mark.parametrize("step", [1, 100, 1 << 20])
def test_holds_no_more_than_the_limit(step: int) -> None:
    assert scan(length(1, bytes(600)) + length(1, bytes(400)), step) == [bytes(600), bytes(400)]
    refused = refusal(length(1, bytes(600)) + length(1, bytes(401)), step)
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "spec_bytes")


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_takes_no_more_occurrences_than_the_limit(step: int) -> None:
    """Empty ones among them: each takes as long as one that names a model."""
    assert scan(length(1, b"") * OCCURRENCES, step) == [b""] * OCCURRENCES
    refused = refusal(length(1, b"") * (OCCURRENCES + 1), step)
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "models")


def test_refuses_at_the_length_and_not_when_it_has_come() -> None:
    scanner = FieldScanner((SPEC,), 1 << 20, 1000, "spec_bytes")
    with pytest.raises(Refusal) as refused:
        scanner.feed(length(1, bytes(1001))[:3])
    assert refused.value.limit == "spec_bytes"


@pytest.mark.parametrize("step", [1, 1000, 1 << 20])
def test_takes_no_more_fields_than_the_limit(step: int) -> None:
    assert scan(b"\x18\x00" * FIELDS, step) == []
    refused = refusal(b"\x18\x00" * (FIELDS + 1), step)
    assert (refused.reason, refused.limit) == (Reason.SCAN_LIMIT, "fields")


@pytest.mark.parametrize("wanted", [(SPEC,), (SPEC, 0x12)])
def test_fields_that_should_come_once_cost_more_where_they_come_again(wanted: tuple[int, ...]) -> None:
    walker = FieldWalker()
    once, twice = (length(1, b"") * (len(wanted) + more) for more in (0, 1))
    for _ in range(FIELDS // len(wanted)):
        assert len(walker.read_singular(once, wanted, 1)) == len(wanted)
    walker = FieldWalker()
    for _ in range(FIELDS // (len(wanted) + 1 + REPEATED_FIELDS)):
        assert len(walker.read_singular(twice, wanted, 1)) == len(wanted) + 1
    for reader, data in ((walker, twice), (FieldWalker(), length(1, b"") * (FIELDS // 2))):
        with pytest.raises(Refusal) as refused:
            reader.read_singular(data, wanted, 1)
        assert (refused.value.reason, refused.value.limit) == (Reason.SCAN_LIMIT, "fields")


def test_fields_are_counted_over_all_messages_of_a_walker() -> None:
    walker = FieldWalker()
    walker.read(b"\x18\x00" * (FIELDS - 1), (), 1)
    walker.read(b"\x18\x00", (), 1)
    with pytest.raises(Refusal) as refused:
        walker.read(b"\x18\x00", (), 1)
    assert refused.value.limit == "fields"


def test_reads_wanted_fields_in_order() -> None:
    data = length(1, b"a") + b"\x08\x05" + length(2, b"b") + b"\x10\x96\x01" + length(1, b"c")
    assert FieldWalker().read(data, (0x0A, 0x10), 1) == [(0x0A, b"a"), (0x10, 150), (0x0A, b"c")]


@pytest.mark.parametrize("data", [b"\x0a\x05abcd", b"\x0a", b"\x08", b"\x08\x80", b"\x0b", b"\x09" + bytes(7), b"\x80"])
def test_reads_only_whole_messages(data: bytes) -> None:
    with pytest.raises(Refusal):
        FieldWalker().read(data, (0x0A,), 1)


@pytest.mark.parametrize(
    ("number", "value"),
    [(0, 0), (1, 1), ((1 << 63) - 1, (1 << 63) - 1), (1 << 63, -(1 << 63)), ((1 << 64) - 1, -1)],
)
def test_int64(number: int, value: int) -> None:
    assert as_int64(number) == value


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", True),
        (length(2, b"abc"), True),
        (length(2, bytes(300)) + length(15, b""), True),
        (length(1, b"abc"), False),
        (length(2, b"abc") + length(1, b"abc"), False),
        (b"\x8a\x80\x80\x80\x00\x01a", False),
        (length(16, b"a"), False),
        (b"\x18\x01", False),
        (b"\x02\x01a", False),
        (b"\x12\x81\x00a", False),
        (b"\x12\x81\x80\x00a", False),
        (b"\x12\x05abcd", False),
        (b"\x12", False),
        (b"\x12\x80", False),
    ],
)
def test_knows_what_follows_a_model_spec(data: bytes, answer: bool) -> None:
    assert holds_only_others(data, 0, len(data)) is answer


fields = st.one_of(
    st.builds(length, st.integers(1, 20), st.binary(max_size=30)),
    st.builds(lambda number, value: varint(number << 3) + varint(value), st.integers(1, 20), st.integers(0, 2**64 - 1)),
    st.builds(lambda number: varint(number << 3 | 1) + bytes(8), st.integers(1, 20)),
    st.builds(lambda number: varint(number << 3 | 5) + bytes(4), st.integers(1, 20)),
)
groups = st.recursive(
    fields,
    lambda inner: st.builds(
        lambda number, within: varint(number << 3 | 3) + b"".join(within) + varint(number << 3 | 4),
        st.integers(1, 20),
        st.lists(inner, max_size=3),
    ),
    max_leaves=6,
)
well_formed = st.lists(groups, max_size=8).map(b"".join)


@given(data=well_formed, steps=st.lists(st.integers(1, 9), min_size=1, max_size=9))
@settings(max_examples=tries(200))
def test_takes_every_message_and_finds_what_protobuf_finds(
    messages: dict[str, Any], data: bytes, steps: list[int]
) -> None:
    # ReloadConfigRequest's list of metric names is a repeated field of bytes: the oracle keeps every occurrence.
    wanted = 0x12
    scanner = FieldScanner((0x0A, wanted), len(data), 1 << 20, "spec_bytes")
    both: list[tuple[int, bytes]] = []
    position = turn = 0
    while position < len(data):
        step = steps[turn % len(steps)]
        both += scanner.feed(data[position : position + step])
        position, turn = position + step, turn + 1
    scanner.finish()
    assert both == FieldWalker().read(data, (0x0A, wanted), 0)
    found = [value for tag, value in both if tag == wanted]
    try:
        expected = list(messages["ConfigRequest"].FromString(data).metric_names)
    except DecodeError:  # field 1 held something that is no ModelServerConfig: not looked into here
        return
    assert found == expected
    if holds_only_others(data, 0, len(data)):
        assert scan(data) == []


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A message with a byte changed, or an end lost, or something added to it."""
    data = draw(well_formed)
    if data and draw(st.booleans()):
        at = draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
    return data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=6))


@given(data=st.one_of(st.binary(max_size=40), damaged()))
@settings(max_examples=tries(200))
def test_takes_nothing_that_protobuf_refuses(messages: dict[str, Any], data: bytes) -> None:
    try:
        found = FieldWalker().read(data, (0x12,), 0)
    except Refusal:
        for step in (1, 3, 100):
            with pytest.raises(Refusal):
                scan(data, step)
        assert not holds_only_others(data, 0, len(data))
        return
    if not FieldWalker().read(data, (0x0A,), 0):  # the one field into which the oracle looks deeper
        task = messages["InferenceTask"].FromString(data)
        assert task.method_name == (found[-1][1] if found else b"")
