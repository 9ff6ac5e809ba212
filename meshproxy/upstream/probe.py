"""One request of a health check over a pool: the transport's client, with its failures classified by what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.events import RequestHead
from meshproxy.transport.client import ClientError, Response, StatusError, exchange
from meshproxy.transport.grpc_client import post
from meshproxy.upstream.pool import PoolFull

if TYPE_CHECKING:
    from meshproxy.transport.client import StreamSource

ANSWER_BYTES = 65_536
"""The longest response body that is read: a status has a few hundred bytes."""


class Unanswered(Exception):
    """No response, or none that is well-formed: says something about the endpoint."""


class Skipped(Exception):
    """All connections are in use by requests of clients: the check says nothing."""


class ProbeFailed(Exception):
    """The server responded, and the response is not a success.

    Attributes:
        status: of gRPC; None for an HTTP status, or without one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


async def get(source: StreamSource, target: bytes, timeout: float) -> Response:
    """GET over the HTTP version of `source`; the response has any status.

    Raises:
        Unanswered, Skipped: there is no response.
    """
    fields = ((b"user-agent", b"meshproxy"), (b"accept", b"*/*"))
    head = RequestHead(0, b"GET", b"", target, fields, end=True)
    try:
        return await exchange(source, head, timeout=timeout, max_body_bytes=ANSWER_BYTES)
    except ClientError as error:
        raise _sorted(error) from error


async def call(source: StreamSource, path: bytes, body: bytes, timeout: float) -> bytes:
    """Call a unary gRPC method; `body` and the body that is returned are framed messages.

    Raises:
        Unanswered, Skipped: there is no response.
        ProbeFailed: the call ended with another status than OK.
    """
    try:
        return await post(source, path, body, timeout=timeout, max_bytes=ANSWER_BYTES)
    except ClientError as error:
        raise _sorted(error) from error


def _sorted(error: ClientError) -> Exception:
    if isinstance(error, StatusError):
        return ProbeFailed(str(error), error.grpc_status)
    if isinstance(error.__cause__, PoolFull):
        return Skipped(str(error))
    return Unanswered(str(error))
