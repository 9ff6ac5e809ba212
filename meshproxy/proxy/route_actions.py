"""The actions of a route for one request, in this order:

    rate limits    a call proceeds if tokens are left
    faults         some calls are delayed, some aborted
    split          an arm is chosen: which server, and which model and version are written into the call
    concurrency    a slot among the model's calls, or a place in the queue before them
    mirror         a copy that goes elsewhere
    fallback       later, if no endpoint is available: another model and version

Requests of a plain route have none of this. The others are held here until `proceed`; from then on every piece of the
body goes through `take`.
"""

from __future__ import annotations

from enum import Enum
from math import ceil, inf
from typing import TYPE_CHECKING, Final

from meshproxy.inference.surface import OneExample
from meshproxy.proxy.arm_call import ArmCall
from meshproxy.proxy.exchange import ResponseFlags
from meshproxy.proxy.guard import guarded
from meshproxy.proxy.sampled_answer import SampledAnswer
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.routing.admission import Entry
from meshproxy.routing.live_split import LiveSplit, RolloutArm
from meshproxy.routing.split import chosen

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import BodyRewriter, ExampleCounter
    from meshproxy.proxy.mirror import Mirrors
    from meshproxy.proxy.request import Request
    from meshproxy.routing.admission import Admission
    from meshproxy.routing.fault import FaultRule
    from meshproxy.routing.routes import Route
    from meshproxy.routing.split import Arm

_TOO_SLOW = frozenset({Reason.DEADLINE_EXCEEDED, Reason.UPSTREAM_TIMEOUT})
_BUSY_HTTP = (429, 503, 504)
_BUSY_GRPC = (GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.RESOURCE_EXHAUSTED, GrpcStatus.UNAVAILABLE)


class State(Enum):
    """The progress of the request. Most skip DELAYED and QUEUED."""

    CHECKING = 0
    """Rate limits are asked."""
    DELAYED = 1
    """By an injected fault."""
    QUEUED = 2
    """For its turn among the model's calls."""
    PROCEEDING = 3
    """It is carried; it may hold a slot."""


CHECKING: Final = State.CHECKING
DELAYED: Final = State.DELAYED
QUEUED: Final = State.QUEUED
PROCEEDING: Final = State.PROCEEDING


