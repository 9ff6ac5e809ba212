"""What a route asks for beyond a server, for one request, in this order:

    limits     quotas: a call goes on if something is left
    faults     some calls wait, some fail, on purpose
    a share    of a split: which server, and which version is written into the call
    a place    among the calls of the model, or in the queue before them
    a copy     that goes elsewhere

Requests of a plain route have no terms. Those that have some are held by them until they call `Passage.send_to`; from
then on every piece of the body goes through `take`.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from meshproxy.inference.surface import OneExample
from meshproxy.refusal import GrpcStatus, Reason, Refusal
from meshproxy.upstream.admission import Entry

if TYPE_CHECKING:
    import asyncio

    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import BodyRewriter, ExampleCounter
    from meshproxy.proxy.passage import Passage
    from meshproxy.routing.fault import FaultRule
    from meshproxy.routing.routes import Route
    from meshproxy.routing.split import Arm
    from meshproxy.upstream.admission import Admission

_TOO_SLOW = frozenset({Reason.DEADLINE_EXCEEDED, Reason.UPSTREAM_TIMEOUT})
_BUSY_HTTP = (429, 503, 504)
_BUSY_GRPC = (GrpcStatus.DEADLINE_EXCEEDED, GrpcStatus.RESOURCE_EXHAUSTED, GrpcStatus.UNAVAILABLE)


class Terms:
    """The terms of one request, and who waits for its place (`admission.Waiter`)."""

    __slots__ = (
        "_admission",
        "_arm",
        "_call",
        "_caller",
        "_counted",
        "_examples",
        "_is_aborted",
        "_is_admitted",
        "_is_queued",
        "_model",
        "_passage",
        "_rewriter",
        "_route",
        "_server",
        "_timer",
    )

    def __init__(self, passage: Passage, route: Route, call: Call) -> None:
        """`call`: as the client made it."""
        self._passage = passage
        self._route = route
        self._call = call
        self._model = call.models[0].name if call.models else ""
        self._caller = passage.caller_key() if route.quotas else ""
        self._is_admitted = False
        """Quotas have let it in: they hear what it takes."""
        self._examples: ExampleCounter | None = None
        """Counts the examples of the batch, where a quota is about those."""
        self._counted = 0
        """Examples that quotas have heard of."""
        self._is_aborted = False
        """It fails on purpose."""
        self._timer: asyncio.TimerHandle | None = None
        """It waits on purpose."""
        self._arm: Arm | None = None
        """Its share of the split."""
        self._server = ""
        self._rewriter: BodyRewriter | None = None
        """Writes another version into the message than the client did."""
        self._admission: Admission | None = None
        """What has let it in, or is to."""
        self._is_queued = False
        """It waits for its turn there."""

    @property
    def is_waiting(self) -> bool:
        """For its turn, or on purpose."""
        return self._is_queued or self._timer is not None

    @property
    def rewrites_body(self) -> bool:
        """What goes on is not as long as what comes."""
        return self._rewriter is not None

    def begin(self) -> None:
        """Go through them. Raises Refusal."""
        self._ask_quotas()
        fault = self._route.fault
        if fault is None:
            self._choose()
            return
        passage = self._passage
        delay, self._is_aborted = fault.decide(passage.pipeline.draw)
        if delay:
            passage.flag("DI")
            self._timer = passage.pipeline.loop.call_at(passage.decided + delay, self._delayed)
        else:
            self._abort_or_choose(fault)

    # Limits

    def _ask_quotas(self) -> None:
        passage, route = self._passage, self._route
        for quota in route.quotas:
            denied = quota.admit(self._model, self._caller, passage.decided)
            if denied is not None:
                passage.flag("RL")
                raise Refusal(
                    Reason.RATE_LIMITED,
                    f"Too many {denied.what} a second.",
                    limit=f"rate_{denied.what}",
                    retry_after=max(1, ceil(denied.retry_after)),
                )
        self._is_admitted = True
        if route.counts_examples:
            count = passage.operation.count_examples if passage.operation is not None else None
            limits = passage.snapshot.limits.scan
            self._examples = count(passage.encoding, limits) if count is not None else OneExample()

    def _charge(self, size: int) -> None:
        """Quotas hear what has come."""
        new = 0
        if self._examples is not None:
            new = self._examples.count - self._counted
            self._counted += new
        now = self._passage.pipeline.now()
        for quota in self._route.quotas:
            quota.charge(self._model, self._caller, size, new, now)

    # Faults

    def _delayed(self) -> None:
        self._timer = None
        passage, fault = self._passage, self._route.fault
        assert fault is not None
        try:
            self._abort_or_choose(fault)
        except Refusal as refusal:
            passage.refuse(refusal)
        except Exception as error:
            passage.fail(error)

    def _abort_or_choose(self, fault: FaultRule) -> None:
        if self._is_aborted:
            self._passage.flag("FI")
            refusal = Refusal(Reason.FAULT_INJECTED, "A fault on purpose (ModelRoute).", http_status=fault.http_status)
            refusal.grpc_status = fault.grpc_status
            raise refusal
        self._choose()

    # A share

    def _choose(self) -> None:
        passage, route, call = self._passage, self._route, self._call
        if route.arms:
            point = passage.key(route.sticky) / 2**64 if route.sticky is not None else passage.pipeline.draw()
            self._arm = route.arm(call, point)
        forwarded = route.forwarded(call, self._arm)
        if forwarded is not call:
            self._rewrite(forwarded)
        self._server = (self._arm.server if self._arm is not None else None) or route.server or passage.base_server()
        if route.concurrency is not None:
            self._enter()
        else:
            self._send()

    def _rewrite(self, forwarded: Call) -> None:
        """Another version is asked for than the client did: may the caller have that one, too?"""
        passage, model = self._passage, forwarded.models[0]
        audits = passage.permit_audits
        passage.decide(forwarded)
        if audits != passage.permit_audits:  # what was asked for is watched, and so is what is made of it
            passage.permit_audits = tuple(dict.fromkeys((*audits, *passage.permit_audits)))
        operation = passage.operation
        assert operation is not None
        if not operation.can_rewrite:
            raise Refusal(
                Reason.NO_ROUTE,
                "The route sends this call to another version, which cannot be written into it: name the version.",
            )
        if operation.rewrite_target is not None:
            passage.target = operation.rewrite_target(self._call, model.version, model.label)
        if operation.rewrite_body is not None:
            limits = passage.snapshot.limits
            self._rewriter = operation.rewrite_body(
                self._call, model.version, model.label, limits.held, passage.encoding, limits.scan
            )

    def changed(self, call: Call) -> None:
        """A later part of the message says more of what is called, for instance another task. What was chosen stays
        chosen, so it must still fit. Raises Refusal."""
        forwarded = self._route.forwarded(call, self._arm)
        before, after = self._route.forwarded(self._call, self._arm).models[0], forwarded.models[0]
        if (after.name, after.version, after.label) != (before.name, before.version, before.label) or (
            forwarded is not call and self._rewriter is None
        ):
            raise Refusal(
                Reason.MODEL_CHANGED,
                "A later part of the message names another model or version: name one model, once and first.",
            )
        self._call = call
        if forwarded is not call:
            self._passage.decide(forwarded)
        if self._rewriter is not None:
            self._rewriter.call = call

    # A place

    def _enter(self) -> None:
        passage, concurrency = self._passage, self._route.concurrency
        assert concurrency is not None
        pipeline = passage.pipeline
        passage.server = self._server
        admission = pipeline.admissions.of(self._route.name, self._server, self._model, concurrency)
        self._admission = admission
        self._is_queued = True
        entry = admission.enter(self, self._route.priority, passage.due or inf, pipeline.now())
        if entry is Entry.QUEUED:
            return
        self._is_queued = False
        if entry is not Entry.ADMITTED:
            self._admission = None
            raise self._turn_away(entry)
        self._send()

    def admitted(self) -> None:
        """It is our turn (`admission.Waiter`)."""
        self._is_queued = False
        passage = self._passage
        try:
            self._send()
        except Refusal as refusal:
            passage.refuse(refusal)
        except Exception as error:
            passage.fail(error)

    def turned_away(self, why: Entry) -> None:
        """It will not be our turn (`admission.Waiter`)."""
        self._is_queued = False
        self._admission = None
        passage = self._passage
        try:
            passage.refuse(self._turn_away(why))
        except Exception as error:
            passage.fail(error)

    def _turn_away(self, why: Entry) -> Refusal:
        self._passage.flag("UO")
        if why is Entry.TOO_LATE:
            return Refusal(
                Reason.OVERLOADED,
                "The model has so much to do that the deadline would pass before it is this call's turn.",
                limit="queue_time",
                retry_after=1,
            )
        return Refusal(
            Reason.OVERLOADED, "The model has too much to do: try again later.", limit="queue", retry_after=1
        )

    # A copy, and off it goes

    def _send(self) -> None:
        passage, mirror = self._passage, self._route.mirror
        if mirror is not None:
            assert passage.call is not None
            passage.shadow = passage.pipeline.mirrors.begin(self._route, mirror, self._server, self._call, passage.call)
        passage.send_to(self._server)

    def take(self, data: bytes, end: bool) -> bytes:
        """A piece of the body is about to go on: what does. Raises Refusal."""
        if self._examples is not None:
            self._examples.feed(data, end)
        if self._is_admitted and self._route.quotas:
            self._charge(len(data))
        shadow = self._passage.shadow
        if shadow is not None:
            shadow.take_request(data, end)
        return self._rewriter.feed(data, end) if self._rewriter is not None else data

    # The end

    def leave(self) -> None:
        """Give up the place among the calls of the model, or in the queue: the answer has come whole, or nobody waits
        for it any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        admission, self._admission = self._admission, None
        if admission is None:
            return
        if self._is_queued:
            self._is_queued = False
            admission.withdraw(self)
            return
        passage = self._passage
        now = passage.pipeline.now()
        is_ok = self._went_well()
        if is_ok is None:
            admission.cancelled(now)
        else:
            admission.leave(now - passage.connected, is_ok, now)

    def _went_well(self) -> bool | None:
        """False: the server has too much to do, it said so or was too slow. None: nobody knows."""
        passage = self._passage
        if passage.refusal is not None:
            return False if passage.connected and passage.refusal.reason in _TOO_SLOW else None
        if not passage.has_ended:
            return None
        return passage.status not in _BUSY_HTTP and passage.grpc_status not in _BUSY_GRPC

    def close(self) -> None:
        """The exchange is over."""
        self.leave()
        if self._examples is not None and not self._counted and self._passage.connected:
            self._charge(0)  # it had no body, and counts as one
