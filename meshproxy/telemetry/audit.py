"""The audit trail of calls: a line for each that was denied, for each permitted one that an `audit` binding matched or
that is of an admin verb, and for the share of the others that `telemetry.audit.allowed` says.

`CallLines.around` is the table of fields: API Activity (6003) of the Open Cybersecurity Schema Framework, and
`unmapped` for what that has no field for. `audit.lines` reads them.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from meshproxy.audit.lines import UNKNOWN, Kind
from meshproxy.inference.call import Verb
from meshproxy.telemetry.log_encoding import quote
from meshproxy.telemetry.request_metrics import ACCESS_REASONS, read_audits

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshproxy.identity.caller import Caller
    from meshproxy.inference.call import Call, ModelRef
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.telemetry.log_encoding import UtcClock
    from meshproxy.telemetry.metrics import Counter
    from meshproxy.telemetry.observer import Sink
    from meshproxy.telemetry.sampling import Sampler
    from meshproxy.transport.connection_info import ConnectionInfo

MAX_CONDITION = 1_024
"""Characters of one condition."""
MAX_MODELS = 16
"""The most models of one call that are listed; a message can name thousands."""
MAX_SPIFFE_ID = 2_048
MEMO_ENTRIES = 512
MEMO_BYTES = 4_096
"""Longer texts, as somebody sends long paths, are not kept."""

_ACTIVITIES = {Verb.RELOAD: 3, Verb.UNLISTED: 99, Verb.PROFILE: 99}
"""`activity_id`: the others read (2)."""
_READ = 2


class AuditLog:
    """Writes the exchanges that belong in the audit trail as lines.

    Args:
        write: takes bodies of lines (`AuditWriter.write`).
        write_traffic: takes those of permitted calls that nothing else asks for.
        clock: converts the times of an exchange to wall clock times.
        events: counts the records by `type`.
        allowed: the share of the permitted calls that have a line although nothing else asks for one.
        draw: a number from 0 up to 1, for calls without a trace.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        clock: UtcClock,
        events: Counter,
        allowed: float = 0.0,
        write_traffic: Callable[[bytes], None] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._write = write
        self._write_traffic = write_traffic if write_traffic is not None else write
        self._lines = CallLines(clock)
        self._events = {kind: events.labels(kind.value) for kind in (Kind.DENIED, Kind.AUDITED, Kind.ADMIN)}
        self._allowed = events.labels(Kind.ALLOWED.value)
        self._draw = draw
        self.use(allowed)

    def use(self, allowed: float) -> None:
        """Another share, from the next call on."""
        self._ratio = allowed
        self._sampler: Sampler | None = None
        if 0.0 < allowed < 1.0:
            from meshproxy.telemetry.sampling import Sampler  # its memory is for those who sample

            self._sampler = Sampler(allowed)

    def __call__(self, exchange: Exchange) -> None:
        """Write the line of one exchange, if it belongs in the trail."""
        kind = kind_of(exchange)
        write = self._write
        if kind is not None:
            self._events[kind].value += 1
        elif self._ratio and exchange.rule and exchange.asked is not None and self._is_sampled(exchange):
            kind = Kind.ALLOWED
            write = self._write_traffic
            self._allowed.value += 1
        else:
            return
        write(self._lines(exchange, kind))

    def repeat(self, exchange: Exchange) -> Sink | None:
        """A sink for exchanges that repeat this one (`Observer.repeat`)."""
        if kind_of(exchange) is not None or 0.0 < self._ratio < 1.0:
            return self
        if not self._ratio or not exchange.rule or exchange.asked is None:
            # A reload that asks for more lines makes new plans: they are of a snapshot.
            return None
        format_line = self._lines.repeat(exchange, Kind.ALLOWED)
        write, allowed = self._write_traffic, self._allowed

        def observe(exchange: Exchange) -> None:
            allowed.value += 1
            write(format_line(exchange))

        return observe

    def _is_sampled(self, exchange: Exchange) -> bool:
        if self._sampler is None:
            return True
        trace = exchange.trace
        return self._draw() < self._ratio if trace is None else self._sampler.decide(trace.trace_id, None)


def kind_of(exchange: Exchange) -> Kind | None:
    """Why an exchange has a line in any case; None if it has none, or is one of many that were permitted."""
    refusal = exchange.refusal
    if refusal is not None and refusal.reason in ACCESS_REASONS:
        return Kind.DENIED
    if read_audits(exchange):
        return Kind.AUDITED
    call = exchange.asked
    return Kind.ADMIN if call is not None and call.verb.is_admin and exchange.rule else None


