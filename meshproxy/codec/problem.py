"""What is wrong with a message of either HTTP version.

Neither exception leaves the codec. `H1Connection` turns both into `Rejected` (as server) or `Failed` (as client).
`H2Connection` resets the stream of a `Malformed` message (RFC 9113 section 8.1.1) and turns `Unacceptable` into
`Rejected` if the message is a request. Faults that are HTTP/2's own, of a stream or of the connection: `h2.errors`.
"""

from __future__ import annotations


class MessageProblem(Exception):
    """The message cannot be processed.

    Attributes:
        status: the HTTP status of the response, if the message is a request.
        reason: one phrase.
        limit: the field of `Limits` that was exceeded, if one was.
        is_grpc: the message is a gRPC request, as far as it was read.
        fields: how many were read.
    """

    def __init__(self, status: int, reason: str, limit: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.limit = limit
        self.is_grpc = False
        self.fields = 0


class Malformed(MessageProblem):
    """The message violates HTTP."""

    def __init__(self, reason: str) -> None:
        super().__init__(400, reason)


class Unacceptable(MessageProblem):
    """The message is well-formed as far as it was read, but exceeds a limit or needs something that is not offered."""
