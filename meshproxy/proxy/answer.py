"""Our own answers: a `Refusal` in the words of the protocol that it answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from meshproxy.codec.grpc import encode_message
from meshproxy.proxy.headers import REFUSAL_HEADER

if TYPE_CHECKING:
    from meshproxy.codec.events import Headers
    from meshproxy.refusal import Refusal
    from meshproxy.transport.stream import Downstream


def answer(stream: Downstream, refusal: Refusal, is_grpc: bool) -> tuple[int, bool]:
    """Send `refusal` as the whole response. Returns the number of body bytes, and whether all has been written; if not,
    `drained` will tell.

    REST: the status and TensorFlow Serving's `{"error": "..."}`. gRPC: a trailers-only response, HTTP status 200
    (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Responses).
    """
    if is_grpc:
        stream.send_response(200, grpc_headers(refusal), end=True)
        return 0, True
    body = json.dumps({"error": refusal.message}).encode()
    headers: list[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (REFUSAL_HEADER, refusal.reason.label.encode()),
    ]
    if refusal.challenge is not None:
        headers.append((b"www-authenticate", refusal.challenge.encode()))
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after))
    stream.send_response(refusal.http_status, tuple(headers), end=False, length=len(body))
    return len(body), stream.send_data(body, end=True)


def grpc_headers(refusal: Refusal) -> Headers:
    """The trailers-only head of a refusal."""
    headers = [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % refusal.grpc_status),
        (b"grpc-message", encode_message(refusal.message)),
        (REFUSAL_HEADER, refusal.reason.label.encode()),
    ]
    if refusal.retry_after is not None:
        headers.append((b"grpc-retry-pushback-ms", b"%d" % (refusal.retry_after * 1000)))
    return tuple(headers)
