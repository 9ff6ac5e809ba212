"""Unary gRPC calls that we make or answer ourselves, and the protobuf fields they are written with.

Bodies that pass through are read in pieces by `body_scan`; these are short and held whole.
"""

from __future__ import annotations

from meshproxy.codec.grpc import Deframer, MessagePart
from meshproxy.inference.names import BadName, read_name
from meshproxy.inference.protobuf import LENGTH, malformed
from meshproxy.refusal import Reason, Refusal


def read_message(body: bytes) -> bytes:
    """The one message of a body.

    Raises:
        Refusal: MALFORMED_MESSAGE: there is none, or more than one, or it is cut short; UNSUPPORTED_ENCODING: it is
            compressed, which saves nothing with so few bytes.
    """
    deframer = Deframer()
    parts = deframer.receive(body)
    if len(parts) != 1 or not isinstance(part := parts[0], MessagePart) or not part.end or not deframer.is_idle:
        raise malformed("the body is not one complete gRPC message")
    if part.compressed:
        raise Refusal(
            Reason.UNSUPPORTED_ENCODING, "Compressed messages of this method are not supported: send it uncompressed."
        )
    return part.data


def write_text(number: int, text: str) -> bytes:
    """A string field, as a message or a part of one. Empty text is no field (proto3)."""
    return write_bytes(number, text.encode()) if text else b""


def write_bytes(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return write_varint(number << 3 | LENGTH) + write_varint(len(data)) + data


def write_varint(number: int) -> bytes:
    """An unsigned number as a varint."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_text(raw: bytes | int, what: str) -> str:
    """A string field that names something.

    Raises:
        Refusal: MALFORMED_MESSAGE.
    """
    assert isinstance(raw, bytes)
    try:
        return read_name(raw)
    except BadName as bad:
        raise malformed(f"{what} {bad}") from None
