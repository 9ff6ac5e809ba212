"""Every reason for a local response instead of the model server's, and what each means on the wire.

One table: reason -> HTTP status and gRPC status. A refusal has the form of the protocol it answers: TensorFlow
Serving's own `{"error": "..."}` for REST, a trailers-only response for gRPC; the header `x-meshproxy-refusal` carries
the reason's name, which tells it from a response of the model server.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class GrpcStatus(IntEnum):
    """Status codes of gRPC (https://grpc.github.io/grpc/core/md_doc_statuscodes.html)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


GRPC_STATUS_NAMES = {status.value: status.name for status in GrpcStatus}


def grpc_status_name(status: int) -> str:
    """The name of a gRPC status, or the number of one that has none."""
    return GRPC_STATUS_NAMES.get(status) or str(status)


class Reason(Enum):
    """The reason's name for users, its HTTP status and its gRPC status."""

    # Invalid requests: malformed, or read differently by different parsers.
    BAD_REQUEST = ("bad-request", 400, GrpcStatus.INVALID_ARGUMENT)
    MALFORMED_MESSAGE = ("malformed-message", 400, GrpcStatus.INVALID_ARGUMENT)
    MODEL_CHANGED = ("model-changed", 400, GrpcStatus.INVALID_ARGUMENT)
    UNSUPPORTED_ENCODING = ("unsupported-encoding", 415, GrpcStatus.UNIMPLEMENTED)
    UNSUPPORTED_PROTOCOL = ("unsupported-protocol", 400, GrpcStatus.UNIMPLEMENTED)
    # Authentication and authorization.
    UNAUTHENTICATED = ("unauthenticated", 401, GrpcStatus.UNAUTHENTICATED)
    ORIGIN_NOT_ALLOWED = ("origin-not-allowed", 403, GrpcStatus.PERMISSION_DENIED)
    PERMISSION_DENIED = ("permission-denied", 403, GrpcStatus.PERMISSION_DENIED)
    # Limits.
    HEADERS_TOO_LARGE = ("headers-too-large", 431, GrpcStatus.RESOURCE_EXHAUSTED)
    BODY_TOO_LARGE = ("body-too-large", 413, GrpcStatus.RESOURCE_EXHAUSTED)
    SCAN_LIMIT = ("scan-limit", 413, GrpcStatus.RESOURCE_EXHAUSTED)
    OVERLOADED = ("overloaded", 503, GrpcStatus.RESOURCE_EXHAUSTED)
    RATE_LIMITED = ("rate-limited", 429, GrpcStatus.RESOURCE_EXHAUSTED)
    # Timeouts.
    REQUEST_TIMEOUT = ("request-timeout", 408, GrpcStatus.CANCELLED)
    DEADLINE_EXCEEDED = ("deadline-exceeded", 504, GrpcStatus.DEADLINE_EXCEEDED)
    # Routing and upstream failures.
    NO_ROUTE = ("no-route", 404, GrpcStatus.UNIMPLEMENTED)
    NO_UPSTREAM = ("no-upstream", 503, GrpcStatus.UNAVAILABLE)
    CONNECT_FAILED = ("connect-failed", 503, GrpcStatus.UNAVAILABLE)
    UPSTREAM_RESET = ("upstream-reset", 502, GrpcStatus.UNAVAILABLE)
    UPSTREAM_TIMEOUT = ("upstream-timeout", 504, GrpcStatus.DEADLINE_EXCEEDED)
    UPSTREAM_PROTOCOL = ("upstream-protocol", 502, GrpcStatus.INTERNAL)
    # Failures of the sidecar itself.
    KEYS_UNAVAILABLE = ("keys-unavailable", 503, GrpcStatus.UNAVAILABLE)
    AUDIT_UNAVAILABLE = ("audit-unavailable", 503, GrpcStatus.UNAVAILABLE)
    FAULT_INJECTED = ("fault-injected", 503, GrpcStatus.UNAVAILABLE)
    INTERNAL = ("internal", 500, GrpcStatus.INTERNAL)

    def __init__(self, label: str, http_status: int, grpc_status: GrpcStatus) -> None:
        self.label = label
        self.http_status = http_status
        self.grpc_status = grpc_status


class Refusal(Exception):
    """A local error response, raised where it is decided and written by the client side.

    Attributes:
        reason: decides the statuses.
        message: one sentence for the caller: what failed, why, what to do next. Never contains a secret or raw bytes.
        limit: the name of the exceeded limit, if there is one.
        retry_after: seconds after which a retry makes sense, if it does.
        challenge: the value of `www-authenticate` (RFC 6750 section 3), for `UNAUTHENTICATED`.
        http_status: differs from the reason's only where a codec knows better (414, 417, 501, 505).
        rule: the binding that decided, for the access log and the audit trail; never sent to the caller.
        audits: the audit bindings that matched the call, for the audit trail; never sent to the caller.
        conditions: the conditions on address and headers that made the difference, each with its binding, for the audit
            trail; never sent to the caller.
        closes_connection: further requests on the connection would be refused too: the caller is asked to reconnect.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        limit: str | None = None,
        retry_after: int | None = None,
        challenge: str | None = None,
        http_status: int | None = None,
        rule: str | None = None,
        audits: tuple[str, ...] = (),
        conditions: tuple[str, ...] = (),
        closes_connection: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.limit = limit
        self.retry_after = retry_after
        self.challenge = challenge
        self.http_status = http_status or reason.http_status
        self.grpc_status = reason.grpc_status
        self.rule = rule
        self.audits = audits
        self.conditions = conditions
        self.closes_connection = closes_connection
