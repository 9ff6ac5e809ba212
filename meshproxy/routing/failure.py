"""How a try at an endpoint ended, in the words of whoever decides what follows: breaker, balancer and retry rule."""

from __future__ import annotations

from enum import Enum


class Failure(Enum):
    """What went wrong. The values are the words of `retries.reasons`, where a document may say them."""

    CONNECT = "connect-failure"
    """No connection: nothing was sent."""
    REFUSED = "refused-stream"
    """The server said that it has not looked at the request (RST_STREAM with REFUSED_STREAM)."""
    GOAWAY = "goaway"
    """The same, of a connection that goes away: the stream is above the last one it serves (RFC 9113 section 6.8)."""
    RESET = "reset"
    """Broken off, or not to be read, before the answer was complete."""
    TIMEOUT = "timeout"
    """Nothing of an answer came within the time of a try."""
    UNAVAILABLE = "unavailable"
    """gRPC status UNAVAILABLE."""
    GATEWAY = "gateway-error"
    """HTTP status 502, 503 or 504."""
    ERROR = "error"
    """Another answer that is the server's fault: INTERNAL, UNKNOWN or DATA_LOSS, or 500. Never tried again."""
    OVERLOADED = "overloaded"
    """RESOURCE_EXHAUSTED or 429: it works, and has too much to do. Neither tried again nor held against it."""

    __hash__ = object.__hash__  # members are single: by identity, in C

    @property
    def is_unsent(self) -> bool:
        """The model server has not begun with the request: another try cannot do anything twice."""
        return self in _UNSENT

    @property
    def is_of_endpoint(self) -> bool:
        """Whatever model was called, the endpoint is to blame."""
        return self in _ENDPOINT

    @property
    def is_of_model(self) -> bool:
        """The endpoint answered; something is wrong with this model on it."""
        return self in _MODEL


_UNSENT = frozenset({Failure.CONNECT, Failure.REFUSED, Failure.GOAWAY})
_ENDPOINT = frozenset({Failure.CONNECT, Failure.RESET, Failure.TIMEOUT})
_MODEL = frozenset({Failure.UNAVAILABLE, Failure.GATEWAY, Failure.ERROR})
_GRPC = {2: Failure.ERROR, 13: Failure.ERROR, 15: Failure.ERROR, 14: Failure.UNAVAILABLE, 8: Failure.OVERLOADED}
_HTTP = {
    500: Failure.ERROR,
    502: Failure.GATEWAY,
    503: Failure.GATEWAY,
    504: Failure.GATEWAY,
    429: Failure.OVERLOADED,
}


def of_grpc(status: int | None) -> Failure | None:
    """The failure that a gRPC status stands for, a missing one too; None if the server did its part."""
    return _GRPC.get(status) if status is not None else Failure.ERROR


def of_http(status: int) -> Failure | None:
    """The failure that an HTTP status stands for; None if the server did its part."""
    return _HTTP.get(status)
