"""What was decided about gRPC calls of one shape that name one model, and about the answers to them.

Made of exchanges that went well. Pure: neither clocks nor connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.grpc import with_printable_message
from meshproxy.codec.h2.encoder import take_varying
from meshproxy.codec.h2.whole import PreparedAnswer
from meshproxy.codec.headers import GRPC_TIMEOUT, REQUEST_ID, TRACE_PARENT
from meshproxy.proxy.express.plan import ABSENT, Decisions, repeats
from meshproxy.proxy.headers import has_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.codec.events import Headers, Shape, WholeResponse
    from meshproxy.codec.h2.encoder import Encoder
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Operation
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.proxy.ports import Tracer
    from meshproxy.proxy.request import Request
    from meshproxy.proxy.snapshot import Snapshot
    from meshproxy.upstream.endpoint import Endpoint

MOST_OF_A_SHAPE = 8
"""Plans for heads of one shape, each for another model: all are forgotten for another one."""


class CallAnswer:
    """What equal answers, but for their bodies, have in common."""

    __slots__ = ("headers", "observe", "prepared", "trailers", "version")

    def __init__(
        self,
        headers: Headers,
        trailers: Headers,
        version: str,
        prepared: PreparedAnswer,
        observe: Callable[[Exchange], None],
    ) -> None:
        self.headers = headers
        """Of the model server."""
        self.trailers = trailers
        self.version = version
        """That the body names (`Exchange.effective_version`)."""
        self.prepared = prepared
        """What is written to the client around the body."""
        self.observe = observe
        """Takes the record in the end."""


class CallPlan(Decisions):
    """The plan for calls with heads of one shape, whose bodies name one model."""

    __slots__ = (
        "answers",
        "block",
        "id_at",
        "is_sidecar",
        "last",
        "limit_at",
        "read_version",
        "scheme",
        "size",
    )

    def __init__(
        self,
        request: Request,
        tracer: Tracer,
        endpoint: Endpoint,
        scheme: bytes,
        block: bytes,
        size: int,
        id_at: int,
        limit_at: int,
    ) -> None:
        Decisions.__init__(self, request, tracer)
        self.block = block
        """Of the head that is written to the model server, without what is put behind it: time left, request id and
        trace context."""
        self.size = size
        """Of that head (RFC 9113 section 10.5.1)."""
        self.id_at = id_at
        """Where the request id is among the fields of a head; ABSENT: none is put behind the block."""
        self.limit_at = limit_at
        """Where the client's time limit is; ABSENT: it has said none."""
        self.is_sidecar = endpoint.is_sidecar
        """Answers are those of another sidecar."""
        self.scheme = scheme
        self.read_version = (
            self.operation.whole_version if self.asked.models and self.asked.models[0].version is None else None
        )
        """Finds the version that answered in a whole body; None: the call names it, or answers do not."""
        self.answers: dict[tuple[Headers, Headers, str], CallAnswer] = {}
        self.last: CallAnswer | None = None
        """The one that was used last."""


class Plans:
    """Those of one shape (`HeadShape.plans`)."""

    __slots__ = ("by_call", "encoding", "first", "last", "operation", "snapshot", "stop", "tracer")

    def __init__(self, snapshot: Snapshot, tracer: Tracer) -> None:
        """None yet: such a head came once."""
        self.snapshot = snapshot
        self.tracer = tracer
        self.operation: Operation | None = None
        """What all of them ask for; None: there is none."""
        self.encoding: bytes | None = None
        """`grpc-encoding` of all of them."""
        self.by_call: dict[int, CallPlan] = {}
        """By the identity of the call, which the plan keeps."""
        self.last: CallPlan | None = None
        """The one for bodies that say what this `first` field does (`body_scan.repeats`)."""
        self.first = b""
        self.stop = 0
        """Where that ends in a body."""

    def find(self, call: Call) -> CallPlan | None:
        """The one for this call."""
        plan = self.by_call.get(id(call))
        return plan if plan is not None and plan.asked is call else None

    def clear(self) -> None:
        """Forget all."""
        self.by_call.clear()
        self.last = None

    def add(self, plan: CallPlan) -> None:
        """Another one."""
        if len(self.by_call) >= MOST_OF_A_SHAPE:
            self.clear()
        self.operation = plan.operation
        self.encoding = plan.fields.encoding
        self.by_call[id(plan.asked)] = plan


def plan_call(
    request: Request, shape: Shape, endpoint: Endpoint, scheme: bytes, encoder: Encoder, tracer: Tracer
) -> CallPlan | None:
    """The plan for calls like `request`, with heads of its `shape`. None: they are not all treated alike, or not in one
    step.

    Args:
        request: what became of it. It went well.
        endpoint: who answered.
        scheme: of the connection to that.
        encoder: writes heads.
        tracer: the one in use now.
    """
    head, operation, fields = request.head, request.operation, request.fields
    slots = {name for _, name, _ in shape.places}
    if shape.trace != ABSENT:
        slots.add(TRACE_PARENT)
    if not repeats(request, slots, tracer):
        return None
    assert operation is not None
    assert fields is not None
    if (
        not request.is_grpc
        or operation.scan is None
        or head.expects_continue
        or head.end
        or not head.authority
        or (fields.timeout is not None) is not (GRPC_TIMEOUT in slots)
        or (head.trace is not None) is not (TRACE_PARENT in slots)
    ):
        return None
    forwarded = request.forwarded_head(request.connected, request.upstream)
    rest, varying = take_varying(forwarded.headers)
    names = [name for name, _ in varying]
    if (GRPC_TIMEOUT in names) is not bool(request.due) or not {*names} <= {GRPC_TIMEOUT, REQUEST_ID}:
        return None
    came = [name for name, _ in head.headers]
    id_at = came.index(REQUEST_ID) if REQUEST_ID in names else ABSENT
    limit_at = came.index(GRPC_TIMEOUT) if GRPC_TIMEOUT in slots else ABSENT
    if (REQUEST_ID in slots) and id_at == ABSENT:
        return None
    block, size = encoder.kept_request(
        forwarded.method, scheme, forwarded.authority, forwarded.target, rest, forwarded.length
    )
    return CallPlan(request, tracer, endpoint, scheme, block, size, id_at, limit_at)


def plan_answer(
    request: Request,
    answer: WholeResponse,
    encoder: Encoder,
    clean: Callable[[Headers, bool], Headers],
    repeat: Callable[[Exchange], Callable[[Exchange], None]],
    is_sidecar: bool,
) -> CallAnswer | None:
    """The plan for answers like this one. None: there is none.

    Args:
        request: whose `answer` it was. It went well.
        encoder: writes heads.
        clean: what of an answer's fields goes to clients.
        repeat: makes what takes the records of exchanges that repeat `request` (`ProxyContext.repeat`).
        is_sidecar: it came from another sidecar.
    """
    if answer.status != 200 or answer.length is not None or request.grpc_status != 0 or request.sharing is not None:
        return None
    trailers = answer.trailers
    if has_refusal(trailers):  # which the ordinary way believes a sidecar only
        return None
    end = trailers if len(trailers) == 1 else with_printable_message(trailers)
    written = encoder.kept_response(200, clean(answer.headers, is_sidecar), None)
    prepared = PreparedAnswer(written, encoder.kept_trailers(end))
    return CallAnswer(answer.headers, trailers, request.effective_version, prepared, repeat(request))
