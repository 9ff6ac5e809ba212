"""Unary gRPC calls of the sidecar itself, and the status of any gRPC call.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md. Messages are bytes; they are neither compressed
nor taken compressed (no `grpc-accept-encoding` is sent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.events import RequestHead
from meshproxy.codec.grpc import PREFIX_BYTES, Deframer, MessagePart, decode_message, format_timeout, frame
from meshproxy.refusal import GrpcStatus
from meshproxy.transport.client import ClientError, ClientFailure, StatusError, exchange

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.transport.client import StreamSource

MESSAGE_BYTES = 4 << 20
"""The largest message that is accepted: the default of every gRPC implementation."""
DETAILS_CHARACTERS = 200
"""Of a server's `grpc-message`, repeated in our error messages."""

_STATUSES = frozenset(GrpcStatus)


async def call_unary(
    source: StreamSource,
    path: bytes,
    message: bytes,
    *,
    timeout: float,
    metadata: Headers = (),
    max_message_bytes: int = MESSAGE_BYTES,
) -> bytes:
    """Call a unary method; the message of its response.

    Args:
        source: of the stream.
        path: `/package.Service/Method`.
        message: of the request.
        timeout: seconds, including the wait for a stream; sent to the server (`grpc-timeout`).
        metadata: further request headers.
        max_message_bytes: of the response.

    Raises:
        StatusError: the call ended with another status than OK.
        ClientError: another failure.
    """
    body = await post(source, path, frame(message), timeout=timeout, metadata=metadata, max_bytes=max_message_bytes)
    deframer = Deframer()
    parts = deframer.receive(body)
    if len(parts) != 1 or not isinstance(part := parts[0], MessagePart) or not part.end or not deframer.is_idle:
        raise ClientError(ClientFailure.PROTOCOL, "the response is not one gRPC message")
    if part.compressed:
        raise ClientError(ClientFailure.PROTOCOL, COMPRESSED)
    return part.data


async def post(
    source: StreamSource, path: bytes, body: bytes, *, timeout: float, metadata: Headers = (), max_bytes: int
) -> bytes:
    """As `call_unary`, for messages that carry their gRPC prefix, on both ways."""
    head = request_head(path, metadata, timeout)
    response = await exchange(source, head, body, timeout=timeout, max_body_bytes=max_bytes + PREFIX_BYTES)
    check_status(response.status, response.trailers or response.headers)
    return response.body


COMPRESSED = "the response is compressed although no encoding was offered"


def request_head(path: bytes, metadata: Headers, timeout: float | None) -> RequestHead:
    """The head of a call. The transport adds `te: trailers`."""
    fields: Headers = ((b"content-type", b"application/grpc"), (b"user-agent", b"meshproxy"))
    if timeout is not None:
        fields += ((b"grpc-timeout", format_timeout(timeout)),)
    return RequestHead(0, b"POST", b"", path, fields + metadata, end=False)


def check_status(http_status: int, trailers: Headers) -> None:
    """How a call ended.

    Args:
        http_status: of the response head.
        trailers: or the headers, of a response that is trailers-only.

    Raises:
        StatusError: anything but OK; a status that is missing or not a number is not OK.
    """
    if http_status != 200:
        raise StatusError(f"HTTP status {http_status}", http_status)
    fields = dict(trailers)
    value = fields.get(b"grpc-status", b"")
    if value == b"0":
        return
    status = int(value) if value.isdigit() and len(value) < 10 else None
    if status is None:
        name = "missing" if not value else "malformed"
    else:
        name = GrpcStatus(status).name if status in _STATUSES else str(status)
    details = decode_message(fields.get(b"grpc-message", b""))
    shown = details[:DETAILS_CHARACTERS]
    raise StatusError(f"gRPC status {name}" + (f": {shown}" if shown else ""), http_status, status, details)
