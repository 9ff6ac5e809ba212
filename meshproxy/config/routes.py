"""`ModelRoute`: where calls of some models go, in which shares, and what is done when that fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from meshproxy.config.fields import (
    API_VERSION,
    Count,
    Duration,
    Glob,
    HeaderName,
    HttpStatus,
    Metadata,
    Name,
    Part,
    Percent,
    Rate,
    Ratio,
    Size,
    Subject,
    Text,
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
    """Requests that a route is for: those that fit everything the match names."""

    headers: Mapping[HeaderName, Text] = {}
    """Each must be there once, with exactly this value. Names are in lower case."""
    caller: Subject | None = None
    """Who calls, as in a binding. A sidecar knows that of inbound calls only."""

    def __post_init__(self) -> None:
        if not self.headers and self.caller is None:
            raise ValueError('fits everything: expected "headers" or "caller"')


class Destination(Part, frozen=True):
    """A share of the calls, and where it goes."""

    weight: Weight = 1
    """Its share of the sum of all weights. 0: nothing."""
    server: Name | None = None
    """The name of a ModelServer. Left out: the route's."""
    version: Version | None = None
    """The model's version that is asked for: the proxy writes it into the call."""
    label: Text | None = None
    """The same with a version label: the version that the route's `labels` give it, or the label itself, for
    TensorFlow Serving to resolve."""

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError("a call names a version or a label, never both")


class Retries(Part, frozen=True):
    """When a call is tried again, always before the first byte of an answer has gone to the client."""

    attempts: Annotated[Count, Meta(le=10)] = 3
    """Tries altogether, the first among them."""
    reasons: tuple[RetryReason, ...] = (
        "connect-failure", "refused-stream", "goaway", "reset", "unavailable", "gateway-error",
    )  # fmt: skip
    """What is worth another try. `unavailable` is the gRPC status, wherever it is told; `gateway-error` is 502, 503
    and 504; `reset` is a connection that broke before the answer, `timeout` an attempt that ran into `tryTimeout`."""
    verbs: tuple[Verb, ...] = IDEMPOTENT_VERBS
    """Which calls may be made twice. What never reached the model server (`connect-failure`, `refused-stream`,
    `goaway`) is tried again whatever the verb is."""
    budget_ratio: Ratio = 0.2
    """Retries may be so many for each call, averaged over 10 seconds: what is down is not to be stormed."""
    budget_min: Rate = 10.0
    """So many retries a second are always allowed."""
    backoff: Duration = 0.025
    """Before the second retry at most so long, and twice as long before each further one; the first goes out at once,
    if another endpoint is there. The wait is chosen by chance (full jitter)."""
    backoff_max: Duration = 0.25
    """The longest that is waited."""
    replay_bytes: Annotated[Size, Meta(le=64 << 20)] = 1 << 20
    """How much of a request's body is kept for another try. A longer one is not tried again once it was sent."""
    hedge_after: Duration | None = None
    """Without an answer after so long, the call is made a second time elsewhere, and whichever answers first counts.
    For calls whose body has come whole and is kept."""

    def __post_init__(self) -> None:
        if self.backoff > self.backoff_max:
            raise ValueError('"backoff" is above "backoffMax"')


class Compare(Part, frozen=True):
    """How far a shadow's numbers may be from those that the client got."""

    relative: Ratio = 1e-3
    """As a share of the larger of the two."""
    absolute: Annotated[float, Meta(ge=0)] = 1e-6
    """Whatever their size."""


class Mirror(Part, frozen=True):
    """Sends a copy of calls elsewhere and throws the answers away, or compares them. It never slows or fails a call:
    what its own limits do not let through is not copied, and counted."""

    server: Name | None = None
    """The name of a ModelServer. Left out: the route's."""
    version: Version | None = None
    """The version that the copy asks for."""
    label: Text | None = None
    """The same with a version label."""
    percent: Percent = 100.0
    """How many of the calls are copied."""
    max_in_flight: Count = 32
    """Copies under way at a time."""
    max_bytes: Annotated[Size, Meta(le=64 << 20)] = 1 << 20
    """Longer requests are not copied, longer answers not compared."""
    timeout: Duration = 5.0
    """What takes longer is broken off."""
    compare: Compare | None = None
    """Compare the answers: counted are those that differ, and of those the ones whose largest number (top-1) is another
    one."""

    def __post_init__(self) -> None:
        if self.version is not None and self.label is not None:
            raise ValueError("a call names a version or a label, never both")
        if self.server is None and self.version is None and self.label is None:
            raise ValueError('a mirror of the same: expected "server", "version" or "label"')


class Delay(Part, frozen=True):
    """Some calls wait before they are sent on."""

    percent: Percent
    """How many."""
    duration: Duration
    """How long."""


class Abort(Part, frozen=True):
    """Some calls are answered with an error instead."""

    percent: Percent
    """How many."""
    http_status: HttpStatus = 503
    """What a REST call gets."""
    grpc_status: GrpcStatus = "UNAVAILABLE"
    """What a gRPC call gets."""