class RouteActions:
    """The actions of one request; in the queue it is an `admission.Waiter`."""

    __slots__ = (
        "_admission",
        "_arm",
        "_call",
        "_caller",
        "_counted",
        "_examples",
        "_fallback",
        "_is_aborted",
        "_mirrors",
        "_model",
        "_proceed",
        "_request",
        "_rewriter",
        "_route",
        "_server",
        "_timer",
        "state",
    )

    def __init__(
        self, request: Request, route: Route, call: Call, mirrors: Mirrors, proceed: Callable[[str], None]
    ) -> None:
        """
        Args:
            call: as the client made it.
            proceed: called once with the name of the ModelServer, when all actions are done. Raises Refusal.
        """
        self._request = request
        self._route = route
        self._call = call
        self._mirrors = mirrors
        self._proceed: Callable[[str], None] | None = proceed
        self._model = call.models[0].name if call.models else ""
        self._caller = request.caller_key() if route.rate_limiters else ""
        self.state = CHECKING
        self._examples: ExampleCounter | None = None
        """Counts the examples of the batch, where a rate limit is about those."""
        self._counted = 0
        """Examples that have been charged."""
        self._is_aborted = False
        """An injected fault aborts it."""
        self._timer: asyncio.TimerHandle | None = None
        """Ends the delay of an injected fault."""
        self._arm: Arm | None = None
        """Of the split."""
        self._server = ""
        self._rewriter: BodyRewriter | None = None
        """Writes another model or version into the message than the client did."""
        self._fallback: BodyRewriter | None = None
        """Writes that of the fallback in its place."""
        self._admission: Admission | None = None
        """Where it holds a slot, or waits for one."""

    @property
    def is_waiting(self) -> bool:
        """For its turn, or for the end of an injected delay."""
        return self.state is QUEUED or self.state is DELAYED

    def begin(self) -> None:
        """Go through the actions. Raises Refusal."""
        self._check_rate_limits()
        fault = self._route.fault
        if fault is None:
            self._choose()
            return
        request = self._request
        delay, self._is_aborted = fault.decide(request.context.draw)
        if delay:
            request.flag(ResponseFlags.DI)
            self.state = DELAYED
            self._timer = request.context.loop.call_at(request.decided + delay, self._delayed)
        else:
            self._abort_or_choose(fault)

    def crashed(self, error: Exception) -> None:
        """As in `guard.Guarded`."""
        self._request.crashed(error)

    # Rate limits

    def _check_rate_limits(self) -> None:
        request, route = self._request, self._route
        for quota in route.rate_limiters:
            denied = quota.admit(self._model, self._caller, request.decided)
            if denied is not None:
                request.flag(ResponseFlags.RL)
                raise Refusal(
                    Reason.RATE_LIMITED,
                    f"Rate limit exceeded: too many {denied.what} per second.",
                    limit=f"rate_{denied.what}",
                    retry_after=max(1, ceil(denied.retry_after)),
                )
        if route.counts_examples:
            count = request.operation.count_examples if request.operation is not None else None
            self._examples = count(request.encoding, request.snapshot.limits.scan) if count else OneExample()

    def _charge(self, size: int) -> None:
        """Charge the rate limits for the body received so far."""
        new = 0
        if self._examples is not None:
            new = self._examples.count - self._counted
            self._counted += new
        now = self._request.context.now()
        for quota in self._route.rate_limiters:
            quota.charge(self._model, self._caller, size, new, now)

    # Faults

    @guarded
    def _delayed(self) -> None:
        self._timer = None
        self._request.dequeued = self._request.context.now()
        fault = self._route.fault
        assert fault is not None
        self._abort_or_choose(fault)

    def _abort_or_choose(self, fault: FaultRule) -> None:
        if self._is_aborted:
            self._request.flag(ResponseFlags.FI)
            message = f"Fault injected by ModelRoute {self._route.name}."
            refusal = Refusal(Reason.FAULT_INJECTED, message, http_status=fault.http_status)
            refusal.grpc_status = fault.grpc_status
            raise refusal
        self._choose()

    # Split

    def _choose(self) -> None:
        request, route, call = self._request, self._route, self._call
        if route.arms:
            point = request.key(route.sticky) / 2**64 if route.sticky is not None else request.context.draw()
            arm = route.arm(call, point)
            # What keeps its own name (a status, or a call that names a version) is not for the server of another model.
            if arm.model is None or route.forwarded(call, arm).models[0].name == arm.model:
                request.arm = self._arm = arm
        forwarded = route.forwarded(call, self._arm)
        if forwarded is not call:
            self._rewrite(forwarded)
        self._server = (self._arm.server if self._arm is not None else None) or route.server or request.base_server()
        if route.concurrency is not None:
            self._enter()
        else:
            self._go()

    def _rewrite(self, forwarded: Call) -> None:
        """Another model or version is called than the client named: the caller must be permitted that one, too."""
        self._request.decide_rewritten(forwarded)
        self._rewriter = self._write(self._call, forwarded)

    def _write(self, call: Call, forwarded: Call) -> BodyRewriter | None:
        """Make a request for `call` one for `forwarded`: its target, and what does so to its body. Raises Refusal."""
        request, operation = self._request, self._request.operation
        assert operation is not None
        if not operation.can_rewrite:
            raise Refusal(
                Reason.NO_ROUTE,
                f"ModelRoute {self._route.name} chooses a model or version, and {operation.verb.value} requests of "
                "this kind cannot carry one: route them without split and labels.",
            )
        what = chosen(call, forwarded)
        if operation.rewrite_target is not None:
            request.target = operation.rewrite_target(call, what)
        if operation.rewrite_body is None:
            return None
        limits = request.snapshot.limits
        request.rewrites_body = True
        return operation.rewrite_body(call, what, limits.scan_buffer, request.encoding, limits.scan)

    def changed(self, call: Call) -> None:
        """A later part of the message says more of what is called, for instance another task. What was chosen stays
        chosen, so it must still fit. Raises Refusal."""
        forwarded = self._route.forwarded(call, self._arm)
        before, after = self._route.forwarded(self._call, self._arm).models[0], forwarded.models[0]
        fallen_back = self._route.fallen_back(forwarded) if self._fallback is not None else None
        if (
            (after.name, after.version, after.label) != (before.name, before.version, before.label)
            or (forwarded is not call and self._rewriter is None)
            or fallen_back is forwarded
        ):
            raise Refusal(
                Reason.MODEL_CHANGED,
                "A later part of the message names another model or version: name one model, once and first.",
            )
        self._call = call
        if forwarded is not call:
            self._request.decide_rewritten(forwarded)
        if self._rewriter is not None:
            self._rewriter.call = call
        if self._fallback is not None and fallen_back is not None:
            self._request.decide_rewritten(fallen_back)
            self._fallback.call = forwarded

    # Fallback

    def fall_back(self) -> bool:
        """The call goes to the fallback of its route. False: the caller may not make the call that it becomes there.
        Raises Refusal."""
        request, before = self._request, self._request.forwarded
        assert before is not None
        if isinstance(request.mirrored, ArmCall | SampledAnswer):
            request.mirrored.fell_back()
        forwarded = self._route.fallen_back(before)
        if forwarded is before:
            return True
        try:
            request.decide_rewritten(forwarded)
        except Refusal:
            request.forwarded = before
            return False
        self._fallback = self._write(before, forwarded)
        return True

    def rewrite(self, data: bytes, end: bool) -> bytes:
        """A piece of the body, as it was to be forwarded -> as the fallback gets it. Raises Refusal."""
        return self._fallback.feed(data, end) if self._fallback is not None else data

    # Concurrency

    def _enter(self) -> None:
        request, concurrency = self._request, self._route.concurrency
        assert concurrency is not None
        context = request.context
        request.server = self._server
        forwarded = request.forwarded
        model = forwarded.models[0].name if forwarded is not None and forwarded.models else ""
        admission = context.admissions.of(self._route.name, self._server, model, concurrency)
        self._admission = admission
        self.state = QUEUED
        entry = admission.enter(self, self._route.priority, request.due or inf, context.now())
        if entry is Entry.QUEUED:
            return
        if entry is not Entry.ADMITTED:
            self.state = PROCEEDING
            self._admission = None
            raise self._rejection(entry)
        self._go()

    @guarded
    def admitted(self) -> None:
        """It is this request's turn (`admission.Waiter`)."""
        self._request.dequeued = self._request.context.now()
        self._go()

    @guarded
    def rejected(self, why: Entry) -> None:
        """It will not be this request's turn (`admission.Waiter`)."""
        self._request.dequeued = self._request.context.now()
        self.state = PROCEEDING
        self._admission = None
        raise self._rejection(why)

    def _rejection(self, why: Entry) -> Refusal:
        self._request.flag(ResponseFlags.UO)
        if why is Entry.TOO_LATE:
            message, limit = "The expected queue wait exceeds the request's deadline.", "queue_time"
        else:
            message, limit = "The concurrency limit and its queue are full: retry later.", "queue"
        return Refusal(Reason.OVERLOADED, message, limit=limit, retry_after=1)

    # Mirror, and proceed

    def _go(self) -> None:
        self.state = PROCEEDING
        request, operation = self._request, self._request.operation
        if self._route.mirror is not None and operation is not None:
            request.mirrored = self._mirrors.begin(
                request,
                self._route,
                self._server,
                operation,
                request.mirrored_head(),
                request.encoding,
                request.snapshot.limits.scan,
            )
        arm = self._arm
        if type(arm) is RolloutArm and operation is not None and operation.verb.is_inference:
            split = self._route.split
            meter = request.context.meters.get(split.name) if isinstance(split, LiveSplit) else None
            if meter is not None and isinstance(split, LiveSplit):
                copy = request.mirrored
                assert not isinstance(copy, ArmCall | SampledAnswer)  # answers are sampled later
                request.mirrored = ArmCall(request.context.now(), meter, split, arm, operation, self._examples, copy)
        proceed, self._proceed = self._proceed, None  # a bound method of the request: no reference circle
        assert proceed is not None
        proceed(self._server)

    def take(self, data: bytes, end: bool) -> bytes:
        """A piece of the body is about to be forwarded: returns what is. Raises Refusal."""
        if self._examples is not None:
            self._examples.feed(data, end)
        if self._route.rate_limiters:
            self._charge(len(data))
        mirrored = self._request.mirrored
        if mirrored is not None:
            mirrored.take_request(data, end)
        if self._rewriter is not None:
            data = self._rewriter.feed(data, end)
        return self._fallback.feed(data, end) if self._fallback is not None else data

    # The end

    def leave(self, is_whole: bool) -> None:
        """Release the slot, or the position in the queue: the response is complete, or no longer needed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        request = self._request
        if self.is_waiting:
            request.dequeued = request.context.now()
        admission, self._admission = self._admission, None
        if admission is None:
            return
        if self.state is QUEUED:
            self.state = PROCEEDING
            admission.withdraw(self)
            return
        now = request.context.now()
        is_ok = self._was_successful(is_whole)
        if is_ok is None:
            admission.cancelled(now)
        else:
            admission.leave(now - request.connected, is_ok, now)

    def _was_successful(self, is_whole: bool) -> bool | None:
        """False: the server is overloaded, it said so or was too slow. None: not known."""
        request = self._request
        if request.refusal is not None:
            return False if request.connected and request.refusal.reason in _TOO_SLOW else None
        if not is_whole:
            return None
        return request.status not in _BUSY_HTTP and request.grpc_status not in _BUSY_GRPC

    def close(self, is_whole: bool) -> None:
        """The exchange has ended. `is_whole`: the response was complete."""
        self.leave(is_whole)
        self._proceed = None
        if self._examples is not None and not self._counted and self._request.connected:
            self._charge(0)  # it had no body, and counts as one
