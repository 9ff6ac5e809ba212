from __future__ import annotations

import pytest

from meshproxy.codec.grpc import frame
from meshproxy.inference.protobuf import FieldWalker
from meshproxy.inference.unary import read_message, read_text, write_bytes, write_text
from meshproxy.refusal import Reason, Refusal


def test_one_message_is_read() -> None:
    assert read_message(frame(b"abc")) == b"abc"
    assert read_message(frame(b"")) == b""


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", frame(b"abc")[:-1], frame(b"a") + frame(b""), frame(b"a") + b"\0", b"\2\0\0\0\0", frame(b"a") + b"\2"],
)
def test_anything_else_is_not(body: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_message(body)
    assert refused.value.reason is Reason.MALFORMED_MESSAGE


def test_nothing_is_inflated() -> None:
    with pytest.raises(Refusal) as refused:
        read_message(frame(b"abc", compressed=True))
    assert refused.value.reason is Reason.UNSUPPORTED_ENCODING


def test_fields_are_written() -> None:
    assert write_text(1, "abc") == b"\x0a\x03abc"
    assert write_text(1, "") == b""
    assert write_bytes(1, b"") == b"\x0a\x00"


@pytest.mark.parametrize("size", [0, 1, 127, 128, 256, 16_383])
def test_fields_of_any_size_are_read_again(size: int) -> None:
    assert FieldWalker().read(write_bytes(15, b"x" * size), (122,), 0) == [(122, b"x" * size)]


@pytest.mark.parametrize("raw", [b"\xff", b"a\nb", b"x" * 257])
def test_names_are_those_that_we_take(raw: bytes) -> None:
    assert read_text(b"a/b", "a name") == "a/b"
    with pytest.raises(Refusal, match="a name "):
        read_text(raw, "a name")