class CallLines:
    """Bodies of lines (`audit.chain`). Most calls of a connection differ in nothing but time and trace, so the rest is
    formatted once, and found again by connection and call.

    Args:
        clock: converts the times of an exchange to wall clock times.
    """

    def __init__(self, clock: UtcClock) -> None:
        self._clock = clock
        self._known: dict[tuple[ConnectionInfo, int], tuple[Call | None, tuple[object, ...], bytes, bytes]] = {}
        """By connection and the id of the call: the call, so that no other one gets its id; what the texts were made
        of; and the texts before and after the time."""

    def __call__(self, exchange: Exchange, kind: Kind) -> bytes:
        """The body of the line of one exchange, with its line feed."""
        head, asked, refusal = exchange.head, exchange.asked, exchange.refusal
        made_of: tuple[object, ...] = (
            kind,
            exchange.caller,
            exchange.forwarded,
            head.target,
            head.method,
            exchange.status,
            exchange.grpc_status,
            exchange.rule,
            exchange.permit_audits,
            exchange.conditions,
        )
        if refusal is not None:
            made_of += (refusal.reason, refusal.message, refusal.rule, refusal.audits, refusal.conditions)
        key = exchange.connection, id(asked)
        known = self._known.get(key)
        if known is not None and known[1] == made_of:
            before, after = known[2], known[3]
        else:
            before, after = self.around(exchange, kind)
            if len(before) + len(after) + len(head.target) <= MEMO_BYTES:
                if len(self._known) >= MEMO_ENTRIES:
                    self._known.clear()
                self._known[key] = asked, made_of, before, after
        return self._fill(before, after, exchange)

    def repeat(self, exchange: Exchange, kind: Kind) -> Callable[[Exchange], bytes]:
        """What makes the lines of exchanges that repeat this one (`Observer.repeat`)."""
        before, after = self.around(exchange, kind)
        return lambda exchange: self._fill(before, after, exchange)

    def _fill(self, before: bytes, after: bytes, exchange: Exchange) -> bytes:
        trace, milliseconds = exchange.trace, (exchange.started + self._clock.offset) * 1_000
        if trace is None:
            return b"%b%d%b}\n" % (before, milliseconds, after)
        return b'%b%d%b,"trace":{"uid":"%b"}}\n' % (before, milliseconds, after, trace.trace_id)

    def around(self, exchange: Exchange, kind: Kind) -> tuple[bytes, bytes]:
        """The texts before and after the time. Nothing goes into them but the connection, the call, and what `__call__`
        compares."""
        call, refusal, connection = exchange.asked, exchange.refusal, exchange.connection
        verb = call.verb if call is not None else None
        models = call.models if call is not None else ()
        forwarded = exchange.forwarded if exchange.forwarded is not call else None
        rule = (refusal.rule if refusal is not None else None) or exchange.rule
        has_failed = refusal is not None or exchange.status >= 400 or bool(exchange.grpc_status) or not exchange.status
        is_denied = kind is Kind.DENIED
        action = 2 if is_denied else 1
        severity = 1 if not is_denied else 3 if verb is not None and verb.is_admin else 2
        activity = _ACTIVITIES.get(verb, _READ) if verb is not None else 0
        before = (
            f'","kind":"{kind.value}",'
            f'"reason":{quote(refusal.reason.label if refusal is not None else None)},'
            f'"audits":[{",".join([quote(rule) for rule in read_audits(exchange)])}],'
            f'"conditions":[{",".join(_quoted_conditions(exchange))}],'
            f'"model_count":{len(models)},'
            f'"forwarded_as":{"null" if forwarded is None else _format_model(forwarded.models[0])},'
            f'"direction":{quote(connection.direction)},'
            f'"grpc_status":{"null" if exchange.grpc_status is None else exchange.grpc_status}}},'
            '"time":'
        )
        after = (
            f',"class_uid":6003,"category_uid":6,"activity_id":{activity},"type_uid":{600_300 + activity},'
            f'"severity_id":{severity},'
            f'"status_id":{2 if has_failed else 1},"action_id":{action},"disposition_id":{action},'
            f'"message":{quote(refusal.message if refusal is not None else "permitted")},'
            f'"actor":{{{format_actor(exchange.caller)}}},'
            f'"api":{{"operation":{quote(verb.value if verb is not None else UNKNOWN)}}},'
            f'"resources":[{",".join([_format_resource(model) for model in models[:MAX_MODELS]])}],'
            f'"src_endpoint":{format_endpoint(connection.remote)},'
            f'"http_request":{{"http_method":{quote(exchange.head.method)},'
            f'"url":{{"path":{quote(exchange.head.target.partition(b"?")[0])}}}}},'
            f'"http_response":{{"code":{exchange.status}}}'
        )
        if rule:
            after += f',"policy":{{"name":{quote(rule)}}}'
        return before.encode("ascii"), after.encode("ascii")


def format_actor(caller: Caller) -> str:
    """The fields of `actor`: the token's subject is the user, the workload the application."""
    workload, token = caller.workload, caller.token
    fields = []
    if token is not None:
        fields += [f'"user":{{"uid":{quote(token.subject)},"type_id":1}}', f'"idp":{{"name":{quote(token.issuer)}}}']
        if token.iam_role is not None:
            fields.append(f'"session":{{"issuer":{quote(token.iam_role)}}}')
    if workload is not None:
        fields.append(f'"app_uid":{quote(workload.spiffe_id, limit=MAX_SPIFFE_ID)}')
    return ",".join(fields) or '"user":{"name":"anonymous","type_id":0}'


def format_endpoint(remote: str) -> str:
    """An address with its port, as `src_endpoint`."""
    host, _, port = remote.rpartition(":")
    if not host or not port.isdecimal():
        return f'{{"name":{quote(remote or "unknown")}}}'
    return f'{{"ip":{quote(host.strip("[]"))},"port":{port}}}'


def _quoted_conditions(exchange: Exchange) -> list[str]:
    """The conditions on address and headers that made the difference."""
    refusal = exchange.refusal
    conditions = exchange.conditions if refusal is None or refusal.rule is None else refusal.conditions
    return [quote(condition, limit=MAX_CONDITION) for condition in conditions]


def _format_resource(model: ModelRef) -> str:
    version = f',"version":{quote(model.version)}' if model.version is not None else ""
    data = ""
    if model.label is not None or model.signature is not None:
        data = f',"data":{{"label":{quote(model.label)},"signature":{quote(model.signature)}}}'
    return f'{{"type":"model","name":{quote(model.name)}{version}{data}}}'


def _format_model(model: ModelRef) -> str:
    return (
        f'{{"name":{quote(model.name)},'
        f'"version":{quote(model.version)},'
        f'"label":{quote(model.label)},'
        f'"signature":{quote(model.signature)}}}'
    )
