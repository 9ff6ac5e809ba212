"""Requests that differ from one another as those of real clients do: in length, in request id and in trace context.

A proxy that remembers whole heads looks better with identical requests than it is.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from meshproxy.devtools.load.messages import field

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTHS = 16
"""How many different lengths a body has."""
MOST = 65_536
"""Bytes of a body up to which its length varies: a copy of a larger one would cost the load more than the request."""
SAMPLED = 100
"""Of so many requests one belongs to a trace that is sampled: where spans are exported, these cost most."""
_SAMPLED_VERSION = b"9"
"""Of a UUID: Envoy writes its decision there, and takes that of another Envoy from there (`pack_trace_reason`)."""
_ODD = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""Times a counter, modulo 2**128, this gives ids without visible order, and none twice."""
_IDS = 1 << 128
_SPANS = 1 << 64
_OUTPUT_FILTER = 3
"""The field of a PredictRequest that lengthens it: names of outputs (tensorflow_serving/apis/predict.proto)."""

Ids = tuple[int, bytes, bytes]
"""The number of a request from 1, its `x-request-id` and its `traceparent`."""


def ids() -> Callable[[], Ids]:
    """What makes the ids of one request after the other."""
    numbers = count(1)

    def make() -> Ids:
        number = next(numbers)
        value = number * _ODD % _IDS
        digits = b"%032x" % value
        version, flags = (b"4", b"00") if number % SAMPLED else (_SAMPLED_VERSION, b"01")
        uuid = b"-".join((digits[:8], digits[8:12], version + digits[13:16], digits[16:20], digits[20:]))
        return number, uuid, b"00-%b-%016x-%b" % (digits, value % _SPANS or 1, flags)

    return make


def vary_rest(request: bytes, make: Callable[[], Ids]) -> Callable[[], bytes]:
    """What makes requests like `request`, an HTTP/1.1 message with a content-length and a JSON body. White space behind
    JSON is no part of it."""
    head, _, body = request.partition(b"\r\n\r\n")
    before, _, after = head.partition(b"content-length: %d" % len(body))
    lengths = LENGTHS if len(body) <= MOST else 1

    def next_request() -> bytes:
        number, request_id, trace = make()
        padding = number % lengths
        return b"".join(
            (
                before,
                b"content-length: %d\r\nx-request-id: %b\r\ntraceparent: %b" % (len(body) + padding, request_id, trace),
                after,
                b"\r\n\r\n",
                body,
                b" " * padding,
            )
        )

    return next_request


def vary_message(message: bytes, number: int) -> bytes:
    """A PredictRequest like `message`, of another length than those before and behind it."""
    if len(message) > MOST:
        return message
    return message + field(_OUTPUT_FILTER, b"y" * (1 + number % LENGTHS))
