"""What a wire surface is to the proxy: the REST paths and gRPC methods that are its own, and what can be done with
each.

A `Surface` gives an `Operation` for a request. The proxy, routes and mirrors work with the operation and know no wire
surface: it says what is called, or makes the scanner that finds it in the body; it writes another model or version
into the request, counts its examples, and compares two of its answers. What an operation cannot do is None: the caller
then refuses the request or skips that step.

`surfaces` has the list of surfaces and finds the operation of a request. A new surface is one file that makes a
`Surface`, and its entry in that list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
from msgspec import field

if TYPE_CHECKING:
    from meshproxy.inference.body_scan import ScanLimits
    from meshproxy.inference.call import Call, Chosen, Verb


class Scan(Protocol):
    """Finds the call of one request body while the body passes."""

    call: Call | None
    """What `feed` or `read_on` returned last; None until then."""
    is_behind: bool
    """What was fed has not been read to its end, since that takes long: call `read_on` later, again and again. Until
    then those bytes must not be forwarded, and no others fed."""
    is_inflating: bool
    """A compressed message has begun and not ended, which takes memory."""

    def feed(self, data: bytes, end: bool) -> Call | None:
        """Bytes of the body, cut anywhere -> the call, if it became known or changed with them.

        A call that is returned replaces the one before: decide again before these bytes are forwarded. It is complete
        at `end`; a body that names no model by then is refused.

        Raises:
            Refusal: MALFORMED_MESSAGE, BODY_TOO_LARGE, SCAN_LIMIT, UNSUPPORTED_ENCODING. Feed nothing more then.
        """

    def read_on(self) -> Call | None:
        """Read another slice of what was fed: returns and raises as `feed`."""


class BodyRewriter(Protocol):
    """Writes another model or version into one request body while the body passes."""

    call: Call
    """What was authorised. Set it again when a later part of the body has been authorised, before that is fed."""

    def feed(self, data: bytes, end: bool) -> bytes:
        """Bytes of the body, cut anywhere -> the bytes to forward, empty while they are held.

        Raises:
            Refusal: MODEL_CHANGED: a model is named too late, or one that was not authorised. SCAN_LIMIT: more would
                have to be held than is allowed. Others as `Scan.feed`. Feed nothing more then.
        """


class ExampleCounter(Protocol):
    """Counts the examples of one request body while the body passes."""

    count: int
    """Of what has been fed so far, at least 1."""

    def feed(self, data: bytes, end: bool) -> None:
        """Bytes of the body, cut anywhere. Nothing is raised: what cannot be read counts as 1."""


class VersionReader(Protocol):
    """Finds the version that answered in one response body while the body passes."""

    def feed(self, data: bytes) -> str:
        """A piece of the body -> the version, once it has come; empty until then, and if there is none. Raises nothing,
        whatever it holds."""


class OneExample:
    """The count of a request whose operation cannot count examples: 1."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 1

    def feed(self, data: bytes, end: bool) -> None:
        """Does nothing."""


class Tolerance(msgspec.Struct, frozen=True):
    """How far numbers of two answers may be apart and still agree."""

    relative: float = 0.0
    absolute: float = 0.0


class Comparison(msgspec.Struct, frozen=True):
    """The result of comparing two answers."""

    agrees: bool
    top1_disagrees: bool = False
    """Known only where everything but the numbers is equal."""
    max_difference: float = 0.0
    """Of two numbers; infinite where one is NaN or infinite and the other is not that."""
    reason: str = ""
    """Why they do not agree. Holds nothing of their content but the names of outputs."""


class Signals(NamedTuple):
    """What an answer says about the version that gave it (`answer_signals`)."""

    values: int
    """Numbers that were looked at."""
    nan_values: int
    """Of these, NaN or infinite."""
    top: int | None
    """The index of the largest number of a row; None: no output has rows."""
    score: float | None
    """That number, or the only one of a regression; None: it is not finite, or there is none."""


class RewriteBody(Protocol):
    """Makes the rewriter of one request body."""

    def __call__(
        self, call: Call, chosen: Chosen, limit: int, encoding: bytes | None, limits: ScanLimits
    ) -> BodyRewriter:
        """
        Args:
            call: what was authorised, as the client asked for it.
            chosen: what to ask for.
            limit: bytes that may be held.
            encoding: as in `Operation.scan`.
            limits: those that the scan of the body has.

        Raises:
            Refusal: NO_ROUTE: this surface cannot ask for such a version.
        """


