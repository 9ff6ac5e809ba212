"""`ModelRoute`: traffic split, mirroring, retries, timeouts, rate limits and fault injection of some models."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config.cors import Cors
from meshproxy.config.fields import (
    API_VERSION,
    Count,
    Duration,
    Glob,
    HeaderName,
    HttpStatus,
    Metadata,
    ModelName,
    Name,
    Part,
    Percent,
    Rate,
    Ratio,
    Size,
    Subject,
    Text,
    TextMatch,
    Verb,
    Version,
    Weight,
    one_of,
)
from meshproxy.config.servers import Key

RetryWord = Literal["connect-failure", "refused-stream", "goaway", "reset", "unavailable", "gateway-error", "timeout"]
PriorityWord = Literal["critical", "default", "sheddable"]
DirectionWord = Literal["inbound", "outbound"]
PerWord = Literal["model", "caller"]
GrpcStatusWord = Literal[
    "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
]  # fmt: skip
RetryReason = Annotated[RetryWord, one_of(RetryWord)]
Priority = Annotated[PriorityWord, one_of(PriorityWord)]
Direction = Annotated[DirectionWord, one_of(DirectionWord)]
GrpcStatus = Annotated[GrpcStatusWord, one_of(GrpcStatusWord)]

IDEMPOTENT_VERBS: tuple[Verb, ...] = ("predict", "classify", "regress", "multi-inference", "metadata", "status")


class Match(Part, frozen=True):
    """Requests that a route applies to: those that match everything named here."""

    headers: Mapping[HeaderName, Text | TextMatch] = {}
    """What each header must be: exactly this text, or what a mapping says (`prefix`, `suffix`, `contains`, `regex`,
    `present`). A header that occurs more than once only matches `present: true`. Names are in lower case; `host`,
    `traceparent` and those that frame a message are errors."""
    caller: Subject | None = None
    """The caller, as in a binding. Known for inbound calls only."""

    def __post_init__(self) -> None:
        if not self.headers and self.caller is None:
            raise ValueError('expected "headers" or "caller": without them it matches every request')


_VERSION_OR_LABEL = "a call names a version or a label, never both"


class Destination(Part, frozen=True):
    """A weighted destination."""

    weight: Weight = 1
    """Its share of the sum of all weights. 0: no calls."""
    server: Name | None = None
    """The name of a ModelServer. Left out: the route's."""
    model: ModelName | None = None
    """Another model, whose name the proxy writes into the call. Not for calls that name a version or a label, which
    keep their model and go to the route's server. The route of the other model does not apply."""
    version: Version | None = None
    """The model version: the proxy writes it into the call. Left out together with `model`: its latest."""
    label: Text | None = None
    """The same with a version label: the version that the route's `labels` give it, or the label itself, for
    TensorFlow Serving to resolve."""

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(_VERSION_OR_LABEL)


class Retries(Part, frozen=True):
    """When a call is retried: only while no byte of a response has been sent to the client."""

    attempts: Annotated[Count, Meta(le=10)] = 3
    """Attempts in total, including the first."""
    reasons: tuple[RetryReason, ...] = (
        "connect-failure", "refused-stream", "goaway", "reset", "unavailable", "gateway-error",
    )  # fmt: skip
    """Failures that are retried. `unavailable` is the gRPC status, in headers or trailers; `gateway-error` is 502, 503
    and 504; `reset` is a connection reset before the response, `timeout` an attempt that exceeded `tryTimeout`."""
    grpc_statuses: tuple[GrpcStatus, ...] = ()
    """gRPC statuses that are retried in addition to `reasons`, such as `RESOURCE_EXHAUSTED` (`retryableStatusCodes` in
    gRPC, `retryOn: resource-exhausted` in Envoy)."""
    http_statuses: tuple[HttpStatus, ...] = ()
    """HTTP statuses of REST responses that are retried in addition, such as 429."""
    verbs: tuple[Verb, ...] = IDEMPOTENT_VERBS
    """Verbs that are idempotent and may be sent twice. Calls that never reached the model server (`connect-failure`,
    `refused-stream`, `goaway`) are retried for every verb."""
    budget_ratio: Ratio = 0.2
    """Retry budget: retries per call, averaged over 10 seconds. Prevents retry storms."""
    budget_min: Rate = 10.0
    """Retries a second that are always allowed."""
    backoff: Duration = 0.025
    """The longest wait before the second retry, doubled for each further one, with full jitter. The first retry is sent
    at once if there is another endpoint."""
    backoff_max: Duration = 0.25
    """The upper bound of the doubled `backoff`."""
    replay_bytes: Annotated[Size, Meta(le=64 << 20)] = 1 << 20
    """The replay buffer of one request. A request with a longer body is not retried once part of it was sent."""
    hedge_after: Duration | None = None
    """Hedging: without a response after this time, the call is also sent to another endpoint, and the first response is
    used. For calls whose whole body is in the replay buffer."""

    def __post_init__(self) -> None:
        if self.backoff > self.backoff_max:
            raise ValueError('"backoff" is above "backoffMax"')


