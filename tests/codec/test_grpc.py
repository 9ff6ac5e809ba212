from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.grpc import (
    Deframer,
    MessagePart,
    Misframed,
    decode_message,
    encode_message,
    forbids_retry,
    format_timeout,
    frame,
    grpc_status,
    has_grpc,
    is_grpc,
    parse_timeout,
)
from tests.thorough import tries


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def messages(parts: list[MessagePart | Misframed]) -> list[tuple[bool, bytes] | str]:
    """Parts put together again; the last one may be incomplete and is left out then."""
    whole: list[tuple[bool, bytes] | str] = []
    held = b""
    for part in parts:
        if isinstance(part, Misframed):
            whole.append(part.reason)
            continue
        held += part.data
        if part.end:
            assert len(held) == part.size
            whole.append((part.compressed, held))
            held = b""
    return whole


BODIES = {
    "one": (frame(b"abc"), [(False, b"abc")]),
    "compressed": (frame(b"abc", compressed=True), [(True, b"abc")]),
    "empty": (frame(b""), [(False, b"")]),
    "several": (
        frame(b"") + frame(b"x" * 300) + frame(b"", compressed=True) + frame(b"z"),
        [(False, b""), (False, b"x" * 300), (True, b""), (False, b"z")],
    ),
}


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6, 7, 1000])
@pytest.mark.parametrize("name", BODIES)
def test_finds_the_messages_however_the_body_is_cut(name: str, size: int) -> None:
    body, expected = BODIES[name]
    deframer = Deframer()
    parts = [part for piece in pieces(body, size) for part in deframer.receive(piece)]
    assert messages(parts) == expected
    assert deframer.is_idle
    assert deframer.messages == len(expected)


@given(
    sent=st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=6),
    cuts=st.lists(st.integers(1, 20), min_size=1, max_size=20),
)
@settings(max_examples=tries(150))
def test_gives_back_what_was_framed(sent: list[tuple[bool, bytes]], cuts: list[int]) -> None:
    body = b"".join(frame(message, compressed=compressed) for compressed, message in sent)
    deframer = Deframer()
    parts: list[MessagePart | Misframed] = []
    position = turn = 0
    while position < len(body):
        step = cuts[turn % len(cuts)]
        parts += deframer.receive(body[position : position + step])
        position, turn = position + step, turn + 1
    assert messages(parts) == sent
    assert deframer.is_idle


def test_holds_nothing_of_a_message() -> None:
    deframer = Deframer()
    chunk = bytes(16_384)
    [head] = deframer.receive(b"\0" + (1 << 24).to_bytes(4, "big") + b"x")
    assert head == MessagePart(False, 1 << 24, b"x", False)
    [part] = deframer.receive(chunk)
    assert isinstance(part, MessagePart)
    assert part.data is chunk


@pytest.mark.parametrize("flag", [2, 3, 0x80, 0xFF])
@pytest.mark.parametrize("size", [1, 1000])
def test_flag_other_than_0_and_1_ends_the_reading(flag: int, size: int) -> None:
    body = frame(b"abc") + bytes([flag]) + b"\0\0\0\1x" + frame(b"more")
    deframer = Deframer()
    parts = [part for piece in pieces(body, size) for part in deframer.receive(piece)]
    assert messages(parts) == [(False, b"abc"), "the compressed-flag of a gRPC message is neither 0 nor 1"]
    assert deframer.receive(frame(b"more")) == []


@pytest.mark.parametrize("end", [b"\0", b"\0\0\0\0", b"\0\0\0\0\1", b"\0\xff\xff\xff\xffabc"])
def test_is_not_idle_within_a_message(end: bytes) -> None:
    deframer = Deframer()
    deframer.receive(frame(b"x") + end)
    assert not deframer.is_idle


