"""grpc.health.v1.Health: how a server says whether it serves, read and written for both of its ends.

Sidecars answer it for the model server behind them, with a model's name as the service; checks ask it.
Source: https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto

    message HealthCheckRequest { string service = 1; }
    message HealthCheckResponse { ServingStatus status = 1; }
"""

from __future__ import annotations

from enum import IntEnum

from meshproxy.codec.grpc import frame
from meshproxy.inference.protobuf import LENGTH, VARINT, FieldWalker
from meshproxy.inference.unary import read_message, read_text, write_text

CHECK = b"/grpc.health.v1.Health/Check"
WATCH = b"/grpc.health.v1.Health/Watch"
ALIVE = b"/meshproxy/alive"
"""GET: a sidecar answers it itself, to any workload of the mesh, whatever that may call. Of the model server it says
nothing."""


class Serving(IntEnum):
    """HealthCheckResponse.ServingStatus."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3
    """Of Watch only; Check ends with NOT_FOUND instead."""


_SERVICE = 1 << 3 | LENGTH
_STATUS = 1 << 3 | VARINT


def write_request(service: str) -> bytes:
    """The body that asks for a service; an empty name means the server as a whole."""
    return frame(write_text(1, service))


def read_request(body: bytes) -> str:
    """The service that is asked for; empty for the server as a whole.

    Raises:
        Refusal: MALFORMED_MESSAGE, SCAN_LIMIT or UNSUPPORTED_ENCODING.
    """
    found = FieldWalker().read(read_message(body), (_SERVICE,), 0)
    return read_text(found[-1][1], "the name of the service") if found else ""


def write_response(status: Serving) -> bytes:
    """The body of the answer."""
    return frame(bytes((_STATUS, status)) if status else b"")


def read_response(body: bytes) -> Serving:
    """What a server says of itself. A status that does not exist is UNKNOWN.

    Raises:
        Refusal: MALFORMED_MESSAGE, SCAN_LIMIT or UNSUPPORTED_ENCODING.
    """
    found = FieldWalker().read(read_message(body), (_STATUS,), 0)
    status = found[-1][1] if found else 0
    return Serving(status) if status in _KNOWN else Serving.UNKNOWN


_KNOWN = frozenset(Serving)