class Operation(msgspec.Struct, frozen=True, eq=False):
    """What a REST request line or a gRPC method asks for, and what can be done with its requests and answers.

    Immutable and shared: one for each gRPC method, and one for each REST request line while that is remembered. What
    belongs to one request is in the objects that its functions make. Compared by identity.
    """

    verb: Verb
    target: bytes
    """What to forward: the REST target rebuilt from what was read, or the `:path` of the gRPC method."""
    call: Call | None
    """What is called; None if only the body says it, and `scan` reads it there."""
    scan: Callable[[bytes | None, ScanLimits], Scan] | None = None
    """Makes the scan of one request body. Takes the value of `grpc-encoding` or None, and limits."""
    rewrite_target: Callable[[Call, Chosen], bytes] | None = None
    """The target that asks the same of another model, version or label. Takes the call as the client made it. Raises
    Refusal (NO_ROUTE) if the surface cannot ask for such a version."""
    rewrite_body: RewriteBody | None = None
    """Makes the rewriter of one request body. Where both are given, target and body both name model and version."""
    count_examples: Callable[[bytes | None, ScanLimits], ExampleCounter] | None = None
    """Makes the counter of one request body (see `scan` for the arguments); None: each request counts as 1."""
    compare: Callable[[bytes, bytes, Tolerance], Comparison | None] | None = None
    """Compares two whole response bodies of status 200, uncompressed; None: that would take too long. Raises nothing,
    whatever they hold."""
    read_signals: Callable[[bytes], Signals | None] | None = None
    """Reads NaN, class and score of a whole response body of status 200, uncompressed; None: it cannot be read. Raises
    nothing, whatever it holds."""
    read_version: Callable[[], VersionReader] | None = None
    """Makes the reader of one response; None: responses name no version."""
    whole_version: Callable[[bytes], str] | None = None
    """What such a reader finds in a response body that is whole; given if `read_version` is."""
    affinity_key: Callable[[bytes], bytes | None] | None = None
    """What keeps the requests of one client together, from the beginning of a request body; None if it is not there."""
    keep_parts: Callable[[bytes, Callable[[str], bool]], bytes] | None = None
    """What is left of a whole response body of status 200, uncompressed, if a caller may see only those parts whose
    names the predicate permits: versions of a status, signatures of metadata. Raises Refusal: it cannot be read. None:
    the answer has no such parts."""
    is_health: bool = False
    """grpc.health.v1: a sidecar may answer it for its model server."""

    @property
    def can_rewrite(self) -> bool:
        """Another model or version can be written into its requests."""
        return self.rewrite_target is not None or self.rewrite_body is not None


def no_rest(method: bytes, target: bytes) -> Operation | None:
    """The `find_rest` of a surface without REST."""
    return None


class ModelVersions(msgspec.Struct, frozen=True):
    """What a server says about the versions of one model."""

    available: tuple[str, ...]
    """Those that can be called, in ascending order."""
    is_loading: bool = False
    """It is loading one, with or without others that can be called meanwhile."""


class StatusProbe(msgspec.Struct, frozen=True, eq=False):
    """How a health check asks a server which versions of a model can be called, over REST or gRPC."""

    check: str
    """What `check` of a ModelServer's `health` calls it."""
    rest_target: Callable[[str], bytes]
    """The model -> the target of a GET."""
    read_rest: Callable[[bytes], ModelVersions]
    """The body of a 200 -> what it says. Raises Refusal (MALFORMED_MESSAGE)."""
    grpc_method: bytes
    write_grpc: Callable[[str], bytes]
    """The model -> the request body."""
    read_grpc: Callable[[bytes], ModelVersions]
    """The same as `read_rest`, of a gRPC response body. Raises Refusal (also SCAN_LIMIT, UNSUPPORTED_ENCODING)."""


class Surface(msgspec.Struct, frozen=True, eq=False):
    """A wire surface: which requests are its own."""

    name: str
    find_rest: Callable[[bytes, bytes], Operation | None] = no_rest
    """Method and target in origin-form, as they came -> the operation; None: the target is not this surface's. Raises
    Refusal (BAD_REQUEST): it is, but asks for nothing that the surface has. Its result is remembered."""
    methods: Mapping[bytes, Operation] = field(default_factory=dict)
    """gRPC methods by `:path`."""
    services: Mapping[bytes, Verb] = field(default_factory=dict)
    """gRPC services, with their package, all of whose methods are about the server as a whole and have this verb."""
    packages: frozenset[bytes] = frozenset()
    """First words of packages that are this surface's own, in lower case: a gRPC method there that is in neither table
    above is refused, whatever a rule says."""
    probe: StatusProbe | None = None
    """None: its servers cannot be asked for their models."""


def show_request(method: bytes, target: bytes, most: int = 256) -> str:
    """The request line for a message that goes to the client and the log: without markup, escape sequences, or the
    content of a query, and with at most `most` characters of the path."""
    path, mark, _ = target.partition(b"?")
    line = method[:32] + b" " + path[:most] + mark
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b"\"'<>&\\" else f"\\x{byte:02x}" for byte in line)
    return shown + ("..." if len(path) > most else "")