@pytest.mark.parametrize(
    "content_type",
    [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8", b"Application/gRPC+json"],
)
def test_knows_grpc(content_type: bytes) -> None:
    assert is_grpc(content_type)


@pytest.mark.parametrize(
    "content_type",
    [b"", b"application/json", b"application/grpc-web", b"application/grpcx", b" application/grpc", b"grpc"],
)
def test_knows_what_is_not_grpc(content_type: bytes) -> None:
    assert not is_grpc(content_type)


def test_the_content_type_of_a_message_may_stand_anywhere() -> None:
    assert has_grpc(((b"te", b"trailers"), (b"content-type", b"application/grpc+proto")))
    assert not has_grpc(((b"accept", b"application/grpc"), (b"content-type", b"application/json")))
    assert not has_grpc(())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"1S", 1.0), (b"100m", 0.1), (b"5u", 5e-6), (b"7n", 7e-9), (b"2M", 120.0), (b"99999999H", 99999999 * 3600.0)],
)
def test_reads_a_timeout(value: bytes, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1",
        b"S",
        b"123456789S",
        b"-1S",
        b"1.5S",
        b"+1S",
        b" 1S",
        b"1S\n",
        b"1 S",
        b"1s",
        b"1SS",
        "\u0661S".encode(),
    ],
)
def test_knows_what_is_no_timeout(value: bytes) -> None:
    assert parse_timeout(value) is None


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (-1.0, b"1n"),
        (0.0, b"1n"),
        (0.05, b"50000000n"),
        (0.25, b"250000u"),
        (30.0, b"30000000u"),
        (3_600.0, b"3600000m"),
        (1e6, b"1000000S"),
        (1e9, b"16666666M"),
        (1e11, b"27777777H"),
        (1e13, b"99999999H"),
    ],
)
def test_writes_a_timeout_in_the_finest_unit(seconds: float, value: bytes) -> None:
    assert format_timeout(seconds) == value


@given(st.floats(1e-9, 1e11))
def test_a_timeout_never_grows_on_its_way(seconds: float) -> None:
    again = parse_timeout(format_timeout(seconds))
    assert again is not None
    assert seconds * 0.9 - 2e-9 <= again <= seconds * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ok", b"ok"),
        ("50% of\n", b"50%25 of%0A"),
        ("größer", b"gr%C3%B6%C3%9Fer"),
        ("\x7f~", b"%7F~"),
        ("\ud800", b"?"),
    ],
)
def test_encodes_a_message(text: str, value: bytes) -> None:
    assert encode_message(text) == value


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decodes_what_it_encoded(text: str) -> None:
    value = encode_message(text)
    assert all(0x20 <= byte <= 0x7E for byte in value)
    assert decode_message(value) == text


@pytest.mark.parametrize(("value", "text"), [(b"100%", "100%"), (b"%zz%4", "%zz%4"), (b"%ff", "\ufffd")])
def test_keeps_what_is_badly_encoded(value: bytes, text: str) -> None:
    assert decode_message(value) == text


@pytest.mark.parametrize(
    ("value", "status"),
    [(b"0", 0), (b"14", 14), (b"16", 16), (b"99", 99), (b"100", 2), (b"", 2), (b"-1", 2), (b"1 ", 2), (b"OK", 2)],
)
def test_the_status_of_a_call(value: bytes, status: int) -> None:
    assert grpc_status(((b"grpc-message", b"x"), (b"grpc-status", value))) == status


def test_a_call_without_a_status() -> None:
    assert grpc_status(((b"grpc-message", b"0"),)) is None


@pytest.mark.parametrize(
    ("value", "is_so"), [(b"-1", True), (b"1.5", True), (b"", True), (b"0", False), (b"250", False)]
)
def test_a_server_forbids_to_retry(value: bytes, is_so: bool) -> None:
    fields = ((b"grpc-status", b"14"), (b"grpc-retry-pushback-ms", value))
    assert forbids_retry(fields) is is_so
    assert not forbids_retry(fields[:1])