class Compare(Part, frozen=True):
    """Tolerances for numbers of a mirrored response compared with the client's."""

    relative: Ratio = 1e-3
    """Relative to the larger of the two."""
    absolute: Annotated[float, Meta(ge=0)] = 1e-6
    """In absolute terms."""


class Mirror(Part, frozen=True):
    """Mirrors calls to another server, model or version, and discards the responses, or compares them. It never delays
    or fails a call: calls beyond its limits are not mirrored, and counted. Calls that go there themselves, by their
    share of a split or by the version that they name, are not mirrored."""

    server: Name | None = None
    """The name of a ModelServer. Left out: the route's."""
    model: ModelName | None = None
    """Another model, whatever version the call names."""
    version: Version | None = None
    """The model version of the mirrored request. Left out together with `model`: its latest."""
    label: Text | None = None
    """The same with a version label."""
    percent: Percent = 100.0
    """The share of calls that are mirrored."""
    max_in_flight: Count = 32
    """Mirrored calls in flight."""
    max_bytes: Annotated[Size, Meta(le=64 << 20)] = 1 << 20
    """Longer requests are not mirrored, longer responses not compared."""
    timeout: Duration = 5.0
    """A mirrored call that takes longer is aborted."""
    compare: Compare | None = None
    """Compare the responses, and count those that differ, and those whose largest number (top-1) is at another
    index."""

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(_VERSION_OR_LABEL)
        if self.server is None and self.model is None and self.version is None and self.label is None:
            raise ValueError(
                'expected "server", "model", "version" or "label": without them it mirrors to where the calls go'
            )


class Fallback(Part, frozen=True):
    """Where a call goes when no endpoint is available for it, and what it asks for there, whatever it named itself."""

    server: Name | None = None
    """The name of a ModelServer. Left out: the one that the call would have gone to."""
    model: ModelName | None = None
    """Another model, such as a smaller one. The caller must be permitted to call it."""
    version: Version | None = None
    """The model version. Left out together with `model`: its latest."""
    label: Text | None = None
    """The same with a version label."""

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError(_VERSION_OR_LABEL)
        if self.server is None and self.model is None and self.version is None and self.label is None:
            raise ValueError('expected "server", "model", "version" or "label"')


class Delay(Part, frozen=True):
    """Delays some calls before they are forwarded."""

    percent: Percent
    """The share of calls."""
    duration: Duration
    """The delay."""


class Abort(Part, frozen=True):
    """Fails some calls with an error."""

    percent: Percent
    """The share of calls."""
    http_status: HttpStatus = 503
    """The status of a REST response."""
    grpc_status: GrpcStatus = "UNAVAILABLE"
    """The status of a gRPC response."""


class Fault(Part, frozen=True):
    """Fault injection, to test how callers cope."""

    delay: Delay | None = None
    """Delays some calls."""
    abort: Abort | None = None
    """Fails some calls."""

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None:
            raise ValueError('expected "delay", "abort" or both')


class Concurrency(Part, frozen=True):
    """The concurrency limit of each model; further calls are queued, or refused with `retry-after`. Routes whose
    settings are equal, such as two with a `match` of their own, share limit and queue of a model at a server."""

    limit: Count | None = None
    """A fixed limit. Left out: adaptive, as many as the server carries without its latency rising (gradient)."""
    initial: Count = 16
    """The initial adaptive limit."""
    min: Count = 2
    """The lowest adaptive limit."""
    max: Count = 1000
    """The highest adaptive limit."""
    queue: Annotated[int, Meta(ge=0, le=100_000)] = 64
    """The length of the queue. Calls that could not be answered before their deadline are refused at once; when it is
    full, the newest call of the lowest priority is evicted."""
    queue_timeout: Duration = 1.0
    """The longest time in the queue."""

    def __post_init__(self) -> None:
        if not self.min <= self.initial <= self.max:
            raise ValueError('expected "min" <= "initial" <= "max"')


