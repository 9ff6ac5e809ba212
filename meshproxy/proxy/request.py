"""A request and its decisions: caller, call, authorization, and the head that is forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.codec.events import Headers, RequestHead
from meshproxy.inference.call import Verb
from meshproxy.inference.hash_key import stable_hash
from meshproxy.inference.surface import show_request
from meshproxy.proxy.client_side import ClientSide
from meshproxy.proxy.exchange import ResponseFlags
from meshproxy.proxy.headers import RequestHeaders, identity_headers
from meshproxy.proxy.partial_answer import UNFORWARDED, PartialAnswer
from meshproxy.refusal import Reason, Refusal
from meshproxy.routing import deadline
from meshproxy.routing.cookie import read_cookie, write_cookie
from meshproxy.transport.client import authority_of

if TYPE_CHECKING:
    from meshproxy.config.servers import Cookie, Key
    from meshproxy.inference.call import Call
    from meshproxy.inference.surface import Operation
    from meshproxy.policy.decide import Permit
    from meshproxy.proxy.context import ProxyContext
    from meshproxy.routing.routes import Route
    from meshproxy.transport.stream import Downstream


class Request(ClientSide):
    """What the stations have found out so far."""

    __slots__ = (
        "fields",
        "forward",
        "is_partial",
        "key_fetches",
        "matched",
        "operation",
        "partial",
        "peeked",
        "rewrites_body",
        "set_cookies",
        "trace_parent",
    )

    def __init__(self, context: ProxyContext, stream: Downstream, head: RequestHead) -> None:
        ClientSide.__init__(self, context, stream, head)
        self.fields: RequestHeaders | None = None
        """What the head's fields say."""
        self.forward: Headers = ()
        """The fields to forward."""
        self.trace_parent: bytes | None = None
        """The `traceparent` to forward; None without a trace."""
        self.key_fetches = 0
        """How often it has waited for the issuer's keys."""
        self.operation: Operation | None = None
        """What the wire surface made of method and path."""
        self.partial: PartialAnswer | None = None
        """Passes on the part of the answer that the caller may see; None: they may see all of it."""
        self.is_partial = False
        """There was one."""
        self.matched: Route | None = None
        """The route."""
        self.peeked = b""
        """The beginning of a gRPC body, while its model is being named."""
        self.rewrites_body = False
        """The body is forwarded with another length than it came with, perhaps."""
        self.set_cookies: Headers = ()
        """What the answer asks the client to keep."""

    # Hooks

    def request_sent(self, takes_more: bool) -> None:
        """The head is out, and what of the body was sent to an endpoint before: the rest may follow."""
        raise NotImplementedError

    def upstream_drained(self) -> None:
        """The endpoint takes more of the request."""
        raise NotImplementedError

    def waits_for_client(self) -> bool:
        """More of the request is missing, and nothing but the client keeps it back."""
        raise NotImplementedError

    def fall_back(self) -> bool:
        """It goes to the fallback of its route: see to what it asks for there. False: the caller may not."""
        raise NotImplementedError

    def rewrite(self, data: bytes, end: bool) -> bytes:
        """What an endpoint was sent of the body -> what the fallback gets."""
        raise NotImplementedError

    # What is asked, and whether it is permitted

    def decide(self, call: Call) -> None:
        """Ask the policy whether the caller may make `call`. Raises Refusal."""
        self.forwarded = call
        try:
            permit = self.snapshot.policy.decide(self.caller, call, self.connection.remote, self.head.headers)
        except Refusal as refusal:
            permit = self._decide_partly(call, refusal)
        self.rule = permit.rule
        self.permit_audits = permit.audits
        self.conditions = permit.conditions
        context = self.context
        if context.admit_admin is not None and call.verb.is_admin:
            context.admit_admin()
        if not self.decided:
            self.decided = context.now()

    def _decide_partly(self, call: Call, refusal: Refusal) -> Permit:
        """The same for a part of the answer. Raises the refusal that there would have been."""
        operation, policy = self.operation, self.snapshot.policy
        if operation is None or operation.keep_parts is None or refusal.reason is not Reason.PERMISSION_DENIED:
            raise refusal
        permit = policy.decide_partly(self.caller, call, self.connection.remote, self.head.headers)
        if permit is None:
            raise refusal
        if self.partial is None:
            self.partial = PartialAnswer(self, refusal, operation.keep_parts)
            self.is_partial = True
            self.forward = tuple([field for field in self.forward if field[0] not in UNFORWARDED])
        caller, remote, headers = self.caller, self.connection.remote, self.head.headers
        self.partial.demand(lambda name: policy.may_see(caller, call, name, remote, headers))
        return permit

    def decide_rewritten(self, call: Call) -> None:
        """Ask it once more, for the call with the model or version that the route chose. What the audit bindings match
        of the call as it was made is kept. Raises Refusal."""
        audits, conditions = self.permit_audits, self.conditions
        self.decide(call)
        if audits != self.permit_audits:
            self.permit_audits = tuple(dict.fromkeys((*audits, *self.permit_audits)))
        if conditions != self.conditions:
            self.conditions = tuple(dict.fromkeys((*conditions, *self.conditions)))

    def base_server(self) -> str:
        """The ModelServer of calls whose route names none: for inbound calls the local one, for outbound calls the one
        that the application selected.

        Raises:
            Refusal: NO_ROUTE, nothing selects one.
        """
        snapshot = self.snapshot
        server = snapshot.server
        if snapshot.servers is not None:
            header = self.fields.server if self.fields is not None else None
            named = snapshot.servers.find(self.head.authority, header, self.connection.original)
            if named:
                server = named
            elif named is not None:
                self.flag(ResponseFlags.NR)
                raise Refusal(
                    Reason.NO_ROUTE,
                    "x-model-server names an unknown ModelServer, or :authority lists hosts of several: name one.",
                )
        if server is None:
            self.flag(ResponseFlags.NR)
            raise Refusal(
                Reason.NO_ROUTE,
                "No ModelServer selected: set :authority to its name, send x-model-server, or add a ModelRoute.",
            )
        if snapshot.metrics_paths:
            self._check_metrics_path(snapshot.metrics_paths[server])
        return server

    def _check_metrics_path(self, path: bytes) -> None:
        """Raises Refusal: this is the metrics page of another server than the selected one, which has its own."""
        operation, head = self.operation, self.head
        if operation is not None and operation.verb is Verb.METRICS and operation.target != path:
            request = show_request(head.method, head.target)
            raise Refusal(Reason.BAD_REQUEST, f"Not found: {request}", http_status=404)

    @property
    def encoding(self) -> bytes | None:
        """`grpc-encoding` of the request."""
        return self.fields.encoding if self.fields is not None else None

    # Keys: what of a request stays the same, for stickiness and hashing

    def caller_key(self) -> str:
        """Who calls, for what is counted for each caller: the token's subject, the workload, or the address."""
        caller = self.caller
        if caller.token is not None:
            return f"{caller.token.issuer} {caller.token.subject}"
        if caller.workload is not None:
            return caller.workload.spiffe_id
        return self.connection.remote.rpartition(":")[0]

    def key(self, key: Key) -> int:
        """A number of 64 bits that is the same for requests which are to go the same way."""
        if key.cookie is not None:
            return self._cookie_key(key.cookie)
        if key.by == "header":
            wanted = str(key.header).encode()
            for name, value in self.head.headers:
                if name == wanted:
                    return stable_hash(value)
        elif key.by == "client-id" and self.operation is not None and self.operation.affinity_key is not None:
            found = self.operation.affinity_key(self.body_start())
            if found is not None:
                return stable_hash(found)
        return stable_hash(self.caller_key().encode())

    def _cookie_key(self, cookie: Cookie) -> int:
        """From the client's cookie, or from one that it is asked to keep; by chance if it has none and gets none."""
        given = [(b"cookie", field.partition(b";")[0]) for _, field in self.set_cookies]
        value = read_cookie((*self.head.headers, *given), cookie.name)
        if value is None:
            number = int(self.context.draw() * 2**64)
            if cookie.ttl is None:
                return number
            value = b"%016x" % number
            field = write_cookie(cookie, value.decode(), bool(self.connection.tls_version))
            self.set_cookies = (*self.set_cookies, field)
        return stable_hash(value)

    def body_start(self) -> bytes:
        """The part of the body that was received and not forwarded yet."""
        return self.peeked

    # What is forwarded

    def forwarded_head(self, now: float, address: str, trace_parent: bytes | None = None) -> RequestHead:
        """The head to send to the endpoint at `address`. `trace_parent`: of the attempt's own span, if it has one."""
        head = self.head
        headers = self.forward
        parent = trace_parent or self.trace_parent
        if parent is not None and self.trace is not None and self.trace.inject is not None:
            headers = self.trace.inject(headers, parent)
        if self.snapshot.forwards_identity:
            headers = (*headers, *identity_headers(self.caller))
        if self.due:
            left = self.due - now
            if left < 0.001:
                left = 0.001
            headers = (
                *headers,
                (b"grpc-timeout", deadline.grpc_timeout(left))
                if self.is_grpc
                else (deadline.REST_HEADER, deadline.format_rest(left)),
            )
        length = None if self.rewrites_body else head.length
        return RequestHead(
            0,
            head.method,
            head.authority or authority_of(address),
            self.target,
            headers,
            head.end,
            length,
            False,
            parent,
        )

    def mirrored_head(self) -> RequestHead:
        """The head of a copy: without the caller's identity and deadline, which are for the server of the request."""
        head, headers, parent = self.head, self.forward, self.trace_parent
        if parent is not None and self.trace is not None and self.trace.inject is not None:
            headers = self.trace.inject(headers, parent)
        return RequestHead(0, head.method, head.authority, self.target, headers, False, None, False, parent)
