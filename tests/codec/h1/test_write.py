from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.codec.events import Headers
from meshproxy.codec.h1 import write as module
from meshproxy.codec.h1.write import (
    ChunkedWriter,
    EofWriter,
    LengthWriter,
    NoWriter,
    frame_request,
    frame_response,
    write_fields,
    write_request_head,
    write_response_head,
)
from meshproxy.codec.headers import FRAMING
from meshproxy.codec.role import LocalProtocolError


def test_heads() -> None:
    assert write_request_head(b"GET", b"/x", b"a:1", ((b"x", b"y"), (b"z", b"")), b"f: g\r\n") == (
        b"GET /x HTTP/1.1\r\nhost: a:1\r\nx: y\r\nz: \r\nf: g\r\n\r\n"
    )
    assert write_response_head(429, (), b"") == b"HTTP/1.1 429 Too Many Requests\r\n\r\n"
    assert write_response_head(599, (), b"") == b"HTTP/1.1 599 \r\n\r\n"


@pytest.mark.parametrize("status", [0, 99, 600, -200])
def test_there_is_no_such_status(status: int) -> None:
    with pytest.raises(LocalProtocolError):
        write_response_head(status, (), b"")


@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0"])
@pytest.mark.parametrize("place", ["name", "value"])
def test_a_field_stays_one_field(byte: bytes, place: str) -> None:
    for text in (byte + b"x", b"x" + byte, b"x" + byte + b"x"):
        with pytest.raises(LocalProtocolError):
            write_fields(((text, b"y"),) if place == "name" else ((b"y", text),))


@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0"])
def test_a_trace_context_stays_one_field(byte: bytes) -> None:
    assert write_request_head(b"GET", b"/x", b"a", ((b"x", b"y"),), b"f: g\r\n", b"00-a") == (
        b"GET /x HTTP/1.1\r\nhost: a\r\nx: y\r\nf: g\r\ntraceparent: 00-a\r\n\r\n"
    )
    for headers, trace in ((((b"x", b"y"),), b"00" + byte), (((b"x", b"y" + byte),), b"00")):
        with pytest.raises(LocalProtocolError):
            write_request_head(b"GET", b"/x", b"a", headers, b"", trace)


@given(st.lists(st.tuples(st.sampled_from([b"x", b"y", b"host"]), st.binary(max_size=3)), max_size=4))
def test_what_is_remembered_is_what_would_be_written(fields: list[tuple[bytes, bytes]]) -> None:
    def outcome(write: Callable[[Headers], bytes]) -> bytes | None:
        try:
            return write(tuple(fields))
        except LocalProtocolError:
            return None

    assert outcome(write_fields) == outcome(module._write_fields) == outcome(write_fields)


def test_only_so_many_lists_are_remembered() -> None:
    for number in range(3 * module.KEPT_BLOCKS):
        write_fields(((b"x", b"%d" % number),))
    write_fields(((b"x", b"a" * module.KEPT_BLOCK_BYTES),))
    assert len(module._BLOCKS) <= module.KEPT_BLOCKS
    assert all(len(block) <= module.KEPT_BLOCK_BYTES for block in module._BLOCKS.values())


@pytest.mark.parametrize("name", sorted(FRAMING))
def test_nobody_frames_messages_from_outside(name: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        write_fields(((b"x", b"y"), (name, b"5")))


@pytest.mark.parametrize("byte", [b"\r", b"\n", b" "])
def test_a_request_line_stays_one(byte: bytes) -> None:
    text = b"/" + byte
    for method, target, authority in ((text, b"/", b"a"), (b"GET", text, b"a"), (b"GET", b"/", text)):
        with pytest.raises(LocalProtocolError):
            write_request_head(method, target, authority, (), b"")


def test_framing_of_requests() -> None:
    assert frame_request(b"GET", True, None)[0] == b""
    assert frame_request(b"PATCH", True, None)[0] == b"content-length: 0\r\n"
    fields, writer = frame_request(b"DELETE", False, 3)
    assert fields == b"content-length: 3\r\n"
    assert isinstance(writer, LengthWriter)
    fields, writer = frame_request(b"GET", False, None)
    assert fields == b"transfer-encoding: chunked\r\n"
    assert isinstance(writer, ChunkedWriter)


def test_framing_of_responses() -> None:
    fields, writer, closes = frame_response(200, b"GET", False, None, True)
    assert (fields, closes) == (b"", True)
    assert isinstance(writer, EofWriter)
    fields, writer, closes = frame_response(304, b"GET", False, 9, False)
    assert (fields, closes) == (b"content-length: 9\r\n", False)
    assert isinstance(writer, NoWriter)


def test_writers() -> None:
    chunks = ChunkedWriter()
    assert chunks.write(b"x" * 17, False) == b"11\r\n" + b"x" * 17 + b"\r\n"
    assert chunks.write(b"x", True) == b"1\r\nx\r\n0\r\n\r\n"
    assert chunks.write(b"", False) == b""
    assert chunks.write(b"", True) == b"0\r\n\r\n"
    assert chunks.write_trailers(()) == b"0\r\n\r\n"
    block = b"hello"
    length = LengthWriter(5)
    assert length.write(block, False) is block
    assert length.write_trailers(((b"x", b"y"),)) == b""
    with pytest.raises(LocalProtocolError):
        LengthWriter(1).write_trailers(())
    assert EofWriter().write(block, True) is block
    assert EofWriter().write_trailers(((b"x", b"y"),)) == b""
    assert NoWriter().write(block, True) == b""
    assert NoWriter().write_trailers(((b"x", b"y"),)) == b""