class RateLimit(Part, frozen=True):
    """A rate limit. Calls beyond it are refused with 429 or RESOURCE_EXHAUSTED and `retry-after`. Bytes and examples
    are counted as they arrive: a call is admitted while tokens are left, and its excess is charged to later calls."""

    per: Annotated[PerWord, one_of(PerWord)] = "model"
    """What shares a limit. `model`: all calls of one model. `caller`: calls of one caller to one model."""
    requests: Rate | None = None
    """Calls a second."""
    bytes: Annotated[Size, Meta(ge=1)] | None = None
    """Bytes of request bodies a second."""
    examples: Rate | None = None
    """Examples (rows of a batch) a second."""
    burst: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0
    """The burst, in seconds of the rate."""

    def __post_init__(self) -> None:
        if self.requests is None and self.bytes is None and self.examples is None:
            raise ValueError('expected "requests", "bytes" or "examples"')


class RouteSpec(Part, frozen=True):
    """Which calls the route applies to, and how they are routed."""

    models: Annotated[tuple[Glob, ...], Meta(min_length=1)]
    """Model names or globs, as in a role. If several routes match a model, a name beats a glob, and of two globs the
    one with more literal characters wins. The same pattern in two routes is an error, unless all but one have a
    `match`: those are evaluated first, in the order of documents."""
    match: tuple[Match, ...] = ()
    """The route applies only to requests that match one of these. Left out: to all."""
    directions: Annotated[tuple[Direction, ...], Meta(min_length=1)] = ("inbound", "outbound")
    """`inbound`: calls to our model server. `outbound`: calls of our application."""
    server: Name | None = None
    """The name of a ModelServer. Left out: the server that the call would go to without a route."""
    split: tuple[Destination, ...] = ()
    """A weighted traffic split. Models, versions and labels apply to calls that name neither version nor label; other
    calls keep theirs, unless it is one of `labels`."""
    labels: Mapping[Text, Version] = {}
    """Versions of version labels: the proxy resolves them, so they may name versions that are not loaded yet."""
    sticky: Key | None = None
    """Calls with the same key get the same destination of a split. Left out: each call is random."""
    mirror: Mirror | None = None
    """Mirrors calls to another server, model or version."""
    fault: Fault | None = None
    """Fault injection."""
    fallback: Name | Fallback | None = None
    """What gets a call when no endpoint of the selected server is available for its model: the name of a ModelServer,
    or a mapping that may name another model. For a caller who may not call that,
    there is none."""
    timeout: Duration | None = None
    """From a request's head to the end of its response. Left out: the mesh's `requestTimeout`. A shorter deadline of
    the client takes precedence."""
    try_timeout: Duration | None = None
    """From sending the request to the first byte of the response, for each attempt."""
    idle_timeout: Duration | None = None
    """The longest pause between two pieces of a response. Left out: unlimited within the request's timeout."""
    retries: Retries | None = None
    """When a call is retried. Left out: outbound calls have the defaults of `retries`; inbound calls are retried only
    if they never reached the model server."""
    concurrency: Concurrency | None = None
    """The concurrency limit of each model. Left out: none."""
    rate_limits: tuple[RateLimit, ...] = ()
    """Rate limits; all of them apply."""
    refuse_late: bool = False
    """Refuse a call at once if its remaining deadline is shorter than the median of the responses of its model in the
    last second, of 20 at least. The median is of all callers: leave it off where some make long calls and others quick
    ones."""
    priority: Priority = "default"
    """Of calls that wait in one queue, `critical` ones go first, and `sheddable` ones are evicted first. Those of one
    route have one priority: give another route a `match`, and an equal `concurrency`, whose queue they share then."""

    cors: Cors | None = None
    """Cross-origin calls of browsers. Left out: pages of other origins cannot call these models. Not in a route with
    `match`: a preflight has neither the caller nor the headers of the call, so it is the route for all calls of a model
    that counts."""

    @property
    def targets(self) -> list[Destination | Mirror | Fallback]:
        """What may give calls another model, version or label."""
        found = (*self.split, self.mirror, self.fallback)
        return [each for each in found if each is not None and not isinstance(each, str)]

    def __post_init__(self) -> None:
        if self.cors is not None and self.match:
            raise ValueError(
                '"cors" and "match" exclude each other: a preflight has neither the caller nor the headers of the call.'
                ' Write "cors" in the route of these models that has no "match"'
            )
        if self.cors is not None and "inbound" not in self.directions:
            raise ValueError('"cors" is for inbound calls, and "directions" leaves those out')
        if self.split and not any(destination.weight for destination in self.split):
            raise ValueError('"split": every weight is 0')


class ModelRoute(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelRoute"):
    """Routes calls of some models. Models without a route go to the server that the Sidecar names."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: RouteSpec
