"""How an attempt failed, as breakers, balancers and retry rules classify it."""

from __future__ import annotations

from enum import Enum


class Failure(Enum):
    """A failed attempt. The values are those of `retries.reasons`, where a document may name them, and of metrics."""

    CONNECT = "connect-failure"
    """No connection: nothing was sent."""
    REFUSED = "refused-stream"
    """The server has not processed the request (RST_STREAM with REFUSED_STREAM)."""
    GOAWAY = "goaway"
    """The same after GOAWAY: the stream is above the last one that is processed (RFC 9113 section 6.8)."""
    RESET = "reset"
    """Reset, or malformed, before the response was complete."""
    TIMEOUT = "timeout"
    """No byte of a response within `tryTimeout`."""
    UNAVAILABLE = "unavailable"
    """gRPC status UNAVAILABLE."""
    GATEWAY = "gateway-error"
    """HTTP status 502, 503 or 504."""
    ERROR = "error"
    """Another server error: INTERNAL, UNKNOWN or DATA_LOSS, or 500. Never retried."""
    OVERLOADED = "overloaded"
    """RESOURCE_EXHAUSTED or 429: overloaded. Neither retried nor counted by breakers."""
    STATUS = "status"
    """A status that the route's `retries` names. Only retry rules know it: an endpoint is told what else the status
    means."""

    __hash__ = object.__hash__  # members are single: by identity, in C

    @property
    def is_unsent(self) -> bool:
        """The model server has not processed the request: a retry cannot repeat anything."""
        return self in _UNSENT

    @property
    def is_of_endpoint(self) -> bool:
        """The endpoint failed, independent of the model."""
        return self in _ENDPOINT

    @property
    def is_of_model(self) -> bool:
        """The endpoint answered; the model on it failed."""
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
    """The failure that a gRPC status means, a missing one too; None if it is not a failure of the server."""
    return _GRPC.get(status) if status is not None else Failure.ERROR


def of_http(status: int) -> Failure | None:
    """The failure that an HTTP status means; None if it is not a failure of the server."""
    return _HTTP.get(status)