class Fault(Part, frozen=True):
    """Faults on purpose, to see how callers take them."""

    delay: Delay | None = None
    """Some calls wait."""
    abort: Abort | None = None
    """Some calls fail."""

    def __post_init__(self) -> None:
        if self.delay is None and self.abort is None:
            raise ValueError('expected "delay", "abort" or both')


class Concurrency(Part, frozen=True):
    """How many calls of a model are under way at its server at a time; further ones wait for their turn, or are told to
    come back later."""

    limit: Count | None = None
    """So many, always. Left out: as many as it carries without its latency rising, found out by trying (gradient)."""
    initial: Count = 16
    """What finding out begins with."""
    min: Count = 2
    """It never goes below this."""
    max: Count = 1000
    """It never goes above this."""
    queue: Annotated[int, Meta(ge=0, le=100_000)] = 64
    """How many may wait. Those that could not be answered before their deadline do not; when it is full, the least
    important that has waited least is sent away."""
    queue_timeout: Duration = 1.0
    """The longest that one waits."""

    def __post_init__(self) -> None:
        if not self.min <= self.initial <= self.max:
            raise ValueError('expected "min" <= "initial" <= "max"')


class RateLimit(Part, frozen=True):
    """How much a second. A call that goes beyond is refused with 429 or RESOURCE_EXHAUSTED and told when to come
    back. Bytes and examples are counted as they come: a call is let in while something is left, and what it takes too
    much is missing from what follows."""

    per: Annotated[PerWord, one_of(PerWord)] = "model"
    """`model`: all calls of one model together. `caller`: those of one caller, of one model."""
    requests: Rate | None = None
    """Calls a second."""
    bytes: Annotated[Size, Meta(ge=1)] | None = None
    """Bytes of request bodies a second."""
    examples: Rate | None = None
    """Examples (rows of a batch) a second."""
    burst: Annotated[float, Meta(ge=0.1, le=3600)] = 1.0
    """How much may come at once, in seconds' worth."""

    def __post_init__(self) -> None:
        if self.requests is None and self.bytes is None and self.examples is None:
            raise ValueError('limits nothing: expected "requests", "bytes" or "examples"')


class RouteSpec(Part, frozen=True):
    """Which calls, and where they go."""

    models: Annotated[tuple[Glob, ...], Meta(min_length=1)]
    """Names of models or globs, as in a role. Where several routes fit a model, a name beats a glob, and of two globs
    the one with more fixed characters wins. The same pattern in two routes is an error, unless all but one have a
    `match`: those are looked at first, in the order of documents."""
    match: tuple[Match, ...] = ()
    """Only for requests that one of these fits. Left out: for all."""
    directions: Annotated[tuple[Direction, ...], Meta(min_length=1)] = ("inbound", "outbound")
    """Where the route holds: for calls to our model server, for calls of our application, or both."""
    server: Name | None = None
    """The name of a ModelServer. Left out: the one that the call would go to without a route."""
    split: tuple[Destination, ...] = ()
    """Shares of the calls that go elsewhere. Versions and labels are for calls that name neither; those that do keep
    theirs, unless it is one of `labels`."""
    labels: Mapping[Text, Version] = {}
    """What version labels mean: the proxy resolves them, so they may point at versions that are yet to be loaded."""
    sticky: Key | None = None
    """Calls with the same key get the same share of a split. Left out: each call by chance."""
    mirror: Mirror | None = None
    """A copy of calls goes elsewhere."""
    fault: Fault | None = None
    """Faults on purpose."""
    fallback: Name | None = None
    """The ModelServer that gets a call when no endpoint of its own can be called."""
    timeout: Duration | None = None
    """From a request's head to the end of its answer. Left out: the mesh's `requestTimeout`. A shorter deadline that
    the client names always counts."""
    try_timeout: Duration | None = None
    """From sending the request to the first byte of the answer, for each try."""
    idle_timeout: Duration | None = None
    """Between two pieces of an answer. Left out: as long as the request may take."""
    retries: Retries | None = None
    """When a call is tried again. Left out: for outbound calls the defaults of `retries`, for inbound ones only what
    never reached the model server."""
    concurrency: Concurrency | None = None
    """How many calls of each model are under way at a time. Left out: no limit."""
    rate_limits: tuple[RateLimit, ...] = ()
    """How much a second."""
    priority: Priority = "default"
    """Who is sent away first when calls have to wait: the `sheddable`, then the `default`, the `critical` last."""

    def __post_init__(self) -> None:
        if self.split and not any(destination.weight for destination in self.split):
            raise ValueError('"split": every weight is 0')


class ModelRoute(Part, frozen=True, kw_only=True, tag_field="kind", tag="ModelRoute"):
    """Where calls of some models go, and how. Models without a route go to the server that the Sidecar names."""

    api_version: Literal["meshproxy.dev/v1alpha1"] = API_VERSION
    metadata: Metadata
    spec: RouteSpec
